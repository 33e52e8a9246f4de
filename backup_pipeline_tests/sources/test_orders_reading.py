"""What an order's folder can hold (every state of docs/formats-orders.md), and where it can be."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.orders.archive import reading as orders_reading
from backup_pipeline.sources.orders.archive.reading import read_archive
from backup_pipeline.sources.orders.format.order import DATA_NAME, DATA_PART, INDEX_NAME, META_NAME, META_PART
from backup_pipeline_tests.support.orders_samples import Workshop, kinds, order

OLD, NEW, TORN = "old", "new", "torn"


class State(NamedTuple):
    """Which version stands under each of the four names, and what must follow.

    Attributes:
        data, meta, data_part, meta_part: OLD, NEW, TORN, or None for absent.
        counts: the version that verify and restore find without the database; None where there is none.
        verify: the one finding of verify about the folder, with its level; None where there is none.
        after: names in the folder once verify has gone by.
    """

    data: str | None
    meta: str | None
    data_part: str | None
    meta_part: str | None
    counts: str | None
    verify: tuple[str, str] | None
    after: set[str]


PAIR = {DATA_NAME, META_NAME}
ROLLED, LEFT = ("rolled_forward", "warning"), ("leftover", "warning")
FIRST = ("first_export", "warning")
STATES = {
    "valid pair": State(NEW, NEW, None, None, NEW, None, PAIR),
    "valid pair and a torn part": State(OLD, OLD, TORN, None, OLD, LEFT, PAIR | {DATA_PART}),
    "valid pair and one whole part": State(OLD, OLD, NEW, None, OLD, LEFT, PAIR | {DATA_PART}),
    "valid pair and a torn meta part": State(OLD, OLD, NEW, TORN, OLD, LEFT, PAIR | {DATA_PART, META_PART}),
    "valid pair and both parts": State(OLD, OLD, NEW, NEW, OLD, LEFT, PAIR | {DATA_PART, META_PART}),
    "new pair and a part of a later export": State(NEW, NEW, None, TORN, NEW, LEFT, PAIR | {META_PART}),
    "between the renames": State(NEW, OLD, None, NEW, NEW, ROLLED, PAIR),
    "between the renames of a first export": State(NEW, None, None, NEW, NEW, ROLLED, PAIR),
    "between the renames over a torn meta": State(NEW, TORN, None, NEW, NEW, ROLLED, PAIR),
    "the other order": State(OLD, NEW, NEW, None, NEW, ROLLED, PAIR),
    "the other order in a first export": State(None, NEW, NEW, None, NEW, ROLLED, PAIR),
    "a first export before its renames": State(None, None, NEW, NEW, NEW, ROLLED, PAIR),
    "damage with whole parts beside it": State(TORN, TORN, NEW, NEW, NEW, ROLLED, PAIR),
    "a first export, data torn": State(None, None, TORN, None, None, FIRST, {DATA_PART}),
    "a first export, data whole": State(None, None, NEW, None, None, FIRST, {DATA_PART}),
    "a first export, meta torn": State(None, None, NEW, TORN, None, FIRST, {DATA_PART, META_PART}),
    "only the meta part": State(None, None, None, NEW, None, FIRST, {META_PART}),
    "data without meta": State(NEW, None, None, None, None, ("missing_file", "error"), {DATA_NAME}),
    "meta without data": State(None, NEW, None, None, None, ("missing_file", "error"), {META_NAME}),
    "data torn": State(TORN, NEW, None, None, None, ("checksum", "error"), PAIR),
    "meta torn": State(NEW, TORN, None, None, None, ("meta", "error"), PAIR),
    "two versions": State(NEW, OLD, None, None, None, ("checksum", "error"), PAIR),
    "damage and torn parts": State(TORN, OLD, TORN, TORN, None, ("checksum", "error"), PAIR | {DATA_PART, META_PART}),
}


def build(folder: Path, state: State, versions: dict[str, dict[str, bytes]]) -> None:
    """Make a folder hold exactly a state."""
    for path in folder.iterdir():
        path.unlink()
    places = (
        (DATA_NAME, state.data),
        (META_NAME, state.meta),
        (DATA_PART, state.data_part),
        (META_PART, state.meta_part),
    )
    for name, version in places:
        kind = DATA_NAME if name in (DATA_NAME, DATA_PART) else META_NAME
        if version == TORN:
            (folder / name).write_bytes(versions[NEW][kind][:40])
        elif version is not None:
            (folder / name).write_bytes(versions[version][kind])


@pytest.mark.parametrize("name", STATES)
def test_every_state_of_a_folder_is_reported_restored_and_exported_as_specified(tmp_path: Path, name: str) -> None:
    state = STATES[name]
    workshop = Workshop(tmp_path, [order(1, kunde_name=OLD), order(2)])
    folder = workshop.archive / "2020" / "000001"
    workshop.export()
    versions = {OLD: {n: (folder / n).read_bytes() for n in PAIR}}
    workshop.execute(("UPDATE auftraege SET kunde_name = ? WHERE record_id = 1", (NEW,)))
    workshop.export()
    versions[NEW] = {n: (folder / n).read_bytes() for n in PAIR}
    (workshop.archive / INDEX_NAME).unlink()

    build(folder, state, versions)
    dry = {"skip_invalid": True, "dry_run": True}
    assert workshop.restore(tmp_path / "dry.db", **dry).restored == 1 + (state.counts is not None)
    damaged = state.verify is not None and state.verify[1] == "error"
    if damaged:
        with pytest.raises(ValidationError, match="1 invalid"):
            workshop.restore(tmp_path / "new.db")
    else:
        restored = workshop.restore(tmp_path / "new.db")
        assert restored.invalid == 0
        found = {row[0]: row[2] for row in workshop.rows(tmp_path / "new.db")}
        assert found.get(1) == state.counts

    build(folder, state, versions)
    result = workshop.verify()
    reported = [(f.kind, f.level) for f in result.findings.kept if f.path == "2020/000001"]
    assert reported == ([state.verify] if state.verify else [])
    assert result.ok is not damaged
    assert {path.name for path in folder.iterdir()} == state.after
    assert workshop.verify().ok is not damaged

    build(folder, state, versions)
    assert workshop.export().ok
    assert {path.name for path in folder.iterdir()} == PAIR
    assert {n: (folder / n).read_bytes() for n in (DATA_NAME,)} == {DATA_NAME: versions[NEW][DATA_NAME]}
    assert workshop.verify(database=True).findings.kept == []


def test_an_interrupted_first_export_is_missing_where_the_index_knew_the_order(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(1), order(2)])
    workshop.export()
    folder = workshop.archive / "2020" / "000001"
    (folder / META_NAME).unlink()
    (folder / DATA_NAME).rename(folder / DATA_PART)
    result = workshop.verify()
    assert kinds(result) == {"missing": ["2020/000001"]}
    with pytest.raises(ValidationError, match="0 invalid and 1 missing"):
        workshop.restore(tmp_path / "new.db")


@pytest.mark.parametrize("portion", [1, 3, 20_000])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_order_is_read_once_wherever_its_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion: int, workers: int
) -> None:
    monkeypatch.setattr(orders_reading, "_PORTION", portion)
    monkeypatch.setattr(orders_reading, "CHUNK", 2)
    places = ["000001", "flach", "2020/000003", "2020/Meier/000004", "2020/Meier/alt/000005", "2021/000006", "2021/x"]
    rows = [order(i, file_path=f"{place}/a.pdf") for i, place in enumerate(places, 1)]
    workshop = Workshop(tmp_path, rows)
    assert workshop.export().ok
    # Orders where folders of orders are expected: in a year, in the archive itself, and around others.
    for number, place in ((8, "2020"), (9, "."), (10, "2020/Meier")):
        workshop.insert(order(number, file_path="9999/x/a.pdf"))
        workshop.export(years=frozenset({str(2019 + number % 6)}))
        for name in PAIR:
            (workshop.archive / "9999" / "x" / name).rename(workshop.archive / place / name)
        workshop.execute(("DELETE FROM auftraege WHERE record_id = ?", (number,)))
    found = [read.path for chunk in read_archive(workshop.archive, workers=workers) for read in chunk]
    assert sorted(found) == sorted([*places, "2020", "", "2020/Meier"])
    only = [o.path for chunk in read_archive(workshop.archive, years=frozenset({"2021"}), workers=1) for o in chunk]
    assert sorted(only) == ["2021/000006", "2021/x"]
    rest = [o.path for c in read_archive(workshop.archive, years=frozenset({"unknown"}), workers=1) for o in c]
    assert sorted(rest) == ["", "000001", "flach"]
    years = frozenset({"2020", "2021", "9999", "unknown"})
    assert workshop.verify(years=years).folders == workshop.verify().folders == len(found)
