"""Where an order's folder is found, whatever its `file_path` is relative to, and what lies there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.sources.orders.format.order import DATA_NAME, META_NAME
from backup_pipeline_tests.support.orders_samples import PRINTED, Workshop, kinds, old_pair, order


def workshop_at(folder: Path, archive: str, database: str, rows: list[tuple[Any, ...]]) -> Workshop:
    """A workshop whose archive and database lie below the folder."""
    made = Workshop(folder, [])
    made.archive.rmdir()
    made.archive = folder / archive
    made.archive.mkdir(parents=True)
    (folder / database).parent.mkdir(parents=True, exist_ok=True)
    made.database = made.database.rename(folder / database)
    made.insert(*rows)
    return made


def pdf(folder: Path, name: str = "076329_Auftrag.pdf") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"%PDF-1.4")


def pairs(workshop: Workshop) -> list[str]:
    return sorted(path.parent.relative_to(workshop.archive).as_posix() for path in workshop.archive.rglob(META_NAME))


@pytest.mark.parametrize(
    ("archive", "database", "path"),
    [
        ("test_archiv", "test_archiv/werkstatt.db", "test_archiv/2024/076329/076329_Auftrag.pdf"),
        ("test_archiv", "werkstatt.db", "2024/076329/076329_Auftrag.pdf"),
        ("daten/Archiv", "werkstatt.db", "daten/Archiv/2024/076329/076329_Auftrag.pdf"),
        ("Archiv", "Archiv/db/werkstatt.db", "../2024/076329/076329_Auftrag.pdf"),
        ("Archiv", "programm/werkstatt.db", "../Archiv/2024/076329/076329_Auftrag.pdf"),
        ("Archiv", "werkstatt.db", "{root}/Archiv/2024/076329/076329_Auftrag.pdf"),
        # The archive was renamed or mounted elsewhere since.
        ("mnt", "werkstatt.db", "test_archiv/2024/076329/076329_Auftrag.pdf"),
        ("mnt", "werkstatt.db", "/srv/test_archiv/2024/076329/076329_Auftrag.pdf"),
        ("mnt", "werkstatt.db", "C:\\Werkstatt\\Archiv\\2024\\076329\\076329_Auftrag.pdf"),
    ],
)
def test_the_pair_lies_beside_the_pdf_whatever_file_path_is_relative_to(
    tmp_path: Path, archive: str, database: str, path: str
) -> None:
    row = (*PRINTED[:9], path.format(root=tmp_path), *PRINTED[10:])
    workshop = workshop_at(tmp_path, archive, database, [row])
    pdf(workshop.archive / "2024" / "076329")
    result = workshop.export()
    assert (result.exported, result.failed, result.beside_file) == (1, 0, 1)
    assert pairs(workshop) == ["2024/076329"]
    assert workshop.verify(database=True).findings.counts.keys() <= {"schema"}
    assert workshop.export().unchanged == 1


def test_without_a_pdf_the_folder_is_where_the_path_says_never_a_nested_archive(tmp_path: Path) -> None:
    for number, archive in enumerate(("test_archiv", "mnt")):
        folder = tmp_path / str(number)
        folder.mkdir()
        workshop = workshop_at(folder, archive, "werkstatt.db", [PRINTED, order(13, file_path="ohne/000013/a.pdf")])
        assert workshop.export().ok
        assert pairs(workshop) == ["2024/076329", "ohne/000013"]


def test_files_that_are_not_in_the_archive_at_all_are_told(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(1), order(2)])
    assert kinds(workshop.export(), "warning") == {"no_files": [""]}
    pdf(workshop.archive / "2020" / "000001", "000001_Auftrag.pdf")
    assert kinds(workshop.export(rewrite=True), "warning") == {}


def test_a_pair_in_another_place_than_its_pdf_is_an_error(tmp_path: Path) -> None:
    workshop = workshop_at(tmp_path, "test_archiv", "werkstatt.db", [PRINTED])
    assert workshop.export().ok
    (workshop.archive / "2024").rename(workshop.archive / "falsch")
    pdf(workshop.archive / "2024" / "076329")
    assert kinds(workshop.verify())["misplaced"] == ["falsch/076329"]
    # The next export writes beside the PDF.
    assert workshop.export().ok
    assert "2024/076329" in pairs(workshop)


@pytest.mark.parametrize("escape", ["double", "backslash"])
def test_pairs_of_another_program_are_taken_over_in_place(tmp_path: Path, escape: str) -> None:
    rows = [PRINTED, order(13, file_path="test_archiv/2024/076330/076330_Auftrag.pdf", auftrag_nr="076330", vin="")]
    workshop = workshop_at(tmp_path, "test_archiv", "werkstatt.db", rows)
    for row, name in zip(rows, ("076329", "076330"), strict=True):
        pdf(workshop.archive / "2024" / name, f"{name}_Auftrag.pdf")
        old_pair(workshop.archive / "2024" / name, row, escape=escape)
    before = workshop.verify()
    assert (before.ok, before.folders) == (True, 2)
    assert ("old_form" in before.findings.counts) is (escape == "backslash")
    # The last day of the old tool may be the day of the disaster.
    restored = workshop.restore(tmp_path / "new.db")
    assert (restored.restored, restored.invalid) == (2, 0)
    assert workshop.rows(tmp_path / "new.db")[0] == PRINTED
    result = workshop.export()
    assert (result.exported, result.taken_over, result.findings.counts) == (2, 2, {})
    after = workshop.verify(database=True)
    assert (after.ok, after.folders, after.findings.counts.keys() - {"schema"}) == (True, 2, set())
    assert sorted(path.name for path in (workshop.archive / "2024" / "076329").iterdir()) == [
        "076329_Auftrag.pdf",
        DATA_NAME,
        META_NAME,
    ]


def test_what_is_replaced_and_known_to_nobody_else_stays_as_a_copy(tmp_path: Path) -> None:
    workshop = workshop_at(tmp_path, "test_archiv", "werkstatt.db", [PRINTED])
    folder = workshop.archive / "2024" / "076329"
    old_pair(folder, (*PRINTED[:2], "Nur hier", *PRINTED[3:]))
    foreign = (folder / DATA_NAME).read_bytes()
    result = workshop.export()
    assert kinds(result, "warning")["kept"] == ["2024/076329"]
    [copy] = folder.glob(f"{DATA_NAME}.before-*")
    assert copy.read_bytes() == foreign
    assert len(list(folder.glob(f"{META_NAME}.before-*"))) == 1
    assert workshop.verify(database=True).ok
    # An ordinary change of the row replaces our own pair: no copy.
    workshop.execute(("UPDATE auftraege SET hash = 'x', updated_at = '2025-01-01T00:00:00'", ()))
    workshop.export()
    assert len(list(folder.glob("*.before-*"))) == 2
    # Edited by hand; and a database that is older than its folders.
    (folder / DATA_NAME).write_text("record_id;auftrag_nr\n12;076329\n", "utf-8")
    workshop.export()
    assert any(path.read_bytes().startswith(b"record_id;") for path in folder.glob("data.csv.before-*"))
    workshop.execute(("UPDATE auftraege SET hash = 'y', updated_at = '2020-01-01T00:00:00'", ()))
    assert kinds(workshop.export(), "warning")["kept"] == ["2024/076329"]
    assert workshop.verify(database=True).ok


def test_a_folder_moved_by_hand_is_told_as_moved_and_restored(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(i) for i in (1, 2, 3)])
    workshop.export()
    rows = workshop.rows()
    (workshop.archive / "2019").mkdir(exist_ok=True)
    (workshop.archive / "2021" / "000002").rename(workshop.archive / "2019" / "000002")
    for database in (True, False):
        result = workshop.verify(database=database)
        assert result.ok, result.findings.kept
        assert kinds(result, "warning") == {"moved": ["2019/000002"]}
    only = workshop.verify(database=True, years=frozenset({"2021"}))
    assert (only.ok, kinds(only, "warning")) == (True, {"moved": ["2019/000002"]})
    restored = workshop.restore(tmp_path / "new.db")
    assert (restored.restored, restored.missing, kinds(restored, "warning")) == (3, 0, {"moved": ["2019/000002"]})
    assert workshop.rows(tmp_path / "new.db") == rows
    # The next export follows it, says so once, and makes no second copy in the old place.
    assert kinds(workshop.export(), "warning")["moved_folder"] == ["2019/000002"]
    workshop.execute(("UPDATE auftraege SET hash = 'x' WHERE record_id = 2", ()))
    again = workshop.export()
    assert (again.exported, again.unchanged, kinds(again, "warning").get("moved_folder")) == (1, 2, None)
    assert not (workshop.archive / "2021" / "000002").exists()
    assert workshop.verify(database=True).findings.kept == []


def test_the_table_is_made_anew_with_its_own_rules_where_the_database_is_lost(tmp_path: Path) -> None:
    ddl = """CREATE TABLE auftraege (record_id INTEGER PRIMARY KEY AUTOINCREMENT, auftrag_nr TEXT NOT NULL UNIQUE,
        kunde_name TEXT, kunden_nr TEXT, kennzeichen TEXT, vin TEXT, datum TEXT, formular_version TEXT,
        keywords_json TEXT, file_path TEXT NOT NULL, hash TEXT, data_complete INTEGER NOT NULL DEFAULT 0,
        created_at TEXT, updated_at TEXT CHECK (updated_at <> ''))"""
    workshop = Workshop(tmp_path, [order(1), order(2)], ddl)
    workshop.execute(("CREATE INDEX nach_kunde ON auftraege (kunden_nr)", ()))
    workshop.execute(
        ("DELETE FROM auftraege WHERE record_id = 2", ()),
        (f"INSERT INTO auftraege VALUES ({', '.join('?' * 14)})", order(7)),
    )
    workshop.export()
    rows = workshop.rows()
    workshop.database.unlink()
    workshop.restore()
    assert workshop.rows() == rows
    made = {name: sql for name, sql in _objects(workshop) if sql}
    assert made["auftraege"] == ddl
    assert "nach_kunde" in made
    workshop.execute(("INSERT INTO auftraege (auftrag_nr, file_path) VALUES ('000999', 'x')", ()))
    assert workshop.rows()[-1][0] == 8


def _objects(workshop: Workshop) -> list[tuple[str, str]]:
    import sqlite3

    connection = sqlite3.connect(workshop.database)
    found = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    connection.close()
    return found
