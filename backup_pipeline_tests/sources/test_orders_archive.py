"""Export, verification and restore of real archives on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_pipeline.errors import BackupSystemError, LockError, RefusedError, SourceError, StoreError, ValidationError
from backup_pipeline.sources.orders.archive.folder import ArchiveTree
from backup_pipeline.sources.orders.archive.freshness import all_untouched, count_untouched
from backup_pipeline.sources.orders.archive.index import check_index, index_lines, parse_entry
from backup_pipeline.sources.orders.database.database import database_state, sqlite_orders
from backup_pipeline.sources.orders.export import ExportOptions, export_orders
from backup_pipeline.sources.orders.format.order import COLUMNS, DATA_NAME, INDEX_NAME, LOCK_NAME, META_NAME
from backup_pipeline.sources.orders.restore import undo_restore
from backup_pipeline.system.locks import hold_lock
from backup_pipeline_tests.support.examples import examples
from backup_pipeline_tests.support.orders_samples import DDL, Workshop, kinds, order

TEXT = (
    st.none() | st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(["", "007", '"', "\r\n", "NULL"])
)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, [order(i) for i in range(1, 31)])


def folder(workshop: Workshop, record_id: int) -> Path:
    return workshop.archive / f"{2019 + record_id % 6}" / f"{record_id:06}"


def damage(path: Path, change: Any) -> None:
    path.write_bytes(change(path.read_bytes()))


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT, st.sampled_from([0, 1, None]), TEXT, TEXT), max_size=8))
def test_the_restored_table_is_equal_to_the_exported_one(tmp_path_factory: Any, values: list[tuple[Any, ...]]) -> None:
    rows = [
        order(
            i,
            kunde_name=v[0],
            kunden_nr=v[1],
            kennzeichen=v[2],
            vin=v[3],
            keywords_json=v[4],
            data_complete=v[5],
            hash=v[6],
            updated_at=v[7],
        )
        for i, v in enumerate(values, 1)
    ] or [order(1)]
    workshop = Workshop(tmp_path_factory.mktemp("w"), rows)
    assert workshop.export().ok
    workshop.restore(workshop.folder / "new.db")
    assert workshop.rows(workshop.folder / "new.db") == rows
    assert workshop.export().exported == 0


def test_columns_of_other_types_come_back_with_their_types(tmp_path: Path) -> None:
    ddl = DDL.replace("formular_version TEXT", "formular_version REAL").replace("kunden_nr TEXT", "kunden_nr INTEGER")
    rows = [order(1, formular_version=0.1 + 0.2, kunden_nr=2**62), order(2, formular_version=None, kunden_nr="A-7")]
    workshop = Workshop(tmp_path, rows, ddl)
    assert workshop.export().ok
    workshop.database.unlink()
    workshop.restore()
    assert workshop.rows() == rows
    assert [type(v) for v in workshop.rows()[0]] == [type(v) for v in rows[0]]


def test_only_changed_orders_are_written_and_other_files_are_never_touched(workshop: Workshop) -> None:
    pdf = folder(workshop, 3) / "000003_Auftrag.pdf"
    pdf.parent.mkdir(parents=True)
    pdf.write_bytes(b"%PDF")
    before = pdf.stat()
    assert workshop.export().exported == 30
    stamps = {path: path.stat().st_mtime_ns for path in workshop.archive.rglob("*.*") if path.is_file()}
    workshop.execute(("UPDATE auftraege SET kunde_name = 'Neu' WHERE record_id = 3", ()))
    result = workshop.export()
    assert (result.exported, result.unchanged) == (1, 29)
    changed = {p.name for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp and p.parent.name == "000003"}
    assert changed == {DATA_NAME, META_NAME}
    assert all(p.stat().st_mtime_ns == s for p, s in stamps.items() if p.parent.name not in ("000003", "Archiv"))
    assert pdf.stat().st_mtime_ns == before.st_mtime_ns
    assert workshop.export(rewrite=True).exported == 30


@pytest.mark.parametrize("change", ["gone", "folder", "edited", "meta"])
def test_an_export_notices_folders_that_were_changed_though_the_database_was_not(
    workshop: Workshop, change: str
) -> None:
    workshop.export()
    place = folder(workshop, 4)
    if change == "folder":
        (place / META_NAME).unlink()
        (place / DATA_NAME).unlink()
        place.rmdir()
    elif change == "gone":
        (place / META_NAME).unlink()
    else:
        target = place / (DATA_NAME if change == "edited" else META_NAME)
        stat = target.stat()
        damage(target, lambda data: data.replace(b"2", b"3", 1))
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    result = workshop.export()
    assert (result.exported, result.unchanged) == (1, 29)
    assert workshop.verify(database=True).ok


def test_an_index_divided_among_processes_is_looked_at_whole(workshop: Workshop) -> None:
    workshop.export()
    tree = ArchiveTree(workshop.archive)
    size = (workshop.archive / INDEX_NAME).stat().st_size
    for share in (size // 2, size - 1, size * 2):
        assert all_untouched(tree, share=share) == 30
    for cuts in range(0, size, 97):
        parts = [count_untouched(tree, 0, cuts), count_untouched(tree, cuts, size)]
        assert sum(part or 0 for part in parts) == 30
    for number in (1, 30):
        os.utime(folder(workshop, number) / DATA_NAME, (1, 1))
        for share in (size // 2, size * 2):
            assert all_untouched(tree, share=share) is None
        workshop.export()
    tree.close()


def test_only_the_years_asked_for_are_exported_and_the_index_keeps_the_others(workshop: Workshop) -> None:
    assert workshop.export(years=frozenset({"2020"})).exported == 5
    assert workshop.export(years=frozenset({"2021", "2022"})).exported == 10
    assert sorted(p.name for p in workshop.archive.iterdir() if p.is_dir()) == ["2020", "2021", "2022"]
    assert len(list(index_lines(workshop.archive / INDEX_NAME))) == 15
    assert workshop.export().exported == 15


def test_a_dry_run_writes_nothing(workshop: Workshop) -> None:
    result = workshop.export(dry_run=True)
    assert (result.exported, list(workshop.archive.iterdir())) == (30, [])
    assert "30 would be exported" in result.summary()


def test_bad_orders_are_counted_and_named_and_the_others_go_on(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (workshop.archive / "2024").symlink_to(tmp_path / "outside")
    workshop.insert(
        order(101, file_path="../x/101/a.pdf"),
        order(102, file_path="/etc/102/a.pdf"),
        order(103, kunde_name=b"\x00blob"),
        order(104, auftrag_nr="12", file_path=None),
    )
    workshop.execute(("UPDATE auftraege SET kunde_name = CAST(x'ff41' AS TEXT) WHERE record_id = 1", ()))
    (workshop.archive / "2021").mkdir()
    (workshop.archive / "2021" / "000002").write_text("a file in the folder's place")
    result = workshop.export()
    linked = sum(1 for i in range(1, 31) if 2019 + i % 6 == 2024)
    assert (result.exported, result.failed) == (30 - linked - 2, 6 + linked)
    reasons = {finding.path: finding.reason for finding in result.findings.kept}
    assert "climbs" in reasons["order 000101"]
    assert "absolute" in reasons["order 000102"]
    assert "BLOB" in reasons["order 000103"]
    assert "six digits" in reasons["order 12"]
    assert "UTF-8" in reasons["order 000001"]
    assert "symbolic link" in reasons["order 000005"]
    assert not list((tmp_path / "outside").iterdir())
    assert f"{30 - linked - 2} exported, {6 + linked} failed" in result.summary()
    with pytest.raises(BackupSystemError, match="failed"):
        result.raise_for_failure("x")


def test_two_orders_that_claim_one_folder_are_not_written_over_each_other(workshop: Workshop) -> None:
    workshop.insert(order(200, file_path="2020/000001/x.pdf"))
    for _ in range(2):
        result = workshop.export()
        assert result.failed == 1
        assert "belongs to order 1 already" in result.findings.kept[0].reason
    assert parse_entry(next(iter(index_lines(workshop.archive / INDEX_NAME)))).record_id == 1


def test_a_deleted_row_keeps_its_folder_and_is_reported(workshop: Workshop) -> None:
    workshop.export()
    workshop.execute(("DELETE FROM auftraege WHERE record_id = 7", ()))
    for _ in range(2):
        result = workshop.export()
        assert result.row_deleted == 1
        assert result.ok
    assert (folder(workshop, 7) / DATA_NAME).exists()
    assert kinds(workshop.verify(database=True), "warning")["orphan"] == ["2020/000007"]
    assert workshop.restore(workshop.folder / "a.db").restored == 30
    assert workshop.restore(workshop.folder / "b.db", skip_deleted=True).restored == 29
    workshop.insert(order(7))
    assert workshop.export().row_deleted == 0


def test_an_order_that_moved_is_found_twice_and_the_newer_one_wins(workshop: Workshop) -> None:
    workshop.export()
    moved = order(7, file_path="2020/neu/000007/a.pdf", updated_at="2025-01-01T00:00:00", kunde_name="neu")
    workshop.execute(("DELETE FROM auftraege WHERE record_id = 7", ()))
    workshop.insert(moved)
    assert kinds(workshop.export(), "warning")["moved"] == ["2020/000007"]
    assert kinds(workshop.verify())["duplicate"] == ["2020/000007", "2020/neu/000007"]
    result = workshop.restore(workshop.folder / "new.db")
    assert result.duplicates == 1
    assert workshop.rows(workshop.folder / "new.db")[6] == moved


def test_a_folder_in_the_place_of_the_index_is_told_and_stops_no_restore(workshop: Workshop) -> None:
    workshop.export()
    index = workshop.archive / INDEX_NAME
    index.unlink()
    index.mkdir()
    assert kinds(workshop.verify())["index"] == [INDEX_NAME]
    rows = workshop.rows()
    workshop.database.unlink()
    workshop.restore()
    assert workshop.rows() == rows
    assert INDEX_NAME in workshop.export().stopped
    index.rmdir()
    assert workshop.export().ok


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("record_id", b"99999999999999999999"),
        ("record_id", b'"1"'),
        ("record_id", b"null"),
        ("record_id", b"1.5"),
        ("path", b"null"),
        ("path", b"[]"),
        ("path", b'"a\\u0000b"'),
        ("path", b'"\\ud800"'),
        ("path", b'"\xff"'),
        ("file_size", b"true"),
        ("checksum", b"{}"),
        ("seen", b"1e400"),
        ("auftrag_nr", b"7"),
    ],
)
def test_an_index_whose_checksum_fits_and_whose_entries_do_not_is_damaged(
    workshop: Workshop, name: str, value: bytes
) -> None:
    assert workshop.export().ok
    index = workshop.archive / INDEX_NAME
    lines = index.read_bytes().splitlines(keepends=True)
    lines[3] = re.sub(rb'"%s": ("[^"]*"|\d+)' % name.encode(), lambda _: b'"%s": %s' % (name.encode(), value), lines[3])
    reported = b"".join(lines[:-1])
    index.write_bytes(
        reported + b'], "count": 30, "state": "", "checksum": "%s"}\n' % hashlib.sha256(reported).hexdigest().encode()
    )
    assert kinds(workshop.verify())["index"] == [INDEX_NAME]
    workshop.restore(workshop.folder / "new.db")
    assert len(workshop.rows(workshop.folder / "new.db")) == 30
    assert workshop.export().ok
    assert workshop.verify().ok


def test_without_the_index_the_next_export_reads_and_writes_only_the_index(workshop: Workshop) -> None:
    workshop.export()
    damage(workshop.archive / INDEX_NAME, lambda data: data.replace(b'"count": 30', b'"count": 31'))
    assert "index" in kinds(workshop.verify())
    result = workshop.export()
    assert (result.exported, result.unchanged) == (0, 30)
    assert check_index(workshop.archive / INDEX_NAME) is not None
    assert len(json.loads((workshop.archive / INDEX_NAME).read_bytes())["orders"]) == 30


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_every_commit_changes_the_state_of_the_database(workshop: Workshop, mode: str) -> None:
    connection = sqlite3.connect(workshop.database)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    seen = set()
    for number in range(20):
        connection.execute("UPDATE auftraege SET hash = ? WHERE record_id = 1", (str(number),))
        connection.commit()
        seen.add(database_state(workshop.database))
    connection.close()
    assert len(seen) == 20


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_an_export_sees_one_moment_while_the_application_writes(tmp_path: Path, mode: str) -> None:
    workshop = Workshop(tmp_path, [order(i, kunde_name="0") for i in range(1, 401)])
    connection = sqlite3.connect(workshop.database, timeout=20, check_same_thread=False)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with connection:
                connection.execute("UPDATE auftraege SET kunde_name = ?", (str(number),))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            assert workshop.export(batch=50).ok
            target = workshop.folder / "new.db"
            workshop.restore(target)
            assert len({row[2] for row in workshop.rows(target)}) == 1
    finally:
        stop.set()
        writer.join()
        connection.close()


def test_a_sound_archive_has_no_finding_with_or_without_the_database(workshop: Workshop) -> None:
    workshop.export()
    for database in (True, False):
        result = workshop.verify(database=database)
        assert (result.ok, result.folders, result.valid, result.findings.kept) == (True, 30, 30, [])


def test_worker_processes_find_the_same_as_one_process(workshop: Workshop) -> None:
    workshop.export()
    damage(folder(workshop, 9) / DATA_NAME, lambda data: data[:-3])
    alone, together = workshop.verify(workers=1), workshop.verify(workers=2)
    assert alone.findings.as_dict() == together.findings.as_dict()
    assert not alone.ok


def test_bit_flips_and_truncations_in_every_file_are_found(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(i) for i in (1, 2)])
    workshop.export()
    files = [p for p in workshop.archive.rglob("*") if p.is_file()]
    assert len(files) == 5
    for path in files:
        sound = path.read_bytes()
        name = path.relative_to(workshop.archive)
        step = max(1, len(sound) // 12)
        changes = [
            sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :] for at in range(0, len(sound), step)
        ]
        for data in [*changes, b"", sound[:-1], sound[: len(sound) // 2], sound + b"\n", sound * 2]:
            path.write_bytes(data)
            result = workshop.verify()
            place = name.parent.as_posix() if name.parent.name else INDEX_NAME
            assert not result.ok
            assert place in {f.path for f in result.findings.kept if f.level == "error"}
        path.write_bytes(sound)
    assert workshop.verify().ok


def test_missing_folders_and_files_leftovers_and_foreign_files(workshop: Workshop) -> None:
    workshop.export()
    for name in (DATA_NAME, META_NAME):
        (folder(workshop, 5) / name).unlink()
    (folder(workshop, 6) / META_NAME).unlink()
    (folder(workshop, 8) / ".data.csv.part").write_bytes(b"torn")
    (folder(workshop, 9) / "photos").mkdir()
    (folder(workshop, 9) / "photos" / "a.jpg").write_bytes(b"x")
    (workshop.archive / ".git").mkdir()
    (workshop.archive / ".git" / DATA_NAME).write_bytes(b"not ours")
    (workshop.archive / "Excel").mkdir()
    (workshop.archive / "Excel" / DATA_NAME).write_text("a;b\n1;2\n")
    (workshop.archive / "loop").symlink_to(workshop.archive)
    os.mkfifo(folder(workshop, 10) / ".meta.json.part")
    result = workshop.verify(database=True)
    found = kinds(result)
    assert found["missing"] == ["2024/000005"]
    assert sorted(found["missing_file"]) == ["2019/000006", "Excel"]
    assert found["not_exported"] == ["2024/000005", "2019/000006"]
    assert sorted(kinds(result, "warning")["leftover"]) == ["2021/000008", "2023/000010"]


def test_duplicates_and_rows_outside_the_archive_are_found(workshop: Workshop) -> None:
    workshop.export()
    copy = workshop.archive / "2020" / "Kopie"
    copy.mkdir()
    for name in (DATA_NAME, META_NAME):
        (copy / name).write_bytes((folder(workshop, 1) / name).read_bytes())
    workshop.insert(order(50), order(51, auftrag_nr="000001", file_path="2020/51/a.pdf"))
    workshop.execute(("UPDATE auftraege SET hash = 'x' WHERE record_id = 2", ()))
    result = workshop.verify(database=True)
    assert kinds(result)["duplicate"] == ["2020/000001", "2020/Kopie"]
    assert len(kinds(result)["not_exported"]) == 2
    assert kinds(result, "warning")["outdated"] == ["2021/000002"]
    workshop.export()
    assert kinds(workshop.verify())["duplicate_number"] == ["2020/000001", "2020/51", "2020/Kopie"]
    new = workshop.restore(workshop.folder / "new.db")
    assert (new.restored, new.duplicates) == (32, 1)


def test_unknown_versions_and_schema_faults_are_named(workshop: Workshop) -> None:
    workshop.execute(("UPDATE auftraege SET datum = '2024-13-01' WHERE record_id = 3", ()))
    workshop.export()
    damage(folder(workshop, 4) / META_NAME, lambda data: data.replace(b'"1.0"', b'"9.9"'))
    result = workshop.verify(database=True)
    assert kinds(result)["version"] == ["2023/000004"]
    assert kinds(result)["schema"] == ["2022/000003"]
    assert "9.9" in next(f.reason for f in result.findings.kept if f.kind == "version")


def test_bad_folders_stop_the_restore_before_the_swap_unless_they_are_skipped(workshop: Workshop) -> None:
    workshop.export()
    rows = workshop.rows()
    damage(folder(workshop, 4) / DATA_NAME, lambda data: data + b"x")
    (folder(workshop, 5) / DATA_NAME).unlink()
    (folder(workshop, 5) / META_NAME).unlink()
    before = workshop.database.read_bytes()
    with pytest.raises(ValidationError, match="1 invalid and 1 missing"):
        workshop.restore()
    assert workshop.database.read_bytes() == before
    assert sorted(p.name for p in workshop.folder.iterdir()) == ["Archiv", "werkstatt.db"]
    result = workshop.restore(skip_invalid=True)
    assert workshop.rows() == [row for row in rows if row[0] not in (4, 5)]
    assert (result.restored, result.invalid, result.missing) == (28, 1, 1)
    assert any("2 orders of the present database are not in the archive" in note for note in result.notes)
    undo_restore(workshop.database)
    assert workshop.rows() == rows
    with pytest.raises(RefusedError, match="no restore to undo"):
        undo_restore(workshop.database)


def test_a_restore_keeps_other_tables_indexes_triggers_and_the_wal_mode(workshop: Workshop) -> None:
    workshop.export()
    connection = sqlite3.connect(workshop.database)
    connection.executescript(
        """PRAGMA journal_mode = WAL;
        CREATE TABLE benutzer (name TEXT); INSERT INTO benutzer VALUES ('Ä');
        CREATE UNIQUE INDEX nummer ON auftraege (auftrag_nr);
        CREATE TRIGGER verboten BEFORE DELETE ON auftraege BEGIN SELECT RAISE(ABORT, 'nie'); END;"""
    )
    connection.close()
    workshop.execute(("UPDATE auftraege SET kunde_name = 'verdorben'", ()))
    workshop.restore()
    connection = sqlite3.connect(workshop.database)
    assert connection.execute("SELECT name FROM benutzer").fetchall() == [("Ä",)]
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert {"nummer", "verboten"} <= names
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert "verdorben" not in {row[2] for row in connection.execute("SELECT * FROM auftraege")}
    connection.close()


def test_a_lost_or_damaged_database_is_rebuilt_and_the_damaged_file_kept(workshop: Workshop) -> None:
    workshop.export()
    rows = workshop.rows()
    data = workshop.database.read_bytes()
    broken = data[:100] + os.urandom(len(data) - 100)
    workshop.database.write_bytes(broken)
    with pytest.raises(SourceError):
        workshop.export()
    result = workshop.restore()
    assert workshop.rows() == rows
    assert Path(result.kept).read_bytes() == broken
    workshop.database.unlink()
    workshop.restore()
    assert workshop.rows() == rows


def test_a_restore_is_refused_while_a_program_writes_the_database(workshop: Workshop) -> None:
    workshop.export()
    connection = sqlite3.connect(workshop.database)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(RefusedError, match="Another program"):
        workshop.restore()
    connection.close()
    assert workshop.restore().restored == 30


def test_a_dry_restore_changes_nothing(workshop: Workshop) -> None:
    workshop.export()
    before = workshop.database.read_bytes()
    assert workshop.restore(dry_run=True).restored == 30
    assert workshop.database.read_bytes() == before
    assert not list(workshop.folder.glob("werkstatt.db.*"))


def test_ties_between_copies_are_broken_by_exported_at_and_then_by_path(workshop: Workshop) -> None:
    workshop.export()
    for name, stamp in (("b", b"2099"), ("a", b"2099"), ("c", b"2000")):
        copy = workshop.archive / "Kopien" / name
        copy.mkdir(parents=True)
        (copy / DATA_NAME).write_bytes((folder(workshop, 1) / DATA_NAME).read_bytes())
        meta = json.loads((folder(workshop, 1) / META_NAME).read_bytes())
        meta["exported_at"] = stamp.decode() + meta["exported_at"][4:]
        (copy / META_NAME).write_text(json.dumps(meta))
    result = workshop.restore(workshop.folder / "new.db")
    lost = kinds(result, "warning")["duplicate"]
    assert sorted(lost) == ["2020/000001", "Kopien/b", "Kopien/c"]


def test_an_archive_without_orders_is_not_restored(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(1)])
    with pytest.raises(ValidationError, match="no order"):
        workshop.restore()


def test_a_second_process_waits_and_then_names_the_holder(workshop: Workshop) -> None:
    with hold_lock(workshop.archive / LOCK_NAME, purpose="export of orders"):
        for call in (
            lambda: workshop.export(lock_wait_seconds=0.3),
            lambda: workshop.verify(lock_wait_seconds=0.3),
            lambda: workshop.restore(lock_wait_seconds=0.3),
        ):
            with pytest.raises(LockError, match=f"process {os.getpid()}.*export of orders"):
                call()
    assert workshop.export().ok


def test_a_clock_that_went_back_changes_nothing_but_exported_at(workshop: Workshop) -> None:
    workshop.export()
    workshop.execute(("UPDATE auftraege SET hash = 'x' WHERE record_id = 1", ()))
    with sqlite_orders(workshop.database) as snapshot:
        export_orders(snapshot, workshop.archive, ExportOptions(), now=lambda: datetime(1999, 1, 1, tzinfo=UTC))
    assert workshop.verify(database=True).ok
    assert workshop.export().exported == 0
    workshop.restore(workshop.folder / "new.db")
    assert workshop.rows(workshop.folder / "new.db") == workshop.rows()


def test_missing_files_tables_and_columns_are_named(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such database"), sqlite_orders(tmp_path / "no.db"):
        pass
    workshop.execute(("ALTER TABLE auftraege DROP COLUMN vin", ()))
    with pytest.raises(SourceError, match="lacks vin"):
        workshop.export()
    workshop.execute(("DROP TABLE auftraege", ()))
    with pytest.raises(SourceError, match="no table auftraege"):
        workshop.export()
    with (
        pytest.raises(StoreError, match="does not exist"),
        sqlite_orders(Workshop(_sub(tmp_path), []).database) as rows,
    ):
        export_orders(rows, tmp_path / "nowhere")


def _sub(path: Path) -> Path:
    (path / "sub").mkdir()
    return path / "sub"


def test_the_samples_have_every_column() -> None:
    assert len(order(1)) == len(COLUMNS)
