"""What a person who knows Dagster does in a plain clone: `dg dev`, `dagster dev`, bare `dagster job execute`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.operations.demo.files import write_workshop
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline_tests.support.sites import TestSite

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
QUERY = "{repositoriesOrError{... on RepositoryConnection{nodes{location{name} jobs{name}}}}}"
# A cold start of Dagster's three processes on a busy machine.
PATIENCE = 240
ORDERS = """
sources: {werkstatt: {kind: orders, database: werkstatt.db, archive: Archiv, first_year: 2024}}
plans: {workshop: {sources: [werkstatt]}}
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip("the tests do not run in a git work tree")
    place = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(place)], check=True)
    return place


def environment() -> dict[str, str]:
    """A person's shell: nothing of a site is set. The package that is found is the one under test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "BACKUP_PIPELINE"))}
    return kept | {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def untracked(folder: Path) -> str:
    done = subprocess.run(["git", "status", "--short"], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def served_jobs(port: int, process: subprocess.Popen[bytes], log: Path) -> set[str]:
    """Ask the UI's own GraphQL until it knows the code location, and return the jobs that it serves."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": QUERY}).encode(),
        headers={"content-type": "application/json"},
    )
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            with urllib.request.urlopen(request, timeout=30) as answer:
                nodes = json.load(answer)["data"]["repositoriesOrError"]["nodes"]
            if nodes:
                assert [node["location"]["name"] for node in nodes] == ["backup-pipeline"]
                return {job["name"] for job in nodes[0]["jobs"]}
        time.sleep(1)
    raise AssertionError(log.read_text("utf-8", "replace")[-3000:])


@pytest.mark.story
@pytest.mark.parametrize("program", [["dg", "dev"], ["dagster", "dev"]], ids=" ".join)
def test_the_ui_is_served_from_a_plain_clone_and_nothing_is_left_there(program: list[str], clone: Path) -> None:
    port = free_port()
    command = [str(PROGRAMS / program[0]), *program[1:], "--port", str(port)]
    with started(command, clone) as process:
        jobs = served_jobs(port, process, clone.parent / "log")
        assert {"nightly_backup", "nightly_restore", "workshop_backup"} <= jobs
        assert untracked(clone) == ""
    assert untracked(clone) == ""


@pytest.mark.takes(seconds=15)
@pytest.mark.parametrize(
    ("words", "named"),
    [
        pytest.param(["dg", "launch", "--job"], {}, marks=pytest.mark.story),
        # Superseded by the former, and it reads no file that could name the module: -m or this variable is needed.
        (["dagster", "job", "execute", "-j"], {"DAGSTER_MODULE_NAME": "backup_pipeline.definitions"}),
    ],
    ids=["dg launch", "dagster job execute"],
)
def test_a_bare_job_execute_finds_the_job_and_says_what_is_missing(
    clone: Path, words: list[str], named: dict[str, str]
) -> None:
    command = [str(PROGRAMS / words[0]), *words[1:], "session_backup"]
    done = subprocess.run(command, cwd=clone, env=environment() | named, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    reported = done.stderr + done.stdout
    assert "TRADING_DATABASE_URL: not set" in reported
    assert "fault of the program" not in reported
    assert untracked(clone) == ""


def _failure(job: dg.JobDefinition) -> str:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(instance=instance, raise_on_error=False, run_config=quiet)
    (failed,) = [event for event in done.all_events if event.is_step_failure]
    data = failed.step_failure_data
    assert data.user_failure_data is not None, data.error
    return str(data.user_failure_data.description)


def test_a_run_for_each_year_of_a_backfill_reads_the_table_once(gustav: TestSite, tmp_path: Path) -> None:
    (tmp_path / "Archiv").mkdir()
    write_workshop(tmp_path / "werkstatt.db", tmp_path / "Archiv", 30)
    gustav.write(ORDERS.replace("2024", "2019"))
    job = build_definitions(gustav.site).resolve_job_def("workshop_werkstatt_orders_export")
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    years, backfill = ("2020", "2021", "2022"), {"dagster/backfill": "b"}
    with dg.DagsterInstance.ephemeral() as instance:
        # As `dagster job backfill` leaves them for the daemon's queue.
        waiting = [
            instance.create_run_for_job(
                job, tags={"dagster/backfill": "b", "dagster/partition": year}, run_config=quiet
            )
            for year in years
        ]

        def execute(year: str) -> dict[str, object]:
            instance.delete_run(waiting[years.index(year)].run_id)
            done = job.execute_in_process(instance=instance, partition_key=year, tags=backfill, run_config=quiet)
            (event,) = [one.materialization for one in done.get_asset_materialization_events()]
            return {name: value.value for name, value in event.metadata.items()}

        assert "exported" in execute("2020")
        folders = {path.parent.name for path in (tmp_path / "Archiv").rglob("meta.json")}
        assert {path.name for path in (tmp_path / "Archiv").glob("202[0-2]/*")} <= folders
        assert "exported in run" in execute("2021")
        assert "exported in run" in execute("2022")


def test_a_partitioned_job_without_its_partition_says_how_to_name_one(gustav: TestSite, tmp_path: Path) -> None:
    definitions = build_definitions(gustav.site)
    for job in ("nightly_verification", "nightly_drill"):
        reported = _failure(definitions.resolve_job_def(job))
        assert "one backup set of plan nightly" in reported
        assert "--partition SET" in reported
    (tmp_path / "Archiv").mkdir()
    gustav.write(ORDERS)
    reported = _failure(build_definitions(gustav.site).resolve_job_def("workshop_werkstatt_orders_export"))
    assert "--partition-range 2024..." in reported
