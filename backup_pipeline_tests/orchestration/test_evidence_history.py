"""The history that evidence is made of: restores that failed, with who asked, and runs over copies in vaults."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg

from backup_pipeline.orchestration.evidence_history import history_of
from backup_pipeline.orchestration.names import OPERATION_TAG, PLAN_TAG, SET_TAG, SOURCE_TAG, STARTED_BY_TAG


def test_failed_restores_and_runs_over_copies_are_in_the_history() -> None:
    set_name = "nightly/2026-10-02T020000Z"
    of_restore = {PLAN_TAG: "nightly", OPERATION_TAG: "restore", SOURCE_TAG: "shop", SET_TAG: set_name}
    runs = {
        "apply": ("nightly_restore", {**of_restore, STARTED_BY_TAG: "ui, anna"}),
        "plan": ("nightly_restore", of_restore),
        "copies": ("nightly_drill_from_nas", {PLAN_TAG: "nas:nightly", OPERATION_TAG: "drill_from_nas"}),
        "other": ("weekly_restore", {**of_restore, PLAN_TAG: "weekly"}),
    }
    now = datetime.now(UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        for name, (job, tags) in runs.items():
            config = {"ops": {"x": {"config": {"step": name}}}} if job == "nightly_restore" else {}
            status = dg.DagsterRunStatus.FAILURE
            instance.add_run(dg.DagsterRun(job_name=job, tags=tags, run_config=config, status=status))
        period = (now - timedelta(days=1), now + timedelta(days=1))
        found = history_of(instance, "nightly", *period, ["nas"])
        again = history_of(instance, "nightly", *period, ["nas"], anew=False)
        assert again.runs == found.runs
        instance.delete_run(found.runs[0].run_id)
        assert history_of(instance, "nightly", *period, ["nas"], anew=False).runs == found.runs[1:]
    assert {(one.operation, one.step, one.source, one.failed) for one in found.runs} == {
        ("restore", "apply", "shop", True),
        ("restore", "plan", "shop", True),
        ("drill_from_nas", "", "", True),
    }
    (applied,) = [one for one in found.runs if one.step == "apply"]
    assert (applied.who, applied.reason) == ("ui, anna", "The run did not end.")
