"""Real local servers that receive what alerts send: SMTP and HTTP. No assertions here."""

from __future__ import annotations

import contextlib
import email
import email.policy
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller

from backup_pipeline.postgres.server.embedded import free_port


@dataclass
class Mailbox:
    """What an SMTP server took, and its port."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        return "250 OK"


@contextlib.contextmanager
def smtp_server() -> Iterator[Mailbox]:
    """An SMTP server on a free port of the loopback address."""
    mailbox = Mailbox(free_port())
    controller = Controller(mailbox, hostname="127.0.0.1", port=mailbox.port)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


@dataclass
class Requests:
    """What an HTTP server was asked: (path, body); `statuses` are answered first, 200 afterwards."""

    url: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


@contextlib.contextmanager
def http_server() -> Iterator[Requests]:
    """An HTTP server on a free port of the loopback address that remembers every POST."""
    requests = Requests()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.seen.append((self.path, body.decode()))
            self.send_response(requests.statuses.pop(0) if requests.statuses else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    requests.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
