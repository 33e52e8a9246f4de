"""Runs as Jobs of Kubernetes: what becomes of a run, its set and its alert when its pod does not start or dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.support.kubernetes.launches import Launches, configuration_for, launches_in, without_a_disk
from backup_pipeline_tests.support.kubernetes.manifests import IMAGE, rights
from backup_pipeline_tests.support.kubernetes.pods import Pod
from backup_pipeline_tests.support.kubernetes.schemas import RELEASES, faults_of
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
sources: {{shop: {{kind: folder, path: {folder}/files}}}}
plans: {{nightly: {{sources: [shop], store: {folder}/sets}}}}
"""
NO_DISK = """
state_env: STATE_URL
sources: {{files: {{kind: folder, path: {folder}/files}}}}
plans: {{nightly: {{sources: [files], store: "vault:offsite"}}}}
vaults: {{offsite: {{url: "file://{folder}/vault", recipients: [{recipient}], keys_env: OFFSITE_KEYS}}}}
"""


def asleep(_: list[str], environment: dict[str, str], mounts: dict[str, Path], log: Path) -> subprocess.Popen[bytes]:
    """A container that does nothing until it is ended; what its log says is what a run's would."""
    log.write_text("the run's own output\n", "utf-8")
    assert environment["BACKUP_PIPELINE_CONFIG"] == "/etc/backup-pipeline/backup.yaml"
    assert (mounts["/etc/backup-pipeline"] / "backup.yaml").is_file()
    return subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, start_new_session=True)


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "letter.txt").write_text("kept")
    with launches_in(tmp_path, monkeypatch, SETTINGS.format(folder=tmp_path), start=asleep) as found:
        yield found


def gave_up(kube: Launches, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the monitor make its round after the time that a run has to start."""
    monkeypatch.setattr(type(kube.instance), "run_monitoring_start_timeout_seconds", 0.001)
    kube.monitor()
    assert kube.status(run_id) is dg.DagsterRunStatus.FAILURE


def is_told_once(kube: Launches, run_id: str, sentence: str) -> None:
    """Assert that a failed run is one incident, with this sentence as its reason, and left no set."""
    assert kube.status(run_id) is dg.DagsterRunStatus.FAILURE
    kube.alert(run_id)
    (incident,) = read_state(kube.site).open
    assert sentence in incident.reason
    assert incident.remedy
    assert not list(kube.folder.glob("sets/*/manifest.json"))


@pytest.mark.takes(seconds=30)
def test_a_drained_pod_says_so_and_the_next_one_seals_its_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "letter.txt").write_text("kept")
    os.mkfifo(tmp_path / "gate")
    settings = SETTINGS.replace("files}}", "files, run_before: [[cat, {folder}/gate]]}}").format(folder=tmp_path)
    with launches_in(tmp_path, monkeypatch, settings) as kube:
        drained = kube.begin()
        pod = kube.cluster.pod_of(drained)
        gate = opened_when_read(tmp_path / "gate", pod)
        pod.kill(signal.SIGTERM)
        kube.cluster.wait(drained)
        os.close(gate)
        is_told_once(kube, drained, "Its process was asked to end: by Ctrl-C, a shutdown, or the eviction of its pod")

        (tmp_path / "gate").unlink()
        (tmp_path / "gate").write_text("open")
        following = kube.begin()
        pod = kube.cluster.wait(following)
        assert kube.status(following) is dg.DagsterRunStatus.SUCCESS, pod.log.read_text()
        assert pod.shown["status"]["phase"] == "Succeeded"
        assert len(list(tmp_path.glob("sets/*/manifest.json"))) == 1
        # What the launcher needs to ask an API server, no pod of a run has.
        assert "BACKUP_PIPELINE_RUN_LAUNCHER" not in str(pod.shown["spec"])


def opened_when_read(fifo: Path, pod: Pod) -> int:
    """Open a fifo once the pod's container reads it, which holds the container up until it is closed."""
    while True:
        with suppress(OSError):
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        assert pod.process is not None
        assert pod.process.poll() is None, pod.log.read_text()
        time.sleep(0.05)


def test_a_run_is_a_job_that_each_release_takes(kube: Launches) -> None:
    run_id = kube.started()
    (job,) = kube.cluster.jobs.values()
    assert [faults_of(job, release) for release in RELEASES] == [[], [], []]
    pod = job["spec"]["template"]["spec"]
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (0, 86400)
    assert (pod["automountServiceAccountToken"], pod["serviceAccountName"]) == (False, "run")
    assert pod["containers"][0]["args"][-3:-1] == ["api", "execute_run"]
    kube.monitor()
    assert kube.status(run_id) is dg.DagsterRunStatus.STARTED


def test_a_killed_pod_fails_its_run_in_one_sentence(kube: Launches) -> None:
    run_id = kube.started()
    kube.cluster.pod_of(run_id).kill(9)
    kube.cluster.wait(run_id)
    kube.monitor()
    sentence = "The run's container was killed (SIGKILL) before the run was over."
    assert sentence in kube.events(run_id)
    is_told_once(kube, run_id, sentence)


def test_an_evicted_pod_fails_its_run_and_says_why(kube: Launches) -> None:
    run_id = kube.started()
    kube.cluster.pod_of(run_id).evict("The node was low on resource: ephemeral-storage.")
    kube.cluster.wait(run_id)
    kube.monitor()
    is_told_once(kube, run_id, "The run's pod was evicted: The node was low on resource: ephemeral-storage.")


def test_a_missing_image_fails_the_run_and_its_job_is_gone(kube: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    kube.cluster.missing_image = 'failed to resolve reference "backup-pipeline:1.0.0": not found'
    run_id = kube.begin()
    kube.monitor()
    assert kube.status(run_id) is dg.DagsterRunStatus.STARTING
    gave_up(kube, run_id, monkeypatch)
    is_told_once(kube, run_id, "Its image cannot be pulled: failed to resolve reference")
    assert (kube.cluster.jobs, kube.cluster.pods) == ({}, {})


def test_a_pod_beyond_the_quota_fails_the_run_and_its_job_is_gone(
    kube: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.cluster.pod_quota = "exceeded quota: team, requested: requests.cpu=500m, used: requests.cpu=2, limited: 2"
    run_id = kube.begin()
    gave_up(kube, run_id, monkeypatch)
    is_told_once(kube, run_id, "is forbidden: exceeded quota: team, requested: requests.cpu=500m")
    assert kube.cluster.jobs == {}


def test_a_job_beyond_the_quota_fails_the_run_at_once_and_the_next_one_runs(kube: Launches) -> None:
    kube.cluster.job_quota = "exceeded quota: team, requested: count/jobs.batch=1, used: 4, limited: 4"
    run_id = kube.begin()
    is_told_once(kube, run_id, "Kubernetes refused the run's Job: jobs.batch")
    assert "quota" in kube.events(run_id)
    kube.cluster.job_quota = ""
    following = kube.started()
    kube.monitor()
    assert kube.status(following) is dg.DagsterRunStatus.STARTED


def test_a_run_lives_on_while_the_api_server_does_not_answer(kube: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = kube.started()
    kube.cluster.silent = True
    monkeypatch.setattr("dagster_k8s.client.time.sleep", lambda _: None)
    kube.monitor()
    assert kube.status(run_id) is dg.DagsterRunStatus.STARTED
    kube.cluster.silent = False
    kube.cluster.pods.clear()
    kube.cluster.jobs.clear()
    kube.monitor()
    is_told_once(kube, run_id, "The run's Job and its pod are gone")


def test_a_run_from_the_shell_has_no_job_and_is_no_dead_run(kube: Launches) -> None:
    run = kube.instance.create_run_for_job(
        job_def=dg.JobDefinition(name="nightly_backup", graph_def=dg.GraphDefinition(name="nightly_backup"))
    )
    kube.instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name), run.run_id)
    kube.monitor()
    assert kube.status(run.run_id) is dg.DagsterRunStatus.STARTED


def test_a_terminated_run_takes_its_job_and_pod_with_it(kube: Launches) -> None:
    run_id = kube.started()
    process = kube.cluster.pod_of(run_id).process
    assert kube.instance.run_launcher.terminate(run_id)
    assert (kube.cluster.jobs, kube.cluster.pods) == ({}, {})
    assert process is not None
    assert process.returncode == -15
    assert kube.status(run_id) is dg.DagsterRunStatus.CANCELING


def test_a_run_cannot_ask_for_a_pod_of_its_own_making(kube: Launches) -> None:
    asked = {"pod_spec_config": {"hostNetwork": True}, "container_config": {"securityContext": {"privileged": True}}}
    run_id = kube.begin({"dagster-k8s/config": json.dumps(asked)})
    assert kube.status(run_id) is dg.DagsterRunStatus.FAILURE
    assert kube.cluster.jobs == {}
    assert "violated the allowed list" in kube.events(run_id)


def test_the_roles_grant_what_is_used_and_nothing_else(kube: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    gave_up(kube, kube.begin(), monkeypatch)
    kube.cluster.pod_quota = "exceeded quota: team"
    gave_up(kube, kube.begin(), monkeypatch)
    kube.cluster.pod_quota = ""
    run_id = kube.started()
    configuration = configuration_for(kube.cluster, "webserver", job_image=IMAGE)
    monkeypatch.setenv("BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG", configuration)
    with dg.DagsterInstance.get() as webserver:
        assert webserver.run_launcher.terminate(run_id)
    granted = {(account, right) for account, all_of_it in rights().items() for right in all_of_it}
    assert kube.cluster.used == granted


@pytest.mark.story
@pytest.mark.takes(seconds=60)
def test_the_sources_of_a_set_are_captured_in_pods_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "letter.txt").write_text("kept")
    settings = SETTINGS.replace("files}}}}", "files}}, desk: {{kind: folder, path: {folder}/files}}}}")
    settings = settings.replace("[shop]", "[shop, desk]").format(folder=tmp_path)
    with launches_in(tmp_path, monkeypatch, settings, granted=rights(steps=True)) as kube:
        configuration = configuration_for(kube.cluster, "run", job_image=IMAGE, dagster_home=str(tmp_path / "home"))
        outside = {"load_incluster_config": False, "kubeconfig_file": str(kube.cluster.kubeconfig("run"))}
        kube.cluster.objects["ConfigMap", "environment"] |= {
            "BACKUP_PIPELINE_EXECUTOR": "dagster_k8s:k8s_job_executor",
            "BACKUP_PIPELINE_EXECUTOR_CONFIG": json.dumps(outside),
            "BACKUP_PIPELINE_RUN_LAUNCHER": "kubernetes",
            "BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG": configuration,
            "POD_NAMESPACE": "backup",
        }
        run_id = kube.begin()
        pod = kube.cluster.wait(run_id)
        assert kube.status(run_id) is dg.DagsterRunStatus.SUCCESS, pod.log.read_text()
        steps = [pod for name, pod in kube.cluster.pods.items() if name.startswith("dagster-step-")]
        captured = {pod.shown["metadata"]["labels"]["dagster/op"] for pod in steps}
        assert {"nightly__shop", "nightly__desk", "nightly__manifest"} <= captured
        assert len(list(tmp_path.glob("sets/*/manifest.json"))) == 1


@pytest.mark.story
@pytest.mark.takes(seconds=30)
def test_pods_that_share_no_disk_seal_sets_that_all_can_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Callable[..., PostgresTarget]
) -> None:
    for name in ("files", "vault", "office", "home_office"):
        (tmp_path / name).mkdir()
    (tmp_path / "files" / "letter.txt").write_text("kept")
    _, recipient = new_identity()
    settings = NO_DISK.format(folder=tmp_path, recipient=recipient)
    office = TestSite(tmp_path / "office", {"STATE_URL": dsn(database())})
    office.write(settings)
    for command in (["vault", "init", "offsite"], ["vault", "keys", "offsite", str(tmp_path / "keys")]):
        assert office.run(*command).code == 0
    shared = office.variables | {"OFFSITE_KEYS_FILE": str(tmp_path / "keys")}
    for name, value in shared.items():
        monkeypatch.setenv(name, value)
    with launches_in(tmp_path, monkeypatch, settings) as kube:
        kube.cluster.objects["ConfigMap", "environment"] |= shared
        configuration = without_a_disk(json.loads(os.environ["BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG"]))
        monkeypatch.setenv("BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG", json.dumps(configuration))
        for _ in range(2):
            run_id = kube.begin()
            pod = kube.cluster.wait(run_id)
            assert kube.status(run_id) is dg.DagsterRunStatus.SUCCESS, pod.log.read_text()
        assert not (kube.cluster.folder / "volumes").exists()
    elsewhere = TestSite(tmp_path / "home_office", shared)
    elsewhere.write(settings)
    assert elsewhere.run("list").out.count("complete") == 2
