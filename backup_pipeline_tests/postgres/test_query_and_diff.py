"""Looking into sets without restoring them: queries, differences, and exports in other formats."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.errors import RefusedError, ValidationError
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.diff import diff_live, diff_sets, differing_keys
from backup_pipeline.operations.data.query import query_set
from backup_pipeline.operations.data.reexport import reexport_set
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.tables.query_process import Question, answer
from backup_pipeline_tests.support.postgres_restore import run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

TABLES = """
create table customers (id bigint primary key, name text, balance numeric(12, 4), data jsonb, raw bytea, tags text[],
                        at timestamptz, good boolean);
insert into customers select i, 'Customer ' || i, i * 1.25, '{"a": [1, 2.50]}', '\\xdead', array['x', null],
                             '2026-01-01 12:00:00.5+00', i % 2 = 0 from generate_series(1, 40) i;
insert into customers (id, name) values (100, ''), (101, null), (102, E'two\\nlines, "quoted"');
create table log (what text);
insert into log values ('a'), ('a'), ('b');
"""
Made = tuple[TestSite, PostgresTarget, SetId]


@pytest.fixture
def made(tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> Made:
    target = database(template("queried", TABLES))
    site = TestSite(tmp_path)
    site.variables["SHOP_URL"] = dsn(target)
    site.write("sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}\nplans: {nightly: {sources: [shop]}}\n")
    return site, target, sealed_set(site.site, "nightly")


def test_a_set_answers_sql(made: Made) -> None:
    site, _, set_id = made
    answer = query_set(site.site, "nightly", set_id, "select count(*), sum(balance) from public.customers")
    assert [str(value) for value in answer.rows[0]] == ["43", "1025.0000"]
    assert query_set(site.site, "nightly", set_id, "select * from shop.public.log", limit=2).more
    shown = site.run("query", "latest", "select name from public.customers where id = 7")
    assert (shown.code, "Customer 7" in shown.out) == (0, True)
    reported = json.loads(
        site.run("query", "latest", "select id from public.customers order by id limit 1", "--json").out
    )
    assert reported["rows"] == [{"id": 1}]


def test_a_query_reads_and_writes_nothing_but_the_tables_of_the_set(made: Made, tmp_path: Path) -> None:
    site, _, set_id = made
    folder = site.site.store_folder("nightly") / set_id
    (parquet,) = folder.rglob("public.log.parquet")
    before = site.digests("nightly")
    hostile = [
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from glob('/**')",
        f"select * from read_parquet('{parquet}')",
        "select * from read_text('/proc/self/environ')",
        f"copy (select 1) to '{folder}/manifest.json'",
        f"copy (select 1) to '{folder}/more.csv'",
        f"explain analyze copy (select 1) to '{folder}/manifest.json'",
        f"export database '{folder}/all'",
        f"attach '{folder}/other.db'",
        "attach '/tmp/other.db'",
        "set enable_external_access = true",
        "set memory_limit = '90GB'",
        "pragma enable_profiling",
        "install httpfs",
        "load httpfs",
        "create table public.mine (a integer)",
        "drop view public.log",
        "select * from files",
        "call pragma_version()",
        "select 1; select 2",
        "",
        "  ",
        "-- nothing",
        ";",
        "select nonsense from nowhere",
        "select (",
        "\udcff",
        "sel\0ect",
    ]
    for query in hostile:
        with pytest.raises(RefusedError) as refused:
            answer(Question({("shop", "public", "log"): str(parquet)}, query, 10, 256, str(tmp_path / "spilled")))
        assert refused.value.where == "query"
        assert refused.value.remedy
    with pytest.raises(RefusedError, match="COPY is no reading statement"):
        query_set(site.site, "nightly", set_id, f"copy (select 1) to '{folder}/manifest.json'")
    assert site.digests("nightly") == before
    empty = site.run("query", "latest", "")
    assert (empty.code, "The query is empty" in empty.err, "Traceback" in empty.err) == (8, True, False)


def test_a_table_is_found_in_whatever_source_has_it_and_candidates_are_named(made: Made, tmp_path: Path) -> None:
    site, _, set_id = made
    (path,) = (site.site.store_folder("nightly") / set_id).rglob("public.log.parquet")
    names = [("a", "public", "one"), ("b", "public", "film"), ("b", "public", "two"), ("c", "public", "two")]

    def count(query: str) -> object:
        files = dict.fromkeys(names, str(path))
        return answer(Question(files, query, 10, 256, str(tmp_path / "spilled"))).rows[0][0]

    for table in ("public.one", "public.film", "b.public.film", "c.public.two"):
        assert count(f"select count(*) from {table}") == 3
    for table, reported in (
        ("public.two", "b.public.two, c.public.two"),
        ("film", "b.public.film"),
        ("x.film", "b.public"),
    ):
        with pytest.raises(RefusedError) as refused:
            count(f"select count(*) from {table}")
        assert reported in refused.value.remedy


def test_a_query_is_limited_in_memory_and_time(made: Made) -> None:
    site, _, set_id = made
    with pytest.raises(RefusedError, match="more memory than its limit of 128 MiB"):
        query_set(site.site, "nightly", set_id, "select length(repeat('x', 4000000000))", memory_mb=128)
    with pytest.raises(RefusedError, match=r"not ended after 1 seconds.*--timeout"):
        query_set(site.site, "nightly", set_id, "select count(*) from range(100000000000)", timeout_seconds=1)
    sorted_on_disk = "select max(n) from (select row_number() over (order by hash(range)) n from range(1000000))"
    assert query_set(site.site, "nightly", set_id, sorted_on_disk, memory_mb=24).rows == ((1000000,),)


def test_values_of_every_type_come_back_from_a_query(made: Made) -> None:
    site, _, set_id = made
    query = """select "at", raw, tags, balance, data, id, good, uuid() is not null, interval 1 day, date '2026-01-01',
        time '01:02:03', 'nan'::double, {'a': 1}, map {'k': 2}, null, 1::hugeint from public.customers where id = 1"""
    (row,) = query_set(site.site, "nightly", set_id, query).rows
    assert (row[1], str(row[3]), row[5], row[12]) == (b"\xde\xad", "1.2500", 1, {"a": 1})
    assert (row[0].isoformat()[:10], row[8].days, row[9].year) == ("2026-01-01", 1, 2026)
    assert len(json.loads(site.run("query", "latest", query, "--json").out)["rows"][0]) == 16
    assert site.run("query", "latest", "pivot public.log on what", "--json").code == 0
    assert "public" in site.run("query", "latest", "show all tables").out


def test_a_damaged_export_is_named_by_a_query(made: Made) -> None:
    site, _, set_id = made
    (damaged,) = (site.site.store_folder("nightly") / set_id).rglob("public.log.parquet")
    damaged.write_bytes(b"")
    with pytest.raises(ValidationError, match=r"public\.log\.parquet"):
        query_set(site.site, "nightly", set_id, "select 1")


def test_two_sets_are_compared_row_by_row(made: Made) -> None:
    site, target, first = made
    run(
        target,
        "delete from customers where id <= 2; update customers set name = 'x' where id in (3, 4, 5);"
        "insert into customers (id) values (500); insert into log values ('a'), ('c');"
        "create table fresh (id integer primary key); insert into fresh values (1)",
    )
    second = sealed_set(site.site, "nightly")
    found = {
        d.table: (d.added, d.removed, d.changed, d.unchanged)
        for d in diff_sets(site.site, ("nightly", first), ("nightly", second))
    }
    assert found == {
        "public.customers": (1, 2, 3, 38),
        "public.log": (2, 0, 0, 3),
        "public.fresh": (1, 0, 0, 0),
    }
    keys = differing_keys(site.site, ("nightly", first), ("nightly", second), "public.customers")
    assert keys.rows == (("removed", 1), ("removed", 2), ("changed", 3), ("changed", 4), ("changed", 5), ("added", 500))
    same = diff_sets(site.site, ("nightly", first), ("nightly", first))
    assert not any(item.differs for item in same)
    shown = site.run("diff", f"nightly/{first}", f"nightly/{second}", "public.customers")
    assert "removed" in shown.out


def test_columns_of_a_key_that_are_hidden_are_not_in_a_comparison(made: Made) -> None:
    site, target, _ = made
    run(target, "create table logins (person int, token text, primary key (person, token))")
    first = sealed_set(site.site, "nightly")
    run(target, "insert into logins values (2, 'hidden-two')")
    second = sealed_set(site.site, "nightly")
    sides = ("nightly", first), ("nightly", second)
    found = differing_keys(site.site, *sides, "public.logins", hidden=("token",))
    assert (found.columns, found.rows) == (("what", "person"), (("added", 2),))
    every = differing_keys(site.site, *sides, "public.logins", hidden=("person", "token"))
    assert (every.columns, every.rows) == (("what",), (("added",),))


def test_a_set_is_compared_with_the_live_database(made: Made) -> None:
    site, target, set_id = made
    run(
        target,
        "delete from customers where id <= 2; update customers set name = 'x' where id = 3;"
        "insert into customers (id) values (500), (501)",
    )
    found = {
        d.table: (d.added, d.removed, d.changed, d.unchanged) for d in diff_live(site.site, "nightly", set_id, "shop")
    }
    assert found == {"public.customers": (2, 2, 1, 40), "public.log": (0, 0, 0, 3)}
    assert site.run("diff", "latest", "live", "--source", "shop").code == 0


def test_a_sealed_set_is_exported_again_as_json_lines_and_csv(made: Made) -> None:
    site, _, set_id = made
    before = site.digests("nightly")
    for form in ("jsonl", "json", "csv"):
        written = {done.path.name: done.rows for done in reexport_set(site.site, "nightly", set_id, form)}  # type: ignore[arg-type]
        assert sorted(written.values()) == [3, 43]
    assert site.digests("nightly") == before
    folder = site.site.store_folder("nightly") / "exports" / set_id
    place = next(p for p in (folder / "jsonl" / "shop").iterdir() if "customers" in p.name)
    rows = {row["id"]: row for row in map(json.loads, gzip.decompress(place.read_bytes()).decode().splitlines())}
    assert {
        row["id"]: row for row in json.loads((folder / "json" / "shop" / "public.customers.json").read_bytes())
    } == rows
    assert rows[4] == {
        "id": 4,
        "name": "Customer 4",
        "balance": 5.0,
        "data": {"a": [1, 2.5]},
        "raw": "\\xdead",
        "tags": "{x,NULL}",
        "at": "2026-01-01T12:00:00.500000+00:00",
        "good": True,
    }
    assert '"balance":5.0000,' in gzip.decompress(place.read_bytes()).decode()
    assert (rows[100]["name"], rows[101]["name"], rows[102]["name"]) == ("", None, 'two\nlines, "quoted"')
    place = next(p for p in (folder / "csv" / "shop").iterdir() if "customers" in p.name)
    text = gzip.decompress(place.read_bytes()).decode()
    assert '\n100,"",' in text
    assert "\n101,," in text
    parsed = list(csv.reader(text.splitlines(keepends=True)))
    assert parsed[0][:3] == ["id", "name", "balance"]
    assert parsed[-1][1] == 'two\nlines, "quoted"'
    shutil.rmtree(folder)
