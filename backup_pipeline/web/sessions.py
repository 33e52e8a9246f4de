"""Logins: the password compared in constant time, a limit on guesses, and the sessions that are open.

All of it is kept in this process's memory: after a restart everybody logs in again.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable

SESSION_SECONDS = 12 * 3600
GUESSES = 5
GUESSES_OF_ALL = 50
GUESS_SECONDS = 300
_MOST_SESSIONS = 1000


class Sessions:
    """Open sessions by the digest of their token; one that was not used for twelve hours is over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def begin(self) -> str:
        """Open a session and return its token, for the cookie."""
        token = secrets.token_urlsafe(32)
        self._until[_digest(token)] = self._clock() + SESSION_SECONDS
        while len(self._until) > _MOST_SESSIONS:
            self._until.popitem(last=False)
        return token

    def is_open(self, token: str) -> bool:
        """Return whether a token's session is open, and keep it open from now on."""
        key = _digest(token)
        if self._until.get(key, 0.0) <= self._clock():
            self._until.pop(key, None)
            return False
        self._until[key] = self._clock() + SESSION_SECONDS
        self._until.move_to_end(key)
        return True

    def end(self, token: str) -> None:
        """End a session."""
        self._until.pop(_digest(token), None)


class Guesses:
    """How many wrong passwords came lately: five from an address, fifty from all, within five minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()

    def wait_seconds(self, address: str) -> int:
        """Return for how many seconds an address may not try again, 0 when it may."""
        now = self._clock()
        waits = [_wait(self._of.get(address), GUESSES, now), _wait(self._all, GUESSES_OF_ALL, now)]
        return max(waits)

    def wrong(self, address: str) -> None:
        """Count a wrong password."""
        now = self._clock()
        if len(self._of) > _MOST_SESSIONS:
            self._of = {known: times for known, times in self._of.items() if times[-1] > now - GUESS_SECONDS}
        self._of.setdefault(address, deque(maxlen=GUESSES)).append(now)
        self._all.append(now)
        while len(self._all) > GUESSES_OF_ALL:
            self._all.popleft()

    def right(self, address: str) -> None:
        """Forget an address's wrong passwords: it has the right one."""
        self._of.pop(address, None)


def is_password(given: str, password: str) -> bool:
    """Return whether the password is right, in a time that says nothing of it."""
    return hmac.compare_digest(_digest(given), _digest(password))


def _wait(times: deque[float] | None, limit: int, now: float) -> int:
    if times is None or len(times) < limit:
        return 0
    return max(0, int(times[-limit] + GUESS_SECONDS - now) + 1) if times[-limit] + GUESS_SECONDS > now else 0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
