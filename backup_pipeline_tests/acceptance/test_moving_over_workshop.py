"""A workshop moves over: its archive as the old tool left it on its last day, then everything that tool did."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import pytest

from backup_pipeline.operations.demo.files import small_pdf
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.sources.orders.format.order import DATA_NAME, META_NAME
from backup_pipeline_tests.support.orders_samples import PRINTED, old_pair, order
from backup_pipeline_tests.support.sites import Output, TestSite

# As the workshop's application makes it.
TABLE = """CREATE TABLE auftraege (record_id INTEGER PRIMARY KEY AUTOINCREMENT, auftrag_nr TEXT NOT NULL UNIQUE,
    kunde_name TEXT, kunden_nr TEXT, kennzeichen TEXT, vin TEXT, datum TEXT, formular_version TEXT, keywords_json TEXT,
    file_path TEXT NOT NULL, hash TEXT, data_complete INTEGER NOT NULL DEFAULT 0, created_at TEXT, updated_at TEXT)"""
SETTINGS = """
store: backups
sources:
  werkstatt:
    kind: orders
    database: test_archiv/werkstatt.db
    archive: test_archiv
    log: {file: backup_system.log, max_megabytes: 10, keep: 5}
plans:
  workshop: {sources: [werkstatt], schedule: "0 2 * * *", retention: {keep_within: 30d}}
"""
OLD_SETTINGS = {"db_path": "./test_archiv/werkstatt.db", "archive_path": "./test_archiv"}
# What the monitors of the old tool run.
LAST_STATUS = 'tail -100 backup_system.log | grep "Export abgeschlossen"'
ALERT = 'grep -q "ERROR" backup_system.log'


def rows() -> list[tuple[Any, ...]]:
    """Three orders: the printed one, one whose pair the old tool never wrote, and one that changed since."""
    return [
        PRINTED,
        order(
            13,
            auftrag_nr="076330",
            kunde_name="Groß, Anna",
            keywords_json='{"Öl": [1, 3]}',
            file_path="test_archiv/2024/076330/076330_Auftrag.pdf",
            datum="2024-07-30",
        ),
        order(
            14,
            auftrag_nr="070001",
            vin="",
            file_path="test_archiv/2023/070001/070001_Auftrag.pdf",
            datum="2023-02-01",
            updated_at="2024-08-01T09:00:00",
        ),
    ]


class Workshop:
    """The folder in which the old tool ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder / "test_archiv"
        self.database = self.archive / "werkstatt.db"
        self.site = TestSite(folder)
        self.archive.mkdir()
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(TABLE)
            marks = ", ".join("?" * len(PRINTED))
            connection.executemany(f"INSERT INTO auftraege VALUES ({marks})", rows())
        for row in rows():
            place = folder / Path(row[9])
            place.parent.mkdir(parents=True)
            place.write_bytes(small_pdf(f"Auftrag {row[1]}"))
        # The printed form, with a backslash before the quotes, and the form that the text beside it describes.
        old_pair(self.archive / "2024" / "076329", PRINTED, escape="backslash")
        path = "test_archiv/2023/070001/070001_Auftrag.pdf"
        older = order(
            14,
            auftrag_nr="070001",
            kunde_name="Früher",
            vin="",
            datum="2023-02-01",
            file_path=path,
            updated_at="2023-02-02T09:00:00",
        )
        old_pair(self.archive / "2023" / "070001", older)
        (self.archive / ".backup.lock").write_text("4711\n2024-07-29T02:00:00\n")
        os.utime(self.archive / ".backup.lock", (1, 1))
        (folder / ".archiv_config.json").write_text(json.dumps(OLD_SETTINGS), "utf-8")

    def move_over(self) -> None:
        """Write the new settings as the guide says."""
        self.site.write(SETTINGS)

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of the crontab or of a monitor in the folder."""
        start = "from backup_pipeline.cli.main import main; main()"
        program = f"{shlex.quote(sys.executable)} -c {shlex.quote(start)}"
        environment = {**self.site.environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            ["sh", "-c", command.replace("backup-pipeline", program)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def orders(self, *arguments: str) -> Output:
        """Run `orders …` in the folder, in this process, with whatever settings lie there."""
        with contextlib.chdir(self.folder):
            return run_here(self.site, "orders", *arguments)

    def table(self) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return connection.execute("SELECT * FROM auftraege ORDER BY record_id").fetchall()

    def execute(self, statement: str) -> None:
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement)

    def pairs(self) -> list[str]:
        return sorted(path.parent.relative_to(self.archive).as_posix() for path in self.archive.rglob(META_NAME))

    def check_pairs(self) -> None:
        """Every order has its pair beside its PDF and nowhere else, and the SHA-256 is data.csv's."""
        assert self.pairs() == ["2023/070001", "2024/076329", "2024/076330"]
        for name in self.pairs():
            folder = self.archive / name
            meta = json.loads((folder / META_NAME).read_bytes())
            assert meta["checksum"] == hashlib.sha256((folder / DATA_NAME).read_bytes()).hexdigest()
            assert list(meta) == ["schema_version", "checksum", "exported_at", "auftrag_nr", "record_id", "file_size"]
            assert list(folder.glob("*_Auftrag.pdf"))

    def pdfs(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.archive.rglob("*.pdf")}


def run_here(site: TestSite, *arguments: str) -> Output:
    """Run the command line in this process without naming a settings file."""
    import io

    from backup_pipeline.cli.main import build_app, run_app

    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, site.environment(), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run_app(build_app(), list(arguments))
    return Output(code, out.getvalue(), err.getvalue())


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        OLD_SETTINGS,
        {"database": {"path": "test_archiv/werkstatt.db"}, "archive": {"root": "test_archiv"}},
        {"paths": {"database": "test_archiv/werkstatt.db", "archive": "test_archiv"}, "version": "1.0"},
        {"archive": "test_archiv"},
    ],
)
def test_the_old_commands_work_with_the_old_settings_file(workshop: Workshop, settings: dict[str, Any]) -> None:
    (workshop.folder / ".archiv_config.json").write_text(json.dumps(settings), "utf-8")
    config = ("--config", ".archiv_config.json")
    pdfs = workshop.pdfs()
    # The day of the disaster may come before the first export: the old tool's own pairs are read.
    assert workshop.orders("verify", *config, "--without-database").code == 0
    done = workshop.orders("export", *config)
    assert (done.code, "3 exported, 0 failed" in done.out) == (0, True), done.text
    workshop.check_pairs()
    assert workshop.orders("verify", *config).code == 0
    assert (workshop.folder / "backup_system.log").read_text("utf-8").count("Export abgeschlossen: 3 erfolgreich") == 1
    before = workshop.table()
    workshop.database.unlink()
    assert workshop.orders("restore", *config).code == 0
    assert (workshop.table(), workshop.pdfs()) == (before, pdfs)


def test_a_settings_file_that_names_nothing_is_told_with_its_fields(workshop: Workshop) -> None:
    (workshop.folder / ".archiv_config.json").write_text('{"sprache": "de", "port": 8080}', "utf-8")
    reported = workshop.orders("export", "--config", ".archiv_config.json")
    assert (reported.code, "sprache, port" in reported.err, "db_path" in reported.err) == (3, True, True)
    (workshop.folder / ".archiv_config.json").write_text("{", "utf-8")
    assert "not JSON (line 1)" in workshop.orders("export", "--config", ".archiv_config.json").err
    # Without --config the file in this folder is found, as the old tool found it; so is its absence.
    (workshop.folder / ".archiv_config.json").unlink()
    assert "No settings file" in workshop.orders("export").err


def test_disaster_recovery_needs_only_the_mounted_archive(workshop: Workshop, tmp_path: Path) -> None:
    assert workshop.orders("export").code == 0
    rows_before = workshop.table()
    mounted = tmp_path / "mnt"
    shutil.copytree(workshop.archive, mounted)
    (mounted / "werkstatt.db").unlink()
    elsewhere = tmp_path / "neu"
    elsewhere.mkdir()
    with contextlib.chdir(elsewhere):
        assert run_here(workshop.site, "orders", "verify", "--archive", str(mounted)).code == 0
        done = run_here(workshop.site, "orders", "restore", "--archive", str(mounted))
        assert (done.code, f"into {mounted / 'werkstatt.db'}" in done.err) == (0, True), done.text
        assert run_here(workshop.site, "orders", "verify", "--archive", str(mounted)).code == 0
        # The network folder: rows say test_archiv/…, the PDFs lie in this archive.
        assert run_here(workshop.site, "orders", "export", "--archive", str(mounted)).code == 0
    workshop.database = mounted / "werkstatt.db"
    assert workshop.table() == rows_before
    assert not (mounted / "test_archiv").exists()
    made = sqlite3.connect(mounted / "werkstatt.db").execute("SELECT sql FROM sqlite_master").fetchone()[0]
    assert made == TABLE


@pytest.mark.takes(seconds=15)
def test_the_cron_line_of_a_backup_writes_the_pairs_that_the_monitors_expect(
    workshop: Workshop,
) -> None:
    workshop.move_over()
    pdfs = workshop.pdfs()
    done = workshop.shell("backup-pipeline backup workshop >> backup.log 2>&1")
    assert done.returncode == 0, (workshop.folder / "backup.log").read_text("utf-8")
    workshop.check_pairs()
    assert workshop.pdfs() == pdfs
    status = workshop.shell(LAST_STATUS)
    assert status.stdout.rstrip().endswith("orders.export - INFO - Export abgeschlossen: 3 erfolgreich, 0 Fehler")
    assert workshop.shell(ALERT).returncode == 1
    log = (workshop.folder / "backup_system.log").read_text("utf-8")
    assert " - orders.export - DEBUG - ✓ Exportiert: 076329 → data.csv\n" in log
    # What only the old tool's pair held stays beside the new one.
    [copy] = (workshop.archive / "2023" / "070001").glob("data.csv.before-*")
    assert "Früher" in copy.read_text("utf-8")
    assert workshop.site.run("orders", "verify").code == 0
    manifest = workshop.site.store("workshop").read(workshop.site.store("workshop").ids()[-1]).manifest
    assert manifest is not None
    record = manifest.record("werkstatt", "order_pairs")
    assert record is not None
    assert [(c.name, c.passed, c.numbers) for c in record.checks] == [
        ("pairs_written", True, {"pairs": 3, "written": 3, "failed": 0}),
        ("pairs_beside_their_files", True, {"beside_file": 3, "without_file": 0}),
    ]
    assert workshop.site.run("verify", "workshop/latest").code == 0
    drilled = workshop.site.run("drill", "workshop/latest")
    assert drilled.code == 0, drilled.text
    reported = json.loads(workshop.site.run("status", "--json").out)
    assert reported["plans"][0]["problems"] == [], reported
    assert workshop.site.run("show", "workshop/latest").code == 0


def partitioned(site: TestSite, job: str, instance: dg.DagsterInstance, **options: Any) -> dg.ExecuteInProcessResult:
    found = build_definitions(site.site).resolve_job_def(job)
    return found.execute_in_process(instance=instance, raise_on_error=False, **options)


@pytest.mark.story
@pytest.mark.takes(seconds=15)
def test_in_dagster_the_backup_writes_the_pairs_with_checks_and_failures_show(
    workshop: Workshop,
) -> None:
    workshop.move_over()
    pairs = dg.AssetKey(["workshop", "werkstatt", "order_pairs"])
    with dg.DagsterInstance.ephemeral() as instance:
        result = partitioned(workshop.site, "workshop_backup", instance)
        assert result.success
        assert pairs in {event.asset_key for event in result.get_asset_materialization_events()}
        checks = {e.check_name: e.passed for e in result.get_asset_check_evaluations() if e.asset_key == pairs}
        assert checks == {"pairs_written": True, "pairs_beside_their_files": True}
        workshop.check_pairs()
        # One bad order: the others go on, the set is sealed and does not count as well.
        workshop.execute("INSERT INTO auftraege (auftrag_nr, file_path) VALUES ('076331', '/etc/076331/a.pdf')")
        result = partitioned(workshop.site, "workshop_backup", instance)
        checks = {e.check_name: e.passed for e in result.get_asset_check_evaluations() if e.asset_key == pairs}
        assert (result.success, checks["pairs_written"]) == (True, False)
    log = (workshop.folder / "backup_system.log").read_text("utf-8").splitlines()
    assert " - ERROR - Fehler bei Auftrag 076331: file_path is absolute" in log[-2]
    assert log[-1].endswith("Export abgeschlossen: 3 erfolgreich, 1 Fehler")
    assert workshop.shell(ALERT).returncode == 0
    reported = json.loads(workshop.site.run("status", "--json").out)["plans"][0]
    assert reported["standing"] != "good"
    runs = (workshop.site.site.store_folder("workshop") / "backup_log.txt").read_text("utf-8").splitlines()
    assert " - ERROR - workshop/" in runs[-1]
    assert "1 have none" in runs[-1]
    # A cron line must not be silent: the set is sealed, and the command says that not all is done.
    done = workshop.site.run("backup", "workshop")
    assert (done.code, "order_pairs: pairs_written: " in done.err, " sealed: " in done.out) == (6, True, True)
    # The share is not mounted: an empty folder stands in its place, and nothing is written into it.
    workshop.execute("DELETE FROM auftraege WHERE auftrag_nr = '076331'")
    database = workshop.database.read_bytes()
    workshop.archive.rename(workshop.folder / "weg")
    workshop.archive.mkdir()
    workshop.database.write_bytes(database)
    reported = json.loads(workshop.site.run("status", "--json").out)["plans"][0]
    assert (reported["standing"], "archive" in str(reported["problems"])) == ("failing", True)
    # Nobody has to wait for the next backup to hear of it.
    assert workshop.site.run("alerts", "check").code == 6
    assert "The archive of werkstatt has no archive-manifest.json" in workshop.site.run("alerts", "list").out
    with dg.DagsterInstance.ephemeral() as instance:
        assert not partitioned(workshop.site, "workshop_backup", instance).success
    assert [path.name for path in workshop.archive.iterdir() if path.is_dir()] == []
    assert workshop.site.run("drill", "workshop/latest").code != 0


def test_what_the_old_tool_promised_holds_from_the_shell(workshop: Workshop) -> None:
    workshop.move_over()
    run = workshop.site.run
    assert run("orders", "export").code == 0
    before = workshop.table()
    # The newest of several copies wins, by updated_at.
    workshop.execute("UPDATE auftraege SET kunde_name = 'Neu', updated_at = '2025-01-01T00:00:00' WHERE record_id = 12")
    copy = workshop.archive / "2024" / "Kopie"
    copy.mkdir()
    for name in (DATA_NAME, META_NAME):
        shutil.copy(workshop.archive / "2024" / "076329" / name, copy / name)
    assert run("orders", "export").code == 0
    assert run("orders", "verify").code == 6
    assert run("orders", "restore").code == 0
    assert workshop.table()[0][2] == "Neu"
    shutil.rmtree(copy)
    # A damaged file is found by its SHA-256 and stops the restore; the database stays.
    (workshop.archive / "2024" / "076330" / DATA_NAME).write_bytes(b"x")
    assert run("orders", "verify", "--without-database").code == 6
    refused = run("orders", "restore")
    assert (refused.code, "076330" in refused.text, len(workshop.table())) == (6, True, 3)
    assert run("orders", "export").code == 0
    # An unknown version of the format is named.
    meta = workshop.archive / "2024" / "076330" / META_NAME
    meta.write_text(meta.read_text("utf-8").replace('"1.0"', '"2.0"'), "utf-8")
    assert "schema version '2.0' is not known" in run("orders", "verify", "--without-database").out
    assert run("orders", "export").code == 0
    # A second process waits, and then names the first.
    from backup_pipeline.system.locks import hold_lock

    with hold_lock(workshop.archive / ".backup.lock", purpose="export of orders"):
        busy = run("orders", "export", "--wait", "0.2")
    assert (busy.code, f"process {os.getpid()}" in busy.err) == (4, True), busy.text
    # No temporary file stays.
    assert [
        path.name for path in workshop.archive.rglob(".*") if "lock" not in path.name and "restore" not in path.name
    ] == []
    workshop.database.unlink()
    assert run("orders", "restore").code == 0
    assert [row[:2] for row in workshop.table()] == [row[:2] for row in before]


@pytest.mark.story
def test_in_dagster_too_orders_are_verified_restored_and_the_restore_is_undone(workshop: Workshop) -> None:
    """The backup by Dagster's own command line, as a person who knows Dagster types it; the rest by the jobs."""
    workshop.move_over()
    command = [
        sys.executable,
        "-m",
        "dagster",
        "job",
        "execute",
        "-m",
        "backup_pipeline.definitions",
        "-j",
        "workshop_backup",
    ]
    named = {"BACKUP_PIPELINE_CONFIG": str(workshop.folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command,
        cwd=workshop.folder,
        env=workshop.site.environment() | named,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    workshop.check_pairs()
    assert "Export abgeschlossen: 3 erfolgreich, 0 Fehler" in workshop.shell(LAST_STATUS).stdout
    before, pdfs = workshop.table(), workshop.pdfs()
    job = "workshop_werkstatt_orders_"
    years = {"dagster/asset_partition_range_start": "2015", "dagster/asset_partition_range_end": "2026"}
    restore = {"ops": {"workshop__werkstatt__restored_orders": {"config": {"confirm": "werkstatt"}}}}
    undo = {"ops": {f"{job}undo_op": {"config": {"confirm": "werkstatt"}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        assert partitioned(workshop.site, f"{job}verification", instance, tags=years).success
        workshop.execute("UPDATE auftraege SET kunde_name = 'falsch'")
        spoilt = workshop.table()
        assert partitioned(workshop.site, f"{job}restore", instance, run_config=restore).success
        assert workshop.table() == before
        assert partitioned(workshop.site, f"{job}undo", instance, run_config=undo).success
        assert workshop.table() == spoilt
        # A damaged file is found, and nothing is restored from it.
        (workshop.archive / "2024" / "076330" / DATA_NAME).write_bytes(b"x")
        assert not partitioned(workshop.site, f"{job}verification", instance, tags=years).success
        assert not partitioned(workshop.site, f"{job}restore", instance, run_config=restore).success
    assert (workshop.table(), workshop.pdfs()) == (spoilt, pdfs)
