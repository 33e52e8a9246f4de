"""Runs on Celery workers that share no disk: what is lost on the way is made again, and each set is sealed once."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

pytest.importorskip("dagster_celery", reason="pip install 'backup-pipeline[celery]'")

from backup_pipeline_tests.support.celery_fleet import Fleet, Size, fleet, wait_until

pytestmark = pytest.mark.story
SLOW, FAST = "300kbit", "20mbit"
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet"), Size(servers=3, databases=3, rows=2000, rate=FAST)) as made:
        for number in (1, 2, 3):
            made.start_worker(number)
        yield made


def begun(site: Fleet, run_id: str) -> None:
    """Wait until a run captures its first source."""
    started = dg.DagsterEventType.STEP_START
    wait_until(lambda: bool(site.workspace.instance.all_logs(run_id, of_type=started)), "the first capture")


def test_runs_are_spread_over_workers_and_proven_from_another(site: Fleet) -> None:
    before = len(site.copies())
    runs = [site.launch(f"p{number}_backup") for number in (1, 2, 3)]
    site.wait_for_runs()
    made = [site.workspace.instance.get_run_by_id(run) for run in runs]
    assert [run and run.status for run in made] == [SUCCESS] * 3
    machines = [site.worker_of(run) for run in runs]
    assert len({machine.name for machine in machines if machine}) > 1
    assert len(site.copies()) == before + 3
    for number, machine in enumerate(machines, 1):
        other = next(each for each in site.workers if each is not machine)
        done = site.command(other, "drill", f"offsite:p{number}/latest")
        assert done.code == 0, done.text
