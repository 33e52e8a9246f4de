"""Runs of restores and undos as our pages start and read them: the same jobs, tags and events as the launchpad's."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from dagster import DagsterEventType
from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import LockError, SetNotFoundError
from backup_pipeline.model.restore import RestoreOptions, RestorePlan, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.orchestration.names import (
    OPERATION_TAG,
    PLAN_RUN_TAG,
    PLAN_TAG,
    SET_TAG,
    SOURCE_TAG,
    STARTED_BY_TAG,
    STEP_TAG,
    UNDONE_TAG,
    member_restore_op,
    restore_job_name,
    restore_op,
    restored_key,
    undo_job_name,
    undo_op,
)
from backup_pipeline.orchestration.partition_names import known_partition, set_of_partition
from backup_pipeline.orchestration.restore_config import as_configured
from backup_pipeline.orchestration.restore_metadata import PLAN_AS_READ, RESULT_AS_KEPT
from backup_pipeline.orchestration.run_progress import Piece, pieces_of
from backup_pipeline.orchestration.run_states import UNDER_WAY
from backup_pipeline.orchestration.run_subject import (
    ASSET_JOB,
    RESTORE,
    UNDO,
    configured_ops,
    restore_step,
    source_of,
)
from backup_pipeline.orchestration.submit import submit_job

if TYPE_CHECKING:
    from backup_pipeline.orchestration.submit import UiWorkspace

Step = Literal["plan", "apply", "undo"]
# Two submissions of one form at once: the second finds the run of the first.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Wanted:
    """What is to be restored: a source of a set of a plan, and how; from its copy where a vault is named.

    `fleet` is that of a plan that is a member of one: the job is the fleet's.
    """

    plan: str
    set_id: SetId
    source: str
    options: RestoreOptions
    vault: str = ""
    fleet: str = ""

    @property
    def set_name(self) -> str:
        """`PLAN/SET`, or `VAULT:PLAN/SET` for a copy."""
        return f"{f'{self.vault}:' if self.vault else ''}{self.plan}/{self.set_id}"


@dataclass(frozen=True)
class RestoreRun:
    """A run of a restore or an undo.

    Attributes:
        state: `waiting` (queued or starting), `running`, `done` or `failed`.
        asked_by: who asked for it.
        pieces: of its work, while it runs; none before the first is reported.
        found: the plan that it made; also of a run that was refused because the plan had changed.
        result: what it did.
        error: of a failed one: `error` (the class), `what`, `where`, `remedy`.
        vault: the vault whose copy of the set it reads, "" for the plan's own store.
        undone: whether a run has taken it back.
        fleet: of a plan that is a member of one.
    """

    run_id: str
    plan: str
    source: str
    set_id: str
    step: Step
    state: Literal["waiting", "running", "done", "failed"]
    asked_by: str
    began: datetime | None
    ended: datetime | None
    pieces: tuple[Piece, ...] = ()
    found: RestorePlan | None = None
    result: RestoreResult | None = None
    error: Mapping[str, str] | None = None
    vault: str = ""
    undone: bool = False
    fleet: str = ""

    @property
    def place(self) -> str:
        """Where the set is: the plan, or `VAULT:PLAN`."""
        return f"{self.vault}:{self.plan}" if self.vault else self.plan

    @property
    def is_over(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.state in ("done", "failed")


def submit_plan(workspace: UiWorkspace, wanted: Wanted, *, asked_by: str) -> str:
    """Queue a run that finds out what a restore would do, and return its id. Nothing is changed by it."""
    return _submit(workspace, wanted, {"step": "plan"}, {STEP_TAG: "plan"}, asked_by)


def submit_apply(
    workspace: UiWorkspace, read: RestorePlan, *, confirm: str, plan_run: RestoreRun, asked_by: str
) -> str:
    """Queue a run that does what a plan says, and return its id; a plan that was applied already gives that run's.

    Args:
        workspace: the webserver's.
        read: the plan that was read.
        confirm: the target's name as it was typed.
        plan_run: the run that made the plan; it makes two submissions of one form one.
        asked_by: who asked.

    Raises:
        LockError: a restore or undo of this source is under way; `where` holds its run's id.
    """
    wanted = Wanted(read.plan, read.set_id, read.source, read.options, plan_run.vault, plan_run.fleet)
    config = {"step": "apply", "plan_id": read.plan_id, "confirm": confirm}
    tags = {STEP_TAG: "apply", PLAN_RUN_TAG: plan_run.run_id}
    with _ONE_AT_A_TIME:
        if known := _of_plan_run(workspace.instance, plan_run.run_id):
            return known
        _refuse_when_busy(workspace.instance, read.plan, read.source, plan_run.fleet)
        return _submit(workspace, wanted, config, tags, asked_by)


def submit_undo(workspace: UiWorkspace, done: RestoreRun, *, confirm: str, asked_by: str) -> str:
    """Queue a run that takes a restore back, and return its id; the same for every submission of one restore.

    Raises:
        LockError: as for `submit_apply`.
    """
    config = {"source": done.source, "confirm": confirm, **({"member": done.plan} if done.fleet else {})}
    tags = {
        **_subject(done.plan, UNDO),
        STEP_TAG: "undo",
        PLAN_RUN_TAG: done.run_id,
        SOURCE_TAG: done.source,
        SET_TAG: f"{done.place}/{done.set_id}",
    }
    with _ONE_AT_A_TIME:
        if known := _of_plan_run(workspace.instance, done.run_id):
            return known
        _refuse_when_busy(workspace.instance, done.plan, done.source, done.fleet)
        return submit_job(
            workspace,
            undo_job_name(done.fleet or done.plan),
            asked_by=asked_by,
            run_config={"ops": {undo_op(done.fleet or done.plan): {"config": config}}},
            tags=tags,
        )


def _submit(
    workspace: UiWorkspace,
    wanted: Wanted,
    config: Mapping[str, object],
    tags: Mapping[str, str],
    asked_by: str,
) -> str:
    config = {**({"vault": wanted.vault} if wanted.vault else {}), **as_configured(wanted.options), **config}
    tags = {**tags, SOURCE_TAG: wanted.source, SET_TAG: wanted.set_name}
    if wanted.fleet:
        return submit_job(
            workspace,
            restore_job_name(wanted.fleet),
            asked_by=asked_by,
            run_config={
                "ops": {
                    member_restore_op(wanted.fleet): {
                        "config": {"member": wanted.plan, "set_id": str(wanted.set_id), **config}
                    }
                }
            },
            tags={**tags, **_subject(wanted.plan, RESTORE)},
        )
    return submit_job(
        workspace,
        restore_job_name(wanted.plan),
        asked_by=asked_by,
        run_config={"ops": {restore_op(wanted.plan, wanted.source): {"config": config}}},
        tags=tags,
        partition=known_partition(workspace.instance, wanted.plan, wanted.set_id),
        assets=[restored_key(wanted.plan, wanted.source)],
    )


def _subject(plan: str, work: str) -> dict[str, str]:
    """Return tags that a job of a fleet cannot give its runs: they are about one member, each in its own queue."""
    return {PLAN_TAG: plan, OPERATION_TAG: work}


def _of_plan_run(instance: dg.DagsterInstance, plan_run: str) -> str:
    """Return the run that applies what a run found, or takes it back; "" when there is none. A failed undo may be
    tried again; a failed restore begins with a new plan.
    """
    statuses = [*UNDER_WAY, dg.DagsterRunStatus.SUCCESS]
    runs = instance.get_runs(dg.RunsFilter(tags={PLAN_RUN_TAG: plan_run, STEP_TAG: "apply"}), limit=1)
    runs = runs or instance.get_runs(dg.RunsFilter(tags={PLAN_RUN_TAG: plan_run}, statuses=statuses), limit=1)
    return runs[0].run_id if runs else ""


def applied_by(instance: dg.DagsterInstance, plan_run: str) -> RestoreRun | None:
    """Return the run that applied, or tried to apply, the plan that a run made; None while there is none."""
    records = instance.get_run_records(dg.RunsFilter(tags={PLAN_RUN_TAG: plan_run, STEP_TAG: "apply"}), limit=1)
    return _from_record(instance, records[0], events=False) if records else None


def under_way(instance: dg.DagsterInstance, plan: str, source: str, fleet: str = "") -> RestoreRun | None:
    """Return the restore or undo of a source that is under way, None when there is none; `fleet` as in `Wanted`."""
    for job in (restore_job_name(fleet or plan), undo_job_name(fleet or plan)):
        for record in instance.get_run_records(dg.RunsFilter(job_name=job, statuses=list(UNDER_WAY)), limit=20):
            if source_of(record.dagster_run) == source and restore_step(record.dagster_run) != "plan":
                return _from_record(instance, record)
    return None


def _refuse_when_busy(instance: dg.DagsterInstance, plan: str, source: str, fleet: str) -> None:
    if busy := under_way(instance, plan, source, fleet):
        since = f" since {busy.began:%H:%M:%S} UTC" if busy.began else ""
        raise LockError(
            f"{source} is being {'taken back' if busy.step == 'undo' else 'restored'} just now, asked for by "
            f"{busy.asked_by}{since}.",
            where=busy.run_id,
            remedy="Wait until that is done, then read the plan again: what is live has changed by then.",
        )


def restore_run(instance: dg.DagsterInstance, run_id: str) -> RestoreRun:
    """Read a run of a restore or an undo, however it was started.

    Raises:
        SetNotFoundError: there is no such run, or it is of another job.
    """
    record = instance.get_run_record_by_id(run_id)
    if record is None or not record.dagster_run.job_name.endswith(("_restore", "_undo")):
        raise SetNotFoundError("There is no such restore.", where=run_id[:80], remedy="The front page lists them.")
    return _from_record(instance, record)


def latest_runs(instance: dg.DagsterInstance, plan: str, limit: int = 10) -> list[RestoreRun]:
    """Return the newest restores and undos of a plan that changed something or tried to, newest first."""
    records = [
        record
        for job in (restore_job_name(plan), undo_job_name(plan))
        for record in instance.get_run_records(dg.RunsFilter(job_name=job), limit=3 * limit)
        if restore_step(record.dagster_run) != "plan"
    ]
    records.sort(key=lambda record: record.create_timestamp, reverse=True)
    return [_from_record(instance, record, events=False) for record in records[:limit]]


def error_of(instance: dg.DagsterInstance, run_id: str) -> Mapping[str, str]:
    """Return why a run failed: `error` (the class), `what`, `where`, `remedy`."""
    return _Events(instance, run_id).error()


def _from_record(instance: dg.DagsterInstance, record: dg.RunRecord, *, events: bool = True) -> RestoreRun:
    run = record.dagster_run
    step = restore_step(run)
    of_job = run.job_name.removesuffix("_undo").removesuffix("_restore")
    plan = run.tags.get(PLAN_TAG) or of_job
    state: Literal["waiting", "running", "done", "failed"] = (
        "done"
        if run.status is dg.DagsterRunStatus.SUCCESS
        else "failed"
        if run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
        else "running"
        if run.status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
        else "waiting"
    )
    events_of = _Events(instance, run.run_id) if events else None
    return RestoreRun(
        run_id=run.run_id,
        plan=plan,
        source=source_of(run),
        set_id=set_of_partition(run.tags.get("dagster/partition") or run.tags.get(SET_TAG, "").rpartition("/")[2]),
        step=step,
        state=state,
        asked_by=run.tags.get(STARTED_BY_TAG, "ui"),
        began=_moment(record.start_time),
        ended=_moment(record.end_time),
        pieces=pieces_of(instance, run.run_id) if events_of and state == "running" else (),
        found=events_of.plan() if events_of and step != "undo" else None,
        result=events_of.result() if events_of and state == "done" and step != "undo" else None,
        error=events_of.error() if events_of and state == "failed" else None,
        vault=next((str(given["vault"]) for given in configured_ops(run).values() if given.get("vault")), ""),
        undone=UNDONE_TAG in run.tags,
        # Only jobs of fleets are about others than what they are called after; pages of assets have no job of ours.
        fleet=of_job if plan != of_job and run.job_name != ASSET_JOB else "",
    )


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


class _Events:
    """What the events of one run say."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self._run_id = run_id

    def _newest(self, kind: DagsterEventType) -> Any:
        found = self._instance.get_records_for_run(self._run_id, of_type=kind, limit=1, ascending=False).records
        event = found[0].event_log_entry.dagster_event if found else None
        return event.event_specific_data if event else None

    def _json(self, data: Any, name: str, holder: str) -> Any:
        metadata = getattr(getattr(data, holder, None), "metadata", {})
        return getattr(metadata.get(name), "value", None)

    def plan(self) -> RestorePlan | None:
        found = self._json(self._newest(DagsterEventType.ASSET_OBSERVATION), PLAN_AS_READ, "asset_observation")
        try:
            return RestorePlan.model_validate(found) if found else None
        except PydanticError:
            return None

    def result(self) -> RestoreResult | None:
        found = self._json(self._newest(DagsterEventType.ASSET_MATERIALIZATION), RESULT_AS_KEPT, "materialization")
        try:
            return RestoreResult.model_validate(found) if found else None
        except PydanticError:
            return None

    def error(self) -> Mapping[str, str]:
        data = self._newest(DagsterEventType.STEP_FAILURE)
        failure = getattr(data, "user_failure_data", None)
        if failure is not None:
            found = {name: str(getattr(value, "value", "") or "") for name, value in failure.metadata.items()}
            return {"error": "", "what": failure.description or "", "where": "", "remedy": "", **found}
        data = self._newest(DagsterEventType.RUN_FAILURE) or self._newest(DagsterEventType.RUN_CANCELED)
        what = "The run was cancelled." if self._newest(DagsterEventType.RUN_CANCELED) else "The run did not end."
        reason = getattr(getattr(data, "error", None), "message", "") or ""
        return {
            "error": "",
            "what": f"{what} {reason}".strip(),
            "where": "",
            "remedy": "Its log says where it stopped.",
        }
