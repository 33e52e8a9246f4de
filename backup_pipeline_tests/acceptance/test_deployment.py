"""A site set up as the README says, run by the very commands of docker/compose.yaml as separate processes.

One story: its schedule fires and the UI shows the run; its database is stopped, and people are told once, and once when
it is over; its database is dropped and brought back by the runbook. Processes, PostgreSQL and messages are real.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import requests
import yaml

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer, free_port, scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.stores.contract import LOCK_NAME
from backup_pipeline.system.locks import hold_lock
from backup_pipeline_tests.support.documents.blocks import ROOT
from backup_pipeline_tests.support.documents.runbook import follow
from backup_pipeline_tests.support.documents.shell import Shell
from backup_pipeline_tests.support.documents.walkthroughs import SUPABASE, Stage, a_checkout, fill_in, keep_only
from backup_pipeline_tests.support.receivers import Requests, http_server
from backup_pipeline_tests.support.sites import TestSite, dsn, write_storage

SERVICES = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text("utf-8"))["services"]
PATIENCE_SECONDS = 300


READ_ONLY = """
mount --make-rprivate /
for place in {writable}; do mount --bind "$place" "$place"; done
for place in {mounts}; do mount -o remount,bind,ro "$place"; done
exec "$@"
"""


def read_only_prefix(writable: list[Path]) -> list[str]:
    """Return what a command is put behind so that it can write nowhere else; [] where this machine forbids that."""
    mounts = {"/"}
    for place in (ROOT, writable[0]):
        while not place.is_mount():
            place = place.parent
        mounts.add(str(place))
    script = READ_ONLY.format(writable=shlex.join(map(str, writable)), mounts=shlex.join(sorted(mounts)))
    prefix = ["unshare", "--mount", "sh", "-ec", script, "sh"]
    try:
        # True where `/` can be written as before.
        allowed = subprocess.run([*prefix, "test", "!", "-w", "/"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return prefix if allowed else []


@dataclass
class Layout:
    """The containers' processes on this machine: what differs is ports, paths, and the host's name of each other.

    As in the containers, all but the volumes is read-only, where this machine allows that.
    """

    folder: Path
    environment: dict[str, str]
    confined: list[str]
    grpc: int = field(default_factory=free_port)
    ui: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def translate(self, words: list[str]) -> list[str]:
        """Return a command of compose.yaml with this machine's ports and paths."""
        known = {
            "0.0.0.0": "127.0.0.1",
            "4000": str(self.grpc),
            "3000": str(self.ui),
            "/opt/dagster/workspace.yaml": str(self.folder / "dagster" / "workspace.yaml"),
        }
        words = [known.get(word, word).replace(":3000/", f":{self.ui}/") for word in words]
        return [str(Path(sys.executable).with_name(words[0])), *words[1:]]

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*self.confined, *self.translate(SERVICES[name]["command"])],
                env=self.environment,
                cwd=self.folder / "site",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def healthy(self, name: str) -> bool:
        """Run the service's health check as it is written; not yet where its port is still closed."""
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        if port := {"code": self.grpc, "webserver": self.ui}.get(name):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return self.inside(*words).returncode == 0

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker compose exec` does."""
        return subprocess.run(
            [*self.confined, *self.translate(list(words))],
            env=self.environment,
            cwd=self.folder / "site",
            capture_output=True,
            text=True,
            check=False,
        )

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """Return the condition's first true value; fail with the processes' last words when there is none."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended: {self.log(name)}"
            with contextlib.suppress(requests.ConnectionError):
                if found := condition():
                    return found
            time.sleep(1)
        pytest.fail(f"not seen: {what}\n" + "\n".join(f"--- {name}\n{self.log(name)}" for name in self.processes))

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")[-3000:]

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask the UI's GraphQL."""
        answer = requests.post(
            f"http://127.0.0.1:{self.ui}/graphql", json={"query": query, "variables": variables}, timeout=60
        )
        document = answer.json()
        assert "errors" not in document, json.dumps(document["errors"])[:2000]
        return document["data"]

    def children(self) -> list[psutil.Process]:
        found = []
        for process in self.processes.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                ours = psutil.Process(process.pid)
                found += [ours, *ours.children(recursive=True)]
        return found

    def stop(self) -> None:
        everyone = self.children()
        for process in reversed(self.processes.values()):
            process.terminate()
        _, alive = psutil.wait_procs(everyone, timeout=20)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self.processes.values():
            process.wait(20)


@pytest.fixture
def web() -> Iterator[Requests]:
    with http_server() as running:
        yield running


@pytest.fixture
def history(database: Callable[..., PostgresTarget]) -> PostgresTarget:
    return database()


@pytest.fixture
def stage(
    tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str], server: EmbeddedServer
) -> Stage:
    return Stage(tmp_path, database, template, server)


@pytest.fixture
def shop() -> Iterator[EmbeddedServer]:
    """The site's own server, which is stopped and started."""
    with scratch_server(Path("/tmp")) as running:
        with connected(running.target()) as connection:
            connection.execute(b"create database shop")
        with connected(running.target("shop"), pinned=False) as connection:
            connection.execute(SUPABASE.encode())
        yield running


def set_up_as_the_readme_says(stage: Stage, shop: EmbeddedServer, web: Requests) -> None:
    """Do what stands under "On your own sources", with the sample's settings cut to what this site has."""
    shell = stage.shell()
    shell.cwd = a_checkout(stage)

    def edit() -> None:
        file = stage.site / "backup.yaml"
        keep_only(file, "nightly")
        settings = yaml.safe_load(file.read_text("utf-8"))
        del settings["sources"]["keycloak"]
        settings["plans"]["nightly"] |= {"sources": ["supabase", "storage"], "schedule": "* * * * *"}
        settings["sources"]["files"] = {"kind": "folder", "path": "supabase/storage"}
        settings["plans"]["slow"] = {"sources": ["files"], "wait_seconds": 600}
        file.write_text(yaml.safe_dump(settings), "utf-8")
        write_storage(stage.site / "supabase" / "storage")

    def fill() -> None:
        values = {
            "SESSION_DATABASE_URL": dsn(shop.target("shop")),
            "ALERT_URLS": web.url.replace("http", "json"),
            "UI_URL": "http://ui.internal:3000",
        }
        fill_in(stage.site / ".env", values)

    shell.before = {
        "backup-pipeline env setup --config /srv/backup/backup.yaml": edit,
        "backup-pipeline env check": fill,
    }
    shell.follow(ROOT / "README.md")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Not in memory as in other tests: what is read-only in the containers is so here, and /dev/shm never is."""
    with TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def layout(stage: Stage, shop: EmbeddedServer, web: Requests, history: PostgresTarget) -> Iterator[Layout]:
    set_up_as_the_readme_says(stage, shop, web)
    home = stage.root / "dagster"
    home.mkdir()
    (home / "storage").mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    scratch = stage.root / "tmp"
    scratch.mkdir()
    secret = stage.root / "dagster_postgres_url"
    secret.write_text(dsn(history))
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    made = Layout(
        stage.root,
        kept
        | SERVICES["code"]["environment"]
        | {
            "DAGSTER_HOME": str(home),
            "BACKUP_PIPELINE_CONFIG": str(stage.site / "backup.yaml"),
            "DAGSTER_POSTGRES_URL_FILE": str(secret),
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        read_only_prefix([scratch, home / "storage", stage.site / "backups"]),
    )
    workspace = yaml.safe_load((ROOT / "docker" / "workspace.yaml").read_text("utf-8"))
    workspace["load_from"][0]["grpc_server"] |= {"host": "127.0.0.1", "port": made.grpc}
    (home / "workspace.yaml").write_text(yaml.safe_dump(workspace))
    try:
        yield made
    finally:
        made.stop()


RUNS = """
query Runs { runsOrError(limit: 20) { ... on Runs { results {
  runId status jobName tags { key value } assetMaterializations { assetKey { path } } } } } }
"""
RELOAD = """
mutation Reload { reloadRepositoryLocation(repositoryLocationName: "backup-pipeline") {
  __typename ... on WorkspaceLocationEntry { loadStatus } ... on PythonError { message } } }
"""
SCHEDULE = """
query Schedule { scheduleOrError(scheduleSelector: {repositoryLocationName: "backup-pipeline",
  repositoryName: "__repository__", scheduleName: "nightly_backup_schedule"}) {
  ... on Schedule { scheduleState { id } } } }
"""
STOP_SCHEDULE = """
mutation Stop($id: String!) { stopRunningSchedule(id: $id) {
  __typename ... on ScheduleStateResult { scheduleState { status } } ... on PythonError { message } } }
"""
LAUNCH = """
mutation Launch($job: String!) { launchRun(executionParams: {
  selector: {repositoryLocationName: "backup-pipeline", repositoryName: "__repository__", jobName: $job}
  runConfigData: {}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""


def runs(layout: Layout, job: str, status: str) -> list[dict[str, Any]]:
    found = layout.ask(RUNS)["runsOrError"]["results"]
    return [run for run in found if run["jobName"] == job and run["status"] == status]


def launch(layout: Layout, job: str) -> str:
    launched = layout.ask(LAUNCH, job=job)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def ended(layout: Layout, run_id: str) -> str:
    """Wait for a run's end; return its status."""
    question = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

    def status() -> str:
        found = str(layout.ask(question, id=run_id)["runOrError"]["status"])
        return found if found in ("SUCCESS", "FAILURE", "CANCELED") else ""

    return str(layout.wait(f"the end of run {run_id}", status))


def scheduled(run: dict[str, Any]) -> bool:
    return {"key": "dagster/schedule_name", "value": "nightly_backup_schedule"} in run["tags"]


def kept_port(port: int) -> socket.socket:
    """Keep a stopped server's port: where the system gave it to another, the server would come back on a new one."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", port))
    return kept


def content(shop: EmbeddedServer) -> list[tuple[Any, ...]]:
    """Every row of the site's tables, as one hash per table."""
    tables = ("public.customers", "public.orders", "public.audit_log", "auth.users")
    with connected(shop.target("shop")) as connection:
        question = "select count(*), md5(coalesce(string_agg(t::text, '/' order by t::text), '')) from {} t"
        return [connection.execute(question.format(table).encode()).fetchone() or () for table in tables]


@pytest.mark.story
@pytest.mark.takes(seconds=200)
def test_a_site_runs_on_its_schedule_alerts_once_and_comes_back_by_the_runbook(
    layout: Layout, shop: EmbeddedServer, web: Requests, history: PostgresTarget
) -> None:
    site = TestSite(layout.folder / "site")
    for name in ("code", "webserver", "daemon"):
        layout.start(name)
        if name == "code":
            layout.wait("a healthy code location", lambda: layout.healthy("code"))
    layout.wait("a healthy UI", lambda: layout.healthy("webserver"))

    # The schedule fires, its run succeeds, the UI shows it with what it made, and the set is sealed.
    done = layout.wait(
        "a scheduled run that succeeded",
        lambda: [run for run in runs(layout, "nightly_backup", "SUCCESS") if scheduled(run)],
    )[0]
    made = {tuple(item["assetKey"]["path"]) for item in done["assetMaterializations"]}
    assert {("nightly", "supabase", "dump"), ("nightly", "storage", "tarball"), ("nightly", "manifest")} <= made
    assert len(site.store("nightly").sealed_ids()) == 2  # the README's own, and this one
    assert web.seen == []

    # The site's database is stopped: the next scheduled run fails, and people are told once, with a link to the run.
    shop.stop()
    kept = kept_port(shop.port)
    failed = layout.wait(
        "a scheduled run that failed",
        lambda: [run for run in runs(layout, "nightly_backup", "FAILURE") if scheduled(run)],
    )[-1]
    # Turned off in the UI, the schedule starts no more.
    schedule = layout.ask(SCHEDULE)["scheduleOrError"]["scheduleState"]["id"]
    stopped = layout.ask(STOP_SCHEDULE, id=schedule)["stopRunningSchedule"]
    assert stopped.get("scheduleState") == {"status": "STOPPED"}, stopped
    layout.wait("an alert", lambda: web.seen)
    assert ended(layout, launch(layout, "nightly_backup")) == "FAILURE"
    # The sensor sees both runs too, after whoever was quicker; it must not tell them again.
    ticks = (
        'query Ticks { sensorOrError(sensorSelector: {repositoryLocationName: "backup-pipeline", repositoryName: '
        '"__repository__", sensorName: "alert_on_failed_runs"}) '
        "{ ... on Sensor { sensorState { ticks(limit: 5) { status skipReason } } } } }"
    )
    layout.wait("the sensor's tick", lambda: "backup of nightly failed" in json.dumps(layout.ask(ticks)))
    alert = json.loads(web.seen[0][1])
    assert [json.loads(body)["title"] for _, body in web.seen] == ["[site] nightly: The backup failed."]
    assert f"http://ui.internal:3000/runs/{failed['runId']}" in alert["message"]
    assert f"127.0.0.1:{shop.port}" in alert["message"]
    assert shop.target().password not in str(web.seen)

    # It is started again: one message that it is over.
    kept.close()
    shop.start()
    assert ended(layout, launch(layout, "nightly_backup")) == "SUCCESS"
    layout.wait("the end of the incident", lambda: len(web.seen) > 1)
    assert [json.loads(body)["title"] for _, body in web.seen[1:]] == ["[site] over: nightly: The backup failed."]

    # The database is lost; the runbook's commands, run inside the code location's environment, bring it back.
    before = content(shop)
    with connected(shop.target()) as connection:
        connection.execute(b"drop database shop with (force)")
    inside = Shell(site.folder)
    inside.environment |= layout.environment
    runner = SimpleNamespace(run=lambda *words: inside.call(list(words)))
    for title, until in (("0. First", ""), ("2. A database is damaged", "undo")):
        follow(runner, title, until=until)
    assert content(shop) == before
    assert ended(layout, launch(layout, "nightly_backup")) == "SUCCESS"
    layout.wait("the end of every incident", lambda: json.loads(web.seen[-1][1])["title"].startswith("[site] over"))

    layout.wait("a healthy daemon", lambda: layout.healthy("daemon"))

    # What the definitions do not know yet becomes known with a reload, without a restart.
    reloaded = layout.ask(RELOAD)["reloadRepositoryLocation"]
    assert reloaded.get("loadStatus") == "LOADED", reloaded

    # What the documents do with `docker compose exec`.
    for command in (("env", "check", "--production"), ("backup", "slow")):
        reported = layout.inside("backup-pipeline", *command)
        assert reported.returncode == 0, reported.stdout + reported.stderr
    no_password_is_told(layout, history)

    # The code location is stopped while a run is in progress: the run is given time to end.
    slow = site.store("slow")
    slow.prepare()
    with hold_lock(slow.folder / LOCK_NAME, purpose="test"):
        launch(layout, "slow_backup")
        layout.wait("a run in progress", lambda: runs(layout, "slow_backup", "STARTED"))
        code = layout.processes.pop("code")
        code.terminate()
        time.sleep(3)
    assert code.wait(PATIENCE_SECONDS) is not None
    layout.wait("the run's success", lambda: runs(layout, "slow_backup", "SUCCESS"))


def no_password_is_told(layout: Layout, history: PostgresTarget) -> None:
    """The storage's password is in no argument list, on no page of the UI, in no log; the home is only read."""
    password = history.password
    for process in layout.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            assert password not in " ".join(process.cmdline())
    info = json.dumps(layout.ask("query Info { instance { info } }"))
    assert "EnvironmentStorage" in info or "Postgres" in info
    assert password not in info
    for path in layout.folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.name != "dagster_postgres_url":
                assert password.encode() not in path.read_bytes(), path
    made = {path.name for path in (layout.folder / "dagster").iterdir()}
    assert made == {"dagster.yaml", "workspace.yaml", "storage"}
