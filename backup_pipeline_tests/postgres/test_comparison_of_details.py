"""Rarer objects, and what can be set on common ones: each is noticed when it is lost or changed in a restored copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_pipeline.model.catalog import LATER_KINDS, Catalog
from backup_pipeline.postgres.catalog.read import read_catalog
from backup_pipeline.postgres.compare.comparison import Expectation, compare_database
from backup_pipeline.postgres.compare.scratch_restore import drill_database
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.catalog_difference import differences
from backup_pipeline.rules.drift import object_drift
from backup_pipeline_tests.support.postgres_restore import NASTY, dump_of, expectation_of, opened, run

RARE = (Path(__file__).parents[1] / "support" / "sql" / "rare_schema.sql").read_text()
# One change in each line, and a part of the name of what is found to differ.
CHANGES = """
options of column x.t.a              | alter table x.t alter column a set statistics 100
options of column x.t.a              | alter table x.t alter column a reset (n_distinct)
options of column x.t.e              | alter table x.t alter column e set compression default
definition table x.t                 | alter table x.t reset (toast.autovacuum_enabled)
definition table x.amt               | alter table x.amt set access method heap
options of column x.ft.a             | alter foreign table x.ft alter a options (set column_name 'c')
definition table x.ft                | alter foreign table x.ft options (set table_name 't2')
definition foreign-data wrapper fdw  | alter foreign data wrapper fdw options (set a '2')
definition server srv                | alter server srv options (set host 'h2')
definition user mapping              | drop user mapping for rare_role server srv
definition user mapping              | alter user mapping for rare_role server srv options (add user 'u')
definition cast                      | update pg_cast set castcontext = 'i' where castsource = 'x.cc'::regtype
definition operator x.<#             | update pg_operator set oprcode = 'x.less2'::regproc where oprname = '<#'
definition operator x.<#             | alter operator x.<# (x.cc, x.cc) set (restrict = none)
definition operator family           | alter operator family x.cc_ops using btree add function 1 (date) date_cmp
definition text search configuration | alter text search configuration x.cfg drop mapping for asciiword
definition text search configuration | alter text search configuration x.cfg alter mapping for asciiword with simple
definition text search dictionary    | alter text search dictionary x.dict (stopwords)
definition statistics x.st           | alter statistics x.st set statistics 100
definition function x.f              | alter function x.f(integer) no depends on extension plpgsql
definition aggregate x.agg           | alter aggregate x.agg(integer) rename to agg2
definition type x.rng                | drop type x.rng
definition type x.dom                | drop domain x.dom
definition large objects             | select lo_unlink(815)
other grant large objects            | revoke select on large object 4711 from nasty_reader
other grant large objects            | alter large object 815 owner to rare_role
other grant server srv               | revoke usage on foreign server srv from rare_role
other grant foreign-data wrapper fdw | revoke usage on foreign data wrapper fdw from rare_role
other grant language plpgsql         | revoke usage on language plpgsql from rare_role
other owner event trigger et         | alter event trigger et owner to rare_superuser
other owner foreign-data wrapper fdw | alter foreign data wrapper fdw owner to rare_superuser
other owner server srv               | alter server srv owner to rare_role
other owner publication pub          | alter publication pub owner to rare_role
other owner collation x.coll         | alter collation x.coll owner to rare_role
other owner conversion x.conv        | alter conversion x.conv owner to rare_role
other owner operator x.<#            | alter operator x.<# (x.cc, x.cc) owner to rare_role
other owner operator class x.cc_ops  | alter operator class x.cc_ops using btree owner to rare_role
other owner operator family x.cc_ops | alter operator family x.cc_ops using btree owner to rare_role
other owner text search dictionary   | alter text search dictionary x.dict owner to rare_role
other owner text search config       | alter text search configuration x.cfg owner to rare_role
other owner statistics object x.st   | alter statistics x.st owner to rare_role
published pub                        | alter publication pub set (publish_via_partition_root = true)
published pub                        | alter publication pub set table x.t (id, a, b) where (id > 0)
published pub                        | alter publication pub set table x.t (id, a) where (id > 1)
published pub2                       | alter publication pub2 drop tables in schema app
other comment event trigger et       | comment on event trigger et is null
other comment server srv             | comment on server srv is null
other comment publication pub        | comment on publication pub is 'changed'
other comment operator x.<#          | comment on operator x.<# (x.cc, x.cc) is null
other comment collation x.coll       | comment on collation x.coll is null
other comment statistics object x.st | comment on statistics x.st is null
other comment text search config     | comment on text search configuration x.cfg is null
other comment cast                   | comment on cast (x.cc as integer) is null
other comment rule                   | comment on rule vr on x.v is null
other comment large object           | comment on large object 4711 is null
index x.t_b                          | drop index x.t_b
index x.t_b                          | update pg_index set indisvalid = false where indexrelid = 'x.t_b'::regclass
policy x.secured.for_reader          | alter policy for_reader on x.secured to public
"""


@pytest.fixture(scope="module")
def rare(server: EmbeddedServer, template: Callable[[str, str], str]) -> Iterator[PostgresTarget]:
    target = server.target("rare")
    run(server.target(), f'create database rare template "{template("nasty", NASTY)}"')
    run(target, RARE)
    yield target
    run(server.target(), "drop database rare")
    run(server.target(), "drop role rare_role, rare_superuser, rare_reader")


@pytest.fixture(scope="module")
def expected(rare: PostgresTarget) -> Expectation:
    return expectation_of(rare)


def rounds() -> list[dict[str, str]]:
    """The changes, several at once but never two of the same name: to read the catalog takes its time."""
    result: list[dict[str, str]] = []
    for line in CHANGES.strip().splitlines():
        name, change = (part.strip() for part in line.split("|"))
        fitting = next((each for each in result if name not in each), None)
        if fitting is None:
            result.append(fitting := {})
        fitting[name] = change
    return result


def test_each_loss_or_change_of_a_detail_is_found_by_its_name(rare: PostgresTarget, expected: Expectation) -> None:
    assert expected.catalog is not None
    assert sum(len(each) for each in rounds()) == len(CHANGES.strip().splitlines()) > 50
    missed = {}
    with connected(rare) as connection:
        for changes in rounds():
            with connection.transaction(force_rollback=True):
                connection.execute(";".join(changes.values()).encode())
                found = [finding.subject for finding in differences(expected.catalog, read_catalog(connection))]
            missed |= {n: c for n, c in changes.items() if not any(subject.startswith(n) for subject in found)}
        assert differences(expected.catalog, read_catalog(connection)) == []
    assert missed == {}


def test_all_of_it_comes_back_and_roles_named_only_by_a_policy_are_made(
    rare: PostgresTarget, expected: Expectation, server: EmbeddedServer
) -> None:
    dump = dump_of(rare)
    run(rare, "drop policy for_reader on x.secured; drop role rare_reader")
    try:
        outcome = drill_database(opened(dump), expected, server.target())
        assert outcome.findings == []
        assert outcome.details["roles_made_for_the_drill"] == ["rare_reader"]
    finally:
        run(rare, "create role rare_reader; create policy for_reader on x.secured to rare_reader using (true)")


def test_what_an_older_release_did_not_record_is_neither_missed_nor_too_much(
    rare: PostgresTarget, expected: Expectation
) -> None:
    assert expected.catalog is not None
    objects = {kind: texts for kind, texts in expected.catalog.objects.items() if kind not in LATER_KINDS}
    older = expected.catalog.model_copy(update={"objects": objects, "kinds": ()})
    assert compare_database(rare, Expectation(older, expected.roles, expected.fingerprints)).findings == ()
    now = {kind: dict(texts) for kind, texts in expected.catalog.objects.items()}
    assert object_drift(now, objects).passed
    assert not object_drift(now, {**objects, "definition": {}}).passed


def test_rights_added_by_a_newer_version_are_no_difference_in_default_privileges() -> None:
    name = "for role a on tables"
    older = Catalog(server_major=16, objects={"default privilege": {name: "b=SELECT/a\na=INSERT,REFERENCES/a"}})
    newer = Catalog(
        server_major=18, objects={"default privilege": {name: "b=SELECT/a\na=INSERT,MAINTAIN,REFERENCES/a"}}
    )
    assert differences(older, newer) == []
    assert differences(older.model_copy(update={"server_major": 18}), newer)


def test_objects_of_every_kind_that_lie_in_an_ignored_schema_are_ignored() -> None:
    names = ("materialized view auth.m", "text search configuration auth.c", "function auth.f(integer, text)", "auth.t")
    found = Catalog(server_major=18, objects={"owner": dict.fromkeys(names, "somebody")})
    assert differences(Catalog(server_major=18), found, ignore_schemas=("auth",)) == []
    assert len(differences(Catalog(server_major=18), found, ignore_schemas=("other",))) == len(names)


def test_another_encoding_is_a_difference() -> None:
    older = Catalog(server_major=18)
    assert differences(older, Catalog(server_major=18, encoding="UTF8")) == []
    found = differences(Catalog(server_major=18, encoding="SQL_ASCII"), Catalog(server_major=18, encoding="UTF8"))
    assert [finding.subject for finding in found] == ["encoding"]
