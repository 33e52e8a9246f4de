"""Restoring custom-format archives with pg_restore, in parallel, straight from the file.

It reads no meta-commands; which archives and clients fit is decided by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import SourceError
from backup_pipeline.model.catalog import unquoted
from backup_pipeline.postgres.load.archive_text import CUSTOM_MAGIC
from backup_pipeline.postgres.server.clients import PostgresClient
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import processes


def archive_path(file: BinaryIO) -> Path | None:
    """Return the path of an open custom archive that lies in a file of its own; None for anything else."""
    magic = file.read(len(CUSTOM_MAGIC))
    file.seek(0)
    name = getattr(file, "name", None)
    return Path(name) if magic == CUSTOM_MAGIC and isinstance(name, str) and Path(name).is_file() else None


def archive_holds(path: Path, client: PostgresClient, kinds: Collection[str]) -> bool:
    """Return whether the archive's table of contents has an entry of one of these kinds ("EVENT TRIGGER").

    Raises:
        ToolError: pg_restore cannot read it.
    """
    contents = processes.run([client.program("pg_restore"), "--list", path]).stdout.decode("utf-8", "replace")
    return any(f" {kind} " in line for line in contents.splitlines() for kind in kinds)


def archive_tablespaces(path: Path, client: PostgresClient) -> frozenset[str]:
    """Return the tablespaces that the archive's tables and indexes are made in, but for the database's own.

    Raises:
        ToolError: pg_restore cannot read it.
    """
    contents = processes.run([client.program("pg_restore"), "--schema-only", "--file=-", path]).stdout
    names = re.findall(rb"^SET default_tablespace = ([^';]+|\"[^\n]+\");$", contents, re.MULTILINE)
    return frozenset(unquoted(name.decode("utf-8", "replace")) for name in names)


def run_archive(
    path: Path, target: PostgresTarget, client: PostgresClient, *, jobs: int, settings: dict[str, str]
) -> tuple[str, ...]:
    """Restore an archive into an existing, empty database over several connections; return pg_restore's warnings.

    Args:
        path: the archive.
        target: the database.
        client: programs, not older than what wrote the archive.
        jobs: connections.
        settings: of each session.

    Raises:
        SourceError: a statement failed; names the first error, without data.
    """
    command: list[str | Path] = [
        client.program("pg_restore"),
        "--exit-on-error",
        "--no-password",
        f"--jobs={max(1, jobs)}",
        *target.program_arguments(),
        path,
    ]
    # A space in a value is part of it where a backslash stands before it.
    options = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())
    done = processes.run(command, env={**target.program_environment(), "PGOPTIONS": options}, check=False)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.exit_code != 0:
        errors = [line for line in lines if "error:" in line and "COPY failed" not in line][:2]
        raise SourceError(
            f"pg_restore ended with exit code {done.exit_code}: {' | '.join(errors) or 'the data was refused'}",
            where=target.label,
            remedy="The database that was being restored is not used; the live one is untouched.",
        )
    return tuple(lines)
