"""Executor by Celery: the steps of a run, so the sources of a set, are tasks that any worker of the site takes.

The loop is dagster-celery's, in the run's own process, which waits beside the code location. A step whose worker is
gone is sent anew, where dagster-celery would wait for ever; who comes back then has lost its claim to the source.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import dagster as dg
from celery import current_task
from celery.exceptions import WorkerLostError
from dagster_celery.core_execution_loop import core_celery_execution_loop
from dagster_celery.executor import CeleryExecutor, _submit_task
from dagster_shared.serdes import serialize_value, unpack_value

from backup_pipeline.errors import BackupSystemError, SettingsError
from backup_pipeline.orchestration.celery_app import BACKEND_VARIABLE, PatientTask, app_arguments, wait_for_broker
from backup_pipeline.orchestration.celery_held import HeldTasks
from backup_pipeline.redaction import redacted_values
from backup_pipeline.system.threads import start_thread

LOG = logging.getLogger("backup-pipeline.runs")
_SILENT_SECONDS = 60.0
# As often as a run is made again: what needs more memory than there is would be killed for ever.
_AGAIN = 2


class UnfinishedStep(PatientTask):
    """A step's task on a worker: nothing for a run that is over, or a step that another worker has done since."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Execute the step, where that is still wanted; returns its events, without secrets that errors repeat.

        Of a step that was done meanwhile by a worker that counted as gone they are those of the history: nobody waits
        for that worker's answer any more, and the run would not hear that its step has ended.
        """
        step: Any = unpack_value(named["execute_step_args_packed"])
        with dg.DagsterInstance.get() as instance:
            run = instance.get_run_by_id(step.run_id)
            stats = instance.get_run_step_stats(step.run_id, step.step_keys_to_execute)
            if run is None or run.is_finished:
                LOG.info("run %s is over: %s is not executed", step.run_id, step.step_keys_to_execute)
                return []
            if any(each.status and each.status.value == "SUCCESS" for each in stats):
                LOG.info("%s of run %s is done already", step.step_keys_to_execute, step.run_id)
                return events_of_done_steps(instance, step.run_id, step.step_keys_to_execute)
        events: list[str] = super().__call__(*arguments, **named)
        return [json.dumps(redacted_values(json.loads(event))) for event in events]


def events_of_done_steps(instance: dg.DagsterInstance, run_id: str, steps: Collection[str]) -> list[str]:
    """Return the events from which a run's loop learns that steps have succeeded, serialised as a task returns them."""
    kinds = {dg.DagsterEventType.STEP_OUTPUT, dg.DagsterEventType.STEP_SUCCESS}
    logged = (entry.dagster_event for entry in instance.all_logs(run_id, of_type=kinds))
    # Two workers may have done a step, one of them unasked: the loop takes one end of it.
    events = {
        (
            event.step_key,
            event.event_type,
            event.step_output_data.output_name if event.is_successful_output else "",
        ): event
        for event in logged
        if event is not None and event.step_key in steps
    }
    return [serialize_value(event) for event in events.values()]


class StepWatch:
    """Which of a run's steps have no worker any more; the workers are asked together, and not at each tick.

    They are asked by a thread: an answer takes longer than a tick, and a step that has ended would wait for it.
    """

    def __init__(self, app: Any, patience: float) -> None:
        self._held = HeldTasks(app)
        self._patience = patience
        self._asked = time.monotonic()
        self._asking: threading.Thread | None = None
        self._silent: dict[str, float] = {}
        self._tasks: set[str] = set()
        self._answers = True

    def begin(self, task: str) -> None:
        """Count from now on; not before a worker has begun it, since nobody has what waits in the queue."""
        self._tasks.add(task)

    def end(self, task: str) -> None:
        """Count no more."""
        self._tasks.discard(task)
        self._silent.pop(task, None)
        self._held.forget(task)

    def is_gone(self, task: str) -> bool:
        """Return whether no worker has had a task for longer than is waited for."""
        if self._asking is not None and not self._asking.is_alive():
            self._asking, self._asked = None, time.monotonic()
        if self._asking is None and time.monotonic() - self._asked > self._patience / 6:
            self._asking = start_thread(functools.partial(self._ask, frozenset(self._tasks)), "held-tasks")
        return self._silent.get(task, 0.0) > self._patience

    def _ask(self, tasks: frozenset[str]) -> None:
        self._silent = self._held.silent_seconds(tasks)

    def note_broker(self, error: Exception | None) -> None:
        """Say once that the broker is away, however many steps and ticks find it so."""
        if error is not None and self._answers:
            LOG.warning("the broker does not answer; what the workers have goes on meanwhile: %s", error)
        self._answers = error is None

    @property
    def away(self) -> tuple[type[Exception], ...]:
        """What is raised while the broker is away."""
        return self._held.away


class SentStep:
    """What dagster-celery's loop asks of a step that it has sent: the newest task's result.

    Args:
        name: the step.
        send: sends it, and returns the task's result.
        watch: which tasks have no worker any more.
        warn: reports to the run's events what became of a worker.
    """

    def __init__(self, name: str, send: Callable[[], Any], watch: StepWatch, warn: Callable[[str], None]) -> None:
        self._name = name
        self._send = send
        self._watch = watch
        self._warn = warn
        self._deaths = 0
        self._result = send()

    def ready(self) -> bool:
        """Return whether the step has ended; one whose worker is gone, or its process killed, is sent anew."""
        try:
            if self._result.ready():
                self._watch.end(self._result.id)
                if not self._was_killed or self._deaths >= _AGAIN:
                    return True
                self._deaths += 1
                self._anew(f"The process that had it was killed ({self._result.result}).")
            elif self._result.state == "STARTED":
                self._watch.begin(self._result.id)
                if self._watch.is_gone(self._result.id):
                    self._watch.end(self._result.id)
                    self._anew("No worker has it any more: its machine is gone or cut off.")
        except self._watch.away as error:
            self._watch.note_broker(error)
        else:
            self._watch.note_broker(None)
        return False

    @property
    def _was_killed(self) -> bool:
        return isinstance(self._result.result, WorkerLostError)

    def _anew(self, why: str) -> None:
        self._warn(f"{self._name} is sent to the workers anew. {why}")
        self._result = self._send()

    def get(self) -> list[str]:
        """Return the step's events; as Celery raises.

        Raises:
            BackupSystemError: its process was killed each time.
        """
        if self._was_killed:
            raise BackupSystemError(
                f"The process that had it was killed {self._deaths + 1} times ({self._result.result}).",
                where=self._name,
                remedy="Find out what ends processes on the workers: most often it is memory, which the kernel's log "
                "says. Then re-execute the run from failure.",
            )
        events: list[str] = self._result.get()
        return events

    def revoke(self) -> None:
        """Interrupt the step on its worker, as Ctrl-C would; it is not sent again."""
        self._deaths = _AGAIN
        self._result.revoke(terminate=True, signal="SIGINT")


class CeleryStepExecutor(CeleryExecutor):
    """Sends a run's steps to the site's workers.

    Args:
        silent_seconds: how long no worker may have a step that one has begun before it is sent anew.
    """

    def __init__(self, silent_seconds: float) -> None:
        super().__init__(retries=CeleryExecutor.for_cli().retries)
        self._patience = silent_seconds

    def app_args(self) -> dict[str, Any]:
        """Return the arguments of the site's application.

        Raises:
            SettingsError: no broker, or no place for results, is named.
        """
        found = app_arguments()
        if found["backend"] == "disabled://":
            raise SettingsError(
                "No place for the results of steps is named.",
                where=BACKEND_VARIABLE,
                remedy="Write its URL, as in redis://HOST:6379/1.",
            )
        return found

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Execute a run's steps on the workers."""
        if current_task:
            raise SettingsError(
                "Steps cannot be sent by a run that is a task itself: it would keep a worker from its steps.",
                where="BACKUP_PIPELINE_RUN_LAUNCHER",
                remedy="Spread runs or steps: leave this variable or BACKUP_PIPELINE_EXECUTOR unset.",
            )
        watches: list[StepWatch] = []

        def submit(app: Any, *details: Any) -> SentStep:
            if not watches:
                watches.append(StepWatch(app, self._patience))

            def send() -> Any:
                wait_for_broker(app)
                return _submit_task(app, *details)

            return SentStep(details[1].key, send, watches[0], details[0].log.warning)

        events: Iterator[dg.DagsterEvent] = core_celery_execution_loop(
            plan_context, execution_plan, step_execution_fn=submit
        )
        return events


@dg.executor(
    name="celery",
    config_schema={"silent_seconds": dg.Field(float, is_required=False, default_value=_SILENT_SECONDS)},
    requirements=dg.multiple_process_executor_requirements(),
)
def celery_steps(context: dg.InitExecutorContext) -> CeleryStepExecutor:
    """Steps on the workers of Celery that the environment names."""
    return CeleryStepExecutor(float(str(context.executor_config["silent_seconds"])))
