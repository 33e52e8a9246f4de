"""Running pg_dump inside a snapshot and reading its output as a stream; what the output means is in
`export.dump_content`."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backup_pipeline.errors import BackupSystemError, ToolError, UnreachableError
from backup_pipeline.postgres.server.clients import PostgresClient
from backup_pipeline.postgres.server.connection import (
    LOCKS_FULL,
    MORE_LOCKS,
    LockNotGrantedError,
    connection_ended,
    no_more_connections,
    takes_no_more,
    was_ended,
)
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import limits, processes

DumpFormat = Literal["plain", "custom"]
_CHUNK = 1 << 20
_PIPE_SIZE = 1 << 20
# pg_dump writes 4 KiB at a time, and reading them one by one costs more than what is done with the bytes: after a small
# piece the pipe is given the time to fill up to about a third.
_SMALL = 1 << 18
_PAUSE_SECONDS = 0.002
# A snapshot that is not there any more: the session that held it was ended.
_ENDED_SNAPSHOT = ("SET TRANSACTION SNAPSHOT", "invalid snapshot identifier")
_AWAY = ("connection to server", "could not connect", "the database system is")


def dump_command(
    client: PostgresClient,
    target: PostgresTarget,
    *,
    snapshot: str,
    encoding: str,
    format: DumpFormat = "plain",  # noqa: A002 — pg_dump's own name
    compressed: bool = True,
    lock_timeout_seconds: float = 60.0,
) -> list[str | Path]:
    """Return the argument list of a whole dump inside an exported snapshot; no secret is in it.

    `encoding` is the database's own: a role's setting could make pg_dump write another, which may lack characters.
    The custom format is `compressed` at level 1, for it is for pg_restore's choice of objects, not for the smallest
    file; or not at all, so that what is unchanged becomes the same bytes again.
    """
    shape = ["--format=plain"] if format == "plain" else ["--format=custom", f"--compress={int(compressed)}"]
    return [
        client.program("pg_dump"),
        *shape,
        f"--snapshot={snapshot}",
        f"--encoding={encoding}",
        f"--lock-wait-timeout={max(1, round(lock_timeout_seconds * 1000))}",
        "--no-password",
        *target.program_arguments(),
    ]


@dataclass
class DumpStream:
    """A running pg_dump: iterate over `chunks()`, which raises when it failed; then inspect `warnings`."""

    target: PostgresTarget
    _process: processes.Running
    _pause: float = 0.0
    warnings: tuple[str, ...] = field(default=())

    def chunks(self) -> Iterator[bytes]:
        """Yield the dump's bytes in pieces of up to 1 MB.

        Raises:
            UnreachableError: the server went away. ToolError: pg_dump failed for another reason.
        """
        out = self._process.stdout
        while data := out.read(_CHUNK):
            limits.progressed()
            yield data
            if self._pause and len(data) < _SMALL:
                time.sleep(self._pause)
        code, messages = self._process.finish()
        lines = [_scrubbed(line, self.target) for line in messages.splitlines() if line.strip()]
        if code != 0:
            raise _failure(code, lines, self.target)
        self.warnings = tuple(lines)


@contextlib.contextmanager
def dumping(command: list[str | Path], target: PostgresTarget) -> Iterator[DumpStream]:
    """Start pg_dump for the block; it is ended when the block is left early."""
    with processes.running(command, env=target.program_environment()) as process:
        # A pipe that is not large would be full before the pause ends, and pg_dump would wait.
        yield DumpStream(target, process, _PAUSE_SECONDS if _widened(process) else 0.0)


def _widened(process: processes.Running) -> bool:
    """Make the pipe large where the system can (Linux): fewer changes between the two processes. Say whether it is."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(process.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        return True
    return False


def _scrubbed(line: str, target: PostgresTarget) -> str:
    return line.replace(target.password, "***") if target.password else line


def _failure(code: int, lines: list[str], target: PostgresTarget) -> BackupSystemError:
    # A failed COPY is reported with the statement, which is long and of no use to the reader.
    reported = [re.sub(r"^pg_dump: (error: |detail: )?", "", line) for line in lines if "Command was:" not in line]
    text = processes.last_lines("\n".join(reported[:3]))
    if takes_no_more(text):
        return no_more_connections(text, target)
    if was_ended("", "\n".join(lines)) or any(sign in line for sign in _ENDED_SNAPSHOT for line in lines):
        return connection_ended(f"{text} (during the dump)", target)
    if any(sign in line for sign in _AWAY for line in lines):
        return UnreachableError(
            f"The server cannot be reached or went away during the dump (pg_dump exit code {code}): {text}.",
            where=target.label,
            remedy="Check that the server runs, then run again.",
        )
    if any("row-level security" in line or "permission denied" in line for line in lines):
        remedy = "Dump with a role that may read everything (with BYPASSRLS where row level security is on)."
    elif any("lock timeout" in line or "LOCK TABLE" in line for line in lines):
        return LockNotGrantedError(
            f"pg_dump was not granted a lock in time: {text}.",
            where=target.label,
            remedy="Another session holds a conflicting lock (a migration?); run again when it has finished.",
        )
    elif LOCKS_FULL in "\n".join(lines):
        remedy = MORE_LOCKS
    else:
        remedy = "Read pg_dump's message; run it by hand with the same role to see more."
    return ToolError(f"pg_dump failed with exit code {code}: {text}.", where=target.label, remedy=remedy)
