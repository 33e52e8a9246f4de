"""Machines on one computer: network namespaces on a bridge, each with its own address, host name, processes and folder.

Needs root on Linux, `ip`, `tc` and `unshare`; a test that asks for a network without them is skipped with what lacks.
A machine sees its own folder as SITE and no other machine's folder. No assertions.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

SITE = Path("/mnt")
"""Where each machine has its own folder."""
_NUMBER = itertools.count(1)
_BITS = "32kb"
# Binds the machine's folder to SITE, then covers the folder of all machines.
_ENTER = 'hostname "$1" && mount --bind "$2" "$3" && mount -t tmpfs tmpfs "$4" && cd "$3" && shift 4 && exec "$@"'


@dataclass
class Machine:
    """A machine of a network."""

    name: str
    address: str
    folder: Path
    _namespace: str
    _hidden: Path
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, *command: str, environment: dict[str, str], log: str = "log", user: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program with SITE as current folder; it and what it starts have a host name and numbers of their own.

        Args:
            command: the program and its arguments.
            environment: all of its variables.
            log: file in the machine's folder that takes its output.
            user: the number of the user and group that it runs as.
        """
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        enter = ["sh", "-c", _ENTER, "enter", self.name, str(self.folder), str(SITE), str(self._hidden)]
        alone = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    "ip",
                    "netns",
                    "exec",
                    self._namespace,
                    *alone,
                    *enter,
                    *as_user,
                    *command,
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._processes.append(process)
        return process

    def text(self, log: str = "log") -> str:
        """Return what its programs have printed."""
        return (self.folder / log).read_text(errors="replace")

    def started(self) -> list[psutil.Process]:
        """Return the processes that its programs have started themselves."""
        running = [each.pid for each in self._processes if each.poll() is None]
        programs = [child for pid in running for child in _children(pid)]
        return [child for program in programs for child in psutil.Process(program).children()]

    def cut(self) -> None:
        """Take the machine off the network."""
        _run("ip", "-n", self._namespace, "link", "set", "eth0", "down")

    def join(self) -> None:
        """Bring the machine back."""
        _run("ip", "-n", self._namespace, "link", "set", "eth0", "up")

    def limit(self, rate: str) -> None:
        """Limit what the machine sends, as in `2mbit`."""
        shape = ["root", "tbf", "rate", rate, "burst", _BITS, "latency", "2s"]
        _run("ip", "netns", "exec", self._namespace, "tc", "qdisc", "replace", "dev", "eth0", *shape)

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End everything on the machine: at once, as when its power goes, or as its processes are asked to."""
        for process in self._processes:
            # The first of its namespace: all others end with it.
            for child in _children(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, how)
            process.wait(60)
        self._processes.clear()


@dataclass
class Network:
    """A bridge with this computer and machines on it."""

    root: Path
    address: str
    _name: str
    _prefix: str
    machines: list[Machine] = field(default_factory=list)

    def machine(self, name: str, rate: str = "") -> Machine:
        """Add a machine, whose link sends no more than `rate`."""
        number = len(self.machines) + 2
        namespace, outer = f"{self._name}-{name}", f"{self._name}v{number}"
        folder = self.root / name
        folder.mkdir(parents=True)
        address = f"{self._prefix}.{number}"
        machine = Machine(name, address, folder, namespace, self.root)
        self.machines.append(machine)
        _run("ip", "netns", "add", namespace)
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _run("ip", "link", "set", outer, "master", self._name, "up")
        _run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", namespace, "link", "set", device, "up")
        if rate:
            machine.limit(rate)
        return machine

    def remove(self) -> None:
        """End all machines and take the network away."""
        for machine in self.machines:
            machine.end()
            subprocess.run(["ip", "netns", "del", machine._namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._name], capture_output=True, check=False)


@contextlib.contextmanager
def network(root: Path) -> Iterator[Network]:
    """Give a network whose machines have their folders below `root`."""
    lacking = [name for name in ("ip", "tc", "unshare", "setpriv") if not shutil.which(name)]
    if sys.platform != "linux" or os.geteuid() != 0 or lacking:
        pytest.skip(f"network namespaces need root on Linux{' and ' if lacking else ''}{', '.join(lacking)}")
    number = next(_NUMBER)
    name = f"bp{os.getpid() % 100_000}n{number}"
    prefix = f"10.{64 + os.getpid() // 250 % 128}.{os.getpid() % 250}"
    made = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network can be made here: {made.stderr.strip()}")
    net = Network(root, f"{prefix}.1", name, prefix)
    try:
        _run("ip", "address", "add", f"{net.address}/24", "dev", name)
        _run("ip", "link", "set", name, "up")
        yield net
    finally:
        net.remove()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _children(pid: int) -> Sequence[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
