"""A TCP proxy before a server that stalls, drips or resets its connections when a test says so."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from backup_pipeline.postgres.server.target import PostgresTarget

Behaviour = Literal["pass", "stall", "drip", "reset"]
_DRIP_SECONDS = 0.2


@dataclass
class Proxy:
    """What passes through, and what becomes of it.

    `trouble_at(text, behaviour)` waits for a client's bytes that hold `text`: from then on every connection behaves so.
    """

    listener: socket.socket
    server: tuple[str, int]
    behaviour: Behaviour = "pass"
    trigger: bytes = b""
    then: Behaviour = "pass"
    happened: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    sockets: list[socket.socket] = field(default_factory=list)

    def trouble_at(self, text: str, behaviour: Behaviour) -> None:
        """Have trouble begin when a client sends this text; "" for at once, so that nobody is even let in."""
        self.happened.clear()
        if not text:
            self._become(behaviour)
        else:
            self.trigger, self.then = text.encode(), behaviour

    def mend(self) -> None:
        """Let everything pass again."""
        self.trigger = b""
        self._become("pass")

    def _become(self, behaviour: Behaviour) -> None:
        with self.changed:
            self.behaviour = behaviour
            self.changed.notify_all()
        if behaviour != "pass":
            self.happened.set()
        if behaviour == "reset":
            for link in list(self.sockets):
                _reset(link)

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                if self.behaviour == "reset":
                    _reset(client)
                    continue
                upstream = socket.create_connection(self.server)
                self.sockets += [client, upstream]
                for pair in ((client, upstream, True), (upstream, client, False)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, come: socket.socket, go: socket.socket, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := come.recv(1 << 16):
                if from_client and self.trigger and self.trigger in data:
                    self.trigger = b""
                    self._become(self.then)
                self._pass_on(data, go)
        with contextlib.suppress(OSError):
            go.shutdown(socket.SHUT_WR)

    def _pass_on(self, data: bytes, go: socket.socket) -> None:
        while data:
            with self.changed:
                while self.behaviour == "stall":
                    self.changed.wait()
                size = 1 if self.behaviour == "drip" else len(data)
                if self.behaviour == "drip":
                    self.changed.wait(_DRIP_SECONDS)
            go.sendall(data[:size])
            data = data[size:]


def _reset(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.shutdown(socket.SHUT_RDWR)
        link.close()


@contextlib.contextmanager
def proxy_before(target: PostgresTarget) -> Iterator[tuple[Proxy, PostgresTarget]]:
    """Run a proxy before the target's server for the block; give it and the target that goes through it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(listener, (target.host, target.port))
        threading.Thread(target=proxy.serve, daemon=True).start()
        try:
            yield proxy, replace(target, port=listener.getsockname()[1])
        finally:
            proxy.mend()
            for link in proxy.sockets:
                _reset(link)
