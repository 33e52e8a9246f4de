"""Where a drill restores to: an installed server that has what the set needs, chosen before anything is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.postgres.compare.scratch_restore import drill_database
from backup_pipeline.postgres.load.check import catalog_of
from backup_pipeline.postgres.server import installations
from backup_pipeline.postgres.server.databases import server_features
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import dump_of, expectation_of, opened
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
store: backups
sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}
plans: {nightly: {sources: [shop], drill: "0 5 * * 0"}}
"""
# Each line is an ordinary feature that the embedded server has not got.
ORDINARY = """
create schema app;
create extension "uuid-ossp" schema app;
create extension hstore schema app;
create table app.documents (id uuid primary key default app.uuid_generate_v4(), tags app.hstore, body xml not null);
insert into app.documents (tags, body) select 'a=>1, b=>2', xmlparse(content '<a><b>' || i || '</b></a>')
  from generate_series(1, 50) i;
create view app.bodies as select id, (xpath('/a/b/text()', body))[1]::text::integer as b from app.documents;
create collation app.german (provider = icu, locale = 'de-u-co-phonebk');
create table app.names (name text collate app.german, other text collate "de-x-icu", long text compression lz4);
insert into app.names select 'Name ' || i, 'Ä' || i, repeat('x' || i, 2000) from generate_series(1, 50) i;
create index on app.names (name);
create index on app.names (other);
"""


def site_of(folder: Path, source: PostgresTarget) -> TestSite:
    site = TestSite(folder)
    site.variables["SHOP_URL"] = dsn(source)
    site.write(SETTINGS)
    return site


def drilled(site: TestSite) -> tuple[int, dict[str, Any]]:
    done = site.run("drill", "latest", "--json")
    return done.code, json.loads(done.out)


def test_a_database_with_ordinary_features_is_proven_by_the_installed_server(
    tmp_path: Path, installed_database: Callable[[str], PostgresTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(tmp_path, installed_database(ORDINARY))
    done = site.run("backup", "nightly")
    assert done.code == 0, done.text
    code, reported = drilled(site)
    assert (code, reported["passed"]) == (0, True), reported
    assert reported["details"]["shop"]["scratch_server"].startswith("/usr/lib/postgresql/")
    assert reported["numbers"]["tables"] == 2
    assert site.run("env", "check").code == 0

    monkeypatch.setattr(installations, "program_folders", list)
    monkeypatch.setattr(installations.shutil, "which", lambda _: None)
    code, reported = drilled(site)
    missing = {one["subject"]: one["remedy"] for one in reported["missing_here"]}
    assert code == 10, reported
    assert reported["findings"] == []
    assert set(missing) == {
        "shop: extension hstore",
        "shop: extension uuid-ossp",
        "shop: xml",
        "shop: icu",
        "shop: lz4",
    }
    assert all("apt-get install postgresql" in remedy for remedy in missing.values()), missing
    assert all("DRILL_DATABASE_URL" in remedy for remedy in missing.values()), missing
    checked = site.run("env", "check")
    assert checked.code != 0
    for name in ("hstore", "uuid-ossp", "xml", "icu", "lz4"):
        assert name in checked.text, checked.text
    monkeypatch.setattr(installations, "embedded_folders", list)
    checked = site.run("env", "check")
    assert checked.code != 0
    assert "no server is installed on this machine" in " ".join(checked.text.split())


# Everything here is executed by nobody who restores and reads it: no row needs XML.
NEVER_EXECUTED = """
create schema app;
create table app.t (a text check (a is null or xpath_exists('/a', a::xml)));
create view app.v as select (xpath('/a', a::xml))[1]::text as x from app.t;
create materialized view app.m as select xpath_exists('/a', a::xml) as x from app.t with no data;
create index i on app.t (xml_is_well_formed_document(a));
create function app.f(a text) returns text language sql as $$ select (xpath('/a', a::xml))[1]::text $$;
create function app.plain() returns trigger language plpgsql as 'begin return new; end';
create trigger w before insert on app.t for each row when (xpath_exists('/a', new.a::xml)) execute function app.plain();
create policy p on app.t using (xpath_exists('/a', a::xml));
create domain app.d as text check (xpath_exists('/a', value::xml));
"""


def test_a_server_without_xml_lists_what_no_row_executed_and_proves_the_rest(
    server: EmbeddedServer, installed_database: Callable[[str], PostgresTarget]
) -> None:
    assert (server_features(server.target()), server.target().port) == (frozenset(), server.port)
    source = installed_database(NEVER_EXECUTED)
    assert server_features(source) == {"xml", "icu", "lz4"}
    outcome = drill_database(opened(dump_of(source)), replace(expectation_of(source), written_by=15), server.target())
    assert (outcome.findings, outcome.missing_here) == ([], [])
    listed = {one.subject for one in outcome.skipped if "not executed" in one.problem}
    assert listed == {
        "constraint t_a_check of app.t",
        "view app.v",
        "materialized view app.m",
        "index app.i",
        "function app.f(text)",
        "trigger w of app.t",
        "policy p of app.t",
        "constraint d_check of app.d",
    }
    assert all("apt-get install" in one.remedy for one in outcome.skipped if one.subject in listed)


def test_locales_and_functions_that_need_a_superuser_are_foretold(
    server: EmbeddedServer, installed_database: Callable[[str], PostgresTarget]
) -> None:
    known = sorted(installations._locales() - {"C", "POSIX"})
    if not known:
        pytest.skip("this system has no locale but C")
    source = installed_database(
        f"create collation own (provider = libc, locale = '{known[0]}'); create table t (a text collate own);"
        "create function f(text) returns integer language internal as 'textlen';"
        "create function g() returns integer language plpgsql as 'begin return 1; end';"
        "create type r as range (subtype = integer)"
    )
    catalog = catalog_of(source)
    assert catalog.requirements == (f"locale {known[0]}", "superuser used by function public.f(text)")
    outcome = drill_database(opened(dump_of(source)), replace(expectation_of(source), written_by=15), server.target())
    (missing,) = outcome.missing_here
    assert (missing.subject, outcome.findings) == ("superuser rights", [])
    assert "function public.f(text) is in C or in a language that only superusers may use" in missing.problem
    assert "--into" in missing.remedy


def test_a_dump_that_needs_a_newer_version_of_an_extension_is_not_called_bad(
    installed_database: Callable[[str], PostgresTarget], installed_server: EmbeddedServer
) -> None:
    target = installed_database("create extension hstore; create view v as select hstore_to_jsonb('a=>1') as j")
    expected = expectation_of(target)
    assert expected.roles is not None
    newer = expected.roles.model_copy(update={"extensions": {"hstore": "9.9"}})
    # As the view would be written over a function that came with the newer version.
    dump = dump_of(target).replace(b"hstore_to_jsonb", b"hstore_to_json_of_9_9")
    outcome = drill_database(opened(dump), replace(expected, roles=newer), installed_server.target())
    assert outcome.findings == []
    [missing] = outcome.missing_here
    assert "hstore 9.9 (here 1." in missing.subject
    assert "hstore_to_json_of_9_9" in missing.problem
    # With the same version on both sides it is the dump that is wrong.
    assert drill_database(opened(dump), expected, installed_server.target()).missing_here == []
