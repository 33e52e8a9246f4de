"""Sources of one set on Celery workers that share no disk: side by side, sealed once, whatever becomes of a worker."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import dagster as dg
import pytest

pytest.importorskip("dagster_celery", reason="pip install 'backup-pipeline[celery]'")

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline_tests.support.celery_fleet import STEPS, Fleet, Size, fleet
from backup_pipeline_tests.support.fleet_programs import wait_until

pytestmark = [pytest.mark.story, pytest.mark.takes(seconds=50, together="Celery, by source")]
SUCCESS = dg.DagsterRunStatus.SUCCESS
SIZE = Size(servers=3, databases=3, rows=2000, rate="30mbit")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet"), SIZE, STEPS) as made:
        for number in (1, 2, 3):
            made.start_worker(number)
        yield made


def name_of_first(site: Fleet) -> str:
    """Return the row of a database that no other has."""
    with connected(site.target(site.servers[0], "d1")) as connection:
        row = connection.execute("select name from public.items where id = 1").fetchone()
    assert row is not None
    return str(row[0])


def test_a_set_made_by_several_workers_is_proven_and_restored_by_another(site: Fleet) -> None:
    run = site.launch("all_backup")
    site.wait_for(run, SUCCESS, seconds=180)
    makers = {step: [each for each in site.workers if site.captures(each, step, run)] for step in site.starts(run)}
    assert all(len(machines) == 1 for machines in makers.values())
    assert len({machines[0].name for machines in makers.values()}) > 1
    assert len(site.copies()) == 1
    other = site.start_worker(4)
    proven = site.command(other, "drill", "all/latest")
    assert proven.code == 0, proven.text
    with connected(site.target(site.servers[0], "d1")) as connection:
        connection.execute(b"update public.items set name = 'lost' where id = 1")
    plan = json.loads(site.command(other, "restore", "all/latest", "s1_d1", "--json").out)
    confirmed = ("--apply", "--plan-id", plan["plan_id"], "--confirm", plan["confirm"])
    restored = site.command(other, "restore", "all/latest", "s1_d1", *confirmed, "--json")
    assert restored.code == 0, restored.text
    assert name_of_first(site) == site.marker(site.servers[0], "d1")


def test_a_set_is_made_whole_though_the_broker_is_away_for_a_while(site: Fleet) -> None:
    before, waits = len(site.copies()), "Failed operation _store_result. Retrying"
    with site.slow_links():
        run = site.launch("all_backup")
        wait_until(lambda: len(site.starts(run)) >= 2, "two captures", 90)
        site.broker.end()
        wait_until(lambda: any(waits in each.text() for each in site.workers), "a result that finds no broker", 180)
    site.start_broker()
    site.wait_for(run, SUCCESS, seconds=300)
    assert len(site.copies()) == before + 1
    assert len(set(site.starts(run))) == len(site.starts(run))


def test_a_set_is_made_whole_though_the_history_restarts(site: Fleet) -> None:
    before = len(site.copies())
    with site.slow_links():
        run = site.launch("all_backup")
        wait_until(lambda: len(site.starts(run)) >= 2, "two captures", 90)
        for _ in range(3):
            site.history.end(signal.SIGINT)
            site.start_postgres(site.history)
        site.wait_for(run, SUCCESS, seconds=300)
    assert len(site.copies()) == before + 1


def test_captures_of_a_backup_that_is_terminated_end_on_their_workers(site: Fleet) -> None:
    before = len(site.copies())
    with site.slow_links():
        run = site.launch("all_backup")
        wait_until(lambda: len(site.starts(run)) >= 2, "two captures", 90)
        assert site.workspace.instance.run_launcher.terminate(run)
        site.wait_for(run, dg.DagsterRunStatus.CANCELED)
    assert len(site.copies()) == before
    site.wait_for(site.launch("all_backup"), SUCCESS)


def test_sources_of_workers_that_are_killed_or_cut_off_are_captured_by_others(site: Fleet) -> None:
    before = len(site.copies())
    with site.slow_links():
        run = site.launch("all_backup")
        wait_until(lambda: len(site.starts(run)) >= 2, "two captures", 90)
        steps = site.starts(run)[:2]
        killed, cut = (next(each for each in site.workers if site.captures(each, step, run)) for step in steps)
        killed.end()
        cut.cut()
        wait_until(lambda: all(site.starts(run).count(step) > 1 for step in steps), "both captures elsewhere", 240)
    cut.join()
    site.wait_for(run, SUCCESS, seconds=480)
    assert len(site.copies()) == before + 1
    proven = site.command(cut, "drill", "all/latest")
    assert proven.code == 0, proven.text


def test_a_source_whose_process_is_killed_is_captured_again_in_the_same_run(site: Fleet) -> None:
    before = len(site.copies())
    with site.held(site.servers[0], "d1"):
        run = site.launch("all_backup")
        step = "all__s1_d1"
        wait_until(lambda: any(site.captures(each, step, run) for each in site.workers), "the capture", 90)
        machine = next(each for each in site.workers if site.captures(each, step, run))
        site.kill_task(machine)
        wait_until(lambda: site.starts(run).count(step) == 2, "the capture by another process", 90)
    site.wait_for(run, SUCCESS)
    said = site.messages(run)
    assert f"{step} is sent to the workers anew. The process that had it was killed" in said
    assert len(site.copies()) == before + 1
    proven = site.command(site.workers[0], "drill", "all/latest")
    assert proven.code == 0, proven.text
