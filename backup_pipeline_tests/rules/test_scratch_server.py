"""Which server a drill runs on, and what is said of one that lacks something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backup_pipeline.model.catalog import Catalog
from backup_pipeline.model.server_offer import Offer
from backup_pipeline.postgres.load.dump_statements import is_written_by_pg_dump, known_statement
from backup_pipeline.postgres.server.installations import server_offers
from backup_pipeline.rules.scratch_server import Needs, cause_of_refusal, choose, lacking, needs_of, unexercised

BARE = Offer(Path("/embedded/18"), 18, True, {"plpgsql": frozenset({"1.0"})}, frozenset())
FULL = Offer(Path("/usr/lib/postgresql/15/bin"), 15, False, {"hstore": frozenset({"1.8"})}, frozenset({"xml", "icu"}))


def test_an_installed_server_that_has_everything_comes_before_the_embedded_one() -> None:
    assert choose([FULL, BARE], Needs(written_by=15), ()) is FULL
    assert choose([FULL, BARE], Needs(written_by=16), ()) is BARE
    assert choose([FULL, BARE], Needs(written_by=15, features=frozenset({"xml"})), ()) is FULL
    assert choose([FULL, BARE], Needs(written_by=15, extensions={"postgis": "3"}), ()) is None
    assert choose([FULL, BARE], Needs(written_by=15, extensions={"pg_cron": "1"}), ("pg_cron",)) is FULL


def test_a_server_with_the_recorded_versions_of_the_extensions_goes_first() -> None:
    newer = Offer(Path("/usr/lib/postgresql/16/bin"), 16, False, {"hstore": frozenset({"1.7"})}, frozenset({"xml"}))
    assert choose([FULL, newer], Needs(written_by=15, extensions={"hstore": "1.7"}), ()) is newer
    assert choose([FULL, newer], Needs(written_by=15, extensions={"hstore": "1.6"}), ()) is FULL, "better than none"


def test_a_locale_is_known_in_any_spelling_and_without_an_answer_nothing_is_claimed() -> None:
    german = replace(FULL, locales=frozenset({"C", "de_DE.utf8"}))
    wanting = needs_of(Catalog(server_major=15, requirements=("locale de_DE.UTF-8", "locale fr_FR.utf8")), {}, 15)
    (missing,) = lacking(wanting, german, ())
    assert missing.subject == "locale fr_FR.utf8"
    assert "locale-gen" in missing.remedy
    assert lacking(wanting, FULL, ()) == []


def test_what_is_missing_is_named_with_the_ways_to_get_it() -> None:
    found = lacking(Needs(15, 15, {"postgis": "3", "pgjwt": "1"}, frozenset({"xml", "lz4"})), BARE, ())
    reported = {one.subject: one.remedy for one in found}
    assert set(reported) == {"extension postgis", "extension pgjwt", "xml", "lz4"}
    assert "postgresql-15-postgis-3" in reported["extension postgis"]
    assert "supabase/postgres" in reported["extension pgjwt"]
    assert all("DRILL_DATABASE_URL" in remedy for remedy in reported.values())


def test_needs_are_read_from_old_catalogs_too_and_quoted_names_are_names() -> None:
    old = Catalog(server_major=15, objects={"column": {"a.b": "xml", "a.c": 'text, collate "de-x-icu"'}})
    needs = needs_of(old, {'"uuid-ossp"': "1.1"}, 15)
    assert (needs.extensions, needs.features) == ({"uuid-ossp": "1.1"}, {"xml", "icu"})
    new = Catalog(server_major=15, requirements=("xml used by view app.v",))
    reported = unexercised(needs_of(new, {}, 15), frozenset())
    assert [one.subject for one in reported] == ["view app.v"]
    assert unexercised(needs_of(new, {}, 15), frozenset({"xml"})) == []


@pytest.mark.parametrize(
    ("reported", "subject"),
    [
        ("app.x: unsupported XML feature (SQLSTATE 0A000).", "xml"),
        ("ICU is not supported in this build (SQLSTATE 0A000) in: CREATE COLLATION", "icu"),
        ("compression method lz4 not supported (SQLSTATE 0A000) in: ALTER TABLE", "lz4"),
        ('collation "pg_catalog.de-x-icu" for encoding "UTF8" does not exist (SQLSTATE 42704)', "collation"),
        ('could not create locale "xx_XX" (SQLSTATE 22023)', "locale"),
        ('could not open dictionary file "/x/de.dict" (SQLSTATE F0000)', "text search file"),
        ("permission denied for language c (SQLSTATE 42501) in: CREATE FUNCTION", "superuser rights"),
    ],
)
def test_a_refusal_for_want_of_something_is_no_fault_of_the_dump(reported: str, subject: str) -> None:
    cause = cause_of_refusal(reported, "the scratch server", Needs(15, 15), restricted=True)
    assert cause is not None
    assert cause.subject == subject
    assert cause.remedy
    assert cause_of_refusal("division by zero (SQLSTATE 22012)", "s", Needs(), restricted=True) is None


def test_the_servers_of_this_machine_tell_what_they_were_built_with() -> None:
    for offer in server_offers():
        assert offer.major >= 13
        assert "plpgsql" in offer.extensions
        if offer.embedded:
            assert not {"xml", "lz4"} & offer.features
        elif Path("/usr/lib/postgresql") in offer.folder.parents:
            assert {"xml", "icu", "lz4"} <= offer.features


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER SYSTEM SET a = 1;",
        "ALTER ROLE a SUPERUSER;",
        "CREATE ROLE a;",
        "DROP DATABASE a;",
        "DO $$ $$;",
        "CREATE DATABASE a;",
        "LOAD 'x';",
        "SELECT pg_read_file('x');",
        "COPY a TO PROGRAM 'x';",
        "CREATE USER a;",
        "CREATE TABLESPACE a LOCATION 'x';",
        "GRANT a TO b;",
        "GRANT ALL ON DATABASE a TO b;",
        "VACUUM;",
        "CALL f();",
        "ALTER DATABASE a SET b = 1;",
        "SELECT pg_catalog.lo_export(1, 'x');",
        "SET ROLE postgres;",
    ],
)
def test_what_pg_dump_never_writes_is_refused(statement: str) -> None:
    assert not is_written_by_pg_dump(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE a.b OWNER TO c; ALTER SYSTEM SET d = 1;",
        "COMMENT ON EXTENSION a IS 'b'; DROP TABLE c;",
        "CREATE SUBSCRIPTION a CONNECTION 'b' PUBLICATION c WITH (connect = true);",
        "CREATE SUBSCRIPTION a CONNECTION 'b' PUBLICATION c WITH (connect = false, connect = true);",
        "CREATE FOREIGN DATA WRAPPER a HANDLER b;",
        "CREATE OPERATOR CLASS a.b FOR TYPE a.c USING btree AS FUNCTION 1 (a.c, a.c) pg_catalog.btarraycmp(a.c, a.c);",
        "CREATE OPERATOR CLASS a.b FOR TYPE a.c USING btree AS FUNCTION 1 (a.c, a.c) a.f(a.d, a.d);",
        "GRANT pg_read_server_files TO a;",
        "CREATE EVENT TRIGGER a ON login EXECUTE FUNCTION b.c();",
        "ALTER FUNCTION a.f(integer DEFAULT 'x') OWNER TO b;",
    ],
)
def test_a_superuser_runs_nothing_beyond_the_recognised_list(statement: str) -> None:
    assert known_statement(statement) is None
