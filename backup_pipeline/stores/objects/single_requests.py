"""Single HTTP requests beside those of the storage's client: the service's clock, and what it locks.

By Python's standard library: `requests` takes 0.2 s to be imported, botocore 0.5 s, which is half of a small copy.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, NamedTuple
from urllib.request import AbstractHTTPHandler, OpenerDirector, ProxyHandler, Request, UnknownHandler

from backup_pipeline.stores.objects.cloud_errors import unreachable
from backup_pipeline.stores.objects.options import TimeLimits

_LARGEST_ANSWER = 4 << 20


class Answer(NamedTuple):
    """What a service answered: HTTP status, headers by names in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(method: str, url: str, headers: Mapping[str, str], limits: TimeLimits, where: str) -> Answer:
    """Send one request without a body; redirections are not followed, proxies are those of the environment.

    Args:
        method: `GET` or `HEAD`.
        url: with http:// or https://.
        headers: of the request.
        limits: seconds to connect and to wait for the answer.
        where: the place, for errors.

    Raises:
        PlaceUnreachableError: there is no connection, or it broke off.
    """
    opener = OpenerDirector()
    for handler in (ProxyHandler(), _Patient(limits.read), UnknownHandler()):
        opener.add_handler(handler)
    request = Request(url, headers=dict(headers), method=method)  # noqa: S310 (options.endpoint() allows http only)
    try:
        with opener.open(request, timeout=limits.connect) as answer:
            assert isinstance(answer, HTTPResponse)
            known = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, known, answer.read(_LARGEST_ANSWER))
    except (OSError, HTTPException):
        raise unreachable(None, where) from None


class _Patient(AbstractHTTPHandler):
    """Opens connections that wait for answers longer than for a connection."""

    http_request = https_request = AbstractHTTPHandler.do_request_

    def __init__(self, read_seconds: float) -> None:
        super().__init__()
        self._read_seconds = read_seconds

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(functools.partial(_Connection, self._read_seconds), req)

    def https_open(self, req: Request) -> HTTPResponse:
        """With the certificates that the system trusts."""
        return self.do_open(functools.partial(_TlsConnection, self._read_seconds), req, context=_trusted())


class _Connection(HTTPConnection):
    def __init__(self, read_seconds: float, host: str, **more: Any) -> None:
        super().__init__(host, **more)
        self._read_seconds = read_seconds

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._read_seconds)


class _TlsConnection(_Connection, HTTPSConnection):
    """The same by TLS."""


@functools.cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()
