"""Redaction of secrets: values of the site's environment and passwords in addresses, which no text may hold.

Every error, log record and event of Dagster's passes here, so that a server or program that repeats a secret in its
message (a connection string, a token in an address) cannot carry it into a log, a set or the UI. Lies below all else.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:PASS|PASSWORD|PASSWD|PWD|PW|SECRET|SECRETS|TOKEN|KEY|KEYS|CREDENTIALS?|JWT|SALT)(?:_|$)", re.IGNORECASE
)
_ADDRESS_NAME = re.compile(r"(?:^|_)(?:URLS?|URI|DSN|PING)(?:_|$)", re.IGNORECASE)
# In whatever variable it stands: libpq's keywords and the parameters of its URLs that hold secrets.
_KEYWORD_PASSWORD = re.compile(
    r"(?<![A-Za-z])(?:ssl)?(?:password|oauth_client_secret|scram_(?:client|server)_key)\s*=\s*"
    r"(?:'((?:[^'\\]|\\.)*)'|([^\s&;']+))",
    re.IGNORECASE,
)
HIDDEN = "***"
# Shorter texts are parts of ordinary words; hiding them would garble the message and reveal what they are.
_SHORTEST = 4
_NO_SECRETS = ("true", "false", "none", "null")
# No secrets, although their names suggest it: the shell's folder, and the step that a pod of Dagster's executes.
_NO_SECRET_NAMES = ("PWD", "DAGSTER_RUN_STEP_KEY")


def secrets_in(environment: Mapping[str, str], *, secret_variables: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the texts of an environment that no message may hold, longest first.

    They are the values of variables whose name says so (PASSWORD, SECRET, TOKEN, KEY, …) and of `secret_variables`;
    and in connection strings the password in each of its spellings.
    """
    named = set(secret_variables)
    found: set[str] = set()
    for name, value in environment.items():
        text = value.strip()
        if len(text) < _SHORTEST or text.lower() in _NO_SECRETS or name in _NO_SECRET_NAMES:
            continue
        if name in named:
            found.update((text, *text.split()))
        elif _SECRET_NAME.search(name):
            found.add(text)
        if name in named or _ADDRESS_NAME.search(name) or "://" in text:
            for part in text.split():
                found.update(_passwords(part))
        for quoted, plain in _KEYWORD_PASSWORD.findall(text):
            written = quoted or plain
            found.update((written, re.sub(r"\\(.)", r"\1", written), unquote(written)))
    return tuple(sorted((text for text in found if len(text) >= _SHORTEST), key=len, reverse=True))


def _passwords(address: str) -> set[str]:
    try:
        password = urlsplit(address.removeprefix("jdbc:")).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return the text with every secret replaced by `***`."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


# Guessed by everybody, and words of ordinary messages: hiding them would garble every message and reveal what they are.
_WELL_KNOWN = frozenset(
    (
        "admin",
        "backup",
        "changeme",
        "database",
        "default",
        "keycloak",
        "localhost",
        "password",
        "postgres",
        "postgresql",
        "public",
        "root",
        "secret",
        "supabase",
        "test",
        "user",
    )
)
_IN_ADDRESS = re.compile(r"(?<=://)([^/\s:@'\"]*):([^@/\s'\"]+)(?=@)")
# The name alone is a token where the address is a web server's.
_TOKEN_IN_ADDRESS = re.compile(r"(https?://)([^/\s:@'\"]{8,})(?=@)")
_IN_QUERY = re.compile(
    r"(?<![A-Za-z])((?:ssl)?password|oauth_client_secret|access_token)=('(?:[^'\\]|\\.)*'|[^\s&;'\"]+)", re.IGNORECASE
)
# As remedies and documents write what is to be put in.
_PLACEHOLDER = re.compile(r"[A-Z_]*(?:PASSWORD|TOKEN|SECRET)[A-Z_]*|PASS|\.{3}|…|\*+|[<$\[{%].*", re.DOTALL)
# What the patterns above may find, as JSON writes it.
_ADDRESS_IN_JSON = re.compile(r"://[^/@]*@")
_IN_QUERY_OF_JSON = re.compile(r"(?:password|oauth_client_secret|access_token)=", re.IGNORECASE)
_hidden: tuple[str, ...] = ()
_hidden_in_json: frozenset[str] = frozenset()


def hide(texts: Iterable[str], *, public: Iterable[str] = ()) -> None:
    """Hide these texts from now on in everything that `redacted` is asked for, and in every log record.

    They take the place of those before: a process works for one site, and its secrets may have been rotated.

    Args:
        texts: the secrets of a site.
        public: words of it that are no secrets even where somebody used them as one, such as the names of its sources.
    """
    global _hidden, _hidden_in_json
    known = _WELL_KNOWN | {word.lower() for word in public}
    found = {text for text in texts if text.lower() not in known}
    _hidden = tuple(sorted(found, key=lambda text: (-len(text), text)))
    written = (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for text in found for ascii_only in (True, False))
    _hidden_in_json = frozenset(written)
    _watch_the_log()


def redacted(text: str) -> str:
    """Return a text without the hidden ones, and without passwords in addresses and connection strings."""
    text = scrub(text, _hidden)
    if "://" in text:
        text = _IN_ADDRESS.sub(_in_address, text)
        text = _TOKEN_IN_ADDRESS.sub(lambda found: found[1] + _shown(found[2]), text)
    return _IN_QUERY.sub(lambda found: f"{found[1]}={_shown(found[2])}", text) if "=" in text else text


def may_hold_secrets(document: str) -> bool:
    """Return whether `redacted_values` may change anything in a JSON document; False only where it does not.

    Much cheaper than to read the document, and nearly all are found to hold none.
    """
    if ("://" in document and _ADDRESS_IN_JSON.search(document)) or (
        "=" in document and _IN_QUERY_OF_JSON.search(document)
    ):
        return True
    return any(text in document for text in _hidden_in_json)


def _in_address(found: re.Match[str]) -> str:
    return f"{found[1]}:{_shown(found[2])}"


def _shown(value: str) -> str:
    return value if _PLACEHOLDER.fullmatch(value) else HIDDEN


def redacted_values(value: Any) -> Any:
    """Return a document (lists, mappings, texts, numbers) with every text in it redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [redacted_values(each) for each in value]
    if isinstance(value, dict):
        return {name: redacted_values(each) for name, each in value.items()}
    return value


def _watch_the_log() -> None:
    inner = logging.getLogRecordFactory()
    if getattr(inner, "redacts", False):
        return

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = inner(*args, **kwargs)
        try:
            reported = record.getMessage()
        except (TypeError, ValueError, KeyError):
            return record  # it does not fit its own arguments: logging reports that
        if (safe := redacted(reported)) != reported:
            record.msg, record.args = safe, ()
        if record.exc_info and record.exc_info[0] is not None:
            text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            if (safe := redacted(text)) != text:
                # Formatters take this text, and have nothing left to make it from.
                record.exc_info, record.exc_text = None, safe
        return record

    make.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


_Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


def redacting_hook(inner: _Hook) -> _Hook:
    """Return a `sys.excepthook` that writes what another one writes, redacted."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        if redacted(text) == text:
            inner(kind, error, trace)
            return
        real, sys.stderr = sys.stderr, io.StringIO()
        try:
            traceback.print_exception(kind, error, trace)
            written = sys.stderr.getvalue()
        finally:
            sys.stderr = real
        sys.stderr.write(redacted(written))

    return hook
