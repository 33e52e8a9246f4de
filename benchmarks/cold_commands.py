"""Processor seconds of commands in processes of their own, as a shell starts them. No measuring of a subject here."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_MAIN = "from backup_pipeline.cli.main import main; main()"
_STATUS_FAILING = 6
# What no command that is a run in Dagster's history can leave out: one asset that does nothing.
_BARE_RUN = """
import dagster as dg

@dg.asset
def nothing() -> None: ...

with dg.DagsterInstance.get() as instance:
    assert dg.materialize([nothing], instance=instance).success
"""


@dataclass(frozen=True)
class Cost:
    """Medians of several runs: wall seconds, and processor seconds (user and system) of a command and its children."""

    wall: float
    cpu: float


def environment() -> dict[str, str]:
    """Return what a command is started with: little, so that modules are compiled once."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}


def ours(*arguments: str) -> list[str]:
    """Return the command line of `backup-pipeline`."""
    return [sys.executable, "-c", _MAIN, *arguments]


def bare_run() -> list[str]:
    """Return the command line of the least run in the history of DAGSTER_HOME."""
    return [sys.executable, "-c", _BARE_RUN]


def cost(command: list[str], *, times: int = 5, shell: bool = False, given: dict[str, str] | None = None) -> Cost:
    """Run a command several times after one that warms up; return its medians.

    Raises:
        RuntimeError: it ended with an error (`status` ends with 6 when a plan is failing, which is none here).
    """
    found = [once(command, shell=shell, given=given) for _ in range(times + 1)][1:]
    return Cost(statistics.median(one.wall for one in found), statistics.median(one.cpu for one in found))


def once(command: list[str], *, shell: bool = False, given: dict[str, str] | None = None) -> Cost:
    """Run a command once."""
    start = perf_counter()
    process = subprocess.Popen(
        ["/bin/sh", "-c", command[0]] if shell else command,
        env={**environment(), **(given or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, _STATUS_FAILING):
        raise RuntimeError(f"{' '.join(command)[:200]}: {errors.decode(errors='replace')[-500:]}")
    return Cost(perf_counter() - start, usage.ru_utime + usage.ru_stime)


def copy_set(first: Path, to: Path, names: dict[str, str]) -> None:
    """Copy a sealed set under other names: of itself, its plan, its source. Results of verifications stay behind."""
    shutil.copytree(first, to, ignore=shutil.ignore_patterns("proofs"))
    for file in (to / "manifest.json", *(to / "records").glob("*.json")):
        text = file.read_text()
        for old, new in names.items():
            text = text.replace(old, new)
        file.write_text(text)
