"""Alert sensors: failed runs, failed checks in green runs, and incidents of the stores.

Dagster's own alerts are part of its paid service. What is reported, and once only, is decided in
`operations/alerts/send.py`; runs started from the shell report by themselves, and the same incident is not
reported again from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from backup_pipeline.errors import INTERRUPTED, BackupSystemError, RefusedError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.incident import Observation
from backup_pipeline.model.record import CheckResult, Severity
from backup_pipeline.model.set_id import is_set_id
from backup_pipeline.operations.alerts import send as alerts
from backup_pipeline.operations.alerts.observe import observe_check, set_of_run
from backup_pipeline.operations.sites.copy_records import note_failure, vault_record
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.orchestration.names import CHECK, COPY, COPY_DRILL, PLAN_TAG
from backup_pipeline.orchestration.partition_names import set_of_partition
from backup_pipeline.orchestration.run_subject import ASSET_JOB, RESTORE, UNDO, operation_of, restore_step, source_of
from backup_pipeline.orchestration.safety_asset import KEY as SAFETY
from backup_pipeline.orchestration.worker_end import reported_worker_end
from backup_pipeline.settings.site import Site

RUNS_SECONDS = 30
STORES_SECONDS = 300
_OF_ONE_SOURCE = (RESTORE, UNDO)
_ASKED_BY_A_PERSON = (*_OF_ONE_SOURCE, "check")
# check_in_offsite, verification_from_offsite, drill_from_offsite.
_OPERATION_NAMES = re.compile(r"^(check|verification|drill)_(in|from)_")
_PARTITION_TAG = "dagster/partition"
_NO_REASON = "The run's log in the UI has the details."
_INTERRUPTS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
_AGAIN = "Start it again."


def alert_sensors(site: Site) -> list[dg.SensorDefinition]:
    """Return the site's alert sensors, running from the start."""
    running = dg.DefaultSensorStatus.RUNNING

    # Without monitor_all_code_locations runs that were started from the shell are not monitored.
    @dg.run_failure_sensor(
        name="alert_on_failed_runs",
        monitor_all_code_locations=True,
        minimum_interval_seconds=RUNS_SECONDS,
        default_status=running,
        description="Reports runs that failed: once per incident.",
    )
    def failed(context: dg.RunFailureSensorContext) -> dg.SkipReason:
        return _report_of(site, context, succeeded=False)

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name="alert_on_failed_checks",
        monitor_all_code_locations=True,
        minimum_interval_seconds=RUNS_SECONDS,
        default_status=running,
        description="Reports failed asset checks in green runs, and of incidents that a run has ended.",
    )
    def succeeded(context: dg.RunStatusSensorContext) -> dg.SkipReason:
        return _report_of(site, context, succeeded=True)

    @dg.sensor(
        name="alert_on_stores",
        minimum_interval_seconds=STORES_SECONDS,
        default_status=running,
        description="Reports overdue backups, damaged sets, drills that did not prove, and disks that fill.",
    )
    def stores(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        reported = alerts.evaluate_incidents(site)
        return _ticked(context, f"{len(read_state(site).open)} incidents open.", reported)

    return [failed, succeeded, stores]


def subject_of(site: Site, run: dg.DagsterRun) -> tuple[str, str]:
    """Return the plan that a run worked for ("" for none) and what it did: backup, verification, undo of shop, …."""
    selected = run.asset_selection or frozenset()
    named = run.tags.get(PLAN_TAG, "")
    checked = {check.asset_key for check in run.asset_check_selection or ()}
    candidates = [named, *sorted({key.path[0] for key in {*selected, *checked}})]
    plans = (*site.settings.fleets, *site.single_plans)
    plan = next((name for name in candidates if name in plans), "")
    if run.job_name != ASSET_JOB:
        plan = plan or max((p for p in plans if run.job_name.startswith(f"{p}_")), key=len, default="")
    work = operation_of(run.job_name, selected, plan)
    if checked and not selected:
        work = "check"
    if work in _OF_ONE_SOURCE and (source := source_of(run)):
        # That one source's undo is well says nothing of another's.
        work = f"{work} of {source}"
    return plan, work


def _report_of(site: Site, context: dg.RunStatusSensorContext, *, succeeded: bool) -> dg.SkipReason:
    run = context.dagster_run
    plan, work = subject_of(site, run)
    if work.partition(" ")[0] == RESTORE and restore_step(run) == "plan":
        return dg.SkipReason(f"The plan of a {work} changes nothing; whoever asked for it has its outcome.")
    if not succeeded and _refused_a_person(context, work):
        return dg.SkipReason(
            f"{work} of {plan or 'no plan'} was refused, and nothing was changed: whoever asked has been answered."
        )
    at = _end_of(context)
    if plan and work.startswith(COPY):
        # What a copy did is recorded, wherever it was made: the same incident as from the shell.
        if not succeeded:
            _record_killed_copy(site, context, plan, work.removeprefix(COPY), at)
        copies = alerts.notify_copies(site, plan, at)
        checks = alerts.report(site, tuple(_checks(site, context, plan, at)), at)
        return _ticked(context, f"{work} of {plan} {'succeeded' if succeeded else 'failed'}.", copies, checks)
    written = _written(site, plan, run) if plan else None
    artefact, reason, remedy = ("", "", "") if succeeded else _why(context, written)
    finished = alerts.FinishedRun(
        succeeded,
        run_id=run.run_id,
        work=_OPERATION_NAMES.sub(lambda found: f"{found[1]} {found[2]} ", work),
        set_id=str(written.set_id) if written else "",
        artefact=artefact,
        reason=reason,
        remedy=remedy,
        records=written.records if written else (),
        partial=bool(written and written.draft and written.draft.partial),
    )
    reports = [alerts.notify_run_finished(site, plan, finished, at)]
    reports.append(alerts.report(site, tuple(_checks(site, context, plan, at)), at))
    if plan and work.startswith((CHECK, COPY_DRILL)):
        reports.append(alerts.notify_copies(site, plan, at))
    return _ticked(context, f"{work} of {plan or 'no plan'} {'succeeded' if succeeded else 'failed'}.", *reports)


def _ticked(
    context: dg.SensorEvaluationContext | dg.RunStatusSensorContext, what: str, *reports: alerts.AlertReport
) -> dg.SkipReason:
    """Return what a sensor's tick shows: what it inspected, and each alert that was sent, which its log has too."""
    sent = [str(report) for report in reports if report.reported]
    for text in sent:
        context.log.info(text)
    return dg.SkipReason(" ".join([what, *(sent or ["Nothing new to report."])]))


def _end_of(context: dg.RunStatusSensorContext) -> datetime:
    record = context.instance.get_run_record_by_id(context.dagster_run.run_id)
    end = record.end_time if record else None
    return datetime.fromtimestamp(end, UTC) if end else datetime.now(UTC)


def _written(site: Site, plan: str, run: dg.DagsterRun) -> BackupSet | None:
    try:
        return set_of_run(site, plan, run.root_run_id or run.run_id)
    except BackupSystemError:
        return None


def _why(context: dg.RunStatusSensorContext, written: BackupSet | None) -> tuple[str, str, str]:
    """Return artefact, reason and remedy of a failed run.

    Only texts of our own are reported: a foreign error's message may hold a row of data (`Key (email)=(…)`).
    """
    if written is not None and written.failures:
        first = min(written.failures, key=lambda failure: failure.at)
        return ".".join(first.key), first.what, first.remedy
    for event in context.for_run_failure().get_step_failure_events() if _failed(context) else ():
        data = event.step_failure_data
        if data.user_failure_data is not None:
            values = {name: str(value.value or "") for name, value in data.user_failure_data.metadata.items()}
            where, what = values.get("where", ""), values.get("what", "")
            return event.step_key or "", f"{where}: {what}" if where else what, values.get("remedy", "")
        error = data.error
        while error is not None and error.cause is not None:
            error = error.cause
        kind = (error.cls_name if error else "") or "error"
        if kind in _INTERRUPTS:
            return event.step_key or "", f"{INTERRUPTED}.", _AGAIN
        return event.step_key or "", f"Unexpected {kind}.", _NO_REASON
    if (end := reported_worker_end(context.instance, context.dagster_run.run_id)) is not None:
        return "", end.what, end.remedy
    return "", "The run ended outside its steps: its process was killed, or it could not be started.", _NO_REASON


def _record_killed_copy(site: Site, context: dg.RunStatusSensorContext, plan: str, vault: str, at: datetime) -> None:
    """Record the failure of a copy whose run ended outside its step: a process that was killed records nothing."""
    if context.for_run_failure().get_step_failure_events():
        return
    wanted = set_of_partition(context.dagster_run.tags.get(_PARTITION_TAG, ""))
    if vault not in site.settings.vaults or not is_set_id(wanted):
        return
    record = vault_record(site, vault)
    known = record.failures.get(plan)
    if record.copy_of(plan, wanted) is not None or (known is not None and known.at >= at):
        return
    error = BackupSystemError(
        "The copy's process was killed, or its run could not be started.",
        where=f"run {context.dagster_run.run_id[:8]}",
        remedy="It is tried again by itself and goes on where it stopped. Find what ended it: memory, a restart.",
    )
    note_failure(site, vault, plan, wanted, error, at)


def _refused_a_person(context: dg.RunStatusSensorContext, work: str) -> bool:
    """Return whether a run only refused what a person asked for in the UI; that is an answer, and no incident."""
    if work.split(" of ")[0] not in _ASKED_BY_A_PERSON:
        return False
    failures = context.for_run_failure().get_step_failure_events()
    errors = [
        event.step_failure_data.user_failure_data.metadata.get("error")
        for event in failures
        if event.step_failure_data.user_failure_data is not None
    ]
    return bool(errors) and all(error is not None and error.value == RefusedError.__name__ for error in errors)


def _failed(context: dg.RunStatusSensorContext) -> bool:
    return context.dagster_run.status is dg.DagsterRunStatus.FAILURE


def _checks(site: Site, context: dg.RunStatusSensorContext, plan: str, at: datetime) -> Iterator[Observation]:
    """Yield the checks of assets that are not artefacts of a set; those are in the set's records."""
    found = context.instance.get_records_for_run(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    )
    for record in found.records:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        check = event.asset_check_evaluation_data
        if check.asset_key == SAFETY:
            continue  # it repeats what the stores' sensor reports
        path = check.asset_key.path
        owner = path[0] if path[0] in site.settings.plans else plan
        if path[0] == owner and len(path) > 1 and owner and path[1] in site.plan(owner).sources:
            continue
        result = CheckResult(
            name=check.check_name,
            passed=check.passed,
            severity=Severity.WARN if check.severity is dg.AssetCheckSeverity.WARN else Severity.ERROR,
            summary=check.description or "",
        )
        name = path[1:] if path[0] == owner else path
        yield observe_check(site, owner, name, result, at=at, run_id=context.dagster_run.run_id)
