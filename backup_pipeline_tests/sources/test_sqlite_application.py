"""SQLite files that use what only their application has: they are copied, checked as far as possible, restored."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from backup_pipeline.artefacts.sqlite_restore import restore_sqlite
from backup_pipeline.errors import SourceError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.settings.types import TableSelection
from backup_pipeline.sources.sqlite.capture import capture_sqlite
from backup_pipeline.sources.sqlite.settings import SqliteSource
from backup_pipeline.stores.local import LocalSetWriter
from backup_pipeline_tests.support.archive_sets import NOW, check_of, context_of, new_set

ORDINARY = """
create table ordinary (id integer primary key, name text unique check (length(name) > 0));
insert into ordinary values (1, 'one'), (2, 'two');
create table child (of integer references ordinary);
insert into child values (1);
"""
KINDS = {
    "an index by its collation": "create table t (a text); create index i on t (a collate human desc)",
    "a quoted collation": 'create table t (a text collate "My ""Own"" Order" unique)',
    "a key by its collation": "create table t (a text collate HUMAN primary key) without rowid",
    "an index on its function": "create table t (a text); create unique index i on t (fold(a), plus(a, 1))",
    "a partial index": "create table t (a text); create index i on t (a) where fold(a) is not null",
    "a virtual column": "create table t (a text, b text not null generated always as (fold(a)) virtual)",
    "an index on a virtual column": "create table t (a text, b text as (fold(a)));"
    "create index i on t (b); create index j on t (b, a)",
    "a stored column": "create table t (a text, b text generated always as (fold(a)) stored)",
    "a check": "create table t (a text not null check (okay(a) > 0))",
    "a default": "create table t (a text, z text default (fold('X')))",
    "a view and a trigger": "create table t (a text); create view v as select fold(a) from t;"
    "create trigger tr after insert on t begin select fold(new.a); end",
    "a key that refers by its collation": "create table p (k text collate human primary key);"
    "insert into p values ('bbb'), ('A'), ('cc'), ('a');"
    "create table t (a text references p (k))",
}


def database(path: Path, sql: str) -> Path:
    connection = sqlite3.connect(path)
    for name in ("human", 'My "Own" Order'):
        connection.create_collation(name, lambda a, b: ((len(a), a[::-1]) < (len(b), b[::-1]) and -1) or int(a != b))
    for name, count in (("fold", 1), ("okay", 1), ("plus", 2)):
        connection.create_function(name, count, lambda *a: str(a[0]).lower() + str(len(a)), deterministic=True)
    connection.executescript(ORDINARY + sql)
    connection.executemany("insert into t (a) values (?)", [("bbb",), ("A",), ("cc",)])
    connection.commit()
    connection.close()
    return path


def capture(writer: LocalSetWriter, path: Path) -> dict[str, ArtefactRecord]:
    source = SqliteSource(kind="sqlite", path=path)
    return {record.key[-1]: record for record in capture_sqlite(context_of(writer, "app"), source)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_the_application_can_read_is_copied_named_and_restored(tmp_path: Path, kind: str) -> None:
    path = database(tmp_path / "app.db", KINDS[kind])
    writer = new_set(tmp_path)
    records = capture(writer, path)
    assert [record.key for record in records.values() if record.failed_checks] == []
    assert records["t"].rows == 3
    summary = check_of(records["copy"], "integrity_check").summary
    used = ("human", "HUMAN", "My", "fold")
    silent = ("a stored column", "a check", "a default", "a view and a trigger")
    assert any(f"t ({name}" in summary or f"p ({name}" in summary for name in used) or kind in silent
    assert ("not exported: t.b" in summary) == ("virtual" in kind)
    assert "ordinary" not in summary
    restored = tmp_path / "restored.db"
    restore_sqlite(writer.open, records.values(), restored, now=NOW)
    again = sqlite3.connect(restored)
    assert sorted(again.execute("select rowid, a from t" if "without" not in KINDS[kind] else "select 1, 2, 3"))
    again.close()


@pytest.mark.parametrize("module", ["vss0(a(384))", "fts5(a, tokenize=''porterx'')"])
def test_virtual_tables_of_unknown_modules_and_tokenizers_are_copied(tmp_path: Path, module: str) -> None:
    path = database(tmp_path / "app.db", "create table t (a text); create virtual table f using fts5(a)")
    connection = sqlite3.connect(path)
    connection.execute("insert into f values ('hello')")
    connection.execute("pragma writable_schema = on")
    connection.execute(f"update sqlite_schema set sql = replace(sql, 'fts5(a)', '{module}') where name = 'f'")
    connection.commit()
    connection.close()
    records = capture(new_set(tmp_path), path)
    assert [record.key for record in records.values() if record.failed_checks] == []


def test_damage_is_found_beside_what_only_the_application_can_check(tmp_path: Path) -> None:
    path = database(tmp_path / "app.db", KINDS["an index by its collation"])
    data = path.read_bytes()
    assert data.count(b"two") == 2
    path.write_bytes(data.replace(b"two", b"twx", 1))
    broken = capture(new_set(tmp_path), path)["copy"]
    check = check_of(broken, "integrity_check")
    assert (check.passed, "row 2 missing from index sqlite_autoindex_ordinary_1" in check.summary) == (False, True)


def test_a_column_that_makes_up_gigabytes_is_refused_and_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.executescript(ORDINARY + "create table t (a, b generated always as (zeroblob(900000000)))")
    connection.execute("insert into t (a) values (1)")
    connection.commit()
    connection.close()
    with pytest.raises(SourceError, match=r"app\.db: table t: A generated column makes up .*exclude"):
        capture(new_set(tmp_path), path)
    writer = new_set(tmp_path, number=1)
    source = SqliteSource(kind="sqlite", path=path, tables=TableSelection(include=("main.*",), exclude=("main.t",)))
    records = list(capture_sqlite(context_of(writer, "app"), source))
    assert [record.key[-1] for record in records if not record.failed_checks] == ["copy", "child", "ordinary"]
    restore_sqlite(writer.open, records, tmp_path / "restored.db", now=NOW)
