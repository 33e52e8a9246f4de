"""Secret-sounding names: tables, columns and files whose content no page shows by itself.

A heuristic over names alone, on the side of caution; `browse.although_secret` in the settings names exceptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import pairwise

_TERMS = frozenset(
    "password passwords passwd pwd passphrase secret secrets token tokens credential credentials otp totp mfa pin cvv "
    "cvc salt iban ssn vault session sessions apikey privatekey refresh_token encrypted hash digest recovery".split()
)
_PAIRS = frozenset(
    {("api", "key"), ("private", "key"), ("access", "key"), ("signing", "key"), ("card", "number"), ("one", "time")}
)
_SPLIT = re.compile(r"[^a-z0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_FILES = ("*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "*.jks", "*.age", ".env", ".env.*", "id_rsa*", "id_ed25519*")
_FILES_MORE = (".netrc", ".pgpass", ".htpasswd", "shadow", "*.ovpn", "*.keytab")


def sounds_secret(name: str) -> bool:
    """Return whether a table's or column's name sounds secret."""
    parts = [part for part in _SPLIT.split(_CAMEL.sub("_", name).lower()) if part]
    return bool(_TERMS & set(parts)) or any(pair in _PAIRS for pair in pairwise(parts))


def file_sounds_secret(path: str) -> bool:
    """Return whether the name of a file, or of a folder above it, suggests that its content is secret."""
    *above, name = path.split("/")
    return (
        any(fnmatchcase(name.lower(), pattern) for pattern in (*_FILES, *_FILES_MORE))
        or sounds_secret(name.rpartition(".")[0] or name)
        or any(part in (".ssh", ".gnupg", ".aws") or sounds_secret(part) for part in above)
    )


def is_secret_table(schema: str, table: str, exceptions: Iterable[str]) -> bool:
    """Return whether a table's rows stay hidden: its name sounds secret and no exception (`schema.table`) names it."""
    return sounds_secret(table) and not _excepted(f"{schema}.{table}", exceptions)


def secret_columns(schema: str, table: str, columns: Iterable[str], exceptions: Iterable[str]) -> tuple[str, ...]:
    """Return the columns whose values stay hidden (exceptions are `schema.table.column`)."""
    every = tuple(exceptions)
    return tuple(
        column for column in columns if sounds_secret(column) and not _excepted(f"{schema}.{table}.{column}", every)
    )


def is_secret_file(path: str, exceptions: Iterable[str]) -> bool:
    """Return whether a file's content stays hidden (exceptions are its path, with `*` and `?`)."""
    return file_sounds_secret(path) and not _excepted(path, exceptions)


def _excepted(name: str, exceptions: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in exceptions)
