"""`schedule install`, `remove` and `show`, with the machine's own crontab program and systemd's own checks."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from backup_pipeline.operations.environment import schedule
from backup_pipeline.rules.timetable import on_calendar
from backup_pipeline_tests.support.sites import TestSite

SETTINGS = """
store: ./backups
sources: {files: {kind: folder, path: files}}
plans:
  nightly: {sources: [files], schedule: "0 2 * * *", verify: "0 4 * * 0", drill: "30 5 * * sun"}
  by_hand: {sources: [files]}
"""
FOREIGN = "# mine\nMAILTO=ops@shop.de\n0 3 * * * /home/me/scripts/backup-automated.sh\n"
# Keeps to crontab(1): -l prints or says "no crontab for", - reads standard input.
STAND_IN = """#!/bin/sh
file="$CRONTAB_FILE"
case "$1" in
  -l) [ -f "$file" ] && cat "$file" || { echo "no crontab for me" >&2; exit 1; };;
  -)  cat > "$file";;
  *)  exit 2;;
esac
"""


@pytest.fixture
def site(tmp_path: Path) -> TestSite:
    folder = tmp_path / "my site 100%"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "a.txt").write_text("a")
    made = TestSite(folder)
    made.write(SETTINGS)
    return made


@pytest.fixture(params=["real", "stand-in"])
def crontab(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The program `crontab`: Debian's, with the user's own table kept aside for the test, or a stand-in."""
    if request.param == "stand-in":
        program = tmp_path / "bin" / "crontab"
        program.parent.mkdir()
        program.write_text(STAND_IN.replace("$CRONTAB_FILE", str(tmp_path / "table")))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        yield str(program)
        return
    program = shutil.which("crontab")
    if program is None or os.geteuid() != 0 or Path("/run/systemd/system").exists():
        pytest.skip("no crontab program, or a person's own machine")
    before = subprocess.run([program, "-l"], capture_output=True, check=False)
    subprocess.run([program, "-r"], capture_output=True, check=False)
    yield program
    if before.returncode == 0:
        subprocess.run([program, "-"], input=before.stdout, check=True)
    else:
        subprocess.run([program, "-r"], capture_output=True, check=False)


def table(crontab: str) -> str:
    return subprocess.run([crontab, "-l"], capture_output=True, text=True, check=False).stdout


def test_a_crontab_gets_the_sites_lines_and_keeps_all_others(site: TestSite, crontab: str) -> None:
    subprocess.run([crontab, "-"], input=FOREIGN.encode(), check=True)
    assert "Nothing is installed" in site.run("schedule", "show", "--cron").out
    assert site.run("schedule", "install", "--cron", "--dry-run").code == 0
    assert table(crontab) == FOREIGN
    done = json.loads(site.run("schedule", "install", "--cron", "--json").out)
    assert done["changed"]
    assert table(crontab).startswith(FOREIGN)
    (copy,) = map(Path, done["former"])
    assert copy.read_text() == FOREIGN
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    installed = table(crontab)
    again = json.loads(site.run("schedule", "install", "--cron", "--json").out)
    assert (again["changed"], again["former"], table(crontab)) == (False, [], installed)
    shown = site.run("schedule", "show", "--cron").out
    assert "backup nightly" in shown
    assert "Not what backup.yaml says now" not in shown
    site.write(SETTINGS.replace("0 2 * * *", "15 1 * * *"))
    assert "Not what backup.yaml says now" in site.run("schedule", "show", "--cron").out
    assert site.run("schedule", "install", "--cron").code == 0
    assert table(crontab).count("backup nightly") == 1
    assert "15 1 * * * cd" in table(crontab)
    assert site.run("schedule", "remove", "--cron").code == 0
    assert table(crontab) == FOREIGN
    assert json.loads(site.run("schedule", "remove", "--cron", "--json").out)["changed"] is False


def test_the_installed_line_runs_as_cron_runs_it(site: TestSite, crontab: str) -> None:
    assert site.run("schedule", "install", "--cron").code == 0
    (line,) = [line for line in table(crontab).splitlines() if " backup nightly " in line]
    command = line.split(None, 5)[5].replace("\\%", "%")
    done = subprocess.run(
        ["/bin/sh", "-c", command], env={"PATH": "/usr/bin:/bin", "HOME": str(site.folder)}, check=False, cwd="/"
    )
    assert done.returncode == 0, (site.folder / "backup.log").read_text()
    assert len(site.store("nightly").sealed_ids()) == 1
    assert "nightly" in (site.folder / "backup.log").read_text()


def test_a_site_without_schedules_is_refused_in_words(site: TestSite) -> None:
    site.write(SETTINGS.replace(', schedule: "0 2 * * *"', ""))
    refused = site.run("schedule", "install", "--cron")
    assert refused.code == 8
    assert "No plan has a schedule" in refused.err


def test_systemd_gets_units_that_it_understands_and_loses_them_again(
    site: TestSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = tmp_path / "units"
    called = []
    monkeypatch.setattr(schedule, "units_folder", lambda: units)
    with mock.patch.object(schedule, "_systemctl", lambda *words: called.append(words)):
        assert site.run("schedule", "install", "--systemd").code == 0
        names = sorted(path.name for path in units.iterdir())
        assert [name for name in names if name.endswith("backup-nightly.timer")]
        assert called[-1][:2] == ("enable", "--now")
        timers = "".join(path.read_text() for path in units.glob("*.timer"))
        assert "OnCalendar=*-*-* 02:00:00 UTC" in timers
        assert "OnCalendar=Sun *-*-* 05:30:00 UTC" in timers
        if analyze := shutil.which("systemd-analyze"):
            subprocess.run([analyze, "verify", *map(str, units.iterdir())], check=True, capture_output=True)
        called.clear()
        assert json.loads(site.run("schedule", "install", "--systemd", "--json").out)["changed"] is False
        assert called == []
        site.write(SETTINGS.replace("0 2 * * *", "15 1 * * *"))
        done = json.loads(site.run("schedule", "install", "--systemd", "--json").out)
        assert [Path(path).read_text() for path in done["former"] if "02:00:00" in Path(path).read_text()]
        assert site.run("schedule", "remove", "--systemd").code == 0
    assert [path.name for path in units.iterdir()] == [".former"]


@pytest.mark.parametrize(
    ("cron", "calendar"),
    [
        ("0 2 * * *", "*-*-* 02:00:00 Europe/Berlin"),
        ("*/15 * * * *", "*-*-* *:0/15:00 Europe/Berlin"),
        ("0 3 1 * *", "*-*-01 03:00:00 Europe/Berlin"),
        ("30 4 * * 1-5", "Mon,Tue,Wed,Thu,Fri *-*-* 04:30:00 Europe/Berlin"),
        ("0 9-17/2 * jan,jul 0", "Sun *-01,07-* 09..17/2:00:00 Europe/Berlin"),
        ("@weekly", "Sun *-*-* 00:00:00 Europe/Berlin"),
    ],
)
def test_a_cron_expression_is_said_in_systemds_words(cron: str, calendar: str) -> None:
    assert on_calendar(cron, "Europe/Berlin") == calendar
    if analyze := shutil.which("systemd-analyze"):
        subprocess.run([analyze, "calendar", calendar], check=True, capture_output=True)


def test_either_day_cannot_be_said_to_systemd() -> None:
    with pytest.raises(ValueError, match="either"):
        on_calendar("0 0 1 * 1", "UTC")
