"""What a custom-format archive holds, asked of pg_restore itself, which reads it as a stream."""

from __future__ import annotations

import contextlib
from concurrent.futures import wait
from typing import BinaryIO

from backup_pipeline.errors import ToolError, ValidationError
from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.postgres.server.clients import installed_clients
from backup_pipeline.system import limits, processes
from backup_pipeline.system.read_beside import ReadBeside
from backup_pipeline.system.streams import Sink
from backup_pipeline.system.threads import ContextThreadPool

_MAGIC = b"PGDMP"
_PIECE = 1 << 20

ArchiveRows = dict[tuple[str, str], int]


def archive_rows(file: BinaryIO, name: str) -> ArchiveRows:
    """Return (schema, table) → rows of every table in a custom-format archive, reading it to its end.

    pg_restore writes the archive out as SQL, so that every block of rows is decompressed on the way.

    Args:
        file: the archive, at its beginning; it need not be seekable.
        name: of the file, for errors.

    Raises:
        ValidationError: damaged, cut off, or no archive. ToolError: no pg_restore that can read it.
    """
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise ValidationError("Not an archive of pg_dump's custom format.", where=name, remedy="Use another set.")
    clients = installed_clients()
    if not clients:
        raise ToolError("No pg_restore is installed.", where="pg_restore", remedy="Install the PostgreSQL client.")
    content = DumpContent()
    with processes.running([clients[-1].program("pg_restore"), "--file=-"], with_stdin=True) as process:
        feeder = _Feeder(process, magic, file)
        while piece := process.stdout.read(_PIECE):
            content.feed(piece)
        content.finish()
        code, messages = process.finish()
        feeder.finish()
    if code != 0 or not content.complete:
        raise ValidationError(
            f"The archive cannot be read to its end: {processes.last_lines(messages)}",
            where=name,
            remedy="Use another set.",
        )
    return content.rows


class _Feeder:
    """Writes a stream to a program's standard input in a thread beside."""

    def __init__(self, process: processes.Running, beginning: bytes, file: BinaryIO) -> None:
        self._process = process
        pool = ContextThreadPool(1, "pg_restore-input")
        self._feeding = pool.submit(self._feed, beginning, file)
        pool.shutdown(wait=False)

    def _feed(self, data: bytes, file: BinaryIO) -> None:
        try:
            while data:
                if not self._write(data):
                    break
                data = file.read(_PIECE)
            # What follows the last block is of no interest to pg_restore, but whoever writes it goes on.
            while data and file.read(_PIECE):
                pass
        finally:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.close()

    def _write(self, data: bytes) -> bool:
        """Write all of `data`; False where the program reads no more."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._process.stdin.write(view) or 0 :]
        except (OSError, ValueError):
            return False
        return True

    def finish(self) -> None:
        """Wait for its end; raises what reading the stream has raised."""
        while not wait([self._feeding], 1.0).done:
            limits.check()
        self._feeding.result()


class ArchiveReadBeside(ReadBeside[ArchiveRows]):
    """Passes an archive's bytes on to its file, and has pg_restore count its rows meanwhile, as `archive_rows` does.

    Args:
        file: the archive's file.
        name: of the file, for errors.
    """

    def __init__(self, file: Sink, name: str) -> None:
        super().__init__(file, lambda stream: archive_rows(stream, name), "archive-beside")
