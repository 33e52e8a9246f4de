"""The names and origins under which the UI may be asked: what keeps pages of other sites, and rebound names, out.

A page of another site can make a browser send requests to this machine, and a name of an attacker's can be made to
resolve to it (DNS rebinding). Both show in the request's `Host` and `Origin`, which a page cannot choose.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from backup_pipeline.errors import SettingsError

_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_loopback(host: str) -> bool:
    """Return whether a bind address is reached from this machine only: `localhost`, 127.0.0.0/8 or ::1."""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


@dataclass(frozen=True, slots=True)
class Place:
    """A host with its port as a browser writes them; the port is None where it is the scheme's own."""

    host: str
    port: int | None

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address: such a one cannot be rebound."""
        return _address(self.host) is not None


def parse_place(text: str, scheme: str = "http") -> Place | None:
    """Return the host and port of a `Host` header, None when it is malformed."""
    if not text or not text.isascii() or any(sign in text for sign in "/\\@?# \t,"):
        return None
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host:
        return None
    return Place(host.rstrip("."), None if port == _DEFAULT_PORTS.get(scheme) else port)


def parse_origin(text: str) -> tuple[str, Place] | None:
    """Return scheme and place of an `Origin` header; None when it is malformed, `null` or no web address."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        return None
    place = parse_place(rest, scheme)
    return None if place is None else (scheme, place)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Where the UI is asked for.

    Attributes:
        loopback_only: whether it listens on the loopback address; otherwise other IP addresses are right as well.
        names: further host names, in lower case.
        origins: further origins with their scheme: a request for such a host must come from this very origin.
    """

    loopback_only: bool = True
    names: frozenset[str] = frozenset()
    origins: frozenset[tuple[str, Place]] = frozenset()

    def host(self, text: str) -> Place | None:
        """Return the place that a `Host` header means where it is one of ours, else None."""
        place = parse_place(text)
        if place is None:
            return None
        if is_loopback(place.host) or place.host in self.names or self._public(place):
            return place
        return place if place.is_address and not self.loopback_only else None

    def same_origin(self, origin: str, host: Place, scheme: str) -> bool:
        """Return whether an `Origin` header names the very page that is asked: scheme, host and port.

        Args:
            origin: the header.
            host: what the request's `Host` header means.
            scheme: of the request, `http` or `https`; behind a proxy it may be `http` where the browser says `https`.
        """
        found = parse_origin(origin)
        if found is None:
            return False
        reported, place = found
        if self._public(host):
            return found in self.origins and place.host == host.host
        if scheme == "https" and reported != "https":
            return False
        # The port that a proxy's scheme implies.
        return place == Place(host.host, None if host.port == _DEFAULT_PORTS[reported] else host.port)

    def is_https(self, host: Place, scheme: str) -> bool:
        """Return whether the browser reaches this host by TLS, here or at a proxy."""
        return scheme == "https" or "https" in self._public(host)

    def _public(self, host: Place) -> set[str]:
        return {
            scheme
            for scheme, place in self.origins
            if place.host == host.host and (place.port == host.port or host.port in _DEFAULT_PORTS.values())
        }


def allowed_places(bind: str, further: Iterable[str], *, where: str) -> Allowed:
    """Return what is allowed for a bind address and further names or origins (`ui.example.org`, `https://…`).

    Raises:
        SettingsError: one of them is neither; `where` names the variable.
    """
    names, origins = set[str](), set[tuple[str, Place]]()
    for text in further:
        entry = text.strip().lower()
        if not entry:
            continue
        if "://" in entry:
            parts = urlsplit(entry)
            origin = parse_origin(f"{parts.scheme}://{parts.netloc}")
            if origin is None:
                raise _malformed(text, where)
            origins.add(origin)
            continue
        place = parse_place(entry)
        if place is None or "*" in entry:
            raise _malformed(text, where)
        names.add(place.host)
    if _address(bind) is None:
        names.add(bind.lower())
    return Allowed(is_loopback(bind), frozenset(names), frozenset(origins))


def _malformed(text: str, where: str) -> SettingsError:
    return SettingsError(
        f"{text!r} is neither a host name nor an origin.",
        where=where,
        remedy="Write ui.example.org or https://ui.example.org; several are separated by spaces.",
    )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
