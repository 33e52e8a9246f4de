"""Keys that the rows of a dump violate, because they were broken where the dump was made.

A database can hold orphans (a parent deleted with `session_replication_role = replica`) or doubled keys (a damaged
index). Its dump is all there is, so it is loaded: a foreign key that rows violate comes back NOT VALID, which still
holds new rows to it; a primary key, unique or exclusion constraint and a unique index cannot, so they are not made, nor
is what stands on them. Everything is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from threading import Lock

_NAME = r'(?:"(?:[^"]|"")+"|[^\s".(]+)'
_ADDED = re.compile(
    rf"ALTER TABLE (?:ONLY )?(?P<schema>{_NAME})\.(?P<table>{_NAME})\s+ADD CONSTRAINT (?P<name>{_NAME})"
    r" (?P<kind>PRIMARY KEY|UNIQUE|EXCLUDE|FOREIGN KEY) "
)
_INDEX = re.compile(rf"CREATE UNIQUE INDEX (?P<name>{_NAME}) ON (?:ONLY )?(?P<schema>{_NAME})\.{_NAME} ")
_ABOUT_A_KEY = re.compile(
    r"COMMENT ON (?:INDEX|CONSTRAINT) |ALTER TABLE (?:ONLY )?[^\n]+ (?:CLUSTER ON|REPLICA IDENTITY) "
    r"|ALTER INDEX [^\n]+ (?:ALTER COLUMN|ATTACH PARTITION) "
)
_ATTACHED = re.compile(rf"ALTER INDEX (?P<schema>{_NAME})\.(?P<name>{_NAME}) ATTACH PARTITION ")
_VIOLATED = frozenset({"23505", "23P01"})
_ORPHANS, _NO_KEY = "23503", "42830"
_NOT_THERE = frozenset({"42704", "42P01"})
# NOT VALID foreign keys of partitioned tables came with PostgreSQL 18.
_NOT_FOR_PARTITIONED = "42809"


class BrokenKeys:
    """Decides what becomes of a key that the server refuses, and remembers it; shared by the sessions of a load.

    Attributes:
        not_valid: foreign keys (`schema.table.name`, quoted as in the dump) that were made NOT VALID.
        not_made: constraints (`schema.table.name`) and indexes (`schema.name`) that were not made.
    """

    def __init__(self) -> None:
        self.not_valid: list[str] = []
        self.not_made: list[str] = []
        self._lock = Lock()

    def take(self, statement: bytes, state: str, run: Callable[[bytes, Callable[[bytes, str], bool]], None]) -> bool:
        """Return whether a refused statement is about a broken key, and done with.

        Args:
            statement: as it was refused.
            state: its SQLSTATE.
            run: runs another statement in its place, and asks the given function where that is refused too.
        """
        text = statement.decode("utf-8", "replace")
        if self.not_made and state in _NOT_THERE and _ABOUT_A_KEY.match(text):
            if found := _ATTACHED.match(text):
                self._add(self.not_made, f"{found['schema']}.{found['name']}")
            return True
        if state in _VIOLATED and (found := _INDEX.match(text)):
            self._add(self.not_made, f"{found['schema']}.{found['name']}")
            return True
        found = _ADDED.match(text)
        if found is None:
            return False
        name = f"{found['schema']}.{found['table']}.{found['name']}"
        if found["kind"] != "FOREIGN KEY":
            if state not in _VIOLATED:
                return False
            # The constraint's index has its name.
            self._add(self.not_made, name, f"{found['schema']}.{found['name']}")
            return True
        if state == _NO_KEY and self.not_made:
            self._add(self.not_made, name)
            return True
        if state == _ORPHANS and not text.rstrip("; \n").endswith(" NOT VALID"):
            self._make_not_valid(statement, name, run)
            return True
        return False

    def _make_not_valid(
        self, statement: bytes, name: str, run: Callable[[bytes, Callable[[bytes, str], bool]], None]
    ) -> None:
        refused = False

        def leave(_: bytes, state: str) -> bool:
            nonlocal refused
            refused = state == _NOT_FOR_PARTITIONED
            return refused

        run(statement.rstrip().removesuffix(b";") + b" NOT VALID;", leave)
        self._add(self.not_made if refused else self.not_valid, name)

    def _add(self, to: list[str], *names: str) -> None:
        with self._lock:
            to += [name for name in names if name not in to]
