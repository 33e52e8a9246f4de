"""Fixtures shared by all tests: one embedded PostgreSQL per session, template databases cloned per test."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import dagster as dg
import hypothesis
import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer, scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.dagster_runs import instance_in
from backup_pipeline_tests.support.examples import USUAL
from backup_pipeline_tests.support.made_once import make_once
from backup_pipeline_tests.support.sites import GUSTAV, IDENTITIES, SHOP, TestSite, gustav_variables, write_storage

_NUMBER = itertools.count(1)
# Four processes, each with a server, rows of 200 MB and files of a log.
_ROOM_IN_MEMORY = 8 << 30
_FAILED = pytest.StashKey[bool]()
# Databases and roles of templates: every test of this process may use them.
_LASTING: set[str] = set()

# A shell starts what it puts in the background with SIGINT ignored; processes of the tests would inherit that, and
# Dagster stops its own by SIGINT.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where the environment forbids it, each process would compile every test again at each run, and each command the
# whole package.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# As the command line does: what is imported stays, and to look for garbage among it takes a tenth of the time.
gc.set_threshold(100_000)
make_once()
# How long an example takes says what else the machine does.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], max_examples=USUAL
)
untimed = hypothesis.settings.get_profile("untimed")
# What is handed over passes or fails whoever runs it, and how often: by --hypothesis-profile, as .ci/run and
# `make explore` choose. Without it examples are others each time.
hypothesis.settings.register_profile("same", untimed, derandomize=True)
hypothesis.settings.register_profile("explore", untimed, max_examples=20 * USUAL)
hypothesis.settings.load_profile("untimed")


def _quick_folder() -> Path:
    """Return where the server's files lie: in memory where there is plenty.

    A test's database is some 300 files. ext4 passes over inodes that were deleted a moment ago, so making and dropping
    databases all the time takes most of a server's processor time there.
    """
    memory = Path("/dev/shm")
    with contextlib.suppress(OSError):
        room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_IN_MEMORY
        if room and not os.statvfs(memory).f_flag & os.ST_NOEXEC:
            return memory
    return Path("/tmp")


# Sites sync what they write at every step, and to wait for a disk is most of what keeps tests from the processor.
if _quick_folder() != Path("/tmp"):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_quick_folder()))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the long tests begin first, each process with some: one that begins last would keep all others waiting.

    Each process is first given an equal share of the list, from its beginning on. Last of the hooks: what is not
    selected must not count.
    """

    jobs: dict[str, tuple[int, list[pytest.Item]]] = {}
    others = []
    for item in items:
        if mark := item.get_closest_marker("takes"):
            name = mark.kwargs.get("together", item.nodeid)
            seconds, members = jobs.get(name, (0, []))
            jobs[name] = seconds + mark.kwargs["seconds"], [*members, item]
        else:
            others.append(item)
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shares: list[tuple[int, list[pytest.Item]]] = [(0, [])] * processes
    for seconds, members in sorted(jobs.values(), key=lambda job: job[0], reverse=True):
        least = min(range(processes), key=lambda process: shares[process][0])
        shares[least] = shares[least][0] + seconds, [*shares[least][1], *members]
    room = -(-len(items) // processes)
    items.clear()
    for _, share in shares:
        left = max(0, room - len(share))
        items += share + others[:left]
        del others[:left]
    items += others


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember for the fixtures' ends whether the test failed."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


def _present(connection: Connection[TupleRow]) -> tuple[set[str], set[str]]:
    """Return the server's databases and roles."""
    databases, roles = (
        {str(name) for (name,) in connection.execute(query).fetchall()}
        for query in (b"select datname from pg_database", b"select rolname from pg_roles")
    )
    return databases, roles


def _put_back(connection: Connection[TupleRow], before: tuple[set[str], set[str]]) -> None:
    """Remove what a failed test left on the session's server: it may be run again, and names the same once more."""
    databases, roles = (now - then - _LASTING for now, then in zip(_present(connection), before, strict=True))
    commands = [f'drop database if exists "{name}" with (force)' for name in databases]
    for role in roles:
        commands += [f'drop owned by "{role}" cascade', f'drop role if exists "{role}"']
    for command in commands:
        # What another one needs stays.
        with contextlib.suppress(psycopg.Error):
            connection.execute(command.encode())


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance with its files in the test's folder."""
    with instance_in(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A scratch PostgreSQL for the whole session."""
    settings = {"max_connections": "60", "max_wal_size": "128MB"}
    with scratch_server(_quick_folder(), settings=settings) as running:
        yield running


@pytest.fixture(scope="session")
def installed_server() -> Iterator[EmbeddedServer]:
    """A scratch server of the PostgreSQL installed on this machine; skipped where there is none."""
    folders = [place.parent for place in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not folders:
        pytest.skip("no PostgreSQL server is installed in /usr/lib/postgresql (Debian: postgresql, postgresql-contrib)")
    programs = max(folders, key=lambda folder: int(folder.parent.name))
    settings = {"max_connections": "60", "max_wal_size": "128MB"}
    with scratch_server(_quick_folder(), settings=settings, programs=programs) as running:
        yield running


@pytest.fixture
def installed_database(
    installed_server: EmbeddedServer, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], PostgresTarget]]:
    """Return a function (sql) that makes a database on the installed server and drops it afterwards."""
    names: list[str] = []
    before: list[tuple[set[str], set[str]]] = []

    def make(sql: str = "") -> PostgresTarget:
        name = f"i{next(_NUMBER)}"
        with connected(installed_server.target()) as connection:
            before.append(_present(connection))
            connection.execute(f'create database "{name}" template template0'.encode())
        names.append(name)
        with connected(installed_server.target(name), pinned=False) as connection:
            connection.execute(sql.encode())
        return installed_server.target(name)

    yield make
    with connected(installed_server.target()) as connection:
        for name in names:
            connection.execute(f'drop database if exists "{name}" with (force)'.encode())
        if before and request.node.stash.get(_FAILED, False):
            _put_back(connection, before[0])


@pytest.fixture(scope="session")
def template(server: EmbeddedServer) -> Callable[[str, str], str]:
    """Return a function (name, sql) that makes a template database once per session and returns its name."""

    def make(name: str, sql: str) -> str:
        # Two files may choose the same name for other content.
        name = f"{name}_{hashlib.sha256(sql.encode()).hexdigest()[:8]}"
        if name not in _LASTING:
            with connected(server.target()) as connection:
                before = _present(connection)
                # What an attempt left that was broken off.
                connection.execute(f'drop database if exists "{name}" with (force)'.encode())
                connection.execute(f'create database "{name}"'.encode())
                with connected(server.target(name), pinned=False) as filling:
                    filling.execute(sql.encode())
                for now, then in zip(_present(connection), before, strict=True):
                    _LASTING.update(now - then, {name})
        return name

    return make


@pytest.fixture
def database(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[Callable[..., PostgresTarget]]:
    """Return a function that makes a fresh database (from a template where named) and drops it afterwards."""
    names: list[str] = []
    before: list[tuple[set[str], set[str]]] = []

    def make(template: str = "template0") -> PostgresTarget:
        name = f"t{next(_NUMBER)}"
        with connected(server.target()) as connection:
            before.append(_present(connection))
            connection.execute(f'create database "{name}" template "{template}" strategy file_copy'.encode())
        names.append(name)
        return server.target(name)

    yield make
    with connected(server.target()) as connection:
        for name in names:
            connection.execute(f'drop database if exists "{name}" with (force)'.encode())
        if before and request.node.stash.get(_FAILED, False):
            _put_back(connection, before[0])


@pytest.fixture
def gustav(tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> TestSite:
    """Supabase and Keycloak databases and two storage buckets, in the plan `nightly` whose store is `sets`."""
    supabase = database(template("shop", SHOP))
    keycloak = database(template("identities", IDENTITIES))
    site = TestSite(tmp_path)
    site.variables = gustav_variables(supabase, keycloak)
    write_storage(tmp_path / "storage")
    site.write(GUSTAV)
    return site
