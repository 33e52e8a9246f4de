"""Pieces of a run's work are written to its log, and read from there with the time that they still take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType
from starlette.testclient import TestClient

from backup_pipeline.model.progress import Progress, named, with_totals
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.names import SET_TAG, SOURCE_TAG, STEP_TAG
from backup_pipeline.orchestration.run_progress import Piece, pieces_of, read_line, reported_progress
from backup_pipeline.settings.loader import load_site
from backup_pipeline.web.front.context import Front
from backup_pipeline.web.front.live import live_work
from backup_pipeline_tests.support.front_pages import guarded_pages
from backup_pipeline_tests.support.invented_sets import SITE, at


@pytest.mark.parametrize("name", ["restore", "shop: load tables", "a: 3 of 4 rows in 2 s: b", "<b>x</b>"])
def test_a_piece_of_work_is_read_as_it_was_written(name: str) -> None:
    for piece in (Piece(name, 5, 20, "tables", 10, False), Piece(name, 5, None, "", 0, True)):
        assert read_line(piece.line()) == piece
    assert read_line("Restored 5 of 20 tables") is None


def test_the_time_left_follows_from_what_is_done() -> None:
    assert Piece("a", 5, 20, "tables", 10, False).left == 30
    assert Piece("a", 5, None, "tables", 10, False).left is None
    assert Piece("a", 0, 20, "tables", 10, False).left is None
    assert Piece("a", 20, 20, "tables", 10, True).left is None


def test_work_of_a_source_carries_its_name_and_its_total() -> None:
    lines: list[str] = []
    sink = with_totals(named(reported_progress(lines.append), "shop"), {"restore": 100})
    sink(Progress("restore", 30))
    assert read_line(lines[0]) == Piece("shop: restore", 30, 100, "bytes", 0, False)


def test_a_running_drill_shows_its_pieces_on_the_front_page(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    job = build_definitions(load_site(tmp_path, environment={})).resolve_job_def("nightly_drill")
    run = instance.create_run_for_job(job, tags={"dagster/partition": "2026-11-21T020000Z"})
    start = DagsterEvent(DagsterEventType.RUN_START.value, job_name=run.job_name)
    instance.report_dagster_event(start, run.run_id)
    for piece in (Piece("checksums", 5, 5, "bytes", 1, True), Piece("shop: load tables", 3, 12, "tables", 6, False)):
        entry = dg.EventLogEntry(None, 20, piece.line(), run.run_id, at("2026-11-21 12:00").timestamp())
        instance.handle_new_event(entry)
    assert [(one.name, one.left) for one in pieces_of(instance, run.run_id)] == [
        ("checksums", None),
        ("shop: load tables", 18),
    ]
    front = Front(settings=tmp_path / "backup.yaml", now=lambda: at("2026-11-21 12:00"))
    front.workspace = SimpleNamespace(instance=instance)  # type: ignore[assignment]
    (work,) = live_work(front, at("2026-11-21 12:00"))
    assert [one.name for one in work.pieces] == ["checksums", "shop: load tables"]
    text = TestClient(guarded_pages(front), base_url="http://127.0.0.1:3000").get("/backups/live").text
    assert "3 of 12 tables, 6 s; about 18 s left" in text
    assert '<progress max="100" value="25.0" aria-label="shop: load tables">' in text


def test_running_restores_are_named_by_their_source_and_by_what_they_do(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    job = build_definitions(load_site(tmp_path, environment={})).resolve_job_def("nightly_drill")
    for step in ("plan", "apply", "undo"):
        tags = {SOURCE_TAG: "shop", STEP_TAG: step, SET_TAG: "nightly/2026-11-21T020000Z"}
        instance.create_run_for_job(job, tags=tags)
    front = Front(settings=tmp_path / "backup.yaml", now=lambda: at("2026-11-21 12:00"))
    front.workspace = SimpleNamespace(instance=instance)  # type: ignore[assignment]
    assert [one.title for one in live_work(front, at("2026-11-21 12:00"))] == [
        "Plan of a restore of shop from nightly/2026-11-21T020000Z",
        "Restore of shop from nightly/2026-11-21T020000Z",
        "Undo of the restore of shop from nightly/2026-11-21T020000Z",
    ]
