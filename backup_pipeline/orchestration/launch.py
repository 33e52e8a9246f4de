"""Running a plan's job in this process, in the same history as the UI's runs: what the shell's commands call.

Dagster's public `execute_job` does not record where the UI finds the job again, and the UI then cannot re-execute the
run. So the run is made here with the calls beneath it; the release of Dagster is pinned for that reason too.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.api import create_execution_plan, execute_run
from dagster._core.execution.execution_result import ExecutionResult
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from backup_pipeline.errors import BackupSystemError, ExitCode, RefusedError
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.orchestration.build import build_job
from backup_pipeline.orchestration.liveness import end_dead_runs
from backup_pipeline.orchestration.names import LOCATION_NAME, REPOSITORY_NAME, STARTED_BY_TAG
from backup_pipeline.orchestration.partition_names import set_of_partition
from backup_pipeline.orchestration.run_subject import asked_in_shell
from backup_pipeline.orchestration.storage import require_history
from backup_pipeline.settings.loader import load_site
from backup_pipeline.system.files import make_folders
from backup_pipeline.system.limits import received_signal
from backup_pipeline.system.locks import hold_lock


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: its id, whether it succeeded, and the errors of the steps that failed, first one first."""

    run_id: str
    success: bool
    errors: tuple[BackupSystemError, ...]


@lru_cache(maxsize=1)
def job_of(config: str, job: str, _: str) -> dg.JobDefinition:
    """Return a job of the site; what `reconstructable` calls to find the job again.

    The last argument is another one for each run: Dagster remembers jobs by their arguments, and the settings or the
    tables may have changed since. It asks for a job twice, to check it and to run it.
    """
    return build_job(load_site(Path(config)), job)


# The command that runs the job reports to the user itself; Dagster's own lines would only hide that.
_QUIET: dict[str, object] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@contextmanager
def _instance() -> Iterator[dg.DagsterInstance]:
    """Open the instance of DAGSTER_HOME; its SQLite files are made by one process at a time."""
    # In a container all of DAGSTER_HOME but its `storage` is read-only.
    require_history(os.environ)
    storage = Path(os.environ["DAGSTER_HOME"]) / "storage"
    make_folders(storage, 0o700)
    with ExitStack() as stack:
        with hold_lock(
            storage / ".opening.lock", purpose="opening Dagster's history", wait_seconds=120, poll_seconds=0.05
        ):
            instance = stack.enter_context(dg.DagsterInstance.get())
            instance.get_runs_count()
            instance.get_dynamic_partitions("")
            instance.all_instigator_state()
        yield instance


def run_job(
    config: Path,
    job: str,
    *,
    assets: Sequence[dg.AssetKey] | None = None,
    tags: Mapping[str, str] | None = None,
    partition: str | None = None,
    run_config: Mapping[str, object] | None = None,
) -> RunOutcome:
    """Run a job of the site in this process and wait for its end.

    Args:
        config: backup.yaml.
        job: the job's name.
        assets: only these of its assets.
        tags: put on the run.
        partition: the partition, for partitioned assets.
        run_config: the run's configuration.

    The instance is the one of DAGSTER_HOME, so that the run appears in the UI.
    """
    with _instance() as instance:
        # Where no daemon runs nobody else ends them.
        end_dead_runs(instance)
        found = _reconstructable(config, job)
        definition = found.get_definition()
        if partition:
            partition = _as_known(instance, definition, partition)
        run = instance.create_run_for_job(
            job_def=definition,
            run_config={**_QUIET, **(run_config or {})},
            tags={
                STARTED_BY_TAG: asked_in_shell(),
                **(tags or {}),
                **({"dagster/partition": partition} if partition else {}),
            },
            asset_selection=frozenset(assets) if assets is not None else None,
            job_code_origin=found.get_python_origin(),
            remote_job_origin=_origin(job),
        )
        return _outcome(execute_run(found, run, instance))


def _as_known(instance: dg.DagsterInstance, job: dg.JobDefinition, partition: str) -> str:
    """Return a set's partition by the name that Dagster knows: a set that is no whole backup says so in it."""
    name = getattr(job.partitions_def, "name", None)
    known = instance.get_dynamic_partitions(name) if name else ()
    return next((each for each in sorted(known) if set_of_partition(each) == partition), partition)


def resume_run(config: Path, root_run_id: str) -> RunOutcome:
    """Re-execute the newest run of a root from its failure, so that it completes the same set.

    Raises:
        RefusedError: Dagster's history does not have the run, or it did not fail.
    """
    with _instance() as instance:
        runs = instance.get_run_group(root_run_id)
        newest = max(runs[1], key=lambda run: _created(instance, run.run_id)) if runs else None
        if newest is None:
            raise RefusedError(
                f"Dagster's history has no run {root_run_id[:8]}.",
                where="DAGSTER_HOME",
                remedy="Was the set begun with another DAGSTER_HOME? Otherwise make a new backup.",
            )
        if not newest.is_finished:
            # Its process was killed: what nobody runs any more is closed before it is taken up again.
            instance.report_run_failed(newest, "Its process ended without a report; taken up again from the shell.")
            newest = instance.get_run_by_id(newest.run_id) or newest
        found: Any = _reconstructable(config, newest.job_name)
        run_config = {**newest.run_config, **_QUIET}
        steps, known = KnownExecutionState.build_resume_retry_reexecution(instance=instance, parent_run=newest)
        plan = create_execution_plan(found, run_config, step_keys_to_execute=steps, known_state=known, tags=newest.tags)
        if newest.asset_selection:
            found = found.get_subset(asset_selection=newest.asset_selection)
        run = instance.create_run_for_job(
            job_def=found.get_definition(),
            execution_plan=plan,
            run_config=run_config,
            tags={name: value for name, value in newest.tags.items() if not name.startswith("dagster/")}
            | {STARTED_BY_TAG: asked_in_shell()},
            asset_selection=newest.asset_selection,
            root_run_id=root_run_id,
            parent_run_id=newest.run_id,
            job_code_origin=found.get_python_origin(),
            remote_job_origin=_origin(newest.job_name),
        )
        return _outcome(execute_run(found, run, instance))


def _origin(job: str) -> RemoteJobOrigin:
    """Return where the UI finds the job of a run that it did not start, so that it can re-execute it."""
    location = RegisteredCodeLocationOrigin(LOCATION_NAME)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, REPOSITORY_NAME), job)


def _created(instance: dg.DagsterInstance, run_id: str) -> float:
    record = instance.get_run_record_by_id(run_id)
    return record.create_timestamp.timestamp() if record else 0.0


def _reconstructable(config: Path, job: str) -> ReconstructableJob:
    arguments: Any = (str(config), job, uuid.uuid4().hex)
    found = dg.build_reconstructable_job(
        "backup_pipeline.orchestration.launch", "job_of", reconstructable_args=arguments
    )
    assert isinstance(found, ReconstructableJob)
    return found


def _outcome(result: ExecutionResult) -> RunOutcome:
    if not result.success and received_signal():
        # Dagster reports a step that was interrupted as one that failed by itself.
        raise KeyboardInterrupt
    errors = [
        error
        for event in result.all_events
        if event.is_step_failure and (error := _error_of(event.step_failure_data)) is not None
    ]
    return RunOutcome(result.run_id, result.success, tuple(errors))


def _error_of(data: object) -> BackupSystemError | None:
    """Return the family's error that a step failed with, rebuilt from its failure's metadata."""
    failure = getattr(data, "user_failure_data", None)
    if failure is None:
        error = getattr(data, "error", None)
        return BackupSystemError(
            "A step failed unexpectedly.",
            where=str(getattr(error, "cls_name", "") or ""),
            remedy="The run's log in the UI has the details.",
        )
    values = {name: getattr(value, "value", None) for name, value in failure.metadata.items()}
    kinds = {kind.__name__: kind for kind in _family(BackupSystemError)}
    kind = kinds.get(str(values.get("error")), BackupSystemError)
    return kind(
        str(values.get("what") or failure.description or "failed"),
        where=str(values.get("where") or ""),
        remedy=str(values.get("remedy") or ""),
    )


def _family(kind: type[BackupSystemError]) -> list[type[BackupSystemError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _family(child))]


def exit_code_of(outcome: RunOutcome, sealed: Manifest | None = None) -> ExitCode:
    """Return the exit code for how a run ended: that of its first error, or that of what the sealed set holds."""
    if outcome.success:
        return ExitCode.BROKEN_DATA if sealed is not None and sealed.broken_data else ExitCode.OK
    return outcome.errors[0].exit_code if outcome.errors else ExitCode.FAILED
