"""Runs on Celery workers that share no disk: what is lost on the way is made again, and each set is sealed once."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import dagster as dg
import pytest

pytest.importorskip("dagster_celery", reason="pip install 'backup-pipeline[celery]'")

from backup_pipeline_tests.support.brokers import RABBITMQ, REDIS
from backup_pipeline_tests.support.celery_fleet import RUNS, Fleet, Size, fleet
from backup_pipeline_tests.support.fleet_programs import wait_until
from backup_pipeline_tests.support.machines import Machine

pytestmark = pytest.mark.story
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


SIZE = Size(servers=3, databases=3, rows=2000, rate="30mbit")
# Tests of one fleet are for one process.
BROKERS = [
    pytest.param(broker, id=broker.name, marks=pytest.mark.takes(seconds=30, together=f"Celery, {broker.name}"))
    for broker in (REDIS, RABBITMQ)
]
with_redis = pytest.mark.parametrize("site", BROKERS[:1], indirect=True)
with_each_broker = pytest.mark.parametrize("site", BROKERS, indirect=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet"), SIZE, RUNS, request.param) as made:
        for number in (1, 2, 3):
            made.start_worker(number)
        yield made


def launched(site: Fleet, plan: str, captures: int = 2) -> tuple[str, Machine]:
    """Start a backup; return it and its worker when it captures its nth source."""
    run_id = site.launch(f"{plan}_backup")
    wait_until(lambda: len(site.starts(run_id)) >= captures, "a capture", 90)
    machine = site.worker_of(run_id)
    assert machine is not None
    return run_id, machine


def require_proven(site: Fleet, plan: str, machine: Machine) -> None:
    """Prove a plan's newest set from a worker, and require that it holds what only these databases hold."""
    done = site.command(machine, "drill", f"offsite:{plan}/latest")
    assert done.code == 0, done.text


@with_each_broker
def test_runs_are_spread_over_workers_and_proven_from_another(site: Fleet) -> None:
    before = len(site.copies())
    runs = [site.launch(f"p{number}_backup") for number in (1, 2, 3)]
    for run in runs:
        site.wait_for(run, SUCCESS)
    machines = [site.worker_of(run) for run in runs]
    assert len({machine.name for machine in machines if machine}) > 1
    assert len(site.copies()) == before + 3
    for number, machine in enumerate(machines, 1):
        require_proven(site, f"p{number}", next(each for each in site.workers if each is not machine))


@with_each_broker
def test_a_backup_whose_worker_is_killed_is_made_by_another(site: Fleet) -> None:
    before = len(site.copies())
    with site.slow_links():
        run, machine = launched(site, "p1")
        machine.end()
    site.wait_for(run, FAILURE, SUCCESS)
    assert len(site.copies()) == before + 1
    site.start_worker(site.workers.index(machine) + 1)
    require_proven(site, "p1", machine)


@with_redis
def test_a_backup_whose_process_is_killed_is_made_again(site: Fleet) -> None:
    before = len(site.copies())
    with site.held(site.servers[0], "d1"):
        run = site.launch("p1_backup")
        wait_until(lambda: bool(site.starts(run)), "the capture", 90)
        machine = site.worker_of(run)
        assert machine is not None
        site.kill_task(machine)
    site.wait_for(run, FAILURE, SUCCESS)
    assert "no Celery worker has had its task" in site.messages(run)
    assert len(site.copies()) == before + 1
    require_proven(site, "p1", machine)


@with_redis
def test_a_worker_that_comes_back_after_its_backup_was_made_again_seals_nothing(site: Fleet) -> None:
    before = len(site.copies())
    with site.slow_links():
        run, machine = launched(site, "p2")
        machine.cut()
        site.wait_for(run, FAILURE, SUCCESS)
        machine.join()
        wait_until(lambda: site.prints(machine, run, "RUN_FAILURE"), "the end of the run that came back", 120)
    assert site.states(run) == [FAILURE, SUCCESS]
    assert len(site.copies()) == before + 1
    require_proven(site, "p2", machine)


@with_each_broker
def test_runs_go_on_while_the_broker_is_away_and_others_wait_for_it(site: Fleet) -> None:
    before = len(site.copies())
    with site.slow_links():
        running, _ = launched(site, "p1", 1)
        site.broker.end()
        waiting = site.launch("p2_backup")
        wait_until(lambda: len(site.starts(running)) > 2, "captures without a broker", 60)
    site.start_broker()
    site.wait_for(running, SUCCESS)
    site.wait_for(waiting, SUCCESS)
    assert len(site.copies()) == before + 2


@with_redis
def test_no_set_is_lost_or_doubled_when_the_history_restarts(site: Fleet) -> None:
    before = len(site.copies())
    with site.slow_links():
        run, machine = launched(site, "p3")
        for _ in range(3):
            site.history.end(signal.SIGINT)
            site.start_postgres(site.history)
        site.wait_for(run, SUCCESS)
    assert len(site.copies()) == before + 1
    require_proven(site, "p3", next(each for each in site.workers if each is not machine))


@with_redis
def test_a_backup_that_is_terminated_is_interrupted_on_its_worker(site: Fleet) -> None:
    before = len(site.copies())
    with site.slow_links():
        run, machine = launched(site, "p1", 1)
        ended = f"execute_job[{site.task_of(run)}] succeeded"
        assert site.workspace.instance.run_launcher.terminate(run)
        site.wait_for(run, dg.DagsterRunStatus.CANCELED)
        wait_until(lambda: ended in machine.text(), "the end of its task", 60, machine.text)
    assert len(site.copies()) == before
