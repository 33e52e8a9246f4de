"""An engine which keeps to the published contract of Docker's API as far as the run launcher uses it.

Each container's command is started as a process of this machine: a path in a mount becomes the path of what is mounted.
What befalls images and containers is said by the test.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import psutil

from backup_pipeline_tests.support.http_answers import send_answer
from backup_pipeline_tests.support.kubernetes.pods import Start, started_here

_VERSION = "1.51"
_NEVER = "0001-01-01T00:00:00Z"
_CONTAINER = re.compile(r"^/containers/(?P<id>[^/]+)(?:/(?P<part>json|start|stop|kill|wait|logs))?$")
_FLAG = ("1", "True", "true")


class EngineRefusal(Exception):  # noqa: N818 - an answer, and no fault of the engine
    """An answer other than success: its code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class DockerContainer:
    """A container: how it was described, its state, and its process once it was started."""

    id: str
    config: dict[str, Any]
    folder: Path
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    state: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    watcher: threading.Thread | None = None
    starved: bool = False

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config.get("Env") or ())

    def binds(self, volumes: Path) -> dict[str, Path]:
        """What is mounted, by its path inside."""
        found: dict[str, Path] = {}
        for bind in self.config["HostConfig"].get("Binds") or ():
            outside, inside, *_ = bind.split(":")
            place = Path(outside) if outside.startswith("/") else volumes / outside
            # As the engine does with a path that is not there.
            place.exists() or place.mkdir(parents=True)
            found[inside] = place
        return found

    def shown(self) -> dict[str, Any]:
        running = self.state["Status"] == "running"
        return {
            "Id": self.id,
            "Name": f"/run-{self.id[:6]}",
            "Created": self.created.isoformat().replace("+00:00", "Z"),
            "Image": "sha256:" + "0" * 64,
            "State": {
                "Running": running,
                "Paused": False,
                "Restarting": False,
                "Dead": False,
                "Pid": self.process.pid if running and self.process else 0,
                **self.state,
            },
            "Config": {name: value for name, value in self.config.items() if name != "HostConfig"},
            "HostConfig": self.config["HostConfig"],
        }

    def listed(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Names": [f"/run-{self.id[:6]}"],
            "Image": self.config["Image"],
            "Created": int(self.created.timestamp()),
            "Labels": self.config.get("Labels") or {},
            "State": self.state["Status"],
            "Status": self.state["Status"],
        }

    def signal(self, number: int) -> None:
        """Send a signal as the engine does: to process 1; SIGKILL ends the rest with it."""
        assert self.process is not None
        first = psutil.Process(self.process.pid)
        for each in [*(first.children(recursive=True) if number == signal.SIGKILL else ()), first]:
            try:
                each.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def wait(self) -> None:
        """Wait until its end is shown."""
        assert self.watcher is not None
        self.watcher.join()

    def run(self, start: Start, image_variables: Mapping[str, str], mounts: dict[str, Path]) -> None:
        self.process = start(self.config["Cmd"], {**image_variables, **self.environment}, mounts, self.log)
        self.state = {**self.state, "Status": "running", "StartedAt": _now()}
        self.watcher = threading.Thread(target=self._wait, daemon=True)
        self.watcher.start()

    def _wait(self) -> None:
        assert self.process is not None
        code = self.process.wait()
        exit_code = code if code >= 0 else 128 - code
        ended = {"Status": "exited", "ExitCode": exit_code, "OOMKilled": self.starved, "FinishedAt": _now()}
        self.state = {**self.state, **ended}


@dataclass
class DockerEngine:
    """The engine's images, networks and containers, and what is to befall them."""

    folder: Path
    images: set[str]
    networks: set[str]
    # Of the image: its variables, and what it has at which paths.
    image_variables: Mapping[str, str] = field(default_factory=dict)
    image_files: Mapping[str, Path] = field(default_factory=dict)
    start: Start = started_here
    # Messages of the engine, "" for nothing: why an image cannot be pulled, a container is refused or does not start.
    pull_refused: str = ""
    create_refused: str = ""
    start_refused: str = ""
    silent: bool = False
    containers: dict[str, DockerContainer] = field(default_factory=dict)
    address: str = ""
    turn: threading.RLock = field(default_factory=threading.RLock)

    @property
    def volumes(self) -> Path:
        return self.folder / "volumes"

    def of(self, run_id: str) -> DockerContainer:
        """The container of a run."""
        labelled = (each for each in self.containers.values() if each.config["Labels"]["dagster/run_id"] == run_id)
        (found,) = labelled
        return found

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        path = re.sub(r"^/v\d+\.\d+", "", path)
        if self.silent:
            raise ConnectionAbortedError
        with self.turn:
            match method, path:
                case "GET", "/_ping":
                    return 200, "OK"
                case "GET", "/version":
                    return 200, {"Version": "28.3.0", "ApiVersion": _VERSION, "MinAPIVersion": "1.24", "Os": "linux"}
                case "POST", "/images/create":
                    return self._pull(f"{query['fromImage']}:{query['tag']}")
                case "POST", "/containers/create":
                    return self._create(body)
                case "GET", "/containers/json":
                    return 200, self._list(json.loads(query.get("filters", "{}")))
            if found := re.match(r"^/images/(.+)/json$", path):
                return 200, self._image(unquote(found[1]))
            if found := re.match(r"^/networks/([^/]+)(/connect)?$", path):
                self._network(found[1])
                return 200, {} if found[2] else {"Id": found[1], "Name": found[1]}
            if (found := _CONTAINER.match(path)) is None:
                raise EngineRefusal(404, "page not found")
            if found["id"] not in self.containers:
                raise EngineRefusal(404, f"No such container: {found['id']}")
            container = self.containers[found["id"]]
        return self._of_container(method, found["part"] or "", container, query)

    def _of_container(
        self, method: str, part: str, container: DockerContainer, query: Mapping[str, str]
    ) -> tuple[int, Any]:
        running = container.state["Status"] == "running"
        match method, part:
            case "GET", "json":
                return 200, container.shown()
            case "GET", "logs":
                lines = container.log.read_bytes().splitlines(keepends=True) if container.log.exists() else []
                text = b"".join(lines[-int(query["tail"]) :])
                return 200, bytes((1, 0, 0, 0)) + len(text).to_bytes(4, "big") + text
            case "POST", "start":
                return self._start(container)
            case "POST", "stop":
                if running:
                    self._stop(container, int(query.get("t", 10)))
                return (204 if running else 304), None
            case "DELETE", "":
                if running and query.get("force") not in _FLAG:
                    raise EngineRefusal(409, f"cannot remove container {container.id}: container is running")
                if running:
                    container.signal(signal.SIGKILL)
                    container.wait()
                del self.containers[container.id]
                return 204, None
        raise EngineRefusal(404, "page not found")

    def _image(self, name: str) -> dict[str, Any]:
        if name not in self.images:
            raise EngineRefusal(404, f"No such image: {name}")
        return {"Id": "sha256:" + "0" * 64, "RepoTags": [name]}

    def _network(self, name: str) -> None:
        if name not in self.networks:
            raise EngineRefusal(404, f"network {name} not found")

    def _pull(self, name: str) -> tuple[int, Any]:
        if self.pull_refused:
            raise EngineRefusal(404, self.pull_refused)
        self.images.add(name)
        return 200, {"status": f"Downloaded newer image for {name}"}

    def _create(self, config: dict[str, Any]) -> tuple[int, Any]:
        self._image(config["Image"])
        if self.create_refused:
            raise EngineRefusal(400, self.create_refused)
        made = DockerContainer(uuid.uuid4().hex * 2, config, self.folder / "containers" / uuid.uuid4().hex)
        made.folder.mkdir(parents=True)
        made.state = {
            "Status": "created",
            "OOMKilled": False,
            "ExitCode": 0,
            "Error": "",
            "StartedAt": _NEVER,
            "FinishedAt": _NEVER,
        }
        self.containers[made.id] = made
        return 201, {"Id": made.id, "Warnings": []}

    def _start(self, container: DockerContainer) -> tuple[int, Any]:
        self._network(container.config["HostConfig"].get("NetworkMode") or "bridge")
        if self.start_refused:
            container.state |= {"ExitCode": 128, "Error": self.start_refused}
            raise EngineRefusal(400, self.start_refused)
        mounts = {**self.image_files, **container.binds(self.volumes)}
        container.run(self.start, self.image_variables, mounts)
        return 204, None

    def _stop(self, container: DockerContainer, seconds: int) -> None:
        assert container.process is not None
        container.signal(signal.SIGTERM)
        try:
            container.process.wait(seconds)
        except subprocess.TimeoutExpired:
            container.signal(signal.SIGKILL)
        container.wait()

    def _list(self, filters: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        listed = [each.listed() for each in self.containers.values()]
        for label in filters.get("label", ()):
            name, given, value = label.partition("=")
            listed = [one for one in listed if name in one["Labels"] and (not given or one["Labels"][name] == value)]
        states = filters.get("status")
        return [one for one in listed if not states or one["State"] in states]


def _handler(engine: DockerEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            try:
                code, answer = engine.answer(self.command, parts.path, query, body)
            except EngineRefusal as refused:
                code, answer = refused.code, {"message": str(refused)}
            except ConnectionAbortedError:
                self.close_connection = True
                return
            send_answer(self, code, answer, "application/vnd.docker.multiplexed-stream")

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


@contextmanager
def engine_in(folder: Path, **more: Any) -> Iterator[DockerEngine]:
    """Serve an engine's API on this machine; at the end every container is killed."""
    engine = DockerEngine(folder, **more)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(engine))
    server.daemon_threads = True
    engine.address = f"tcp://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield engine
    finally:
        for container in engine.containers.values():
            if container.process is not None and container.process.poll() is None:
                container.signal(signal.SIGKILL)
                container.process.wait()
        server.shutdown()
        server.server_close()
