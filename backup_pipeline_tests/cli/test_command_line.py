"""What holds for the command line as a whole."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_pipeline import __version__
from backup_pipeline.cli.backup_report import TextReport
from backup_pipeline.cli.common import console, print_json, run_app, shown_progress
from backup_pipeline.cli.main import build_app
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.model.set_id import SetId


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(build_app(), ["--version"]) == 0
    assert capsys.readouterr().out == f"backup-pipeline {__version__}\n"


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(build_app(), ["bakup"]) == 2
    assert "bakup" in capsys.readouterr().err


STEERING = "\x1b[2J\x1b]0;title\x07\x9b31m\r\u202e:bug:"


def test_no_text_can_steer_the_terminal_or_turn_into_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(f"a{STEERING}b", markup=False)
    shown = capsys.readouterr().out
    assert shown == r"a\u001b[2J\u001b]0;title\u009b31m\u202e:bug:b" + "\n"


def test_json_holds_every_character_but_none_that_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({STEERING: "ü 😀"})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {STEERING: "ü 😀"}
    assert "ü 😀" in shown
    assert not set(STEERING[:1] + "\x9b\u202e") & set(shown)


def test_a_table_whose_name_looks_like_markup_is_captured_and_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from backup_pipeline.orchestration.launch import RunOutcome

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    now = datetime(2026, 11, 21, tzinfo=UTC)
    record = ArtefactRecord(
        key=("shop", "public", "[/nope]"),
        source="shop",
        kind=ArtefactKind.TABLE_EXPORT,
        set_id=SetId("2026-11-21T000000Z"),
        files=(),
        source_label="shop",
        started_at=now,
        finished_at=now,
    )
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Screen())
        with shown_progress() as progress:
            progress(Progress(record.name, 1, 2, "rows"))
    report = TextReport("nightly", ("shop",), verbose=True)
    report.gathered.artefact_done(record)
    report.finished(RunOutcome(run_id="r", success=True, errors=()), Path("/"))
    assert "shop.public.[/nope]" in capsys.readouterr().out


def test_a_reader_that_goes_away_ends_the_command_without_a_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from backup_pipeline.cli.main import main; main()", "--version"]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (120, "")


@pytest.mark.parametrize(("code", "reported"), [("0", 0), ("None", 0), ("4", 4), ("'why'", 1)])
def test_an_exit_from_within_keeps_its_code(code: str, reported: int) -> None:
    script = f"""
import sys
from backup_pipeline.cli import main
main.run_app = lambda app: sys.exit({code})
main.main()
"""
    assert subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL).returncode == reported


def test_what_libraries_do_at_an_exit_is_done_before_the_command_ends() -> None:
    script = """
import atexit, threading
from backup_pipeline.cli import main
def run(app):
    atexit.register(print, "first")
    threading.Thread(target=print, args=("second",)).start()
    return 3
main.run_app = run
main.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
    assert sorted(done.stdout.split()) == ["first", "second"]
