"""Exports of unchanged tables: taken over from the last verified set, or written anew where anything is different."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.proof.verify import verify_set
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
store: backups
schemas: schemas
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL, tables: {include: ["public.*"], formats: [FORMATS]}}
plans:
  nightly: {sources: [shop]}
"""
TABLES = """
create table public.plain (id int primary key, name text, f float8, at timestamptz);
insert into public.plain select n, 'name ' || n, n / 7.0, now() from generate_series(1, 50) n;
insert into public.plain values (100, 'zero', 0, now());
create table public.other (id int primary key references public.plain, doc jsonb, n numeric);
insert into public.other values (1, '{"a": 1.0}', 1.0), (2, '{"a": 2}', 2.00);
create table public.empty ();
"""
Key = tuple[str, str, str]
PLAIN: Key = ("shop", "public", "plain")
OTHER: Key = ("shop", "public", "other")


@pytest.fixture
def shop(tmp_path: Path, database: Callable[..., PostgresTarget]) -> tuple[TestSite, PostgresTarget]:
    """A site with a database, without any set."""
    target = database()
    run(target, TABLES)
    site = TestSite(tmp_path)
    site.variables["SHOP_URL"] = dsn(target)
    (site.folder / "schemas").mkdir()
    site.write(SETTINGS.replace("FORMATS", "parquet"))
    return site, target


def verified(site: TestSite) -> SetId:
    """Make a set and verify it."""
    made = sealed_set(site.site, "nightly")
    assert verify_set(site.site, "nightly", made).passed
    return made


def exports(site: TestSite, made: SetId) -> dict[tuple[str, ...], ArtefactRecord]:
    manifest = site.store("nightly").read(made).manifest
    assert manifest is not None
    return {record.key: record for record in manifest.artefacts if record.kind == "table_export"}


def taken_over(site: TestSite, made: SetId) -> set[str]:
    """Return the tables whose export was taken over."""
    return {key[2] for key, record in exports(site, made).items() if "reused_from" in record.details}


def test_an_unchanged_table_is_taken_over_as_a_file_of_its_own(
    shop: tuple[TestSite, PostgresTarget],
) -> None:
    site, target = shop
    first = verified(site)
    run(target, "insert into public.other values (3, null, null)")
    second = sealed_set(site.site, "nightly")
    assert taken_over(site, second) == {"plain", "empty"}
    before, now = exports(site, first)[PLAIN], exports(site, second)[PLAIN]
    assert now.details["reused_from"] == first
    assert [file.sha256 for file in now.files] == [file.sha256 for file in before.files]
    assert {check.name for check in now.checks} == {check.name for check in before.checks}
    paths = [site.store("nightly").path_of(made, now.files[0].path) for made in (first, second)]
    assert len({path.stat().st_ino for path in paths}) == 2
    # The set proves itself without the one that its files come from.
    site.store("nightly").remove(first)
    assert verify_set(site.site, "nightly", second).passed
    assert drill_set(site.site, "nightly", second).findings == ()


def test_nothing_is_taken_over_from_a_set_that_was_not_verified(shop: tuple[TestSite, PostgresTarget]) -> None:
    site, _ = shop
    first = sealed_set(site.site, "nightly")
    assert taken_over(site, sealed_set(site.site, "nightly")) == set()
    assert verify_set(site.site, "nightly", first).passed
    assert taken_over(site, sealed_set(site.site, "nightly")) == {"plain", "other", "empty"}


@pytest.mark.parametrize(
    "change",
    [
        "update public.plain set name = 'other' where id = 7",
        "delete from public.plain where id = 7",
        "update public.plain set f = '-0' where id = 100",
        "alter table public.plain alter name type varchar(90)",
        "alter table public.plain alter name set not null",
        "alter table public.plain rename name to title",
        "alter table public.plain add more int",
        "create unique index on public.plain (name)",
    ],
)
def test_a_table_that_changed_in_any_way_is_exported_anew(shop: tuple[TestSite, PostgresTarget], change: str) -> None:
    site, target = shop
    verified(site)
    run(target, change)
    assert "plain" not in taken_over(site, sealed_set(site.site, "nightly"))


@pytest.mark.parametrize(
    "change",
    [
        "update public.other set doc = '{\"a\": 1.00}' where id = 1",
        "update public.other set n = n * 1.000 where id = 2",
        pytest.param("update public.other set n = case id when 1 then 1.00 else 2.0 end", marks=pytest.mark.story),
    ],
)
def test_equal_values_in_another_form_are_exported_anew(shop: tuple[TestSite, PostgresTarget], change: str) -> None:
    site, target = shop
    first = verified(site)
    run(target, change)
    second = sealed_set(site.site, "nightly")
    # By the types' own equality nothing has changed.
    assert exports(site, first)[OTHER].fingerprint == exports(site, second)[OTHER].fingerprint
    assert taken_over(site, second) == {"plain", "empty"}
    assert drill_set(site.site, "nightly", second).findings == ()


def test_other_formats_are_written_anew(shop: tuple[TestSite, PostgresTarget]) -> None:
    site, _ = shop
    verified(site)
    site.write(SETTINGS.replace("FORMATS", "parquet, jsonl, csv"))
    second = verified(site)
    assert taken_over(site, second) == set()
    third = sealed_set(site.site, "nightly")
    assert taken_over(site, third) == {"plain", "other", "empty"}
    assert [file.path for file in exports(site, third)[PLAIN].files] == [
        f"tables/shop/public.plain.{ending}" for ending in ("parquet", "jsonl.gz", "csv.gz")
    ]


def test_another_schema_of_the_site_is_asked_of_the_rows_again(shop: tuple[TestSite, PostgresTarget]) -> None:
    site, _ = shop
    verified(site)
    schema = site.folder / "schemas" / "public.plain.py"
    schema.write_text("import pandera.pandas as pa\nschema = pa.DataFrameSchema({'id': pa.Column(int)})\n")
    assert taken_over(site, verified(site)) == {"other", "empty"}
    # What Python code asks may depend on anything: it is asked each time.
    assert taken_over(site, sealed_set(site.site, "nightly")) == {"other", "empty"}


def test_a_damaged_earlier_file_is_not_taken_over(shop: tuple[TestSite, PostgresTarget]) -> None:
    site, _ = shop
    first = verified(site)
    path = site.store("nightly").path_of(first, exports(site, first)[PLAIN].files[0].path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    second = sealed_set(site.site, "nightly")
    assert taken_over(site, second) == {"other", "empty"}
    record = exports(site, second)[PLAIN]
    assert [check.name for check in record.checks if not check.passed] == ["earlier_export_is_whole"]
    assert first in next(check.summary for check in record.checks if not check.passed)
    assert drill_set(site.site, "nightly", second).findings == ()


def test_foreign_keys_are_counted_anew_for_an_unchanged_table(shop: tuple[TestSite, PostgresTarget]) -> None:
    site, target = shop
    verified(site)
    with connected(target) as connection:
        connection.execute("alter table public.other disable trigger all; alter table public.plain disable trigger all")
        connection.execute("delete from public.plain where id = 2")
    second = sealed_set(site.site, "nightly")
    assert taken_over(site, second) == {"other", "empty"}
    failed = [check for check in exports(site, second)[OTHER].checks if not check.passed]
    assert [check.name for check in failed] == ["pandera_schema"]
    assert failed[0].numbers["failures"] == 1
    # What failed a check is no base for the next set.
    assert verify_set(site.site, "nightly", second).passed
    assert taken_over(site, sealed_set(site.site, "nightly")) == {"plain", "empty"}
