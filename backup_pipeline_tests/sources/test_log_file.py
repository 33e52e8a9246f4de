"""The archive's log file: its form, its rotation, and that it never stops the work."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_pipeline.sources.orders.database.database import sqlite_orders
from backup_pipeline.sources.orders.export import ExportOptions, export_orders
from backup_pipeline.sources.orders.format.order import ExportResult
from backup_pipeline.system.log_file import LogFile, log_file
from backup_pipeline_tests.support.orders_samples import Workshop, order

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - orders\.export - (DEBUG|INFO|ERROR) - .+")


def export(workshop: Workshop, log: Path) -> ExportResult:
    with log_file(log) as opened, sqlite_orders(workshop.database) as rows:
        return export_orders(rows, workshop.archive, ExportOptions(), log=opened)


def test_each_order_has_a_line_each_error_too_and_the_summary_is_the_last(tmp_path: Path) -> None:
    bad = order(4, auftrag_nr="1\n2 - x - ERROR - 3", file_path="/etc/x/a.pdf")
    workshop = Workshop(tmp_path, [order(1), order(2), order(3), bad])
    log = tmp_path / "log" / "backup_system.log"
    export(workshop, log)
    lines = log.read_text("utf-8").splitlines()
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert [line.split(" - ", 2)[2] for line in lines] == [
        "INFO - Starte Export aller Aufträge...",
        "ERROR - Fehler bei Auftrag 4: file_path is absolute and may lead out of the archive.",
        *(f"DEBUG - ✓ Exportiert: 00000{number} → data.csv" for number in (1, 2, 3)),
        "INFO - Export abgeschlossen: 3 erfolgreich, 1 Fehler",
    ]
    workshop.execute(("DELETE FROM auftraege WHERE record_id = 4", ()))
    export(workshop, log)
    assert log.read_text("utf-8").count("✓ Unverändert: ") == 3
    workshop.archive.rename(tmp_path / "weg")
    with pytest.raises(Exception, match="does not exist"):
        export(workshop, log)
    assert "ERROR - Export abgebrochen: " in log.read_text("utf-8").splitlines()[-1]


def test_the_file_is_put_aside_by_size_when_it_is_opened_and_some_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "backup_system.log"
    for number in range(6):
        log = LogFile(path, max_bytes=100, keep=2, now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
        log.write("orders.export", "INFO", f"run {number} " + "x" * 100)
        log.close()
        log.write("orders.export", "INFO", "nothing after the end")
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.1", f"{path.name}.2"]
    assert path.read_text("utf-8").startswith("2026-01-02 03:04:05 - orders.export - INFO - run 5 x")
    assert "run 3" in (tmp_path / f"{path.name}.2").read_text("utf-8")
    for _ in range(2):
        with log_file(path, max_bytes=0) as log:
            log.write("a", "INFO", "b")
    assert path.read_text("utf-8").count("\n") == 3


def test_a_log_that_cannot_be_written_stops_no_export(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(1)])
    (tmp_path / "folder").mkdir()
    assert export(workshop, tmp_path / "folder").ok
    # A link that somebody planted is not followed.
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert export(workshop, tmp_path / "link").ok
    assert not (tmp_path / "elsewhere").exists()
