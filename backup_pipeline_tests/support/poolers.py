"""PgBouncer, as Debian packages it, before a server of the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline.postgres.server.target import PostgresTarget


@contextlib.contextmanager
def pgbouncer(target: PostgresTarget, mode: str, *settings: str) -> Iterator[PostgresTarget]:
    """Run PgBouncer in this pool mode for the block; give the target that goes through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian: pgbouncer)")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "users.txt").write_text(f'"{target.user}" "{target.password}"\n')
        (folder / "pgbouncer.ini").write_text(
            "\n".join(
                [
                    "[databases]",
                    f"* = host={target.host} port={target.port}",
                    "[pgbouncer]",
                    "listen_addr = 127.0.0.1",
                    f"listen_port = {port}",
                    "unix_socket_dir =",
                    "auth_type = plain",
                    f"auth_file = {folder / 'users.txt'}",
                    f"pool_mode = {mode}",
                    *settings,
                    "",
                ]
            )
        )
        as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            [program, "-q", *as_nobody, str(folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.02)
            yield replace(target, port=port)
        finally:
            process.terminate()
            process.wait()
