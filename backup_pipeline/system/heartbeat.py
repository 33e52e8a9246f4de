"""Heartbeats to a dead-man's-switch, which alarms when they stay away.

Protocol: https://healthchecks.io/docs/http_api/ : `<url>/start`, `<url>`, `<url>/fail`, a text as body, `rid` to pair
start and end. Only the door is here; when it is used is decided by the operations.
"""

from __future__ import annotations

import time
import uuid
from enum import StrEnum
from urllib.parse import urlencode, urlsplit, urlunsplit

_BODY_LIMIT = 10_000
_TIMEOUT_SECONDS = 5.0


class Signal(StrEnum):
    """The signals of the switch; the value is what follows the address."""

    START = "/start"
    SUCCESS = ""
    FAIL = "/fail"


def address_of(url: str, signal: Signal, run_id: str = "") -> str:
    """Return the address to call for a signal; `run_id` pairs start and end where it is a UUID."""
    parts = urlsplit(url.strip())
    query = parts.query
    try:
        rid = urlencode({"rid": str(uuid.UUID(run_id))})
    except ValueError:
        rid = ""
    return urlunsplit(
        parts._replace(
            path=parts.path.rstrip("/") + signal.value, query="&".join(part for part in (query, rid) if part)
        )
    )


def ping(
    url: str, signal: Signal, *, body: str = "", run_id: str = "", attempts: int = 3, pause_seconds: float = 1.0
) -> str:
    """Signal the switch; return "" or why that failed, without its address. Never raises."""
    # Not at the top: a run that signals nothing loads no client of HTTP, which takes a twentieth of its start.
    import requests

    problem = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause_seconds * 2 ** (attempt - 1))
        try:
            # Only the status counts: who answers with one byte a second keeps nobody waiting for the rest.
            answer = requests.post(
                address_of(url, signal, run_id),
                data=body.encode("utf-8", "replace")[:_BODY_LIMIT],
                headers={"Content-Type": "text/plain; charset=utf-8"},
                timeout=_TIMEOUT_SECONDS,
                stream=True,
            )
            answer.close()
        except (requests.RequestException, ValueError) as error:
            problem = f"no answer ({type(error).__name__})"
            continue
        if answer.ok:
            return ""
        problem = f"HTTP status {answer.status_code}"
        if 400 <= answer.status_code < 500 and answer.status_code != 429:
            break
    return problem
