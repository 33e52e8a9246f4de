"""The very commands of docker/compose.yaml, as separate processes against a PostgreSQL: a schedule fires, a run
succeeds, the UI shows it, a stopped source alerts, and the storage's password is in no argument list."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from backup_pipeline.model.backup_set import SetState
from backup_pipeline.operations.stores import LOCK_NAME
from backup_pipeline.tools.locks import hold_lock
from backup_pipeline.tools.postgres.embedded import free_port
from backup_pipeline.tools.postgres.target import PostgresTarget
from backup_pipeline_tests.receivers import Requests, http_server
from backup_pipeline_tests.sites import TestSite, dsn

ROOT = Path(__file__).resolve().parents[2]
SERVICES = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text("utf-8"))["services"]
SETTINGS = """
store: backups
sources:
  files: {kind: folder, path: files}
  gone: {kind: folder, path: gone}
plans:
  often: {sources: [files], schedule: "* * * * *", wait_seconds: 0.5}
  broken: {sources: [gone]}
  slow: {sources: [files], wait_seconds: 600}
alerts: {urls_env: ALERT_URLS, ui_url_env: UI_URL}
"""
PATIENCE_SECONDS = 300


@dataclass
class Layout:
    """The containers' processes on this machine: what differs is ports, paths, and the host's name of each other."""

    folder: Path
    environment: dict[str, str]
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
                self.translate(SERVICES[name]["command"]), env=self.environment, cwd=self.folder / "site",
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def healthy(self, name: str) -> bool:
        """Run the service's health check as it is written."""
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        done = subprocess.run(
            self.translate(words), env=self.environment, cwd=self.folder, capture_output=True, check=False
        )
        return done.returncode == 0

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
def layout(tmp_path: Path, web: Requests, history: PostgresTarget) -> Iterator[Layout]:
    site = TestSite(tmp_path / "site")
    (site.folder / "files").mkdir(parents=True)
    (site.folder / "files" / "a.txt").write_text("content\n" * 100)
    site.variables = {"ALERT_URLS": web.url.replace("http", "json"), "UI_URL": "http://ui.example.org"}
    site.write(SETTINGS)
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "storage").mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    secret = tmp_path / "dagster_postgres_url"
    secret.write_text(dsn(history))
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    made = Layout(
        tmp_path,
        kept
        | SERVICES["code"]["environment"]
        | {
            "DAGSTER_HOME": str(home),
            "BACKUP_PIPELINE_CONFIG": str(site.folder / "backup.yaml"),
            "DAGSTER_POSTGRES_URL_FILE": str(secret),
            "HOME": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
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
LAUNCH = """
mutation Launch($job: String!) { launchRun(executionParams: {
  selector: {repositoryLocationName: "backup-pipeline", repositoryName: "__repository__", jobName: $job}
  runConfigData: {}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""


def runs(layout: Layout, job: str, status: str) -> list[dict[str, Any]]:
    found = layout.ask(RUNS)["runsOrError"]["results"]
    return [run for run in found if run["jobName"] == job and run["status"] == status]


def test_the_containers_commands_run_schedules_show_them_and_alert(
    layout: Layout, web: Requests, history: PostgresTarget
) -> None:
    for name in ("code", "webserver", "daemon"):
        layout.start(name)
        if name == "code":
            layout.wait("a healthy code location", lambda: layout.healthy("code"))
    layout.wait("a healthy UI", lambda: layout.healthy("webserver"))

    # A schedule fires, its run succeeds, the UI shows it with what it made, and the set is sealed.
    done = layout.wait("a scheduled run that succeeded", lambda: runs(layout, "often_backup", "SUCCESS"))[0]
    assert {"key": "dagster/schedule_name", "value": "often_backup_schedule"} in done["tags"]
    made = {tuple(item["assetKey"]["path"]) for item in done["assetMaterializations"]}
    assert {("often", "files", "tarball"), ("often", "manifest")} <= made
    sets = list(TestSite(layout.folder / "site").store("often").sets())
    assert any(known.state is SetState.COMPLETE for known in sets)

    # A source that has stopped: the run fails, and people are told once, with a link to the run.
    launched = layout.ask(LAUNCH, job="broken_backup")["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    layout.wait("a failed run", lambda: runs(layout, "broken_backup", "FAILURE"))
    layout.wait("an alert", lambda: any("broken: The backup failed." in body for _, body in web.seen))
    # The sensor sees the run too, after whoever was quicker; it must not tell it again.
    ticks = (
        'query Ticks { sensorOrError(sensorSelector: {repositoryLocationName: "backup-pipeline", repositoryName: '
        '"__repository__", sensorName: "alert_on_failed_runs"}) '
        "{ ... on Sensor { sensorState { ticks(limit: 5) { status skipReason } } } } }"
    )
    layout.wait("the sensor's tick", lambda: "backup of broken failed" in json.dumps(layout.ask(ticks)))
    alerts = [json.loads(body)["message"] for _, body in web.seen if "broken" in body]
    assert len(alerts) == 1
    assert str(layout.folder / "site" / "gone") in alerts[0]
    assert f"http://ui.example.org/runs/{run_id}" in alerts[0]

    layout.wait("a healthy daemon", lambda: layout.healthy("daemon"))

    # What the definitions do not know yet becomes known with a reload, without a restart.
    reloaded = layout.ask(RELOAD)["reloadRepositoryLocation"]
    assert reloaded.get("loadStatus") == "LOADED", reloaded

    # The storage's password is in no argument list, on no page of the UI, in no log; the home is only read.
    password = history.password
    for process in layout.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            assert password not in " ".join(process.cmdline())
    info = json.dumps(layout.ask("query Info { instance { info } }"))
    assert "EnvironmentStorage" in info or "Postgres" in info
    assert password not in info
    for path in layout.folder.rglob("*"):
        if path.is_file() and path.name != "dagster_postgres_url":
            assert password.encode() not in path.read_bytes(), path
    assert {path.name for path in (layout.folder / "dagster").iterdir()} == {
        "dagster.yaml",
        "workspace.yaml",
        "storage",
    }

    # The code location is stopped while a run is in progress: the run is given time to end.
    slow = TestSite(layout.folder / "site").store("slow")
    slow.prepare()
    with hold_lock(slow.folder / LOCK_NAME, purpose="test"):
        assert layout.ask(LAUNCH, job="slow_backup")["launchRun"]["__typename"] == "LaunchRunSuccess"
        layout.wait("a run in progress", lambda: runs(layout, "slow_backup", "STARTED"))
        code = layout.processes.pop("code")
        code.terminate()
        time.sleep(3)
    assert code.wait(PATIENCE_SECONDS) is not None
    layout.wait("the run's success", lambda: runs(layout, "slow_backup", "SUCCESS"))
