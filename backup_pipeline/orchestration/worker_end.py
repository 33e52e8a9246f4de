"""Why the process or pod of a run ended before the run was over, kept as an event of the run.

Whoever starts and watches the workers of runs reports it here; alerts read it. Errors of steps are in steps' events.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.events import EngineEventData

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.orchestration.metadata import failure_of


def report_worker_end(instance: dg.DagsterInstance, run: dg.DagsterRun, error: BackupSystemError) -> None:
    """Add to a run's events what ended its worker, where, and the remedy."""
    metadata = failure_of(error).metadata
    instance.report_engine_event(str(error), run, EngineEventData(metadata))


def reported_worker_end(instance: dg.DagsterInstance, run_id: str) -> BackupSystemError | None:
    """Return what was reported last of the end of a run's worker, None where nothing was."""
    found = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, ascending=False)
    for record in found.records:
        event = record.event_log_entry.dagster_event
        metadata = event.engine_event_data.metadata if event is not None else {}
        if "what" in metadata:
            values = {name: str(value.value or "") for name, value in metadata.items()}
            return BackupSystemError(values["what"], where=values.get("where", ""), remedy=values.get("remedy", ""))
    return None
