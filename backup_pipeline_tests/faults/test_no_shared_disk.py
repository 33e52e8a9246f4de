"""Workers that share a vault and a database, and no disk: one makes part of a set, others go on with it and read it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from backup_pipeline.errors import LockError
from backup_pipeline.operations.alerts.send import FinishedRun, notify_run_finished
from backup_pipeline.operations.backup.known_tables import known_tables
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.operations.fleets.run import FleetRequest, run_fleet
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.proof.verify import verify_set
from backup_pipeline.operations.restore.records import results
from backup_pipeline.operations.sites.copy_records import change_record, vault_record, with_size
from backup_pipeline.operations.sites.fleet_record import read_record
from backup_pipeline.operations.sites.shared_knowledge import share_state
from backup_pipeline.operations.sites.state import state_database
from backup_pipeline.operations.sites.stores import open_store, plan_lock
from backup_pipeline.operations.status.fleets import fleet_status
from backup_pipeline.operations.status.incident_state import change_state, read_state
from backup_pipeline.orchestration.liveness import death_of, marked_alive
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target
from backup_pipeline.stores.state.locks import DatabaseCoordination
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.support.fleet_programs import wait_until
from backup_pipeline_tests.support.postgres_restore import ask
from backup_pipeline_tests.support.postgres_restore import run as run_sql
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
state_env: STATE_URL
sources:
  shop: {{kind: postgres, dsn_env: SHOP_URL}}
  files: {{kind: folder, path: {files}}}
plans:
  nightly: {{sources: [shop, files], store: "vault:offsite", wait_seconds: 0.2}}
vaults:
  offsite: {{url: "file://{vault}", recipients: [{recipient}], keys_env: OFFSITE_KEYS}}
"""
TABLES = "create table customers (id bigint primary key, name text); insert into customers values (1, 'Meier')"


@dataclass
class Workers:
    """Makes workers of one site: each has an empty folder, the settings and the environment."""

    folder: Path
    settings: str
    variables: dict[str, str]
    shop: PostgresTarget

    def new(self, name: str) -> TestSite:
        site = TestSite(self.folder / name, dict(self.variables))
        site.folder.mkdir()
        site.write(self.settings)
        return site


def _run(worker: TestSite, root: str = "root") -> BackupRun:
    identity = RunIdentity(root, root, datetime(2026, 11, 21, 2, tzinfo=UTC), beside=True)
    return BackupRun(worker.site, "nightly", identity)


def _capture(worker: TestSite, *sources: str) -> None:
    run = _run(worker)
    for source in sources:
        list(run.capture(source))
    run.close()


def _seal(worker: TestSite) -> str:
    run = _run(worker)
    try:
        return run.seal().set_id
    finally:
        run.close()


@pytest.fixture
def workers(tmp_path: Path, database: Callable[..., PostgresTarget]) -> Workers:
    shop, state = database(), database()
    run_sql(shop, TABLES)
    for name in ("files", "vault"):
        (tmp_path / name).mkdir()
    (tmp_path / "files" / "order.txt").write_text("an order\n" * 1000)
    identity, recipient = new_identity()
    (tmp_path / "identity").write_text(identity)
    settings = SETTINGS.format(files=tmp_path / "files", vault=tmp_path / "vault", recipient=recipient)
    variables = {"SHOP_URL": dsn(shop), "STATE_URL": dsn(state), "VAULT_IDENTITY_FILE": str(tmp_path / "identity")}
    made = Workers(tmp_path, settings, variables, shop)
    office = made.new("office")
    for command in (["vault", "init", "offsite"], ["vault", "keys", "offsite", str(tmp_path / "keys")]):
        done = office.run(*command)
        assert done.code == 0, done.text
    made.variables["OFFSITE_KEYS_FILE"] = str(tmp_path / "keys")
    shutil.rmtree(office.folder)
    return made


def test_a_set_of_two_workers_is_verified_drilled_listed_and_restored_by_others(workers: Workers) -> None:
    first, second = workers.new("first"), workers.new("second")
    _capture(first, "shop")
    _capture(second, "files")
    shutil.rmtree(first.folder)
    set_id = _seal(second)
    third, fourth = workers.new("third"), workers.new("fourth")
    assert verify_set(third.site, "nightly", set_id).passed
    drilled = drill_set(third.site, "nightly", set_id)
    assert drilled.passed, drilled
    known = open_store(fourth.site, "nightly").read(set_id)
    assert known.proven
    listed = fourth.run("list", "--json")
    assert f'"{set_id}"' in listed.out
    assert '"proven": true' in listed.out
    assert known_tables(fourth.site.store_folder("nightly"), "shop") == (("shop", "public", "customers"),)
    assert "complete, 4 artefacts" in (fourth.site.store_folder("nightly") / "backup_log.txt").read_text()
    ask(workers.shop, "delete from customers returning id")
    plan = json.loads(fourth.run("restore", "nightly/latest", "shop", "--json").out)
    confirmed = ("--apply", "--plan-id", plan["plan_id"], "--confirm", plan["confirm"])
    restored = fourth.run("restore", "nightly/latest", "shop", *confirmed, "--json")
    assert restored.code == 0, restored.text
    assert ask(workers.shop, "select name from customers") == [("Meier",)]
    # The emergency set that the restore made is known to everybody, too.
    fifth = workers.new("fifth")
    assert len(open_store(fifth.site, "nightly").sealed_ids()) == 2
    assert [restore.source for restore in results(fifth.site, "nightly")] == ["shop"]
    lines = (fifth.site.store_folder("nightly") / "backup_log.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 2


def test_incidents_and_records_of_copies_are_the_same_for_every_worker(workers: Workers) -> None:
    first, second = workers.new("first").site, workers.new("second").site
    now = datetime(2026, 11, 21, tzinfo=UTC)
    change_state(first, lambda state: (state.model_copy(update={"known_since": {"nightly": now}}), None))
    assert read_state(second).known_since == {"nightly": now}
    change_record(first, "offsite", lambda record: with_size(record, now, 1))
    change_record(second, "offsite", lambda record: with_size(record, now, 2))
    share_state(first)
    assert [size.size for size in vault_record(first, "offsite").sizes] == [1, 2]


def test_an_incident_acknowledged_by_one_worker_is_known_to_all(workers: Workers) -> None:
    first, second = workers.new("first"), workers.new("second")
    now = datetime.now(UTC)
    notify_run_finished(first.site, "nightly", FinishedRun(succeeded=False, reason="No answer."), now)
    done = second.run("incidents", "ack", "run_failed:nightly:backup", "--by", "anna", "--reason", "known", "--json")
    assert done.code == 0, done.text
    (incident,) = read_state(first.site).open
    assert incident.acknowledged
    assert (incident.acknowledged.by, incident.acknowledged.reason) == ("anna", "known")


def test_who_lost_its_claim_changes_nothing_that_others_know(workers: Workers) -> None:
    cut_off, other = workers.new("cut-off"), workers.new("other")
    run = _run(cut_off)
    capture = run.capture("shop")
    next(capture)
    database = state_database(cut_off.site)
    assert database
    with pytest.raises(LockError), plan_lock(other.site, "nightly", "another run", owner="other"):
        pass
    # As if its heartbeat had stood still for longer than a lease.
    ask(database.target, "update backup_pipeline.locks set beaten = beaten - interval '91 seconds' returning name")
    _capture(other, "shop", "files")
    before = ask(
        database.target, "select scope, name, version from backup_pipeline.documents where scope ~ 'Z$' order by 1, 2"
    )
    with pytest.raises(LockError, match=r"taken over by|given up"):
        list(capture)
    run.close()
    after = ask(
        database.target, "select scope, name, version from backup_pipeline.documents where scope ~ 'Z$' order by 1, 2"
    )
    assert after == before
    set_id = _seal(other)
    assert verify_set(workers.new("third").site, "nightly", set_id).passed
    assert ask(database.target, "select name from backup_pipeline.locks") == []


def test_sets_made_before_the_database_was_named_are_known_to_all_afterwards(workers: Workers) -> None:
    veteran = workers.new("veteran")
    veteran.write(workers.settings.replace("state_env: STATE_URL\n", ""))
    for command in (["backup", "nightly"], ["drill", "nightly/latest"], ["backup", "nightly"]):
        done = veteran.run(*command)
        assert done.code == 0, done.text
    veteran.write(workers.settings)
    assert veteran.run("list").out.count("complete") == 2
    other = workers.new("other")
    first, second = open_store(other.site, "nightly").sealed_ids()
    assert open_store(other.site, "nightly").read(first).proven
    assert verify_set(other.site, "nightly", second).passed
    # Who has met the database before makes nothing known again that others have removed.
    open_store(other.site, "nightly").remove(first)
    assert open_store(veteran.site, "nightly").sealed_ids() == (second,)
    veteran.run("list")
    assert open_store(other.site, "nightly").sealed_ids() == (second,)


def test_a_run_that_died_on_a_worker_is_known_to_others_by_its_mark(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = workers.new("there"), workers.new("here")
    monkeypatch.setenv("BACKUP_PIPELINE_CONFIG", str(there.folder / "backup.yaml"))
    for name, value in workers.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(there.folder))
    with marked_alive("a-run"):
        monkeypatch.setenv("DAGSTER_HOME", str(here.folder))
        assert death_of("a-run") == ""
        database = state_database(here.site)
        assert database
        # As if its heartbeat had stood still for longer than a lease.
        ask(database.target, "update backup_pipeline.locks set beaten = beaten - interval '91 seconds' returning name")
        assert f"process {os.getpid()}" in death_of("a-run")
        monkeypatch.setenv("DAGSTER_HOME", str(there.folder))
    monkeypatch.setenv("DAGSTER_HOME", str(here.folder))
    assert death_of("a-run") == ""
    assert ask(database.target, "select name from backup_pipeline.locks") == []


def test_the_check_says_why_the_database_of_workers_cannot_be_used(workers: Workers) -> None:
    worker = workers.new("worker")

    def faults() -> list[str]:
        worker.write(workers.settings)
        found = json.loads(worker.run("env", "check", "--json").out)["faults"]
        return [fault["what"] for fault in found if "state_env" in fault["where"]]

    assert faults() == []
    state = parse_target(workers.variables["STATE_URL"], variable="STATE_URL")
    run_sql(state, "create role reader login password 'q8ZrT2vLk0Xb'")
    worker.variables["STATE_URL"] = dsn(replace(state, user="reader", password="q8ZrT2vLk0Xb"))
    (refused,) = faults()
    assert refused.startswith("No right: permission denied")
    worker.variables["STATE_URL"] = "postgresql://nobody:q8ZrT2vLk0Xb@127.0.0.1:1/state"
    (away,) = faults()
    assert "cannot be reached" in away
    assert "q8ZrT2vLk0Xb" not in away
    run_sql(state, "drop role reader")


def test_what_was_brought_before_the_machine_was_started_is_brought_again(workers: Workers) -> None:
    first, second = workers.new("first"), workers.new("second")
    _capture(first, "shop")
    store = open_store(second.site, "nightly")
    (set_id,) = store.ids()
    store.read(set_id)
    folder = second.site.store_folder("nightly") / set_id
    (record,) = folder.glob("records/*dump*.json")
    whole = record.read_bytes()
    record.write_bytes(b"")
    noted = folder / ".brought.part"
    noted.write_text(json.dumps({**json.loads(noted.read_text()), "": "an earlier boot"}))
    store.read(set_id)
    assert record.read_bytes() == whole


def _with_fleets(workers: Workers, **members: Sequence[str]) -> None:
    """Add fleets to the settings; a member has the variable of its name."""
    fleets = "".join(
        f"""  {name}:
    sources_from: {{list: [{", ".join(names)}]}}
    source: {{kind: postgres, dsn_env: "{{NAME}}_URL", tables: {{formats: []}}}}
    plan: {{store: "vault:offsite"}}
"""
        for name, names in members.items()
    )
    workers.settings = workers.settings.replace("vaults:", f"fleets:\n{fleets}vaults:")
    workers.variables |= {f"{name.upper()}_URL": dsn(workers.shop) for names in members.values() for name in names}


def test_a_fleet_is_one_run_on_whatever_worker_and_others_know_what_became_of_it(workers: Workers) -> None:
    _with_fleets(workers, tenants=("acme", "initech"))
    first, second = workers.new("first"), workers.new("second")
    database = state_database(first.site)
    assert database
    with (
        DatabaseCoordination(database, "/").hold("fleet tenants", purpose="a run elsewhere"),
        pytest.raises(LockError),
    ):
        run_fleet(second.site, FleetRequest("tenants"))
    assert len(run_fleet(first.site, FleetRequest("tenants")).of_state("sealed")) == 2
    share_state(second.site)
    assert {one.state for one in read_record(second.site, "tenants").outcomes.values()} == {"sealed"}
    assert run_fleet(second.site, FleetRequest("tenants", unfinished=True)).outcomes == []
    set_id = open_store(second.site, "tenants_acme").sealed_ids()[0]
    assert drill_set(second.site, "tenants_acme", set_id).passed


def test_a_fleets_run_is_followed_and_finished_elsewhere_when_its_machine_dies(
    workers: Workers, database: Callable[..., PostgresTarget]
) -> None:
    _with_fleets(workers, tenants=("good", "slow", "broken"))
    held = database()
    run_sql(held, TABLES)
    workers.variables |= {"SLOW_URL": dsn(held), "BROKEN_URL": dsn(replace(held, database="not there"))}
    first, second = workers.new("first"), workers.new("second")
    second.variables["BROKEN_URL"] = dsn(workers.shop)
    second.write_env()

    def under_way() -> str:
        share_state(second.site)
        return fleet_status(second.site, "tenants", datetime.now(UTC)).under_way

    so_far = "2 of 3 members have ended, 1 of them failed; now: tenants_slow"
    with connected(held) as connection, connection.transaction():
        connection.execute("lock table public.customers in access exclusive mode")
        running = first.start("backup", "tenants")
        wait_until(lambda: under_way() == so_far, so_far, more=under_way)
        refused = second.run("backup", "tenants")
        assert (refused.code, so_far in refused.text, "--unfinished" in refused.text) == (4, True, True)
        machine = psutil.Process(running.pid)
        for process in (*machine.children(recursive=True), machine):
            process.kill()
        running.communicate()
    database_of_state = state_database(second.site)
    assert database_of_state
    # As if its heartbeats had stood still for longer than a lease.
    ask(
        database_of_state.target,
        "update backup_pipeline.locks set beaten = beaten - interval '91 seconds' returning name",
    )
    assert under_way() == ""
    killed = "its run was killed before this member was sealed"
    found = fleet_status(second.site, "tenants", datetime.now(UTC))
    assert [one.plan for one in found.members if one.what == killed] == ["tenants_slow"]
    again = run_fleet(second.site, FleetRequest("tenants", unfinished=True))
    assert {one.plan: one.state for one in again.outcomes} == {"tenants_slow": "sealed", "tenants_broken": "sealed"}
    assert [len(open_store(second.site, f"tenants_{name}").sealed_ids()) for name in ("good", "slow", "broken")] == [
        1
    ] * 3


def test_two_machines_have_a_fleet_each_and_every_worker_knows_both(workers: Workers) -> None:
    _with_fleets(workers, north=("acme", "initech"), south=("umbrella", "hooli"))
    first, second, third = (workers.new(name) for name in ("first", "second", "third"))
    running = [first.start("backup", "north", "--json"), second.start("backup", "south", "--json")]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in running]
    assert [code for _, _, code in ended] == [0, 0], ended
    shown = third.run("status")
    assert shown.out.count("good  2 members: 2 good") == 2, shown.text
    assert third.run("backup", "south", "--unfinished", "--json").code == 0
    for plan in ("north_acme", "south_hooli"):
        assert third.run("verify", f"{plan}/latest").code == 0
        assert len(open_store(third.site, plan).sealed_ids()) == 1
