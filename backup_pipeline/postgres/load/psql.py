"""Restoring plain dumps with psql: `-X`, ON_ERROR_STOP, and a `\\restrict` key that only this process knows.

The dump's own `\\restrict` pair is replaced by ours: whoever could write the file knows its key, nobody knows ours.
So a meta-command hidden in a dump (CVE-2025-8714) is an error, never obeyed.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from backup_pipeline.errors import RefusedError, SourceError
from backup_pipeline.postgres.load.input import Readable
from backup_pipeline.postgres.server.clients import PostgresClient
from backup_pipeline.postgres.server.connection import SETTINGS_FOR_A_DUMP, message_without_values
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import limits, processes
from backup_pipeline.system.files import CHUNK
from backup_pipeline.system.threads import start_thread

_HEAD = re.compile(rb"\A((?:--[^\n]*\n|\s*\n)*)\\restrict ([A-Za-z0-9]+)\n")
_HELD_BACK = 4096
_ERROR = re.compile(r"(.*?(?:ERROR|FATAL):) +([0-9A-Z]{5}): (.*)", re.DOTALL)


def without_restrict_pair(reader: Readable) -> Iterator[bytes]:
    """Yield the dump without pg_dump's own `\\restrict` line at its head and `\\unrestrict` line at its end."""
    held = b""
    while len(held) < CHUNK and (data := reader.read(CHUNK)):
        held += data
    key = b""
    if found := _HEAD.match(held):
        key = found[2]
        held = found[1] + held[found.end() :]
    while data := reader.read(CHUNK):
        yield held[:-_HELD_BACK]
        held = held[-_HELD_BACK:] + data
    if key:
        head, mark, tail = held.rpartition(b"\n\\unrestrict " + key + b"\n")
        if mark and not tail.strip():
            held = head + b"\n"
    yield held


def run_plain_dump(reader: Readable, target: PostgresTarget, client: PostgresClient) -> tuple[str, ...]:
    """Restore a plain dump through psql into an existing, empty database; return psql's warnings.

    Raises:
        RefusedError: this psql is too old to restore a plain dump safely.
        SourceError: a statement failed; names the first error, without data.
    """
    if not client.safe_for_plain_restore:
        raise RefusedError(
            f"psql {client.version_text} would obey meta-commands hidden in a dump (CVE-2025-8714).",
            where=str(client.folder),
            remedy="Install a current minor release of the PostgreSQL client.",
        )
    command: list[str | Path] = [
        client.program("psql"),
        "--no-psqlrc",
        "--quiet",
        "--no-password",
        "--set=ON_ERROR_STOP=1",
        "--set=VERBOSITY=verbose",
        "--output=/dev/null",
        "--file=-",
        *target.program_arguments(),
    ]
    key = secrets.token_hex(32).encode()
    with processes.running(command, env=target.program_environment(), with_stdin=True) as program:
        start_thread(lambda: program.stdout.read(), "psql output")
        with contextlib.suppress(BrokenPipeError):
            _write(program, b"\\restrict " + key + b"\n")
            for name, value in SETTINGS_FOR_A_DUMP.items():
                _write(program, f"SET {name} = '{value}';\n".encode())
            for piece in without_restrict_pair(reader):
                _write(program, piece)
            _write(program, b"\n\\unrestrict " + key + b"\n")
        with contextlib.suppress(BrokenPipeError):
            program.stdin.close()
        code, messages = program.finish()
    lines = [line for line in messages.splitlines() if line.strip()]
    if code != 0:
        errors = [_reported(line) for line in lines if "ERROR:" in line or "error:" in line or "FATAL:" in line]
        raise SourceError(
            f"psql ended with exit code {code}: {' | '.join(errors[:3]) or 'no message'}",
            where=target.label,
            remedy="The database that was being restored is not used; the live one is untouched.",
        )
    return tuple(lines)


def _reported(line: str) -> str:
    """Return an error without values of rows, for which its SQLSTATE must be known."""
    found = _ERROR.fullmatch(line)
    return f"{found[1]} {message_without_values(found[3], found[2])} (SQLSTATE {found[2]})" if found else line


def _write(program: processes.Running, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[program.stdin.write(view) or 0 :]
        limits.progressed()
