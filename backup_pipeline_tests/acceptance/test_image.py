"""The container image: it builds without an engine, and the services of docker/compose.yaml run inside it.

Each service's command and health check are taken from the compose file and run in the image's own file system, as its
user, where the services find each other by the names that compose gives them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.documents.blocks import ROOT
from backup_pipeline_tests.support.image import BUILD
from backup_pipeline_tests.support.sites import dsn

COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text("utf-8"))
SERVICES = [name for name, service in COMPOSE["services"].items() if "build" in service]
IMAGE_USER = 10001
PATIENCE_SECONDS = 300
SETTINGS = """
sources: {files: {kind: folder, path: /site/files}}
plans: {nightly: {sources: [files], store: /site/sets}}
"""

pytestmark = [pytest.mark.story, pytest.mark.takes(seconds=300, together="image")]


@dataclass
class Containers:
    """Commands run in the image, all on this machine's loopback network."""

    site: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def command(self, service: str, words: list[str]) -> list[str]:
        """Return a command with its service's environment, defaults filled in; secrets lie in the site's folder."""
        settings = []
        for name, value in COMPOSE["services"][service]["environment"].items():
            filled = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
            settings.append(f"{name}={filled.replace('/run/secrets/', '/site/')}")
        return [str(BUILD), "run", "env", *settings, *words]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "IMAGE_SITE": str(self.site), "IMAGE_HOSTS": " ".join(COMPOSE["services"])}

    def run(self, *words: str, service: str = "code") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(service, list(words)),
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def start(self, name: str) -> None:
        with (self.site.parent / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name, COMPOSE["services"][name]["command"]),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self.site.parent / f"{name}.log").read_text("utf-8", "replace")[-3000:]

    def wait_until_healthy(self, name: str) -> None:
        kind, *words = COMPOSE["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assert self.processes[name].poll() is None, f"{name} ended: {self.log(name)}"
            last = self.run(*words, service=name)
            if last.returncode == 0:
                return
            time.sleep(2)
        pytest.fail(f"{name} did not become healthy: {last.stdout}{last.stderr}\n{self.log(name)}")

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes.values():
                if process.poll() is None:
                    os.killpg(process.pid, number)
            for process in self.processes.values():
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    continue


@pytest.fixture
def containers(image: None, tmp_path: Path, database: Callable[..., PostgresTarget]) -> Iterator[Containers]:
    for port in (3000, 4000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port}, which the image's services use, is taken on this machine")
    site = tmp_path / "site"
    (site / "files").mkdir(parents=True)
    (site / "files" / "letter.txt").write_text("kept\n", "utf-8")
    (site / "backup.yaml").write_text(SETTINGS, "utf-8")
    (site / "dagster_postgres_url").write_text(dsn(database()), "utf-8")
    (site / "ui_password").write_text("a password of the test\n", "utf-8")
    for place in (site, site / "files"):
        place.chmod(0o755)
    shutil.chown(site, IMAGE_USER, IMAGE_USER)
    made = Containers(site)
    try:
        yield made
    finally:
        made.stop()


def test_the_image_backs_up_verifies_and_lists(containers: Containers) -> None:
    assert containers.run("id", "-u").stdout.strip() == str(IMAGE_USER)
    for words in (["backup", "nightly"], ["verify", "nightly/latest"], ["list"]):
        done = containers.run("backup-pipeline", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert list((containers.site / "sets").glob("*Z/files*.tar.gz"))
    assert containers.run("pg_dump", "--version").returncode == 0


def test_each_service_of_compose_runs_in_the_image_and_is_healthy(containers: Containers) -> None:
    for name in SERVICES:
        containers.start(name)
        containers.wait_until_healthy(name)
    assert set(containers.processes) == {"code", "webserver", "daemon"}
