"""A drill of a set with an order archive: the archive is restored from its folders and held against the set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.proof import Proof
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.orders.format.agreement import Agreement, agreement
from backup_pipeline.sources.orders.format.newest import instant_of
from backup_pipeline.sources.orders.format.order import DATA_NAME, META_NAME
from backup_pipeline_tests.support.orders_samples import DDL, Workshop, order
from backup_pipeline_tests.support.postgres_restore import sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
store: backups
sources:
  werkstatt: {kind: orders, DATABASE, archive: Archiv}
plans:
  workshop: {sources: [werkstatt]}
"""


@pytest.fixture
def made(tmp_path: Path) -> tuple[TestSite, Workshop, SetId]:
    workshop = Workshop(tmp_path, [order(i) for i in range(1, 21)])
    site = TestSite(tmp_path)
    site.write(SETTINGS.replace("DATABASE", "database: werkstatt.db"))
    workshop.export()
    return site, workshop, sealed_set(site.site, "workshop")


def reported(proof: Proof) -> list[str]:
    return [f"{finding.subject}: {finding.problem}" for finding in proof.findings]


def test_the_archive_is_restored_and_every_order_of_the_set_is_found_equal(
    made: tuple[TestSite, Workshop, SetId],
) -> None:
    site, _, set_id = made
    proof = drill_set(site.site, "workshop", set_id)
    assert (proof.passed, reported(proof)) == (True, [])
    assert (proof.numbers["orders"], proof.numbers["orders_equal"]) == (20, 20)
    # What the drill tells of the database stands beside it.
    details = proof.details["werkstatt"]
    assert isinstance(details, dict)
    assert {"files", "orders", "orders_newer_in_the_folder"} <= set(details)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("changed", "1 invalid and 0 missing"),
        ("gone", "0 invalid and 1 missing"),
        ("forgotten", "1 orders of the set are in no folder, the first is record 3"),
        ("another", "1 orders are another in their folder than in the set, the first is record 3"),
    ],
)
def test_a_changed_or_missing_order_fails_the_drill(
    made: tuple[TestSite, Workshop, SetId], damage: str, problem: str
) -> None:
    site, workshop, set_id = made
    folder = workshop.archive / "2022" / "000003"
    index = workshop.archive / "archive-manifest.json"
    if damage == "changed":
        data = (folder / DATA_NAME).read_bytes()
        (folder / DATA_NAME).write_bytes(data.replace("Müller".encode(), b"Miller"))
    elif damage == "gone":
        for name in (DATA_NAME, META_NAME):
            (folder / name).unlink()
    else:
        # Whole in itself, and the index fits: only the set knows better.
        known = index.read_bytes()
        if damage == "forgotten":
            workshop.execute(("DELETE FROM auftraege WHERE record_id = 3", ()))
            for name in (DATA_NAME, META_NAME):
                (folder / name).unlink()
        else:
            old = "2001-01-01T00:00:00"
            workshop.execute(("UPDATE auftraege SET kunde_name = 'X', updated_at = ? WHERE record_id = 3", (old,)))
        workshop.export()
        assert index.read_bytes() != known
        assert workshop.verify(database=True).ok
    proof = drill_set(site.site, "workshop", set_id)
    assert any(line.startswith("werkstatt: order archive: ") and problem in line for line in reported(proof)), reported(
        proof
    )
    assert not proof.passed
    assert not site.store("workshop").read(set_id).proven


def test_orders_that_changed_after_the_set_or_after_the_export_do_not_fail_the_drill(
    made: tuple[TestSite, Workshop, SetId],
) -> None:
    site, workshop, _ = made
    workshop.insert(order(30, created_at="2099-01-01T00:00:00", updated_at="2099-01-01T00:00:00"))
    workshop.execute(("UPDATE auftraege SET updated_at = '2099-01-01T00:00:00' WHERE record_id = 3", ()))
    # A backup would write the pairs first; an emergency set does not.
    set_id = sealed_set(site.site, "workshop", purpose=Purpose.EMERGENCY)
    behind = drill_set(site.site, "workshop", set_id)
    assert (behind.passed, behind.numbers["orders_equal"]) == (True, 19)
    workshop.execute(("UPDATE auftraege SET updated_at = '2099-02-01T00:00:00' WHERE record_id = 4", ()))
    workshop.export()
    ahead = drill_set(site.site, "workshop", set_id)
    assert (ahead.passed, ahead.numbers["orders_equal"]) == (True, 20)


def test_an_archive_that_lost_its_pairs_since_the_set_fails_the_drill(made: tuple[TestSite, Workshop, SetId]) -> None:
    site, workshop, set_id = made
    shutil.rmtree(workshop.archive)
    workshop.archive.mkdir()
    proof = drill_set(site.site, "workshop", set_id)
    assert reported(proof) == [
        "werkstatt: order archive: has no archive-manifest.json, though the set saw 20 orders in it"
    ]
    assert not proof.passed


def test_an_archive_without_orders_is_drilled_well(tmp_path: Path) -> None:
    Workshop(tmp_path, [])
    site = TestSite(tmp_path)
    site.write(SETTINGS.replace("DATABASE", "database: werkstatt.db"))
    proof = drill_set(site.site, "workshop", sealed_set(site.site, "workshop"))
    assert (proof.passed, proof.numbers["orders"]) == (True, 0), reported(proof)


def test_a_set_that_says_nothing_of_pairs_is_told_and_not_compared(tmp_path: Path) -> None:
    Workshop(tmp_path, [order(1)])
    site = TestSite(tmp_path)
    site.write(SETTINGS.replace("DATABASE", "database: werkstatt.db"))
    # As an emergency set, which writes no pairs: the database that it captures may be just what is wrong.
    set_id = sealed_set(site.site, "workshop", purpose=Purpose.EMERGENCY)
    assert [path.name for path in (tmp_path / "Archiv").iterdir()] == []
    proof = drill_set(site.site, "workshop", set_id)
    assert proof.passed
    assert [f.problem for f in proof.skipped if "order archive" in f.subject] == [
        "was never exported, so there is nothing to restore from its folders"
    ]


def test_orders_of_a_postgresql_database_are_compared_too(
    tmp_path: Path, server: EmbeddedServer, database: Callable[..., PostgresTarget]
) -> None:
    target = database()
    (tmp_path / "Archiv").mkdir()
    with connected(target, pinned=False) as connection:
        connection.execute(DDL.encode())
        for number in range(1, 11):
            connection.execute(f"insert into auftraege values ({', '.join(['%s'] * 14)})".encode(), order(number))
    site = TestSite(tmp_path)
    site.variables = {"WERKSTATT_URL": dsn(target), "DRILL_DATABASE_URL": dsn(server.target())}
    site.write(SETTINGS.replace("DATABASE", "dsn_env: WERKSTATT_URL"))
    assert site.run("orders", "export").code == 0
    set_id = sealed_set(site.site, "workshop")
    proof = drill_set(site.site, "workshop", set_id)
    assert (proof.passed, proof.numbers["orders_equal"]) == (True, 10), reported(proof)
    with connected(target) as connection:
        connection.execute(
            b"update public.auftraege set kunde_name = 'X', updated_at = '2001-01-01' where record_id = 3"
        )
    assert site.run("orders", "export").code == 0
    assert not drill_set(site.site, "workshop", set_id).passed


def test_times_explain_a_difference_or_they_do_not() -> None:
    def judge(ours: str, theirs: str | None, captured: str, exported: str) -> Agreement:
        row = order(1, created_at="2020-01-01T00:00:00", updated_at=ours)
        other = None if theirs is None else order(1, kunde_name="x", updated_at=theirs)
        moments = {"captured": instant_of(captured), "exported": instant_of(exported)}
        return agreement(row, other, same=False, **moments)

    monday, tuesday, friday = "2026-11-16T09:00:00", "2026-11-17T09:00:00", "2026-11-20T09:00:00"
    assert judge(monday, None, tuesday, friday) is Agreement.LOST
    assert judge(friday, None, friday, tuesday) is Agreement.BEHIND
    assert judge(friday, monday, friday, tuesday) is Agreement.BEHIND
    assert judge(tuesday, monday, tuesday, friday) is Agreement.UNLIKE
    assert judge(monday, friday, tuesday, friday) is Agreement.AHEAD
    assert judge(monday, monday, tuesday, friday) is Agreement.AHEAD
    assert judge(monday, monday, friday, tuesday) is Agreement.UNLIKE
