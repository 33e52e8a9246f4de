"""Pods of Jobs as processes of this machine: what a kubelet does, as far as a run's container needs it.

Volumes are folders below the cluster's; without mounts of its own a process finds them where its variables say, for the
paths of mounts in those are replaced. Started in the built image they are mounted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

# Starts a container: its command with arguments, its variables, its mounts (path inside, folder outside), its log.
Start = Callable[[list[str], dict[str, str], dict[str, Path], Path], "subprocess.Popen[bytes]"]
# ConfigMaps and Secrets: (kind, name) and their content.
Objects = Mapping[tuple[str, str], Mapping[str, str]]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def started_here(
    command: list[str], environment: dict[str, str], mounts: dict[str, Path], log: Path
) -> subprocess.Popen[bytes]:
    """Start a container's command with this machine's files: paths of mounts become those of their folders."""

    def moved(text: str) -> str:
        for inside in sorted(mounts, key=len, reverse=True):
            if text == inside or text.startswith(inside + "/"):
                return str(mounts[inside]) + text.removeprefix(inside)
        return text

    image = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env=image | {name: moved(value) for name, value in environment.items()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@dataclass
class Pod:
    """A pod: its object as the API server shows it, and the process of its container."""

    shown: dict[str, Any]
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    watcher: Thread | None = None
    ended: Callable[[Pod], None] = field(default=lambda _: None)

    @property
    def name(self) -> str:
        return str(self.shown["metadata"]["name"])

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, start: Start, objects: Objects, volumes: Path) -> None:
        """Start the container and watch it until it ends."""
        container = self.shown["spec"]["containers"][0]
        command = [*container.get("command", []), *container["args"]]
        mounts = self.mounts(objects, volumes)
        self.process = start(command, self.variables(objects), mounts, self.log)
        self._show("Running", {"running": {"startedAt": now()}}, ready=True)
        self.watcher = Thread(target=self._wait, daemon=True)
        self.watcher.start()

    def kill(self, number: int) -> None:
        """Send a signal to the container: to what its process 1 passes it on to, SIGKILL to all of its processes."""
        assert self.process is not None
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            family = [first, *first.children(recursive=True)]
            inner = [each for each in family if each.name() == "tini"] if number != signal.SIGKILL else []
            for each in family if number == signal.SIGKILL else inner or [first]:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(number)

    def delete(self) -> None:
        """End the container as the deletion of its pod does: SIGTERM, then SIGKILL after its grace time."""
        self.shown["metadata"]["deletionTimestamp"] = now()
        if self.process is not None:
            self.kill(signal.SIGTERM)
            try:
                self.process.wait(self.shown["spec"]["terminationGracePeriodSeconds"])
            except subprocess.TimeoutExpired:
                self.kill(signal.SIGKILL)

    def evict(self, message: str) -> None:
        """Evict the pod as a kubelet does whose node runs out of something: killed at once, and shown as evicted."""
        self.shown["status"].update(reason="Evicted", message=message)
        self.kill(signal.SIGKILL)

    def wait_for_image(self, message: str) -> None:
        self._show("Pending", {"waiting": {"reason": "ErrImagePull", "message": message}}, ready=False)

    def _wait(self) -> None:
        assert self.process is not None
        code = self.process.wait()
        exit_code = code if code >= 0 else 128 - code
        state = {
            "terminated": {
                "exitCode": exit_code,
                "reason": "Completed" if exit_code == 0 else "Error",
                "startedAt": self.shown["status"]["startTime"],
                "finishedAt": now(),
            }
        }
        self._show("Succeeded" if exit_code == 0 else "Failed", state, ready=False)
        self.ended(self)

    def _show(self, phase: str, state: dict[str, Any], *, ready: bool) -> None:
        container = self.shown["spec"]["containers"][0]
        self.shown["status"].update(
            phase=phase,
            containerStatuses=[
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "" if "waiting" in state else f"sha256:{uuid.uuid5(uuid.NAMESPACE_URL, 'image').hex}",
                    "ready": ready,
                    "restartCount": 0,
                    "started": ready,
                    "state": state,
                    "lastState": {},
                }
            ],
        )

    def mounts(self, objects: Objects, volumes: Path) -> dict[str, Path]:
        """The folder or file of each mount, by its path inside; content of ConfigMaps and Secrets is written anew."""
        found: dict[str, Path] = {}
        for volume in self.shown["spec"]["volumes"]:
            folder = self.folder / volume["name"]
            content: Mapping[str, str] = {}
            if "configMap" in volume:
                content = objects["ConfigMap", volume["configMap"]["name"]]
            elif "secret" in volume:
                content = objects["Secret", volume["secret"]["secretName"]]
            elif "persistentVolumeClaim" in volume:
                folder = volumes / volume["persistentVolumeClaim"]["claimName"]
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in content.items():
                (folder / name).write_text(text, "utf-8")
            if not content and os.geteuid() == 0:
                # Of a fresh volume; what ConfigMaps and Secrets give stays root's, for nobody to write.
                owner = self.shown["spec"]["securityContext"]
                os.chown(folder, owner["runAsUser"], owner["fsGroup"])
            found[volume["name"]] = folder
        return {
            mount["mountPath"]: found[mount["name"]] / mount.get("subPath", "")
            for mount in self.shown["spec"]["containers"][0]["volumeMounts"]
        }

    def variables(self, objects: Objects) -> dict[str, str]:
        """The container's variables."""
        container = self.shown["spec"]["containers"][0]
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= objects["ConfigMap", source["configMapRef"]["name"]]
        for each in container.get("env", []):
            origin = each.get("valueFrom", {})
            if "configMapKeyRef" in origin:
                content = objects["ConfigMap", origin["configMapKeyRef"]["name"]]
                found[each["name"]] = content[origin["configMapKeyRef"]["key"]]
            elif "fieldRef" in origin:
                found[each["name"]] = self.shown["metadata"]["namespace"]
            else:
                found[each["name"]] = str(each.get("value") or "")
        return found
