"""Partitioned tables are read partition by partition, in parallel; what lies on another server is told, not read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from psycopg import sql

from backup_pipeline.postgres.catalog.partitions import Leaf, read_leaves
from backup_pipeline.postgres.export import table_rows
from backup_pipeline.postgres.export.fingerprint import fingerprint_table, fingerprint_with
from backup_pipeline.postgres.export.readers import Readers
from backup_pipeline.postgres.export.table_rows import PageRange, RowRange, leaf_ranges
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres import table_export
from backup_pipeline.sources.postgres.recorded import fingerprints_of
from backup_pipeline_tests.support.postgres_capture import capture

Make = Callable[..., PostgresTarget]
_DUMP, _P = ("s", "dump"), ("s", "public", "p")

# A large partition, one whose columns stand in another order, one that is partitioned again (with an empty leaf), and
# one without any partition below it.
_PARTITIONED = b"""
create table public.p (id int, at date, v text, primary key (id, at)) partition by range (at);
create table public.p_large partition of public.p for values from ('2020-01-01') to ('2021-01-01');
create table public.p_other (v text, gone int, at date not null, id int not null);
alter table public.p_other drop column gone;
alter table public.p attach partition public.p_other for values from ('2021-01-01') to ('2022-01-01');
create table public.p_sub partition of public.p for values from ('2022-01-01') to ('2023-01-01') partition by hash (id);
create table public.p_sub0 partition of public.p_sub for values with (modulus 2, remainder 0);
create table public.p_sub1 partition of public.p_sub for values with (modulus 2, remainder 1);
create table public.p_none partition of public.p for values from ('2023-01-01') to ('2024-01-01')
 partition by list (id);
insert into public.p select i, '2020-01-01'::date + i % 300, repeat(md5(i::text), 20) from generate_series(1, 6000) i;
insert into public.p select i, '2021-06-01', 'v' || i from generate_series(1, 40) i;
insert into public.p select 2 * i, '2022-06-01', null from generate_series(1, 30) i;
"""
_FOREIGN = b"""
create foreign data wrapper nowhere;
create server elsewhere foreign data wrapper nowhere;
create foreign table public.remote (id int) server elsewhere;
"""
_MIXED = b"""
create table public.m (id int, v text) partition by list (id);
create table public.m1 partition of public.m for values in (1);
create table public.m2 (v text, id int); alter table public.m attach partition public.m2 for values in (2);
create foreign table public.m3 partition of public.m for values in (3) server elsewhere;
create table public.away (n numeric(5,2), d date) partition by range (d);
create foreign table public.away1 partition of public.away for values from ('2020-01-01') to ('2021-01-01')
 server elsewhere;
insert into public.m values (1, 'a'), (1, 'b'), (2, 'c');
"""


def _with(target: PostgresTarget, *scripts: bytes) -> PostgresTarget:
    with connected(target) as connection:
        for script in scripts:
            connection.execute(script)
    return target


def test_partitions_are_read_in_parallel_ranges_and_give_every_row_once(
    database: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = _with(database(), _PARTITIONED)
    ranges: list[RowRange] = []
    at_once: list[int] = []

    def small(columns: Any, leaves: Any, major: int) -> list[RowRange]:
        ranges.extend(leaf_ranges(columns, leaves, major, range_bytes=1 << 20))
        return ranges

    class Watched(Readers):
        lent = 0

        def _take(self) -> Any:
            Watched.lent += 1
            at_once.append(self.size - self._permits._value)
            return super()._take()

    monkeypatch.setattr(table_export, "leaf_ranges", small)
    monkeypatch.setattr("backup_pipeline.sources.postgres.capture.Readers", Watched)
    done = capture(tmp_path, target, connections=3)
    assert len(ranges) > 3
    assert Watched.lent > len(ranges)
    assert max(at_once) <= 3
    assert [c for r in done.records.values() for c in r.checks if not c.passed] == []
    table = pq.read_table(done.path(done.records[_P], ".parquet"))
    assert table.num_rows == done.records[_P].rows == 6070
    assert len({(row["id"], row["at"]) for row in table.to_pylist()}) == 6070
    assert sorted(v for v in table.column("v").to_pylist() if v and len(v) < 9) == sorted(f"v{i}" for i in range(1, 41))
    with connected(target) as connection:
        assert fingerprint_table(connection, "public", "p") == done.records[_P].fingerprint
    assert {name for _, name in fingerprints_of(done.records[_DUMP])} >= {"p", "p_large", "p_sub0"}
    assert [key[2] for key in done.records if len(key) == 3] == ["p"]


def test_a_partitioned_table_without_partitions_is_an_export_without_rows(database: Make, tmp_path: Path) -> None:
    target = _with(database(), b"create table public.p (id int, t text) partition by list (id)")
    done = capture(tmp_path, target, tables={"include": ["*"], "formats": ["parquet", "jsonl", "json", "csv"]})
    assert done.records[_P].rows == 0
    assert done.check("content_matches_snapshot", *_P).passed
    assert done.findings(*_P) == []


def test_small_partitions_share_a_query_and_large_ones_are_cut() -> None:
    small = [Leaf("s", f"small{n}", False, 10, 80_000) for n in range(120)]
    large = Leaf("s", "large", False, 20_000, 160 << 20)
    found = leaf_ranges(["a"], [*small, large, Leaf("s", "away", True, 0, 0)], 18)
    assert [part.pages for part in found[-5:]] == [
        PageRange(0, 4096),
        PageRange(4096, 8192),
        PageRange(8192, 12288),
        PageRange(12288, 16384),
        PageRange(16384, None),
    ]
    queries = [part.rows.as_string(None) for part in found[:-5]]
    assert [query.count("from only") for query in queries] == [50, 50, 20]
    assert sum(part.bytes for part in found) == (160 << 20) + 120 * 80_000
    assert "away" not in "".join(queries)
    whole = table_rows.row_ranges(sql.SQL("only x"), 20_000, 160 << 20, 13)
    assert [part.pages for part in whole] == [PageRange()]


def test_a_selected_foreign_table_is_a_warning_that_names_it(database: Make, tmp_path: Path) -> None:
    target = _with(database(), _FOREIGN, b"create table public.t (id int); insert into public.t values (1)")
    done = capture(tmp_path / "a", target)
    check = done.check("no_foreign_tables", *_DUMP)
    assert (check.passed, check.severity) == (False, "WARN")
    assert check.table == ({"table": "public.remote", "problem": "its rows are on another server"},)
    assert "tables.exclude" in check.summary
    assert [key for key in done.records if len(key) == 3] == [("s", "public", "t")]
    excluded = capture(tmp_path / "b", target, tables={"include": ["*"], "exclude": ["public.remote"]})
    assert excluded.check("no_foreign_tables", *_DUMP).passed


def test_of_a_table_with_a_foreign_partition_the_local_rows_are_exported(database: Make, tmp_path: Path) -> None:
    target = _with(database(), _FOREIGN, _MIXED)
    done = capture(tmp_path, target, tables={"include": ["*"], "formats": ["parquet", "jsonl", "json", "csv"]})
    failed = {(key, c.name) for key, r in done.records.items() for c in r.checks if not c.passed}
    assert failed == {(_DUMP, "no_foreign_tables")}
    named = [row["table"] for row in done.check("no_foreign_tables", *_DUMP).table]
    assert named == ["public.away1", "public.m3", "public.remote"]
    mixed, away = done.records["s", "public", "m"], done.records["s", "public", "away"]
    assert (mixed.rows, away.rows) == (3, 0)
    assert (mixed.details["foreign_partitions"], away.details["foreign_partitions"]) == (
        ["public.m3"],
        ["public.away1"],
    )
    rows = pq.read_table(done.path(mixed, ".parquet")).to_pylist()
    assert sorted((row["id"], row["v"]) for row in rows) == [(1, "a"), (1, "b"), (2, "c")]
    for key in (("s", "public", "m"), ("s", "public", "away")):
        assert done.findings(*key) == []
    with connected(target) as connection:
        assert [leaf.name for leaf in read_leaves(connection, "public", "m")] == ["m1", "m2", "m3"]
        assert mixed.fingerprint is not None
        assert fingerprint_with(connection, "public", "m", mixed.fingerprint.algorithm) == mixed.fingerprint
        connection.execute("update public.m2 set v = 'd'")
        assert fingerprint_with(connection, "public", "m", mixed.fingerprint.algorithm) != mixed.fingerprint
