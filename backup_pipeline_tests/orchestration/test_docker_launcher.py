"""Runs as containers of Docker: what becomes of a run, its set and its alert when its container does not start or dies.

The launcher's configuration is that of docker/compose.runs.yaml; the engine is the tests' own.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from backup_pipeline.errors import SettingsError
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.orchestration.docker_launcher import WatchedDockerRunLauncher
from backup_pipeline.orchestration.names import OPERATION_TAG
from backup_pipeline.orchestration.run_subject import BACKUP
from backup_pipeline_tests.support.dagster_runs import loaded
from backup_pipeline_tests.support.docker_engine import DockerEngine, engine_in
from backup_pipeline_tests.support.documents.blocks import ROOT
from backup_pipeline_tests.support.launched_runs import LaunchedRuns

SETTINGS = """
sources: {{shop: {{kind: folder, path: {folder}/files}}}}
plans: {{nightly: {{sources: [shop], store: {folder}/sets}}}}
"""
IMAGE = "backup-pipeline:1.0.0"


def services(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker" / name).read_text("utf-8"))["services"]
    return found


def configuration(folder: Path) -> dict[str, Any]:
    """The configuration of docker/compose.runs.yaml as Compose hands it on."""
    text = services("compose.runs.yaml")["daemon"]["environment"]["BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG"]
    known = {"SITE": str(folder), "SECRETS": str(folder / "secrets")}
    found: dict[str, Any] = json.loads(re.sub(r"\$\{(\w+)(:\?[^}]*)?\}", lambda match: known[match[1]], text))
    return found


def asleep(_: list[str], environment: dict[str, str], mounts: dict[str, Path], log: Path) -> subprocess.Popen[bytes]:
    """A container that does nothing until it is ended; what its log says is what a run's would."""
    log.write_text("the run's own output\n", "utf-8")
    for variable in ("DAGSTER_POSTGRES_URL_FILE", "SESSION_DATABASE_URL_FILE", "BACKUP_PIPELINE_CONFIG"):
        assert mounts[environment[variable]].is_file(), variable
    return subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, start_new_session=True)


@dataclass
class DockerRuns(LaunchedRuns):
    """Runs as containers of an engine."""

    engine: DockerEngine


@contextmanager
def docker_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], **more: Any
) -> Iterator[DockerRuns]:
    (folder / "files").mkdir()
    (folder / "files" / "letter.txt").write_text("kept")
    (folder / "secrets").mkdir()
    for name in ("dagster_postgres_url", "session_database_url", "drill_database_url"):
        (folder / "secrets" / name).write_text("postgresql://somebody:q8ZrT2vLk0Xb@db/shop")
    home = folder / "home"
    with (
        loaded(folder, SETTINGS.format(folder=folder), monkeypatch) as (instance, workspace),
        engine_in(
            folder / "engine",
            images={IMAGE},
            networks={"backup-pipeline_inner", "backup-pipeline_outer"},
            image_variables={"BACKUP_PIPELINE_CONFIG": "/site/backup.yaml", "DAGSTER_HOME": "/opt/dagster"},
            image_files={"/opt/dagster": home},
            **more,
        ) as engine,
    ):
        engine.volumes.mkdir(parents=True)
        (engine.volumes / "backup-pipeline_step_output").symlink_to(home / "storage")
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        monkeypatch.setenv("BACKUP_PIPELINE_RUN_LAUNCHER", "docker")
        monkeypatch.setenv("BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG", json.dumps(config))
        yield DockerRuns(folder, instance, workspace, engine)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerRuns]:
    with docker_in(tmp_path, monkeypatch, configuration(tmp_path), start=asleep) as found:
        yield found


def is_told_once(docker: DockerRuns, run_id: str, sentence: str) -> None:
    """Assert that a failed run is one incident, with this sentence as its reason, and left no set."""
    assert docker.status(run_id) is dg.DagsterRunStatus.FAILURE
    docker.alert(run_id)
    (incident,) = read_state(docker.site).open
    assert sentence in incident.reason
    assert incident.remedy
    assert sentence in docker.events(run_id)
    assert not list(docker.folder.glob("sets/*/manifest.json"))


@pytest.mark.takes(seconds=30)
def test_a_run_in_a_container_seals_its_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(tmp_path)
    # The history of this test is in SQLite.
    config["env_vars"] = [entry for entry in config["env_vars"] if "/run/secrets" not in entry]
    config["env_vars"].remove("HOME=/tmp")
    with docker_in(tmp_path, monkeypatch, config) as docker:
        run_id = docker.begin()
        container = docker.engine.of(run_id)
        container.wait()
        assert docker.status(run_id) is dg.DagsterRunStatus.SUCCESS, container.log.read_text()
        assert container.state["ExitCode"] == 0
        docker.monitor()
        assert docker.status(run_id) is dg.DagsterRunStatus.SUCCESS
    assert len(list(tmp_path.glob("sets/*/manifest.json"))) == 1


def test_runs_have_what_the_code_location_has_and_only_the_daemon_the_socket() -> None:
    config = configuration(Path("/srv/backup"))
    code = {**services("compose.yaml")["code"]["environment"], **services("compose.site.yaml")["code"]["environment"]}
    variables = dict(entry.split("=", 1) for entry in config["env_vars"])
    assert {name: str(value) for name, value in code.items() if name != "<<"} == variables
    volumes = services("compose.yaml")["code"]["volumes"] + services("compose.site.yaml")["code"]["volumes"]
    inside = {volume.rpartition("}")[2].removesuffix(":ro").split(":")[-1] for volume in volumes}
    secrets = {value for name, value in variables.items() if name.endswith("_FILE")}
    mounted = {volume.removesuffix(":ro").rpartition(":")[2] for volume in config["container_kwargs"]["volumes"]}
    assert mounted == inside | secrets
    assert config["image"] == services("compose.yaml")["code"]["image"] == IMAGE
    with_socket = {name for name, service in services("compose.runs.yaml").items() if "docker.sock" in str(service)}
    assert with_socket == {"daemon"}


def test_a_container_of_a_run_has_limits_and_no_secret_in_its_description(docker: DockerRuns) -> None:
    run_id = docker.started()
    config = docker.engine.of(run_id).config
    assert config["Cmd"][:3] == ["dagster", "api", "execute_run"]
    host = config["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["ReadonlyRootfs"]) == (1536 << 20, 1536 << 20, True)
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
    assert host["NetworkMode"] == "backup-pipeline_inner"
    assert "q8ZrT2vLk0Xb" not in json.dumps(config)
    assert "BACKUP_PIPELINE_RUN_LAUNCHER" not in json.dumps(config)
    assert "docker.sock" not in json.dumps(config)
    docker.monitor()
    assert docker.status(run_id) is dg.DagsterRunStatus.STARTED


def test_a_killed_container_fails_its_run_in_one_sentence(docker: DockerRuns) -> None:
    # As the queue tags it.
    run_id = docker.started({OPERATION_TAG: BACKUP})
    docker.engine.of(run_id).signal(9)
    docker.engine.of(run_id).wait()
    docker.monitor()
    is_told_once(docker, run_id, "The run's container was killed (SIGKILL) before the run was over.")
    # Another run makes the backup again.
    assert docker.run(run_id).tags["dagster/max_retries"] == "2"


def test_a_container_without_memory_fails_its_run_and_names_the_limit(docker: DockerRuns) -> None:
    run_id = docker.started()
    container = docker.engine.of(run_id)
    container.starved = True
    container.signal(9)
    container.wait()
    docker.monitor()
    is_told_once(docker, run_id, "The run's container was killed for want of memory (limit 1536 MiB).")


def test_a_removed_container_fails_its_run(docker: DockerRuns) -> None:
    run_id = docker.started()
    container = docker.engine.of(run_id)
    container.signal(9)
    container.wait()
    docker.engine.containers.clear()
    docker.monitor()
    is_told_once(docker, run_id, "The run's container is gone: somebody removed it.")


def test_a_missing_image_is_pulled(docker: DockerRuns) -> None:
    docker.engine.images.clear()
    run_id = docker.started()
    assert docker.engine.images == {IMAGE}
    assert docker.engine.of(run_id).state["Status"] == "running"


def test_an_image_that_cannot_be_pulled_fails_the_run_at_once(docker: DockerRuns) -> None:
    docker.engine.images.clear()
    docker.engine.pull_refused = (
        "pull access denied for backup-pipeline, repository does not exist or may require 'docker login'"
    )
    run_id = docker.begin()
    is_told_once(docker, run_id, "The run's image is not on the host and cannot be pulled: pull access denied")
    assert docker.engine.containers == {}


def _refuse_creation(engine: DockerEngine) -> None:
    engine.create_refused = "Minimum memory limit allowed is 6MB"


def _refuse_start(engine: DockerEngine) -> None:
    engine.start_refused = "failed to create task for container: OCI runtime create failed: exec: not found"


def _take_the_network(engine: DockerEngine) -> None:
    engine.networks.remove("backup-pipeline_outer")


@pytest.mark.parametrize(
    ("befalls", "sentence"),
    [
        (_refuse_creation, "Docker refused the run's container: Minimum memory limit allowed is 6MB."),
        (_refuse_start, "OCI runtime create failed: exec: not found."),
        (_take_the_network, "Docker refused the run's container: network backup-pipeline_outer not found."),
    ],
)
def test_a_refused_container_fails_the_run_at_once_and_the_next_one_runs(
    docker: DockerRuns, befalls: Callable[[DockerEngine], None], sentence: str
) -> None:
    befalls(docker.engine)
    run_id = docker.begin()
    is_told_once(docker, run_id, sentence)
    assert docker.engine.containers == {}
    docker.engine.create_refused = docker.engine.start_refused = ""
    docker.engine.networks.add("backup-pipeline_outer")
    following = docker.started()
    docker.monitor()
    assert docker.status(following) is dg.DagsterRunStatus.STARTED


def test_a_run_lives_on_while_the_engine_does_not_answer(docker: DockerRuns) -> None:
    run_id = docker.started()
    docker.engine.silent = True
    docker.monitor()
    assert docker.status(run_id) is dg.DagsterRunStatus.STARTED
    following = docker.begin()
    is_told_once(docker, following, "Docker's engine does not answer, or this user may not ask it.")


def test_a_run_that_does_not_start_in_time_is_stopped(docker: DockerRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = docker.begin()
    monkeypatch.setattr(type(docker.instance), "run_monitoring_start_timeout_seconds", 0.001)
    docker.monitor()
    is_told_once(docker, run_id, "The run's container did not start in time.")
    assert "the run's own output" in docker.events(run_id)
    assert docker.engine.of(run_id).state["Status"] == "exited"


def test_a_run_from_the_shell_has_no_container_and_is_no_dead_run(docker: DockerRuns) -> None:
    run = docker.instance.create_run_for_job(
        job_def=dg.JobDefinition(name="nightly_backup", graph_def=dg.GraphDefinition(name="nightly_backup"))
    )
    docker.instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name), run.run_id)
    docker.monitor()
    assert docker.status(run.run_id) is dg.DagsterRunStatus.STARTED


def test_a_terminated_run_has_its_container_stopped(docker: DockerRuns) -> None:
    run_id = docker.started()
    assert docker.instance.run_launcher.terminate(run_id)
    assert docker.engine.of(run_id).state["ExitCode"] == 128 + 15
    assert docker.status(run_id) is dg.DagsterRunStatus.CANCELING


def test_a_run_terminated_where_no_engine_is_reached_is_stopped_by_the_daemon(
    docker: DockerRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = docker.started()
    docker.engine.silent = True
    assert docker.instance.run_launcher.terminate(run_id)
    assert "The daemon stops the container" in docker.events(run_id)
    docker.engine.silent = False
    monkeypatch.setattr(type(docker.instance), "run_monitoring_cancel_timeout_seconds", 0.001)
    docker.monitor()
    assert docker.status(run_id) is dg.DagsterRunStatus.CANCELED
    assert docker.engine.of(run_id).state["ExitCode"] == 128 + 15


def test_containers_of_runs_that_ended_a_day_ago_are_removed_and_others_stay(docker: DockerRuns) -> None:
    ended, recent = docker.started(), docker.started()
    for run_id in (ended, recent):
        container = docker.engine.of(run_id)
        container.signal(9)
        container.wait()
    old = docker.engine.of(ended)
    old.created -= timedelta(days=2)
    foreign = docker.engine.of(recent)
    docker.monitor()
    following = docker.started()
    assert set(docker.engine.containers) == {foreign.id, docker.engine.of(following).id}
    # Of a run that this history does not know, however old.
    foreign.config["Labels"]["dagster/run_id"] = "another site's"
    foreign.created -= timedelta(days=9)
    docker.started()
    assert foreign.id in docker.engine.containers


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"image": ""}, "No image"),
        ({"env_vars": ["SHOP_URL=postgresql://shop:q8ZrT2vLk0Xb@db/shop"]}, "SHOP_URL"),
        ({"env_vars": ["SHOP_PASSWORD=q8ZrT2vLk0Xb"]}, "SHOP_PASSWORD"),
        ({"container_kwargs": {"restart_policy": {"Name": "always"}}}, "restart_policy"),
        ({"container_kwargs": {"auto_remove": True}}, "auto_remove"),
    ],
)
def test_a_configuration_that_does_not_suit_runs_is_refused_by_name(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as refused:
        WatchedDockerRunLauncher(**{"image": IMAGE, **changed})
    assert "BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG" in str(refused.value)
    assert "q8ZrT2vLk0Xb" not in str(refused.value)
