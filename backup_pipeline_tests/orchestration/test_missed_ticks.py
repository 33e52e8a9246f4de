"""After an outage each schedule runs once, however many of its times were missed: asked of Dagster's own scheduler."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster._core.definitions.run_request import InstigatorType

from backup_pipeline_tests.support.dagster_runs import loaded

SETTINGS = """
sources:
  files: {kind: folder, path: files}
  werkstatt: {kind: orders, database: werkstatt.db, archive: Archiv}
plans:
  hourly: {sources: [files], schedule: "0 * * * *"}
  nightly: {sources: [files, werkstatt], schedule: "0 2 * * *", verify: "30 3 * * *", drill: "0 5 * * *"}
"""
BEGIN = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


def test_the_times_that_were_missed_in_an_outage_are_made_up_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only after the daemon's module can the scheduler's be imported.
    import dagster._daemon  # noqa: F401
    from dagster._scheduler.scheduler import launch_scheduled_runs

    with loaded(tmp_path, SETTINGS, monkeypatch) as (instance, workspace):

        def look(now: datetime) -> Counter[str]:
            """Let the scheduler look at this moment; return the ticks of each schedule so far."""
            list(launch_scheduled_runs(workspace, logging.getLogger("scheduler"), now, {}))
            return Counter(
                {
                    state.instigator_name: len(instance.get_ticks(state.instigator_origin_id, state.selector_id))
                    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
                }
            )

        assert set(look(BEGIN).values()) == {0}
        assert look(BEGIN + timedelta(hours=1))["hourly_backup_schedule"] == 1
        ticks = look(BEGIN + timedelta(days=4))
        assert ticks.pop("hourly_backup_schedule") == 2
        assert {"nightly_backup_schedule", "nightly_verification_schedule", "nightly_drill_schedule"} < set(ticks)
        assert set(ticks.values()) == {1}, ticks
        assert len([run for run in instance.get_runs() if run.job_name == "hourly_backup"]) == 2
        assert len([run for run in instance.get_runs() if run.job_name == "nightly_backup"]) == 1
        again = look(BEGIN + timedelta(days=4, minutes=10))
        assert sum(again.values()) == sum(ticks.values()) + 2
