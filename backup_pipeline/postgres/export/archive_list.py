"""What a custom-format archive holds, asked of pg_restore itself."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import ToolError, ValidationError
from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.postgres.server.clients import installed_clients
from backup_pipeline.system import processes

_MAGIC = b"PGDMP"


def archive_rows(file: BinaryIO, name: str) -> dict[tuple[str, str], int]:
    """Return (schema, table) → rows of every table in a custom-format archive, reading it to its end.

    pg_restore writes the archive out as SQL, so that every block of rows is decompressed on the way.

    Raises:
        ValidationError: damaged, cut off, or no archive. ToolError: no pg_restore that can read it.
    """
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValidationError("Not an archive of pg_dump's custom format.", where=name, remedy="Use another set.")
    file.seek(0)
    clients = installed_clients()
    if not clients:
        raise ToolError("No pg_restore is installed.", where="pg_restore", remedy="Install the PostgreSQL client.")
    content = DumpContent()
    with tempfile.TemporaryDirectory(prefix="bp-archive-") as folder:
        copy = Path(folder) / "archive.dump"
        with copy.open("wb") as target:
            shutil.copyfileobj(file, target, 1 << 20)
        with processes.running([clients[-1].program("pg_restore"), "--file=-", copy]) as process:
            while piece := process.stdout.read(1 << 20):
                content.feed(piece)
            content.finish()
            code, messages = process.finish()
    if code != 0 or not content.complete:
        raise ValidationError(
            f"The archive cannot be read to its end: {processes.last_lines(messages)}",
            where=name,
            remedy="Use another set.",
        )
    return content.rows
