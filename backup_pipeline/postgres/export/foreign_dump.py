r"""Dumps that this program did not make: which form a file has, and what its own text says. Executes none of it.

Forms: plain SQL (also gzip, Zstandard), pg_dump's custom, directory and tar archives, a custom archive that was
compressed once more, and a whole server's pg_dumpall. Archives are turned into text by pg_restore, which reads all of
their data on the way. The header `-- Dumped from database version …` and `-- Dumped by pg_dump version …` are pg_dump's
since 9.0.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Generator, Iterator
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import ToolError, ValidationError
from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.postgres.server.clients import PostgresClient, installed_clients
from backup_pipeline.postgres.server.encodings import UTF8, codec_set_by, decoded
from backup_pipeline.system import processes
from backup_pipeline.system.files import CHUNK, open_ordinary, read_chunks
from backup_pipeline.system.streams import GZIP_MAGIC, ZSTD_MAGIC, gunzip, unzstd

TABLE_OF_CONTENTS = "toc.dat"
_CUSTOM_MAGIC = b"PGDMP"
HEADER = b"-- PostgreSQL database dump"
_CLUSTER = b"-- PostgreSQL database cluster dump"
_BEGINNING = 4096
_TAR_MAGIC, _TAR_AT = b"ustar", 257
_VERSIONS = re.compile(rb"^-- Dumped (from database|by pg_dump) version ([0-9][0-9.]*)", re.MULTILINE)
VERSION_LINES = re.compile(_VERSIONS.pattern + rb"[^\n]*\n", re.MULTILINE)
_NAME = rb'("(?:[^"]|"")*+"|[A-Za-z_][A-Za-z0-9_$]*+)'
_ROLES = (
    re.compile(rb"^ALTER [^;\n]*? OWNER TO " + _NAME + rb";$", re.MULTILINE),
    re.compile(rb"^(?:GRANT|REVOKE) [^;\n]*? (?:TO|FROM) " + _NAME + rb"(?: WITH GRANT OPTION)?;$", re.MULTILINE),
    re.compile(rb"^ALTER DEFAULT PRIVILEGES FOR ROLE " + _NAME + rb" ", re.MULTILINE),
)
_EXTENSION = re.compile(rb"^CREATE EXTENSION (?:IF NOT EXISTS )?" + _NAME + rb"(?: |;)", re.MULTILINE)
_DUMP_NAME = re.compile(r"\.(sql|dump|backup|pgdump)(\.(gz|zst))?$", re.IGNORECASE)
_INSERT = re.compile(rb"^INSERT INTO ", re.MULTILINE)
_CONNECT_LINE = re.compile(rb"^\\connect [^\n]*\n", re.MULTILINE)
# The first object; what --create writes of the database itself is none.
_OBJECT = re.compile(rb"^-- Name: (?!DATABASE )[^\n]*; Type: (?!DATABASE)", re.MULTILINE)
DROP = re.compile(rb"^(?:DROP (?!.* IF EXISTS )|ALTER (?!.* IF EXISTS )[^\n]* DROP )[^\n]*;\n", re.MULTILINE)
_LIST_SECONDS = 600.0
_LONGEST_WORD = 16
_NO_ROLES = frozenset({"PUBLIC", "CURRENT_USER", "SESSION_USER", "CURRENT_ROLE"})


class DumpForm(StrEnum):
    """The form of a dump."""

    PLAIN = "plain"
    GZIP = "gzip"
    ZSTD = "zstd"
    CUSTOM = "custom"
    PACKED_CUSTOM = "custom, compressed once more"
    DIRECTORY = "directory"
    TAR = "tar"
    CLUSTER = "pg_dumpall"

    @property
    def is_text(self) -> bool:
        """Whether the file itself is SQL, compressed or not."""
        return self in (DumpForm.PLAIN, DumpForm.GZIP, DumpForm.ZSTD)


def form_of(path: Path) -> DumpForm | None:
    """Return the form of a dump; None for what is none.

    Raises:
        ValidationError: a compressed file that is damaged at its very beginning. OSError: it cannot be read.
    """
    if path.is_dir():
        return DumpForm.DIRECTORY if (path / TABLE_OF_CONTENTS).is_file() else None
    with open_ordinary(path) as file:
        start = file.read(_BEGINNING)
    if start.startswith(_CUSTOM_MAGIC):
        return DumpForm.CUSTOM
    if start[_TAR_AT:].startswith(_TAR_MAGIC):
        return DumpForm.TAR if start.startswith(TABLE_OF_CONTENTS.encode() + b"\0") else None
    packed = start.startswith((GZIP_MAGIC, ZSTD_MAGIC))
    text = _unpacked_beginning(path) if packed else start
    if not text and _DUMP_NAME.search(path.name):
        # Empty, or damaged at its very beginning: a backup by its name, which the import then refuses.
        return DumpForm.PLAIN if not packed else DumpForm.GZIP if start.startswith(GZIP_MAGIC) else DumpForm.ZSTD
    if text.startswith(_CUSTOM_MAGIC):
        return DumpForm.PACKED_CUSTOM
    if _CLUSTER in text:
        # Roles and tablespaces alone (pg_back's pg_globals) are no backup of a database.
        return DumpForm.CLUSTER if _has_databases(path, packed=packed) else None
    if HEADER not in text:
        return None
    return DumpForm.PLAIN if not packed else DumpForm.GZIP if start.startswith(GZIP_MAGIC) else DumpForm.ZSTD


def _has_databases(path: Path, *, packed: bool) -> bool:
    """Return whether a dump of a server goes to a database; of a damaged one that is assumed."""
    rest = b"\n"
    try:
        with contextlib.ExitStack() as stack:
            pieces = unpacked(path) if packed else read_chunks(stack.enter_context(open_ordinary(path)))
            for piece in pieces:
                if b"\n\\connect " in rest + piece:
                    return True
                rest = piece[-_LONGEST_WORD:]
    except ValidationError:
        return True
    return False


def _unpacked_beginning(path: Path) -> bytes:
    """Return the first bytes of a compressed file; of a damaged one what can be read."""
    text = b""
    with open_ordinary(path) as file, contextlib.suppress(ValidationError), contextlib.closing(_unpack(file)) as pieces:
        for piece in pieces:
            text += piece
            if len(text) >= _BEGINNING:
                break
    return text


def _unpack(file: BinaryIO) -> Generator[bytes, None, None]:
    start = file.read(4)
    file.seek(0)
    name = Path(str(getattr(file, "name", "dump"))).name
    yield from unzstd(file, name=name) if start.startswith(ZSTD_MAGIC) else gunzip(file, name=name)


class ForeignDump(DumpContent):
    """Follows the text of a dump that somebody else made, and gathers what it says of itself.

    Attributes:
        server_version: of the database; "" where it does not say.
        tool_version: of pg_dump.
        roles: that own or are granted something.
        extensions: that it makes.
        goes_to: the lines with which it goes to its database, as with `--create`, each once.
        inserts: whether rows are written as INSERT, which are not counted.
        drops: whether it first drops what a new database does not have, as with `--clean` alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.server_version = ""
        self.tool_version = ""
        self.roles: set[str] = set()
        self.extensions: set[str] = set()
        self.goes_to: set[bytes] = set()
        self.inserts = False
        self.drops = False
        self._names: str = UTF8
        self._begun = False

    def _take_statements(self, data: bytes) -> None:
        super()._take_statements(data)
        self._names = codec_set_by(data) or self._names
        for what, version in _VERSIONS.findall(data):
            if what == b"by pg_dump":
                self.tool_version = self.tool_version or version.decode()
            else:
                self.server_version = self.server_version or version.decode()
        for pattern in _ROLES:
            self.roles |= {self._plain(name) for name in pattern.findall(data)} - _NO_ROLES
        self.extensions |= {self._plain(name) for name in _EXTENSION.findall(data)}
        self.goes_to |= set(_CONNECT_LINE.findall(data))
        if not self._begun:
            first = _OBJECT.search(data)
            start = first.start() if first else len(data)
            self.drops = self.drops or DROP.search(data, 0, start) is not None
            self._begun = first is not None
        self.inserts = self.inserts or _INSERT.search(data) is not None

    def _plain(self, name: bytes) -> str:
        return decoded(name[1:-1].replace(b'""', b'"') if name.startswith(b'"') else name, self._names)


@contextlib.contextmanager
def cluster_text(path: Path) -> Iterator[Iterator[bytes]]:
    """Give the SQL of a whole server's dump, compressed or not, in pieces.

    Raises:
        ValidationError: the compressed file is damaged.
    """
    with open_ordinary(path) as file:
        packed = file.read(4).startswith((GZIP_MAGIC, ZSTD_MAGIC))
        file.seek(0)
        yield _unpack(file) if packed else read_chunks(file)


@contextlib.contextmanager
def dump_text(path: Path, form: DumpForm) -> Iterator[Iterator[bytes]]:
    """Give the SQL of a dump, in pieces.

    Raises:
        ValidationError: it is damaged or cut short. ToolError: no pg_restore is installed.
    """
    if form is DumpForm.PLAIN:
        with open_ordinary(path) as file:
            yield read_chunks(file)
    elif form.is_text:
        with open_ordinary(path) as file:
            yield _unpack(file)
    elif form is DumpForm.PACKED_CUSTOM:
        with tempfile.TemporaryDirectory(prefix="bp-archive-") as folder:
            archive = Path(folder) / path.name
            with archive.open("wb") as file:
                file.writelines(unpacked(path))
            with contextlib.closing(_through_pg_restore(archive)) as pieces:
                yield pieces
    else:
        with contextlib.closing(_through_pg_restore(path)) as pieces:
            yield pieces


def unpacked(path: Path) -> Iterator[bytes]:
    """Yield the content of a compressed file."""
    with open_ordinary(path) as file:
        yield from _unpack(file)


def _through_pg_restore(path: Path) -> Generator[bytes, None, None]:
    clients = installed_clients()
    if not clients:
        raise ToolError("No pg_restore is installed.", where="pg_restore", remedy="Install the PostgreSQL client.")
    # The lowest that reads it: a newer one writes settings that older servers do not know.
    client = next((each for each in clients[:-1] if _reads(each, path)), clients[-1])
    command: list[str | Path] = [client.program("pg_restore"), "--file=-", path.absolute()]
    with processes.running(command) as process:
        while piece := process.stdout.read(CHUNK):
            yield piece
        code, messages = process.finish()
    if code != 0:
        raise ValidationError(
            f"pg_restore cannot read the archive to its end: {processes.last_lines(messages)}",
            where=path.name,
            remedy="It is damaged, cut short, or of a newer PostgreSQL than the programs of this machine.",
        )


def _reads(client: PostgresClient, path: Path) -> bool:
    command: list[str | Path] = [client.program("pg_restore"), "--list", path.absolute()]
    done = processes.run(command, check=False, timeout=_LIST_SECONDS)
    return done.exit_code == 0


def read_dump(pieces: Iterator[bytes], name: str) -> ForeignDump:
    """Return what a dump says of itself, read to its end.

    Raises:
        ValidationError: its header or end marker is missing, as of one that was cut short.
    """
    content, size = ForeignDump(), 0
    for piece in pieces:
        size += len(piece)
        content.feed(piece)
    content.finish()
    if not size:
        raise ValidationError("It is empty.", where=name, remedy="Import another one, and find out why it is empty.")
    if not content.header:
        raise ValidationError("It does not begin as a dump of pg_dump.", where=name, remedy="Name a dump.")
    if not content.complete:
        raise ValidationError(
            "The dump is cut short: pg_dump's end marker is missing.",
            where=name,
            remedy="It is no backup of the whole database. What it holds can be read by hand; import another one.",
        )
    return content
