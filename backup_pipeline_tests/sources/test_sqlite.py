from __future__ import annotations

import contextlib
import csv
import gzip
import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.artefacts.sqlite_copy import compare_sqlite, inspect_sqlite, unpack_sqlite
from backup_pipeline.artefacts.types import inspect
from backup_pipeline.errors import SourceError, StoreError, UnreachableError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.settings.types import TableSelection
from backup_pipeline.sources.sqlite.capture import capture_sqlite
from backup_pipeline.sources.sqlite.settings import SqliteSource
from backup_pipeline.sqlite.columns import (
    RowsFingerprint,
    StoredColumn,
    canonical,
    from_table,
    storage_of,
    to_table,
)
from backup_pipeline.sqlite.database import Row, SqliteColumn, copy_online, nameless_database
from backup_pipeline.stores.local import LocalSetWriter
from backup_pipeline_tests.support.archive_sets import check_of, context_of, new_set
from backup_pipeline_tests.support.examples import examples

SCHEMA = """
create table auftraege (record_id integer primary key, auftrag_nr text not null, preis real, bild blob, note);
create table "odd ""name"" / ü" ("a b" int, c varchar(10));
create table leer (x integer, y text);
create virtual table suche using fts5(text);
create view sicht as select 1 as eins;
"""
ROWS: list[Row] = [
    (1, "000123", 1.5, b"\0\xff", None),
    (2, "", 0.0, b"", ""),
    (3, 'Zeile\n"zwei", ä 😀', math.inf, None, 7),
    (2**63 - 1, "x" * 100_000, 1e-300, None, 2.5),
    (-(2**63), "nul\0byte", None, None, b"\x80"),
]


def database(path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    connection.executemany("insert into auftraege values (?, ?, ?, ?, ?)", ROWS)
    connection.execute('insert into "odd ""name"" / ü" values (1, null), (null, \'\')')
    connection.commit()
    connection.close()
    return path


def capture(writer: LocalSetWriter, path: Path, **more: object) -> dict[str, ArtefactRecord]:
    source = SqliteSource(kind="sqlite", path=path, **more)  # type: ignore[arg-type]
    return {record.key[-1]: record for record in capture_sqlite(context_of(writer, "werkstatt"), source)}


def test_the_copy_and_every_table_come_back_equal(tmp_path: Path) -> None:
    path = database(tmp_path / "werkstatt.db")
    writer = new_set(tmp_path)
    records = capture(writer, path)
    assert list(records) == ["copy", "auftraege", "leer", 'odd "name" / ü']
    assert records["copy"].files[0].path == "werkstatt_db.sqlite.gz"
    assert records["auftraege"].files[0].path == "tables/werkstatt/main.auftraege.parquet"
    assert not any(record.failed_checks for record in records.values())
    restored = tmp_path / "restored.db"
    unpack_sqlite(writer.open, records["copy"], restored)
    assert list(compare_sqlite(restored, records.values())) == []
    table = pq.read_table(writer.folder / records["auftraege"].files[0].path)
    assert sorted(from_table(table), key=repr) == sorted(ROWS, key=repr)
    assert table.schema.field("record_id").metadata == {b"sqlite_type": b"INTEGER", b"sqlite_storage": b"integer"}
    assert table.schema.field("note").metadata[b"sqlite_storage"] == b"mixed"
    assert not list(writer.folder.glob(".scratch*"))
    for record in records.values():
        assert inspect(writer.open, record) == []
    (finding,) = inspect(writer.open, records["copy"].model_copy(update={"files": ()}))
    assert finding.subject == records["copy"].name


@pytest.mark.parametrize(
    "change",
    [
        "update auftraege set auftrag_nr = '000124' where record_id = 1",
        "update auftraege set note = null where record_id = 2",
        "update auftraege set note = '7' where record_id = 3",
        "update auftraege set note = 7.0 where record_id = 3",
        "delete from leer",
        "insert into leer values (1, 'x')",
        "delete from auftraege where record_id = 1",
    ],
)
def test_a_restored_database_that_differs_in_one_value_is_found(tmp_path: Path, change: str) -> None:
    path = database(tmp_path / "werkstatt.db")
    connection = sqlite3.connect(path)
    if change.startswith("delete from leer"):
        connection.execute("insert into leer values (1, 'x')")
        connection.commit()
    writer = new_set(tmp_path)
    records = capture(writer, path)
    restored = tmp_path / "restored.db"
    unpack_sqlite(writer.open, records["copy"], restored)
    changed = sqlite3.connect(restored)
    changed.execute(change)
    changed.commit()
    changed.close()
    connection.close()
    assert list(compare_sqlite(restored, records.values()))


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30)
connection.execute("pragma journal_mode=" + sys.argv[2])
connection.execute("create table pairs (n integer primary key, a, b)")
connection.commit()
print("ready", flush=True)
n = 0
while True:
    # Each transaction writes two rows: a copy must never show an odd number.
    with connection:
        for _ in range(2):
            n += 1
            connection.execute("insert into pairs values (?, ?, ?)", (n, "x" * 500, n))
"""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_copy_shows_one_moment_under_a_busy_writer(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "busy.db"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), mode], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for number in range(2):
                records = capture(new_set(tmp_path, number=number), path)
                rows = records["pairs"].rows
                assert rows is not None
                assert rows % 2 == 0
                assert records["copy"].details["tables"] == {"pairs": rows}
                assert not any(record.failed_checks for record in records.values())
        finally:
            process.kill()


def test_a_database_locked_for_too_long_is_told_and_not_waited_for_forever(tmp_path: Path) -> None:
    path = database(tmp_path / "werkstatt.db")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin exclusive")
    with pytest.raises(UnreachableError, match="locked"):
        copy_online(path, tmp_path / "copy.db", wait_seconds=0.5)
    holder.close()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_program_that_keeps_its_database_locked_is_named_with_a_remedy(tmp_path: Path, mode: str) -> None:
    path = database(tmp_path / "History")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as browser:
        browser.execute("pragma locking_mode=exclusive")
        browser.execute(f"pragma journal_mode={mode}")
        browser.execute("create table visits (n)")
        with pytest.raises(UnreachableError, match=rf"locked by .*\({os.getpid()}\)") as caught:
            copy_online(path, tmp_path / "copy.db", wait_seconds=0.5)
    assert "run_before" in caught.value.remedy


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "folder"])
def test_what_is_no_database_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "werkstatt.db"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"this is no database at all " * 10)
    writer = new_set(tmp_path)
    with pytest.raises(SourceError) as caught:
        capture(writer, path)
    assert str(path) in str(caught.value)
    assert [entry.name for entry in writer.folder.iterdir()] == ["records"]


def test_missing_required_tables_are_named(tmp_path: Path) -> None:
    path = database(tmp_path / "werkstatt.db")
    with pytest.raises(SourceError, match=r"trades, main\.orders"):
        capture(new_set(tmp_path), path, required_tables=("Auftraege", "trades", "main.orders"))


def test_a_damaged_database_fails_its_integrity_check(tmp_path: Path) -> None:
    path = tmp_path / "werkstatt.db"
    connection = sqlite3.connect(path)
    connection.execute("create table t (x integer primary key, y)")
    connection.execute("create index i on t (y)")
    connection.executemany("insert into t values (?, ?)", [(n, f"{n:050d}") for n in range(2000)])
    connection.commit()
    connection.execute("pragma writable_schema = on")
    connection.execute("delete from sqlite_master where name = 'i'")
    connection.commit()
    connection.close()
    writer = new_set(tmp_path)
    record = next(capture_sqlite(context_of(writer, "werkstatt"), SqliteSource(kind="sqlite", path=path)))
    assert [check.name for check in record.failed_checks] == ["integrity_check"]


def test_rows_that_refer_to_nothing_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "werkstatt.db"
    connection = sqlite3.connect(path)
    connection.executescript("create table p (id integer primary key); create table c (p_id references p (id));")
    connection.execute("insert into c values (5)")
    connection.commit()
    connection.close()
    check = check_of(capture(new_set(tmp_path), path)["copy"], "foreign_key_check")
    assert (check.passed, check.severity) == (False, "WARN")
    assert check.table == ({"table": "c", "rows": 1},)


def test_flipped_bits_and_cuts_of_the_copy_are_found(tmp_path: Path) -> None:
    writer = new_set(tmp_path)
    record = capture(writer, database(tmp_path / "werkstatt.db"))["copy"]
    place = writer.folder / record.files[0].path
    good = place.read_bytes()
    for position in range(10, len(good), len(good) // 40):
        bad = bytearray(good)
        bad[position] ^= 1
        place.write_bytes(bad)
        found = list(inspect_sqlite(writer.open, record))
        assert found or _same_content(bytes(bad), good), f"bit at {position}"
        assert all("werkstatt_db.sqlite.gz" in finding.subject for finding in found)
    for length in (0, 5, len(good) - 1):
        place.write_bytes(good[:length])
        assert list(inspect_sqlite(writer.open, record))


def _same_content(packed: bytes, good: bytes) -> bool:
    """Deflate pads blocks with bits that mean nothing; such a flip is seen by the file's own digest."""
    try:
        return gzip.decompress(packed) == gzip.decompress(good)
    except (OSError, EOFError, zlib.error):
        return False


def test_the_shipped_schema_of_auftraege_is_applied_without_telling_values(tmp_path: Path) -> None:
    path = tmp_path / "werkstatt.db"
    connection = sqlite3.connect(path)
    names = "auftrag_nr, datum, file_path, created_at, updated_at"
    connection.execute(f"create table auftraege (record_id integer primary key, {names})")
    good = ("000001", "2024-01-31", "2024/000001", "2024-01-31T10:00:00", None)
    bad = ("12", "31.01.2024", "2024/12", None, None)
    connection.executemany(f"insert into auftraege ({names}) values (?, ?, ?, ?, ?)", [good, bad])
    connection.commit()
    connection.close()
    check = check_of(capture(new_set(tmp_path), path)["auftraege"], "pandera_schema")
    assert not check.passed
    assert {row["column"] for row in check.table} == {"auftrag_nr", "datum"}
    assert "31.01.2024" not in check.model_dump_json()


def test_text_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "werkstatt.db"
    connection = sqlite3.connect(path)
    connection.execute("create table t (x text)")
    connection.execute("insert into t values (cast(x'ff00fe' as text)), ('fine'), (null)")
    connection.commit()
    connection.close()
    writer = new_set(tmp_path)
    record = capture(writer, path)["t"]
    assert not record.failed_checks
    rows = [row[0] for row in from_table(pq.read_table(writer.folder / record.files[0].path))]
    assert [row.encode("utf-8", "surrogateescape") if isinstance(row, str) else row for row in rows] == [
        b"\xff\0\xfe",
        b"fine",
        None,
    ]


def test_json_lines_and_csv_keep_null_apart_from_empty(tmp_path: Path) -> None:
    writer = new_set(tmp_path)
    selection = TableSelection(include=("main.auftraege",), formats=("jsonl", "csv", "json"))
    record = capture(writer, database(tmp_path / "werkstatt.db"), tables=selection)["auftraege"]
    *packed, plain = ((writer.folder / file.path).read_bytes() for file in record.files)
    jsonl, text = (gzip.decompress(content).decode() for content in packed)
    rows = [json.loads(row) for row in jsonl.splitlines()]
    assert json.loads(plain) == rows
    by_id = {row["record_id"]: row for row in rows}
    assert by_id[2]["note"] == ""
    assert by_id[1]["note"] is None
    assert by_id[3]["preis"] == {"$real": "inf"}
    assert by_id[1]["bild"] == {"$blob": "AP8="}
    assert len(list(csv.reader(text.splitlines(keepends=True)))) == 1 + len(ROWS)
    assert "\n1,\"000123\",1.5,X'00ff',\n" in text
    assert '\n2,"",0.0,X\'\',""\n' in text
    assert inspect(writer.open, record) == []
    assert "pandera_schema" in [check.name for check in record.checks]
    assert not list(writer.folder.rglob("*.parquet"))


values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
)


@settings(max_examples=examples(100))
@given(st.lists(st.tuples(values, values, values), max_size=8))
def test_any_values_come_back_from_parquet_exactly(rows: list[Row]) -> None:
    import pyarrow as pa

    kinds = {type(None): "null", int: "integer", float: "real", str: "text", bytes: "blob"}
    columns = []
    for index in range(3):
        classes = frozenset(kinds[type(row[index])] for row in rows)
        column = SqliteColumn(f"c{index}", "", nullable=True, key=False, generated=False)
        columns.append(StoredColumn(column, storage_of(column, classes, utf8=True)))
    schema = pa.schema([column.field for column in columns])
    back = list(from_table(to_table(rows, columns, schema)))
    assert [canonical(row) for row in back] == [canonical(row) for row in rows]


def test_the_fingerprint_does_not_depend_on_order_but_on_every_value() -> None:
    def of(*rows: Row) -> str:
        total = RowsFingerprint()
        for row in rows:
            total.add(row)
        return total.result().value

    assert of((1, "a"), (2, "b")) == of((2, "b"), (1, "a"))
    rows: list[Row] = [(1, "a"), ("1", "a"), (1.0, "a"), (1, b"a"), (1, None), (1, ""), (None, "a"), ("a", 1)]
    different = [*map(of, rows), of((1, "a"), (1, "a")), of()]
    assert len(set(different)) == len(different)
    # The documented algorithm, by hand: BLAKE2b-8 of I…1 T…1 "a".
    import hashlib

    data = b"I" + (1).to_bytes(8, "big") + b"T" + (1).to_bytes(8, "big") + b"a"
    assert of((1, "a")) == hashlib.blake2b(data, digest_size=8).hexdigest()


def test_a_copy_for_which_there_is_no_room_is_not_the_databases_fault(tmp_path: Path) -> None:
    place = tmp_path / "nowhere" / "copy.db"
    with pytest.raises(StoreError, match=re.escape(str(place))):
        copy_online(database(tmp_path / "w.db"), place)


@pytest.mark.parametrize("variable", ["SQLITE_TMPDIR", "TMPDIR"])
def test_temporary_files_without_room_are_told_with_their_place(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))

    def fill() -> None:
        with nameless_database() as connection:
            connection.execute("PRAGMA max_page_count = 4")
            connection.execute("CREATE TABLE t (a)")
            connection.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,) for _ in range(100)])

    with pytest.raises(StoreError, match="No room for temporary files") as reported:
        fill()
    assert reported.value.where == str(tmp_path)
    assert "TMPDIR" in reported.value.remedy


def test_other_errors_of_a_nameless_database_stay_what_they_are() -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"), nameless_database() as connection:
        connection.execute("SELECT * FROM nowhere")


def test_a_broken_off_transaction_is_named_with_its_journal(tmp_path: Path) -> None:
    live, path = tmp_path / "live.db", tmp_path / "left.db"
    with contextlib.closing(sqlite3.connect(live, isolation_level=None)) as writer:
        writer.execute("pragma cache_size = 5")
        writer.execute("create table t (a)")
        writer.executemany("insert into t values (?)", [("x" * 1000,)] * 100)
        writer.execute("begin immediate")
        writer.execute("update t set a = 'y' || a")
        for suffix in ("", "-journal"):
            shutil.copy(f"{live}{suffix}", f"{path}{suffix}")
    with pytest.raises(SourceError, match=r"left\.db-journal: A transaction .* was broken off"):
        capture(new_set(tmp_path), path)
    sqlite3.connect(path).execute("select 1 from sqlite_schema").close()
    assert capture(new_set(tmp_path, number=1), path)["t"].rows == 100


def test_a_page_that_cannot_be_read_names_the_database_and_not_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "werkstatt.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t (a)")
        connection.executemany("insert into t values (?)", [("x" * 1000,)] * 50)
        connection.commit()
    data = bytearray(path.read_bytes())
    data[4096:4196] = b"\xff" * 100
    path.write_bytes(data)
    with pytest.raises(SourceError, match=rf"^{re.escape(str(path))}: The database is damaged .*recover"):
        capture(new_set(tmp_path), path)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs a disk of its own")
def test_a_database_on_a_read_only_disk_is_read_and_a_log_there_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        writer = sqlite3.connect(database(disk / "werkstatt.db"))
        writer.execute("pragma journal_mode = wal")
        writer.execute("update auftraege set note = 'in the log'")
        writer.commit()
        subprocess.run(["cp", "-a", disk / "werkstatt.db", disk / "werkstatt.db-wal", tmp_path], check=True)
        writer.close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert capture(new_set(tmp_path), disk / "werkstatt.db")["auftraege"].rows == len(ROWS)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        for name in ("werkstatt.db", "werkstatt.db-wal"):
            shutil.copy(tmp_path / name, disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(SourceError, match=r"werkstatt\.db-wal: The disk is read-only"):
            capture(new_set(tmp_path, number=1), disk / "werkstatt.db")
    finally:
        subprocess.run(["umount", disk], check=True)
