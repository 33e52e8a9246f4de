"""Commands of a site as processes of their own, forked from one that has imported what they need.

For tests that kill, interrupt or watch a command: how it starts is not their point, and to import Dagster takes two
seconds of the processor, a fork some milliseconds. They are marked `takes(together="forked")`, so that not each process
of the tests starts a server of forks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backup_pipeline_tests.support.sites import TestSite

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "backup_pipeline.cli.main",
        "backup_pipeline.operations.proof.drill",
        "backup_pipeline.operations.restore.run",
        "backup_pipeline.orchestration.build",
        "backup_pipeline.orchestration.launch",
        __name__,
    ]
)


def _run(arguments: tuple[str, ...], environment: dict[str, str], folder: Path, out: str, err: str) -> None:
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv = ["backup-pipeline", *arguments]
    from backup_pipeline.cli.main import main

    main()


class ForkedCommand:
    """A command that runs, as `subprocess.Popen` shows one that `TestSite.start` started."""

    def __init__(self, site: TestSite, *arguments: str) -> None:
        # Not where temporary files of the test go: some tests count those.
        self._out, self._err = (
            tempfile.NamedTemporaryFile(dir="/tmp", prefix="bp-output-")  # noqa: SIM115 - as long as this object
            for _ in range(2)
        )
        given = (*arguments, "--config", str(site.folder))
        self._process = _CONTEXT.Process(
            target=_run, args=(given, site.environment(), site.folder, self._out.name, self._err.name)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        self.wait(timeout)
        return self._out.read(), self._err.read()

    def send_signal(self, number: signal.Signals | int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
