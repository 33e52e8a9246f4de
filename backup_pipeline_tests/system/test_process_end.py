"""Processes end at once when their work is over, with their own exit code and all that they wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
def test_a_process_ends_with_its_code_and_its_words(end: str, code: int, reported: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "worked")
    assert done.stderr.endswith(reported)
    assert bool(done.stderr) is bool(reported)


def test_a_members_process_ends_without_taking_the_interpreter_apart(tmp_path: Path) -> None:
    # Arrow's threads may let go of the last file in that moment, which aborts the process.
    (tmp_path / "backup.yaml").write_text(
        "store: backups\nsources: {files: {kind: folder, path: files}}\nplans: {nightly: {sources: [files]}}\n"
    )
    program = (
        "import atexit, runpy; atexit.register(print, 'the interpreter was taken apart');"
        "runpy.run_module('backup_pipeline.operations.fleets.member', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], input="", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
