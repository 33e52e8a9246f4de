"""An API server of one namespace, which keeps to the published contract as far as the run launcher uses it.

It holds each request's body and each answer against the schemas of a release, lets a service account do what its roles
in deploy/kubernetes grant and nothing else, and gives each Job one pod, as the Job controller does with a backoff limit
of 0. What befalls Jobs and pods is said by the test.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from backup_pipeline_tests.support.http_answers import send_answer
from backup_pipeline_tests.support.kubernetes.manifests import rights
from backup_pipeline_tests.support.kubernetes.pods import Pod, Start, now, started_here
from backup_pipeline_tests.support.kubernetes.schemas import RELEASES, faults_of

NAMESPACE = "backup"
_PATH = re.compile(
    r"^/(?:api/v1|apis/(?P<group>batch)/v1)/namespaces/(?P<namespace>[^/]+)/(?P<kind>jobs|pods|events)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<part>status|log))?)?$"
)
_VERBS = {"POST": "create", "DELETE": "delete"}
NOT_FOUND, FORBIDDEN, CONFLICT, INVALID, UNAVAILABLE = 404, 403, 409, 422, 503


class Refused(Exception):  # noqa: N818 - an answer, and no fault of the server
    """An answer other than success: its code, the reason's name, the message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass
class Cluster:
    """The namespace's Jobs, pods and events, and what is to befall them."""

    folder: Path
    objects: dict[tuple[str, str], dict[str, str]]
    release: str = RELEASES[-1]
    start: Start = started_here
    granted: dict[str, set[tuple[str, str, str]]] = field(default_factory=rights)
    # What befalls the next Jobs and pods: messages of Kubernetes, "" for nothing.
    job_quota: str = ""
    pod_quota: str = ""
    missing_image: str = ""
    silent: bool = False
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    used: set[tuple[str, tuple[str, str, str]]] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    address: str = ""
    # Of a Job's controller and of requests, which come from several threads.
    turn: threading.RLock = field(default_factory=threading.RLock)

    def kubeconfig(self, account: str) -> Path:
        """Write a client's configuration for a service account, and return its file."""
        path = self.folder / f"kubeconfig-{account}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.address}}],
            "users": [{"name": account, "user": {"token": account}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": account, "namespace": NAMESPACE}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(content), "utf-8")
        return path

    def pod_of(self, run_id: str) -> Pod:
        (found,) = [pod for pod in self.pods.values() if run_id in pod.name]
        return found

    def wait(self, run_id: str) -> Pod:
        """Wait until the run's container has ended and its Job shows it."""
        pod = self.pod_of(run_id)
        assert pod.watcher is not None
        pod.watcher.join()
        return pod

    def answer(self, method: str, path: str, query: Mapping[str, str], account: str, body: Any) -> dict[str, Any] | str:
        found = _PATH.match(path)
        if found is None:
            raise Refused(NOT_FOUND, "NotFound", "the server could not find the requested resource")
        if self.silent:
            raise Refused(UNAVAILABLE, "ServiceUnavailable", "apiserver not ready")
        kind, name, part = found["kind"], found["name"] or "", found["part"] or ""
        verb = _VERBS.get(method, "get" if name else "list")
        self._authorise(account, found["group"] or "", f"{kind}/{part}" if part else kind, verb, found["namespace"])
        with self.turn:
            if verb == "create":
                return self._create_job(body)
            if verb == "delete":
                return self._delete(kind, name)
            if part == "log":
                return self._pod(name).log.read_text("utf-8", "replace")
            if verb == "get":
                return self._job(name)
            return self._list(kind, query)

    def _authorise(self, account: str, group: str, resource: str, verb: str, namespace: str) -> None:
        asked = (group, resource, verb)
        if namespace != NAMESPACE or asked not in self.granted.get(account, set()):
            qualified = f"{resource}.{group}" if group else resource
            raise Refused(
                FORBIDDEN,
                "Forbidden",
                f'{qualified} is forbidden: User "system:serviceaccount:{NAMESPACE}:{account}" cannot {verb} resource '
                f'"{resource}" in API group "{group}" in the namespace "{namespace}"',
            )
        self.used.add((account, asked))

    def _create_job(self, job: dict[str, Any]) -> dict[str, Any]:
        name = job["metadata"]["name"]
        if faults := faults_of(job, self.release):
            raise Refused(INVALID, "Invalid", f'Job.batch "{name}" is invalid: {"; ".join(faults)}')
        if name in self.jobs:
            raise Refused(CONFLICT, "AlreadyExists", f'jobs.batch "{name}" already exists')
        if self.job_quota:
            raise Refused(FORBIDDEN, "Forbidden", f'jobs.batch "{name}" is forbidden: {self.job_quota}')
        uid = str(uuid.uuid4())
        job["metadata"] |= {"namespace": NAMESPACE, "uid": uid, "creationTimestamp": now()}
        job["status"] = {"startTime": now()}
        self.jobs[name] = job
        if self.pod_quota:
            self._event("Job", name, "FailedCreate", f'Error creating: pods "{name}-" is forbidden: {self.pod_quota}')
            return job
        labels = {"job-name": name, "batch.kubernetes.io/job-name": name, "batch.kubernetes.io/controller-uid": uid}
        template = job["spec"]["template"]
        pod_name = f"{name}-{uuid.uuid4().hex[:5]}"
        shown = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": pod_name,
                "namespace": NAMESPACE,
                "labels": template["metadata"]["labels"] | labels,
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": True}
                ],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending", "startTime": now()},
        }
        pod = Pod(shown, self.folder / "pods" / pod_name, ended=lambda ended: self._job_ended(name, ended))
        pod.folder.mkdir(parents=True)
        self.pods[pod_name] = pod
        job["status"]["active"] = 1
        if self.missing_image:
            pod.wait_for_image(self.missing_image)
            self._event("Pod", pod_name, "Failed", f"Failed to pull image: {self.missing_image}")
        else:
            pod.start(self.start, self.objects, self.folder / "volumes")
        return job

    def _job_ended(self, name: str, pod: Pod) -> None:
        with self.turn:
            if name not in self.jobs:
                return
            status = self.jobs[name]["status"]
            status.pop("active", None)
            done = pod.shown["status"]["phase"] == "Succeeded"
            status["succeeded" if done else "failed"] = 1
            kind, reason = ("Complete", "") if done else ("Failed", "BackoffLimitExceeded")
            status["conditions"] = [{"type": kind, "status": "True", "reason": reason, "lastTransitionTime": now()}]

    def _event(self, kind: str, name: str, reason: str, message: str) -> None:
        self.events.append(
            {
                "metadata": {"name": f"{name}.{len(self.events)}", "namespace": NAMESPACE},
                "involvedObject": {"kind": kind, "name": name, "namespace": NAMESPACE},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "count": 1,
                "firstTimestamp": now(),
                "lastTimestamp": now(),
            }
        )

    def _job(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise Refused(NOT_FOUND, "NotFound", f'jobs.batch "{name}" not found')
        return self.jobs[name]

    def _pod(self, name: str) -> Pod:
        if name not in self.pods:
            raise Refused(NOT_FOUND, "NotFound", f'pods "{name}" not found')
        return self.pods[name]

    def _delete(self, kind: str, name: str) -> dict[str, Any]:
        if kind == "jobs":
            # Without a propagation policy its pods are left, and are deleted by the client.
            self._job(name)
            del self.jobs[name]
        else:
            self._pod(name).delete()
            del self.pods[name]
        return {"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"}

    def _list(self, kind: str, query: Mapping[str, str]) -> dict[str, Any]:
        wanted = dict(each.split("=", 1) for each in query.get("fieldSelector", "").split(",") if each)
        labels = dict(each.split("=", 1) for each in query.get("labelSelector", "").split(",") if each)
        items = {
            "jobs": list(self.jobs.values()),
            "pods": [pod.shown for pod in self.pods.values()],
            "events": self.events,
        }[kind]
        items = [each for each in items if labels.items() <= each["metadata"].get("labels", {}).items()]
        if name := wanted.get("metadata.name"):
            items = [each for each in items if each["metadata"]["name"] == name]
        if name := wanted.get("involvedObject.name"):
            items = [each for each in items if each["involvedObject"]["name"] == name]
        version, listed = {"jobs": ("batch/v1", "JobList"), "pods": ("v1", "PodList"), "events": ("v1", "EventList")}[
            kind
        ]
        return {"apiVersion": version, "kind": listed, "metadata": {}, "items": items}


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            account = self.headers.get("Authorization", "").removeprefix("Bearer ")
            code = 200
            try:
                answer = cluster.answer(self.command, parts.path, query, account, body)
            except Refused as refused:
                code = refused.code
                answer = {
                    "apiVersion": "v1",
                    "kind": "Status",
                    "metadata": {},
                    "status": "Failure",
                    "message": str(refused),
                    "reason": refused.reason,
                    "code": code,
                }
            if isinstance(answer, dict):
                cluster.faults.extend(faults_of(answer, cluster.release))
            send_answer(self, code, answer)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


@contextmanager
def cluster_in(folder: Path, objects: dict[tuple[str, str], dict[str, str]], **more: Any) -> Iterator[Cluster]:
    """Serve a cluster's API on this machine; at the end every container is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(folder, objects, **more)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cluster))
    server.daemon_threads = True
    cluster.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield cluster
    finally:
        for pod in cluster.pods.values():
            if pod.process is not None:
                pod.kill(9)
                pod.process.wait()
        server.shutdown()
        server.server_close()
