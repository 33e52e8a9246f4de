"""A drill that is killed leaves a database and roles (or a server and folders); the next one removes them."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.postgres.load.scratch import scratch_database
from backup_pipeline.postgres.server.databases import create_database, server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system.scratch_folders import scratch_folder
from backup_pipeline_tests.support.forked_sites import ForkedCommand
from backup_pipeline_tests.support.postgres_restore import ask, run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
store: backups
sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}
plans: {nightly: {sources: [shop]}}
"""


@pytest.fixture
def site(tmp_path: Path, database: Callable[..., PostgresTarget]) -> TestSite:
    source = database()
    run(
        source,
        "create role short_lived; create table big as select i, repeat('x', 100) as x from generate_series(1,"
        " 100000) i; create index on big (x); alter table big owner to short_lived",
    )
    made = TestSite(tmp_path)
    made.variables["SHOP_URL"] = dsn(source)
    made.write(SETTINGS)
    sealed_set(made.site, "nightly")
    run(source, "reassign owned by short_lived to current_user; drop role short_lived")
    return made


def drills_on(server: PostgresTarget) -> set[str]:
    """The databases of drills on a server."""
    return {str(name) for (name,) in ask(server, "select datname from pg_database where datname like 'drill\\_%'")}


def kill_when(site: TestSite, reached: Callable[[], bool]) -> None:
    process = ForkedCommand(site, "drill", "latest")
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()


@pytest.mark.takes(seconds=3, together="forked")
def test_what_a_killed_drill_left_on_the_scratch_server_is_removed_by_the_next(
    site: TestSite, server: EmbeddedServer
) -> None:
    scratch = server.target()
    site.variables["DRILL_DATABASE_URL"] = dsn(scratch)
    site.write_env()

    kill_when(site, lambda: bool(drills_on(scratch)))
    assert drills_on(scratch)
    assert "short_lived" in server_facts(scratch).roles
    with scratch_database(scratch) as other:
        create_database(other)
        assert drills_on(scratch) == {other.database}, "the dead one is gone, the living one stays"
        proof = drill_set(site.site, "nightly", site.store("nightly").sealed_ids()[0])
        assert proof.findings == ()
        assert drills_on(scratch) == {other.database}
    assert drills_on(scratch) == set()
    assert "short_lived" not in server_facts(scratch).roles


def server_of(folder: Path) -> int:
    """The process of the server in a scratch folder; 0 before it has started (initdb writes a negative number)."""
    try:
        return max(0, int((folder / "postgres/data/postmaster.pid").read_text().splitlines()[0]))
    except (OSError, IndexError, ValueError):
        return 0


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that no other test makes servers in, and that a server's own user can enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(name)


@pytest.mark.takes(seconds=4, together="forked")
def test_the_next_drill_stops_a_killed_drills_server_and_removes_its_folder(site: TestSite, place: Path) -> None:
    def made() -> list[Path]:
        return [path for path in place.glob("bp-scratch-*") if server_of(path)]

    kill_when(site, lambda: bool(made()))
    (folder,) = made()
    server = server_of(folder)
    assert psutil.pid_exists(server)
    assert drill_set(site.site, "nightly", site.store("nightly").sealed_ids()[0]).findings == ()
    assert not folder.exists()
    assert not psutil.pid_exists(server)


def runs(pid: int) -> bool:
    """Whether a process still does anything: one that has ended stays listed until its parent asks for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.takes(seconds=3, together="forked")
@pytest.mark.parametrize("programs", ["embedded", "installed"])
def test_a_drill_that_is_terminated_leaves_neither_server_nor_folder(
    site: TestSite, place: Path, programs: str, request: pytest.FixtureRequest
) -> None:
    if programs == "installed":
        source: PostgresTarget = request.getfixturevalue("installed_database")(
            "create extension hstore; create table big as select i, repeat('x', 100) as x from generate_series(1,"
            " 100000) i; create index on big (x)"
        )
        site.variables["SHOP_URL"] = dsn(source)
        site.write_env()
        sealed_set(site.site, "nightly")

    def started() -> list[int]:
        return [pid for path in place.glob("bp-scratch-*") if (pid := server_of(path))]

    process = ForkedCommand(site, "drill", "latest")
    deadline = time.monotonic() + 120
    while not started():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (server,) = started()
    program = psutil.Process(server).exe()
    assert ("/usr/lib/postgresql/" in program) == (programs == "installed"), program
    process.send_signal(signal.SIGTERM)
    _, reported = process.communicate(timeout=60)
    assert (process.returncode, reported.decode().strip().splitlines()[-1:]) == (143, ["Terminated."]), reported
    assert list(place.iterdir()) == []
    assert not runs(server)
    newest = site.store("nightly").read(site.store("nightly").sealed_ids()[-1])
    assert newest.proofs == (), "work that was ended proves nothing"


@pytest.mark.takes(seconds=2, together="forked")
def test_a_drill_that_is_terminated_leaves_nothing_on_a_named_scratch_server(
    site: TestSite, server: EmbeddedServer
) -> None:
    scratch = server.target()
    site.variables["DRILL_DATABASE_URL"] = dsn(scratch)
    site.write_env()
    before = server_facts(scratch)

    process = ForkedCommand(site, "drill", "latest")
    while not drills_on(scratch):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    after = server_facts(scratch)
    assert (after.databases, after.roles) == (before.databases, before.roles)


def test_what_another_role_left_on_the_scratch_server_is_passed_over_and_named(
    site: TestSite, server: EmbeddedServer
) -> None:
    left = "drill_0123456789abcdef"
    run(server.target(), "create role drills login createdb createrole password 'x'")
    run(server.target(), f"create database {left}")
    try:
        limited = PostgresTarget("127.0.0.1", server.port, "postgres", "drills", "x")
        site.variables["DRILL_DATABASE_URL"] = dsn(limited)
        site.write_env()
        proof = drill_set(site.site, "nightly", site.store("nightly").sealed_ids()[0])
        assert (proof.findings, proof.missing_here) == ((), ())
        (reported,) = [one for one in proof.skipped if left in one.subject]
        assert "which this role may not remove" in reported.problem
        assert f'drop database "{left}" with (force);' in reported.remedy
        assert left in server_facts(server.target()).databases
        # It names the server of the source, too, which the drill says each time.
        (live,) = [one.problem for one in proof.skipped if one.subject.endswith("DRILL_DATABASE_URL")]
        assert "is the server of source shop" in live
        shown = site.run("drill", "latest")
        assert (left in shown.text, "is the server of source shop" in " ".join(shown.text.split())) == (True, True)
    finally:
        run(server.target(), f"drop database if exists {left} with (force)")
        run(server.target(), "drop role drills")


def test_a_scratch_folder_of_a_living_process_and_one_without_a_lock_stay(tmp_path: Path) -> None:
    unknown = tmp_path / "work-unknown"
    unknown.mkdir()
    with scratch_folder("work-", tmp_path) as first, scratch_folder("work-", tmp_path) as second:
        assert first.is_dir()
        assert second.is_dir()
    assert list(tmp_path.iterdir()) == [unknown]


def test_drill_starts_the_sites_own_embedded_server_when_it_is_named_and_stops_it(site: TestSite) -> None:
    own = EmbeddedServer(site.folder / "own")
    own.start()
    target = own.target()
    own.stop()
    site.variables["DRILL_DATABASE_URL"] = dsn(target)
    site.write(SETTINGS + f"embedded_postgres: {{data: {own.folder}, port: {target.port}}}\n")
    try:
        done = site.run("drill", "latest")
        assert done.code == 0, done.text
        assert not own.running()
    finally:
        own.remove()
