from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.operations.backup.commands import masked
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline_tests.support.sites import TestSite

SECRET = "s3cret-4711"
SETTINGS = """
sources:
  files: {{kind: folder, path: files, run_before: {before}, run_after: {after}}}
plans:
  nightly:
    sources: [files]
    run_before:
      run: [{python}, -c, "print('plan before', file=open('log', 'a')); print('{secret}')"]
      env: [DB_PASSWORD]
    run_after: [[{python}, -c, "print('plan after', file=open('log', 'a'))"]]
"""


def note(text: str, *, then: str = "pass", timeout: str = "2m") -> str:
    program = f"print('{text}', file=open('log', 'a')); {then}"
    return f"{{run: ['{sys.executable}', '-c', \"{program}\"], timeout: {timeout}}}"


def run(folder: Path, before: str, after: str, *, files: bool = True) -> tuple[Manifest | None, list[str], str]:
    """Back up a folder with commands around it; return the manifest, what the commands noted, and the error."""
    site = TestSite(folder, {"DB_PASSWORD": SECRET})
    site.write(SETTINGS.format(before=before, after=after, python=sys.executable, secret=SECRET))
    if files:
        (folder / "files").mkdir()
        (folder / "files" / "a.txt").write_text("a")
    now = datetime.now(UTC)
    backup = BackupRun(site.site, "nightly", RunIdentity("r", "r", now))
    manifest, error = None, ""
    try:
        list(backup.capture("files"))
        manifest = backup.seal()
    except BackupSystemError as caught:
        error = str(caught)
    finally:
        backup.close()
    log = folder / "log"
    return manifest, log.read_text().splitlines() if log.exists() else [], error


def test_commands_run_in_order_and_their_masked_output_is_in_the_manifest(tmp_path: Path) -> None:
    manifest, noted, error = run(tmp_path, note("before"), note("after", then="print('done')"))
    assert error == ""
    assert noted == ["plan before", "before", "after", "plan after"]
    assert manifest is not None
    assert [(each.when, each.exit_code) for each in manifest.commands] == [
        ("before", 0),
        ("after", 0),
        ("before", 0),
        ("after", 0),
    ]
    assert manifest.commands[0].output == "***"
    assert manifest.commands[3].output == "done"
    assert SECRET not in manifest.model_dump_json()


def test_a_failing_command_before_captures_nothing_and_the_others_after_still_run(tmp_path: Path) -> None:
    manifest, noted, error = run(tmp_path, note("before", then=f"raise SystemExit('{SECRET}')"), note("after"))
    assert manifest is None
    assert noted == ["plan before", "before", "after", "plan after"]
    assert "exit code 1" in error
    assert "run_before" in error
    assert SECRET not in error
    assert not list(tmp_path.rglob("*.tar.gz"))


def test_a_set_that_could_not_be_opened_is_refused_to_the_runs_next_source_too(tmp_path: Path) -> None:
    failing = note("plan before", then="raise SystemExit(3)")
    files = "{kind: folder, path: files}"
    site = TestSite(tmp_path)
    site.write(
        f"sources: {{one: {files}, two: {files}}}\nplans:\n  nightly: {{sources: [one, two], run_before: [{failing}]}}"
    )
    backup = BackupRun(site.site, "nightly", RunIdentity("r", "r", datetime.now(UTC)))
    for source in ("one", "two"):
        with pytest.raises(BackupSystemError, match="exit code 3"):
            list(backup.capture(source))
    backup.close()
    assert (tmp_path / "log").read_text().splitlines() == ["plan before"]


def test_a_failed_capture_still_starts_again_what_was_stopped(tmp_path: Path) -> None:
    manifest, noted, error = run(tmp_path, note("before"), note("after"), files=False)
    assert manifest is None
    assert "files" in error
    assert noted == ["plan before", "before", "after", "plan after"]


def test_a_command_that_takes_too_long_is_ended_and_named(tmp_path: Path) -> None:
    manifest, noted, error = run(
        tmp_path, note("before"), note("after", then="import time; time.sleep(600)", timeout="3s")
    )
    assert manifest is None
    assert "No end after 3.0 s" in error
    assert noted[-1] == "plan after"
    assert "files" in (tmp_path / "backups" / "nightly" / "backup_log.txt").read_text()


def test_a_program_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    _, _, error = run(tmp_path, "no-such-program --now", note("after"))
    assert "no-such-program --now" in error


def test_values_of_secret_variables_and_passwords_in_addresses_are_masked() -> None:
    environment = {"API_KEY": "abcd1234", "HOME": "/root", "DB_DSN": "postgresql://u:pw-in-url@h/d"}
    text = masked("key abcd1234 in /root, pw-in-url, https://me:other@example.org/x", environment)
    assert text == "key *** in /root, ***, https://me:***@example.org/x"
