r"""A whole server's dump (pg_dumpall) taken apart: the dump of each database, and the roles. Executes none of it.

Form of the file (pg_dumpall 9 to 18): roles and tablespaces, then for each database what pg_dump writes, between its
header and its end marker, with the line `\connect` before it or, where the database is made, in it. Where a statement
or a table's rows begin and end is `stream`'s work, so what looks like such a line inside of either is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict

from backup_pipeline.errors import ValidationError
from backup_pipeline.model.catalog import RoleEntry
from backup_pipeline.postgres.load.dump_statements import unquoted
from backup_pipeline.postgres.load.input import Readable
from backup_pipeline.postgres.load.role_statements import RoleStatements
from backup_pipeline.postgres.load.stream import CopyBlock, DumpParts, MetaCommand, Statement
from backup_pipeline.postgres.server.encodings import decoded
from backup_pipeline.system.streams import compressed_sink

_HEADER = re.compile(rb"^--\r?\n-- PostgreSQL database dump\r?\n", re.MULTILINE)
_END = re.compile(rb"^-- PostgreSQL database dump complete\r?\n(?:\r?\n?--\r?\n)?", re.MULTILINE)
_WHOLE_END = re.compile(rb"^-- PostgreSQL database cluster dump complete\r?\n", re.MULTILINE)
_CONNECT = re.compile(r'\\connect (?:-reuse-previous=on )?("(?:[^"]|"")+"|\S+)\s*\Z')
# What makes the database itself, and what every dump sets: a database with nothing else is empty.
_OF_EVERY_DATABASE = re.compile(
    rb"SET |SELECT pg_catalog\.set_config|(?:CREATE|ALTER|DROP) DATABASE |UPDATE pg_catalog\.pg_database "
    rb"|(?:COMMENT|SECURITY LABEL|GRANT|REVOKE) [^;]*ON DATABASE |(?:COMMENT ON|CREATE) EXTENSION[^;]* plpgsql"
    rb"|(?:GRANT|REVOKE) [^;]* ON SCHEMA public |(?:ALTER|COMMENT ON|CREATE|DROP) SCHEMA (?:IF EXISTS )?public[ ;]"
)


class Writer(Protocol):
    """Takes the bytes of a database's dump."""

    def write(self, data: bytes, /) -> object:
        """Take the next of them."""


@dataclass
class DatabaseDump:
    """The dump of one database within a server's.

    Attributes:
        names: of the databases that it goes to; one, or it is not what pg_dumpall writes.
        empty: whether it holds nothing beside the database itself.
        whole: whether its end marker came.
    """

    names: list[str] = field(default_factory=list)
    empty: bool = True
    whole: bool = False

    @property
    def name(self) -> str:
        """The database's name; "" where the dump names none or several."""
        return self.names[0] if len(set(self.names)) == 1 else ""


@dataclass
class ServerDump:
    """What a server's dump holds.

    Attributes:
        databases: their dumps, in the order of the file.
        roles: those that it makes, without passwords.
        whole: whether the file's own end marker came.
    """

    databases: list[DatabaseDump] = field(default_factory=list)
    roles: tuple[RoleEntry, ...] = ()
    whole: bool = False


def read_server_dump(reader: Readable, name: str, begin: Callable[[int], Writer] | None = None) -> ServerDump:
    """Read a server's dump to its end, and hand the text of each database on.

    Args:
        reader: the dump, as plain SQL.
        name: of the file, for messages.
        begin: gives what takes the text of the database of this number; nothing does where it is None.

    Raises:
        ValidationError: it is damaged, or no text that pg_dumpall writes.
        RefusedError: it holds a line for psql that pg_dumpall does not write.
    """
    walk = _ServerParts(begin)
    parts = DumpParts(reader, rows_in_parts=True)
    for part in parts.with_everything():
        walk.take(part, parts.codec)
    if not walk.found.databases and not walk.found.whole:
        raise ValidationError("The dump of the server is cut short before its first database.", where=name)
    walk.found.roles = walk.roles.entries()
    return walk.found


def split(reader: Readable, name: str, folder: Path, wanted: frozenset[str]) -> tuple[dict[str, Path], ServerDump]:
    """Write the dump of each wanted database as a gzip file of its own; the names of the files say nothing.

    Raises:
        ValidationError, RefusedError: as `read_server_dump`.
    """
    with ExitStack() as stack:

        def begin(number: int) -> Writer:
            # One at a time: the one before is finished when the next begins.
            stack.close()
            file = stack.enter_context((folder / f"{number}.sql.gz").open("wb"))
            return stack.enter_context(compressed_sink(file, compression="gzip", hashed=False))

        found = read_server_dump(reader, name, begin)
    files = {one.name: folder / f"{number}.sql.gz" for number, one in enumerate(found.databases) if one.name in wanted}
    for number in range(len(found.databases)):
        if (folder / f"{number}.sql.gz") not in files.values():
            (folder / f"{number}.sql.gz").unlink()
    return files, found


class _ServerParts:
    """Goes through the parts of a server's dump, and knows which database's each of them is."""

    def __init__(self, begin: Callable[[int], Writer] | None) -> None:
        self._begin = begin
        self._writer: Writer | None = None
        self._inside: DatabaseDump | None = None
        self._connected = ""
        self.found = ServerDump()
        self.roles = RoleStatements()

    def take(self, part: Statement | CopyBlock | MetaCommand, codec: str) -> None:
        """Take the next part, and read it to its end."""
        before = part.before if isinstance(part, CopyBlock) else part.text[: len(part.text) - len(part.body)]
        self._comments(before)
        if isinstance(part, CopyBlock):
            self._write(part.header + b"\n")
            for chunk in part.chunks():
                self._write(chunk)
            self._write(b"\\.\n")
            self._holds_something()
            return
        if isinstance(part, MetaCommand):
            if (connected := _database_of(decoded(part.body, codec))) is not None:
                self._connected = connected
                if self._inside is not None:
                    self._inside.names.append(connected)
        elif part.body:
            if self._inside is None:
                self.roles.take(decoded(part.body, codec))
            elif not _OF_EVERY_DATABASE.match(part.body):
                self._holds_something()
        self._write(part.body)

    def _comments(self, text: bytes) -> None:
        """Take what stands between statements: there a database's dump begins and ends."""
        position = 0
        while position < len(text):
            if self._inside is None:
                found = _HEADER.search(text, position)
                if found is None:
                    self.found.whole = self.found.whole or _WHOLE_END.search(text, position) is not None
                    return
                position = found.start()
                self._inside = DatabaseDump()
                self._writer = self._begin(len(self.found.databases)) if self._begin else None
                self.found.databases.append(self._inside)
            found = _END.search(text, position)
            end = found.end() if found else len(text)
            self._write(text[position:end])
            position = end
            if found:
                self._inside.whole = True
                self._inside.names = self._inside.names or [name for name in [self._connected] if name]
                self._inside, self._writer = None, None

    def _write(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)

    def _holds_something(self) -> None:
        if self._inside is not None:
            self._inside.empty = False


def _database_of(line: str) -> str | None:
    r"""Return the database that a `\connect` line names: as an identifier, or in a connection string for odd names."""
    found = _CONNECT.match(line)
    if found is None:
        return None
    name = unquoted(found[1])
    if "-reuse-previous=on" not in line:
        return name
    try:
        return str(conninfo_to_dict(name)["dbname"])
    except (psycopg.Error, KeyError):
        return None
