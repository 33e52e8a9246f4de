"""The site of deploy/kubernetes in the built image: its services, and runs whose pods are killed and ended.

Each Deployment's container and each Job's is started in the image's own file system, as its user, with the arguments,
variables and mounts of the manifests; the history is PostgreSQL. The cluster is the tests' own API server.
"""

from __future__ import annotations

import copy
import http.cookiejar
import json
import os
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.image import BUILD
from backup_pipeline_tests.support.kubernetes.api_server import NAMESPACE, Cluster, cluster_in
from backup_pipeline_tests.support.kubernetes.launches import site_objects
from backup_pipeline_tests.support.kubernetes.manifests import FOLDER, IMAGE, launcher_config, pod_specs, variables
from backup_pipeline_tests.support.kubernetes.pods import Pod, now
from backup_pipeline_tests.support.running_ui import Ui
from backup_pipeline_tests.support.sites import dsn

pytestmark = [pytest.mark.story, pytest.mark.takes(seconds=400, together="image")]

PASSWORD = "a password of the test"
SETTINGS = """
store: /store
sources:
  files: {kind: folder, path: /store/files}
  slow: {kind: folder, path: /store/files, run_before: [[cat, /store/gate]]}
plans:
  nightly: {sources: [files]}
  patient: {sources: [slow]}
"""
LAUNCH = """mutation ($job: String!) { launchRun(executionParams: {
  selector: {repositoryLocationName: "backup-pipeline", repositoryName: "__repository__", jobName: $job},
  runConfigData: {}}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message } } }"
RUN = """query ($id: ID!) { runOrError(runId: $id) { ... on Run {
  status eventConnection { events { ... on MessageEvent { message } } } } } }"""
PATIENCE_SECONDS = 300


def started_in_the_image(
    command: list[str], environment: dict[str, str], mounts: dict[str, Path], log: Path
) -> subprocess.Popen[bytes]:
    """Start a container's command under the image's process 1, with its mounts where they belong."""
    settings = [f"{name}={value}" for name, value in environment.items()]
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(BUILD), "run", "env", *settings, "/usr/bin/tini", "--", *command],
            env={
                **{name: os.environ[name] for name in ("PATH", "IMAGE_WORK") if name in os.environ},
                "IMAGE_VOLUMES": " ".join(f"{outside}:{inside}" for inside, outside in mounts.items()),
                "IMAGE_HOSTS": "code",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@dataclass
class Deployed:
    """The services of the manifests, and the UI as somebody sees it who knows the password."""

    cluster: Cluster
    services: dict[str, Pod] = field(default_factory=dict)
    ui: Ui = field(default_factory=lambda: Ui(3000))
    gates: list[int] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.cluster.folder / "volumes" / "store"

    def start(self, name: str) -> None:
        """Start a Deployment's pod and wait until its startup probe succeeds."""
        spec = copy.deepcopy(pod_specs()[name])
        (container,) = spec["containers"]
        # Where the API server of a test is; a pod in a cluster finds it by itself.
        spec["volumes"].append({"name": "kube", "configMap": {"name": f"kube-{name}"}})
        container["volumeMounts"].append({"name": "kube", "mountPath": "/kube"})
        for variable in container["env"]:
            if variable["name"] == "DAGSTER_CURRENT_IMAGE":
                variable["value"] = IMAGE
        shown = {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec, "status": {"startTime": now()}}
        pod = self.services[name] = Pod(shown, self.cluster.folder / "services" / name)
        pod.folder.mkdir(parents=True)
        pod.start(started_in_the_image, self.cluster.objects, self.cluster.folder / "volumes")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._probe(pod, container["startupProbe"]):
            assert pod.process is not None
            assert pod.process.poll() is None, f"{name} ended: {pod.log.read_text('utf-8', 'replace')[-3000:]}"
            assert time.monotonic() < deadline, pod.log.read_text("utf-8", "replace")[-3000:]
            time.sleep(1)

    def _probe(self, pod: Pod, probe: dict[str, Any]) -> bool:
        if "httpGet" in probe:
            # A kubelet asks by the pod's address.
            request = urllib.request.Request(
                f"http://127.0.0.1:3000{probe['httpGet']['path']}", headers={"Host": "10.42.0.7:3000"}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False
        environment = pod.variables(self.cluster.objects)
        mounts = pod.mounts(self.cluster.objects, self.cluster.folder / "volumes")
        probing = started_in_the_image(probe["exec"]["command"], environment, mounts, pod.folder / "probe")
        return probing.wait() == 0

    def log_in(self) -> None:
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        urllib.request.install_opener(opener)
        form = urllib.parse.urlencode({"password": PASSWORD, "next": "/"}).encode()
        request = urllib.request.Request(f"{self.ui.address}/login", form, {"Origin": self.ui.address})
        opener.open(request, timeout=60).close()

    def launch(self, job: str) -> str:
        answer = self.ui.ask(LAUNCH, job=job)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def events(self, run_id: str) -> str:
        found = self.ui.ask(RUN, id=run_id)["runOrError"]["eventConnection"]["events"]
        return "\n".join(event.get("message", "") for event in found)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                logs = {name: pod.log.read_text("utf-8", "replace")[-2000:] for name, pod in self.services.items()}
                pytest.fail(f"{what}\n{json.dumps(logs, indent=1)}")
            time.sleep(0.5)

    def run_after(self, *known: str) -> str:
        """Wait until a run has a Job that is none of the known ones, and return its id."""
        found: list[str] = []

        def is_there() -> bool:
            names = [name.removeprefix("dagster-run-") for name in list(self.cluster.jobs)]
            found[:] = [name for name in names if name not in known]
            return bool(found)

        self.wait_until(is_there, f"no run came after {known}")
        return found[0]

    def wait_for_the_gate(self, run_id: str) -> None:
        """Wait until a run of the patient plan reads from the fifo that holds it up."""

        def is_read() -> bool:
            try:
                # It stays open: its end would let the run go on.
                self.gates.append(os.open(self.store / "gate", os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return False
            return True

        self.wait_until(is_read, f"run {run_id} did not come to its capture")


@pytest.fixture
def deployed(image: None, tmp_path: Path, database: Callable[..., PostgresTarget]) -> Iterator[Deployed]:
    for port in (3000, 4000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port}, which the services use, is taken on this machine")
    objects = site_objects(SETTINGS, dsn(database()))
    dagster = (FOLDER / "base" / "dagster.yaml").read_text("utf-8")
    dagster = dagster.replace("poll_interval_seconds: 30", "poll_interval_seconds: 3")
    objects |= {
        ("ConfigMap", "ui"): variables(FOLDER / "site" / "ui.env"),
        ("ConfigMap", "dagster"): {
            "dagster.yaml": dagster.replace("poll_interval_seconds: 30", "poll_interval_seconds: 3")
        },
        ("Secret", "ui"): {"ui_password": PASSWORD},
    }
    with cluster_in(tmp_path / "cluster", objects, start=started_in_the_image) as cluster:
        configuration = launcher_config() | {"load_incluster_config": False, "kubeconfig_file": "/kube/config"}
        objects["ConfigMap", "run-launcher"] = {"run-launcher.json": json.dumps(configuration)}
        for account in ("code", "webserver", "daemon"):
            objects["ConfigMap", f"kube-{account}"] = {"config": cluster.kubeconfig(account).read_text("utf-8")}
        made = Deployed(cluster)
        (made.store / "files").mkdir(parents=True)
        (made.store / "files" / "letter.txt").write_text("kept\n", "utf-8")
        os.mkfifo(made.store / "gate")
        try:
            yield made
        finally:
            for pod in made.services.values():
                pod.kill(signal.SIGTERM)
                assert pod.process is not None
                try:
                    pod.process.wait(30)
                except subprocess.TimeoutExpired:
                    pod.kill(signal.SIGKILL)
            for gate in made.gates:
                os.close(gate)
            urllib.request.install_opener(urllib.request.build_opener())


def test_runs_are_jobs_of_the_image_and_what_ends_them_is_said(deployed: Deployed) -> None:
    for name in ("code", "webserver", "daemon"):
        deployed.start(name)
    deployed.log_in()

    first = deployed.launch("nightly_backup")
    assert deployed.ui.wait_for_run(first) == "SUCCESS", deployed.events(first)
    assert deployed.cluster.wait(first).shown["status"]["phase"] == "Succeeded"
    assert len(list(deployed.store.glob("nightly/*/manifest.json"))) == 1

    killed = deployed.launch("patient_backup")
    deployed.wait_for_the_gate(killed)
    deployed.cluster.pod_of(killed).kill(signal.SIGKILL)
    assert deployed.ui.wait_for_run(killed) == "FAILURE"
    sentence = "The run's container was killed (SIGKILL) before the run was over."
    assert sentence in deployed.events(killed)
    deployed.wait_until(
        lambda: any(sentence in path.read_text("utf-8") for path in deployed.store.glob("**/incidents.json")),
        "no incident says so",
    )

    # A backup whose pod died is made again by itself.
    ended = deployed.run_after(first, killed)
    deployed.wait_for_the_gate(ended)
    answer = deployed.ui.ask(TERMINATE, id=ended)["terminateRun"]
    assert answer["__typename"] == "TerminateRunSuccess", answer
    assert deployed.ui.wait_for_run(ended) == "CANCELED", deployed.events(ended)
    assert not [name for name in (*deployed.cluster.jobs, *deployed.cluster.pods) if ended in name]
    assert not list(deployed.store.glob("patient/*/manifest.json"))

    (deployed.store / "gate").unlink()
    (deployed.store / "gate").write_text("open\n", "utf-8")
    following = deployed.launch("patient_backup")
    assert deployed.ui.wait_for_run(following) == "SUCCESS", deployed.events(following)
    assert len(list(deployed.store.glob("patient/*/manifest.json"))) == 1
    assert deployed.cluster.faults == []
