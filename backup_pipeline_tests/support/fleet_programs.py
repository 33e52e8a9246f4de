"""Programs that a fleet needs and starts, and waiting for what they do. What a fleet is made of is not known here."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget


def programs() -> Path:
    """Return the folder of an installed PostgreSQL server; skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip("no PostgreSQL server is installed in /usr/lib/postgresql (Debian: postgresql)")
    return found[-1].parent


def needed(program: str, remedy: str) -> str:
    """Return where a program is; skips where it is not."""
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed ({remedy})")
    return found


def redis_server(folder: Path, address: str, port: int) -> subprocess.Popen[bytes]:
    """Start Redis with its files in a folder, and wait until it answers."""
    folder.mkdir(exist_ok=True)
    options = ["--bind", address, "--port", str(port), "--protected-mode", "no", "--dir", str(folder)]
    command = [needed("redis-server", "apt install redis-server"), *options, "--appendonly", "yes", "--save", ""]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    wait_until(lambda: answers(address, port), "Redis")
    return process


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60, more: Callable[[], str] = lambda: "") -> None:
    """Wait until something is true; AssertionError, with what is known, when it is not in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds} s\n{more()}"
        time.sleep(0.25)


def answers(address: str, port: int) -> bool:
    """Return whether something listens at an address."""
    try:
        socket.create_connection((address, port), 2).close()
    except OSError:
        return False
    return True


def logs_in(target: PostgresTarget) -> bool:
    """Return whether a server of PostgreSQL lets its superuser in."""
    try:
        with connected(target):
            return True
    except Exception:
        return False
