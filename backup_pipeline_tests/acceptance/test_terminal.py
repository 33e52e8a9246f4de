"""Progress bars where a person waits, plain lines where nobody looks."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from backup_pipeline_tests.support.sites import TestSite

COMMAND = [sys.executable, "-c", "from backup_pipeline.cli.main import main; main()"]
BAR = "━"


@pytest.fixture
def site(tmp_path: Path) -> TestSite:
    made = TestSite(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "large.bin").write_bytes(os.urandom(3_000_000))
    made.write("sources: {files: {kind: folder, path: files}}\nplans: {nightly: {sources: [files]}}\n")
    assert made.run("backup", "nightly").code == 0
    return made


def in_a_terminal(site: TestSite, *words: str) -> str:
    """Return everything that a command shows in a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *words, "--config", str(site.folder)],
        env=site.environment() | {"TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=site.folder,
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # the terminal is closed
            break
        shown += piece
        if not piece:
            break
    os.close(ours)
    assert process.wait(60) == 0, shown.decode()
    return shown.decode("utf-8", "replace")


def test_a_terminal_shows_bars_and_a_pipe_plain_lines(site: TestSite) -> None:
    shown = in_a_terminal(site, "verify", "nightly/latest")
    assert BAR in shown
    assert "\x1b[" in shown
    done = subprocess.run(
        [*COMMAND, "verify", "nightly/latest", "--config", str(site.folder)],
        env=site.environment(),
        cwd=site.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert BAR not in done.stdout + done.stderr
    assert "nightly/" in done.stdout
