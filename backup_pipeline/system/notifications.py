"""Notifications through Apprise. Content and redaction are decided above.

Addresses hold secrets, so results name the service and never the address.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message at one address: the service's name (no secret), and why it failed, "" if not."""

    service: str
    problem: str = ""

    @property
    def delivered(self) -> bool:
        """Whether the service took it."""
        return not self.problem


def understood(address: str) -> bool:
    """Return whether Apprise knows what to do with an address; nothing is sent."""
    return _service_at(address) is not None


def _service_at(address: str) -> Any:
    import apprise

    # Apprise writes to its log what it did not understand, tokens and all; a log of the site's must not have it.
    logging.getLogger("apprise").propagate = False
    try:
        return apprise.Apprise.instantiate(address, suppress_exceptions=True)
    except Exception:  # noqa: BLE001 - a plugin's fault is reported as an address that does not work, and ends no backup
        return None


def deliver(
    addresses: Sequence[str],
    *,
    title: str,
    body: str,
    bad: bool,
    attempts: int = 3,
    pause_seconds: float = 2.0,
    limit_seconds: float = 45.0,
) -> tuple[Delivery, ...]:
    """Send one message to each address; never raises.

    Args:
        addresses: Apprise URLs (mailto://, slack://, ntfy://, json://, …).
        title: subject line.
        body: plain text.
        bad: whether something is wrong (colours and icons of some services).
        attempts: how often each is tried.
        pause_seconds: pause before the second try, doubled for each further one.
        limit_seconds: how long all tries for one address may take. The limits of the services' own clients are for
            each byte: one that answers byte by byte would keep a backup waiting for ever.
    """
    return tuple(
        _within(
            limit_seconds,
            address,
            number,
            lambda service, name: _deliver(service, name, title, body, bad, attempts, pause_seconds),
        )
        for number, address in enumerate(addresses, 1)
    )


def _within(seconds: float, address: str, number: int, send: Callable[[Any, str], Delivery]) -> Delivery:
    service = _service_at(address)
    if service is None:
        return Delivery(f"address {number}", "This is no address that Apprise knows; see docs/alerts.md for the forms.")
    name = f"{service.service_name} (address {number})"
    done: list[Delivery] = []
    # A client that waits for its service cannot be stopped; it is left behind, and ends with the process at the latest.
    sending = threading.Thread(target=lambda: done.append(send(service, name)), name="notification", daemon=True)
    sending.start()
    sending.join(seconds)
    return done[0] if done else Delivery(name, f"No answer within {seconds:g} s.")


def _deliver(
    service: Any, name: str, title: str, body: str, bad: bool, attempts: int, pause_seconds: float
) -> Delivery:
    import apprise

    kind = apprise.NotifyType.FAILURE if bad else apprise.NotifyType.SUCCESS
    problem = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause_seconds * 2 ** (attempt - 1))
        # Apprise says why only in its log; the log is read here and goes no further, for it may name the address.
        with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as log:  # type: ignore[no-untyped-call]
            try:
                if service.notify(title=title, body=body, notify_type=kind, body_format=apprise.NotifyFormat.TEXT):
                    return Delivery(name)
            except Exception as error:  # noqa: BLE001 - as above
                problem = type(error).__name__
            problem = log.getvalue().strip().splitlines()[0] if log.getvalue().strip() else problem
    return Delivery(name, problem or "The service refused the message.")
