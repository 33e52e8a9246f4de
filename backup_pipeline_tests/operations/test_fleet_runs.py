"""Runs of a fleet: members backed up in processes of their own; failed and postponed ones are run again alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backup_pipeline.errors import LockError
from backup_pipeline.operations.fleets.run import FleetRequest, run_fleet
from backup_pipeline.operations.sites.fleet_record import LOCK_NAME, folder_of, read_record
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system.locks import hold_lock
from backup_pipeline_tests.support.postgres_restore import run
from backup_pipeline_tests.support.sites import NOW, TestSite

FLEET = """
store: backups
fleets:
  tenants:
    sources_from: {file: tenants.json}
    source:
      kind: postgres
      dsn: "postgresql://{user}@{host}:{port}/{database}"
      password_env: "{NAME}_PASSWORD"
      tables: {formats: []}
    parallel: 2
"""


@pytest.fixture
def tenants(tmp_path: Path, database: Callable[..., PostgresTarget]) -> tuple[TestSite, list[dict[str, object]]]:
    rows: list[dict[str, object]] = []
    passwords = {}
    for name in ("one", "two"):
        target = database()
        run(target, "create table t (id int primary key); insert into t select generate_series(1, 5)")
        passwords[f"{name.upper()}_PASSWORD"] = target.password
        rows.append(
            {
                "name": name,
                "user": target.user,
                "host": target.host,
                "port": target.port,
                "database": target.database,
            }
        )
    site = TestSite(tmp_path / "site", {**passwords, "BROKEN_PASSWORD": target.password})
    site.folder.mkdir()
    site.write(FLEET)
    members(site, rows)
    return site, rows


def members(site: TestSite, rows: list[dict[str, object]]) -> None:
    (site.folder / "tenants.json").write_text(json.dumps(rows))


def outcomes(document: dict[str, list[dict[str, object]]]) -> dict[str, object]:
    return {str(one["plan"]): one["state"] for one in document["members"]}


def test_failed_members_are_run_again_alone_and_gone_ones_stay(
    tenants: tuple[TestSite, list[dict[str, object]]],
) -> None:
    site, rows = tenants
    broken = {**rows[0], "name": "broken", "database": "not there"}
    members(site, [*rows, broken, {"name": "no host"}])
    done = site.run("backup", "tenants", "--json")
    document = json.loads(done.out)
    assert (done.code, outcomes(document)) == (
        5,
        {"tenants_one": "sealed", "tenants_two": "sealed", "tenants_broken": "failed"},
    )
    assert document["faults"][0]["where"] == "tenants.json, row 4, field user"
    shown = site.run("status")
    assert (shown.code, "2 good, 1 failed" in shown.out, "row 4, field user" in shown.out) == (6, True, True)
    assert "tenants_broken" in site.run("status", "tenants").out
    # The list is corrected, and one member has left it.
    members(site, [rows[0], {**broken, "database": rows[1]["database"]}])
    again = json.loads(site.run("backup", "tenants", "--unfinished", "--json").out)
    assert (outcomes(again), again["exit_code"], again["gone"]) == ({"tenants_broken": "sealed"}, 0, ["tenants_two"])
    assert site.run("verify", "tenants_two").code == 0
    assert "1 gone" in site.run("status").out
    assert site.run("drill", "tenants_one").code == 0


def test_what_the_window_does_not_reach_is_postponed_and_first_next_time(
    tenants: tuple[TestSite, list[dict[str, object]]],
) -> None:
    site, _ = tenants
    assert json.loads(site.run("backup", "tenants", "--json").out)["exit_code"] == 0
    # The window opened and closed days ago: none is begun.
    closed = run_fleet(site.site, FleetRequest("tenants", opened=NOW, window=timedelta(minutes=1)))
    assert {one.state for one in closed.outcomes} == {"postponed"}
    assert read_record(site.site, "tenants").outcomes["tenants_one"].usual_seconds > 0
    shown = site.run("status")
    assert "2 of 2 members: postponed: the window closed" in shown.out
    again = json.loads(site.run("backup", "tenants", "--unfinished", "--json").out)
    assert set(outcomes(again).values()) == {"sealed"}


def test_two_runs_of_a_fleet_do_not_run_at_once(tenants: tuple[TestSite, list[dict[str, object]]]) -> None:
    site, _ = tenants
    folder = folder_of(site.site, "tenants")
    folder.mkdir(parents=True)
    with hold_lock(folder / LOCK_NAME, purpose="another run"), pytest.raises(LockError, match="another run"):
        run_fleet(site.site, FleetRequest("tenants"))


def test_each_run_proves_the_members_that_were_proven_longest_ago(
    tenants: tuple[TestSite, list[dict[str, object]]],
) -> None:
    site, _ = tenants
    site.write(FLEET + "    drill: 1\n")
    drilled = []
    for _ in range(2):
        done = site.run("backup", "tenants", "--json")
        assert done.code == 0, done.text
        drilled += [str(one["plan"]) for one in json.loads(done.out)["drilled"]]
    assert sorted(drilled) == ["tenants_one", "tenants_two"]
    proven = read_record(site.site, "tenants").outcomes
    assert all(one.proven_at is not None for one in proven.values())
    assert "yes" in site.run("list", drilled[0]).out
