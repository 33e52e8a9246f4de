"""The run launcher by Celery judges runs by what the workers of a real broker answer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

pytest.importorskip("dagster_celery", reason="pip install 'backup-pipeline[celery]'")

from celery.exceptions import WorkerLostError
from dagster._core.launcher import WorkerStatus
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from backup_pipeline.errors import BackupSystemError, SettingsError
from backup_pipeline.orchestration.celery_app import BACKEND_VARIABLE, BROKER_VARIABLE, app_arguments, celery_app
from backup_pipeline.orchestration.celery_runs import WatchedCeleryRunLauncher
from backup_pipeline.orchestration.celery_steps import CeleryStepExecutor, SentStep, StepWatch
from backup_pipeline.orchestration.launcher import WatchedExecutor, executor_from_environment
from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline_tests.support.fleet_programs import needed, redis_server, wait_until

RUN = dg.DagsterRun(job_name="nightly_backup", tags={DAGSTER_CELERY_TASK_ID_TAG: "1079e59c"})


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    needed("redis-server", "apt install redis-server")
    port = free_port()
    monkeypatch.setenv(BROKER_VARIABLE, f"redis://127.0.0.1:{port}/0")
    process = redis_server(tmp_path, "127.0.0.1", port)
    yield process
    process.kill()
    process.wait()


def test_a_run_that_no_worker_has_is_dead_after_a_while(broker: subprocess.Popen[bytes]) -> None:
    patient, impatient = WatchedCeleryRunLauncher(600), WatchedCeleryRunLauncher(0)
    assert patient.check_run_worker_health(RUN).status is WorkerStatus.RUNNING
    assert impatient.check_run_worker_health(RUN).status is WorkerStatus.RUNNING
    found = impatient.check_run_worker_health(RUN)
    assert found.status is WorkerStatus.FAILED
    assert found.msg is not None
    assert "no Celery worker has had its task" in found.msg
    elsewhere = dg.DagsterRun(job_name="nightly_backup")
    assert impatient.check_run_worker_health(elsewhere).status is WorkerStatus.RUNNING


def test_nothing_is_known_against_a_run_while_the_broker_is_away(broker: subprocess.Popen[bytes]) -> None:
    launcher = WatchedCeleryRunLauncher(0)
    broker.kill()
    broker.wait()
    assert launcher.check_run_worker_health(RUN).status is WorkerStatus.RUNNING


def test_a_site_without_a_broker_is_refused_by_the_name_of_the_variable() -> None:
    with pytest.raises(SettingsError, match=BROKER_VARIABLE):
        app_arguments({})


def test_steps_by_celery_are_named_by_the_environment_and_want_a_place_for_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(BROKER_VARIABLE, "redis://127.0.0.1:1/0")
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)
    assert executor_from_environment({"BACKUP_PIPELINE_EXECUTOR": "celery"}).name == "celery"
    with pytest.raises(SettingsError, match=BACKEND_VARIABLE):
        # As dagster-celery's loop asks the executor of the run.
        WatchedExecutor(CeleryStepExecutor(60), in_process=False).app_args()


@dataclass
class Answer:
    """What a place of results answers for a task."""

    id: str
    state: str
    result: object = None

    def ready(self) -> bool:
        return self.state == "FAILURE"


def test_a_step_that_waited_long_in_the_queue_is_not_lost_when_it_begins(broker: subprocess.Popen[bytes]) -> None:
    watch = StepWatch(celery_app(), 0.5)
    sent: dict[str, list[Answer]] = {"begun": [], "waits": []}

    def step(name: str, state: str) -> SentStep:
        def send() -> Answer:
            sent[name].append(Answer(f"{name} {len(sent[name])}", state))
            return sent[name][-1]

        return SentStep(name, send, watch, lambda _: None)

    def is_sent_again(name: str) -> bool:
        assert not any(each.ready() for each in (begun, waits))
        return len(sent[name]) > 1

    begun, waits = step("begun", "STARTED"), step("waits", "PENDING")
    wait_until(lambda: is_sent_again("begun"), "a step that no worker has to be sent again")
    sent["waits"][0].state = "STARTED"
    assert not is_sent_again("waits")
    wait_until(lambda: is_sent_again("waits"), "the other step, which no worker has either")


def test_a_step_whose_process_is_killed_each_time_fails_with_what_to_look_for(broker: subprocess.Popen[bytes]) -> None:
    warnings: list[str] = []
    killed = Answer("1", "FAILURE", WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL)"))
    step = SentStep("nightly__shop", lambda: killed, StepWatch(celery_app(), 60), warnings.append)
    assert [step.ready() for _ in range(3)] == [False, False, True]
    assert len(warnings) == 2
    with pytest.raises(BackupSystemError, match="killed 3 times") as raised:
        step.get()
    assert "memory" in raised.value.remedy
