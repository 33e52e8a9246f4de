"""The processes of the UI end at once when their work is over, with their own exit code and all that they wrote."""

from __future__ import annotations

import subprocess
import sys

import pytest

from backup_pipeline.web.services import guarded

PROGRAM = """
import atexit, sys
from backup_pipeline.system.process_end import run_and_leave
atexit.register(lambda: print("the interpreter was taken apart"))
def main():
    print("worked", end="")
    {end}
run_and_leave(main)
"""


@pytest.mark.parametrize(
    ("end", "code", "reported"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no port')", 1, "no port\n"),
        ("raise KeyboardInterrupt", 130, ""),
        ("raise ValueError('a fault')", 1, "ValueError: a fault\n"),
    ],
)
def test_a_process_of_the_ui_ends_with_its_code_and_its_words(end: str, code: int, reported: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "worked")
    assert done.stderr.endswith(reported)
    assert bool(done.stderr) is bool(reported)


def test_the_webserver_and_the_daemon_of_up_are_ours() -> None:
    assert guarded(["python", "-m", "dagster_webserver", "-p", "1"]) == [
        "python",
        "-m",
        "backup_pipeline.web",
        "-p",
        "1",
    ]
    assert guarded(["python", "-m", "dagster._daemon", "run"]) == ["python", "-m", "backup_pipeline.web.daemon", "run"]
