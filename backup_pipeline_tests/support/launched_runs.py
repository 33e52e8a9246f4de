"""Runs that a launcher starts as the daemon's queue does, and the daemon's monitor and sensors after them."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from backup_pipeline.orchestration.alerts import alert_sensors
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site


@dataclass
class LaunchedRuns:
    """A loaded site, its history and its runs."""

    folder: Path
    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext

    @property
    def site(self) -> Site:
        return load_site(self.folder)

    def begin(self, tags: dict[str, str] | None = None, job: str = "nightly_backup") -> str:
        """Launch a run of a job, and return its id; an error of the launcher is one of the run too."""
        with self.workspace.create_request_context() as request:
            location = request.get_code_location("backup-pipeline")
            repository = next(iter(location.get_repositories().values()))
            full = repository.get_full_job(job)
            run = self.instance.create_run(
                job_name=job,
                run_id=None,
                run_config={},
                resolved_op_selection=None,
                status=None,
                tags={**full.tags, **(tags or {})},
                root_run_id=None,
                parent_run_id=None,
                step_keys_to_execute=None,
                execution_plan_snapshot=None,
                job_snapshot=None,
                parent_job_snapshot=None,
                asset_selection=None,
                asset_check_selection=None,
                op_selection=None,
                remote_job_origin=full.get_remote_origin(),
                job_code_origin=full.get_python_origin(),
                asset_graph=repository.asset_graph,
            )
            # After an error, which is in the run's events, the daemon's queue goes on with the next run.
            with suppress(Exception):
                self.instance.launch_run(run.run_id, request)
        return run.run_id

    def started(self, tags: dict[str, str] | None = None) -> str:
        """Launch a run whose container reports its start."""
        run_id = self.begin(tags)
        run = self.run(run_id)
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
        self.instance.report_dagster_event(event, run_id)
        return run_id

    def run(self, run_id: str) -> dg.DagsterRun:
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        return self.run(run_id).status

    def monitor(self) -> None:
        """Let the daemon's monitor make one round."""
        list(execute_run_monitoring_iteration(self.workspace, logging.getLogger("monitor")))

    def events(self, run_id: str) -> str:
        """Everything that the UI shows among the run's events."""
        return "\n".join(entry.user_message or entry.message for entry in self.instance.all_logs(run_id))

    def alert(self, run_id: str) -> str:
        """Let the sensor of failed runs see a run; return what its tick shows."""
        (sensor,) = [each for each in alert_sensors(self.site) if each.name == "alert_on_failed_runs"]
        (event,) = self.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
        assert event.event_log_entry.dagster_event is not None
        context = dg.build_run_status_sensor_context(
            sensor_name=sensor.name,
            dagster_instance=self.instance,
            dagster_run=self.run(run_id),
            dagster_event=event.event_log_entry.dagster_event,
        )
        skipped = sensor(context)
        assert isinstance(skipped, dg.SkipReason)
        return str(skipped.skip_message)
