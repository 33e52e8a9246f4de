"""`backup-pipeline orders …` as a person or a script meets it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.sources.orders.database.database import sqlite_orders
from backup_pipeline.sources.orders.export import export_orders
from backup_pipeline.system.files import user_name
from backup_pipeline_tests.support.orders_samples import Workshop, order

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - orders\.\w+ - (INFO|ERROR|WARNING) - .+")
YAML = """
sources:
  werkstatt: {kind: orders, database: werkstatt.db, archive: Archiv}
plans:
  workshop: {sources: [werkstatt]}
"""


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    (tmp_path / "backup.yaml").write_text(YAML)
    return Workshop(tmp_path, [order(i) for i in range(1, 11)])


def call(*arguments: str | Path) -> int:
    return run_app(build_app(), ["orders", *map(str, arguments)])


def test_a_lost_database_comes_back_from_the_archive_with_three_commands(
    workshop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = workshop.rows()
    config = ("--config", workshop.folder)
    assert call("export", *config) == 0
    assert "10 exported, 0 failed" in capfd.readouterr().out
    assert call("verify", *config) == 0
    workshop.database.unlink()
    assert call("verify", "--without-database", *config) == 0
    assert call("restore", *config, "--json") == 0
    out = capfd.readouterr()
    assert all(LOG_LINE.fullmatch(line) for line in out.err.splitlines()), out.err
    assert workshop.rows() == rows


def test_without_backup_yaml_database_and_archive_are_enough(
    workshop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    place = ("--db", workshop.database, "--archive", workshop.archive, "--json")
    assert call("export", *place, "--year", "2020", "--dry-run") == 0
    assert json.loads(capfd.readouterr().out)["exported"] == 2
    assert call("export", *place) == 0
    assert json.loads(capfd.readouterr().out)["per_year"]["2020"] == 2
    assert call("restore", *place) == 0
    assert json.loads(capfd.readouterr().out)["restored"] == 10
    assert call("undo", "--db", workshop.database) == 0
    assert call("undo", "--db", workshop.database) == 8


def test_failures_have_their_exit_codes_and_name_the_orders(
    workshop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    place = ("--db", workshop.database, "--archive", workshop.archive)
    workshop.insert(order(20, file_path="/etc/x/y.pdf"))
    assert call("export", *place) == 1
    assert "10 exported, 1 failed" in capfd.readouterr().out
    (workshop.archive / "2020" / "000001" / "data.csv").write_bytes(b"x")
    assert call("verify", "--archive", workshop.archive, "--json") == 6
    [finding] = [f for f in json.loads(capfd.readouterr().out)["findings"] if f["level"] == "error"]
    assert (finding["path"], finding["kind"]) == ("2020/000001", "checksum")
    assert call("restore", *place, "--json") == 6
    reported = json.loads(capfd.readouterr().out)
    assert (reported["invalid"], reported["error"]["kind"]) == (1, "ArchiveIncompleteError")
    assert call("export", "--db", workshop.folder / "no.db", "--archive", workshop.archive) == 5
    assert call("export", *place, "--year", "24") == 3


def test_the_help_does_not_import_dagster_or_pandas() -> None:
    code = (
        "import sys; from backup_pipeline.cli.main import build_app; from backup_pipeline.cli.common import run_app;"
        "run_app(build_app(), ['orders', '--help']);"
        "sys.exit(any(name in sys.modules for name in ('dagster', 'pandas', 'pandera', 'psycopg')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to become another user")
def test_without_permission_the_place_the_user_and_the_remedy_are_told(workshop: Workshop) -> None:
    # Only the archive's own folders are closed to the other user.
    for folder in (workshop.folder, *workshop.folder.parents):
        if folder != Path("/") and folder.stat().st_uid == 0:
            folder.chmod(folder.stat().st_mode | 0o055)

    def export() -> tuple[int, str]:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code, what = 0, ""
            try:
                with sqlite_orders(workshop.database) as rows:
                    result = export_orders(rows, workshop.archive)
                code, what = int(not result.ok), "\n".join(finding.reason for finding in result.findings.kept)
            except BackupSystemError as error:
                code, what = int(error.exit_code), f"{error} {error.remedy}"
            os.write(writer, f"{code}\n{what}".encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as reported:
            code_line, _, text = reported.read().partition("\n")
        os.waitpid(child, 0)
        return int(code_line), text

    code, text = export()
    name = user_name(65534)
    assert (code, f"cannot be written by {name}" in text, "setfacl" in text) == (9, True, True), text
    workshop.archive.chmod(0o777)
    (workshop.archive / "2020").mkdir(mode=0o755)
    code, text = export()
    assert (code, f"its folder 2020/000001, or what lies in it, cannot be written by {name}." in text) == (1, True)
