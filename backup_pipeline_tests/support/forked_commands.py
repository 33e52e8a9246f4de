"""A process that runs each command line it reads in a child of its own, so that a test can kill that at any instant.

`python -m backup_pipeline_tests.support.forked_commands`: reads lines of JSON (a list of arguments, and a limit of
bytes per file or 0), writes the child's process id, then its exit status when it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app


@dataclass
class Forker:
    """The process, as a test uses it."""

    process: subprocess.Popen[str]

    def run(self, *arguments: str, kill_after: float | None = None, largest_file: int = 0) -> tuple[int, float]:
        """Run a command; returns its exit code, negative when killed, and how many seconds it took."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([arguments, largest_file]) + "\n")
        self.process.stdin.flush()
        pid, began = int(self.process.stdout.readline()), time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, 9)  # It is not reaped before the next line is read, so the number is its own.
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        else:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        return os.waitstatus_to_exitcode(status), time.monotonic() - began


@contextlib.contextmanager
def forker(environment: dict[str, str]) -> Iterator[Forker]:
    """Run the process for the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield Forker(process)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(60)


def _preload() -> None:
    import backup_pipeline.operations.copies.kit
    import backup_pipeline.operations.copies.upkeep
    import backup_pipeline.stores.vault.check_locks  # noqa: F401


def _child(arguments: list[str], largest_file: int) -> None:
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.dup2(2, 1)
    os._exit(run_app(build_app(), arguments))


def main() -> None:
    """Serve until the input ends."""
    _preload()
    while line := sys.stdin.readline():
        arguments, largest_file = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(arguments, largest_file)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        sys.stdin.readline()
        sys.stdout.write(f"{os.waitpid(pid, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
