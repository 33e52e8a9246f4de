"""Exports and restores of orders that are killed, run out of disk, or may not write."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline.errors import StoreError
from backup_pipeline.sources.orders.archive.folder import open_folder, read_pair
from backup_pipeline.sources.orders.format.order import DATA_NAME, DATA_PART, INDEX_NAME, META_NAME, META_PART
from backup_pipeline.sources.orders.format.pair import PairState
from backup_pipeline.sources.orders.format.text import parse_data
from backup_pipeline.sources.orders.restore import undo_restore
from backup_pipeline_tests.support.orders_samples import Workshop, order

EXPORT = """
import sys
from pathlib import Path
from backup_pipeline.sources.orders.export import ExportOptions, export_orders
from backup_pipeline.sources.orders.database.database import sqlite_orders
folder = Path(sys.argv[1])
with sqlite_orders(folder / "werkstatt.db") as snapshot:
    print("begin", flush=True)
    options = ExportOptions(batch=int(sys.argv[2]), durable="durable" in sys.argv, rewrite=True)
    export_orders(snapshot, folder / "Archiv", options)
"""
RESTORE = """
import sys
from pathlib import Path
from backup_pipeline.sources.orders.restore import OrdersRestoreOptions, restore_orders
folder = Path(sys.argv[1])
print("begin", flush=True)
restore_orders(folder / "Archiv", folder / "werkstatt.db", OrdersRestoreOptions(workers=1))
"""


def killed_after(program: str, seconds: float, *arguments: str, made: Path | None = None) -> bool:
    """Start a program, kill it that long after it begins, or has made a file; return whether it was still running."""
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    while made and not made.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    return process.wait() == -signal.SIGKILL


def content(folder: Path) -> tuple[PairState, str | None]:
    """Return the state of an order's folder and the customer's name in the pair that counts."""
    names = {entry.name for entry in folder.iterdir()} & {DATA_NAME, META_NAME, DATA_PART, META_PART}
    opened = open_folder(str(folder))
    pair = read_pair(names, opened)
    os.close(opened)
    if not pair.state.whole:
        return pair.state, None
    assert pair.data is not None
    return pair.state, parse_data(pair.data)[1][2]


def test_an_export_killed_at_any_moment_leaves_every_orders_old_or_new_pair(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(i, kunde_name="alt") for i in range(1, 401)])
    workshop.export()
    chance = random.Random(7)
    killed = 0
    for attempt in range(8):
        allowed = {"alt", *(f"neu{n}" for n in range(attempt + 1))}
        workshop.execute(("UPDATE auftraege SET kunde_name = ?", (f"neu{attempt}",)))
        how = (str(chance.choice([1, 20, 400])), chance.choice(["durable", "quick"]))
        killed += killed_after(EXPORT, chance.uniform(0.0, 0.12), str(tmp_path), *how)
        for number in range(1, 401):
            state, name = content(workshop.archive / f"{2019 + number % 6}" / f"{number:06}")
            assert state is not PairState.BROKEN
            assert name in allowed
        result = workshop.verify()
        assert result.ok, result.findings.kept[:3]
        assert (result.folders, result.valid) == (400, 400)
    assert killed >= 3
    assert workshop.export().ok
    assert workshop.verify(database=True).findings.kept == []


def test_a_first_export_that_is_killed_leaves_whole_pairs_or_none(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(i) for i in range(1, 301)])
    for seconds in (0.01, 0.03, 0.06):
        killed_after(EXPORT, seconds, str(tmp_path), "25")
        for folder in workshop.archive.glob("*/*"):
            state, name = content(folder)
            names = {entry.name for entry in folder.iterdir()}
            assert name is not None or not names & {DATA_NAME, META_NAME}, (state, names)
    assert workshop.export().ok
    assert workshop.verify(database=True).ok
    workshop.restore(tmp_path / "new.db")
    assert workshop.rows(tmp_path / "new.db") == workshop.rows()


@pytest.mark.parametrize(
    ("before", "state"),
    [
        ((DATA_NAME, META_PART), PairState.META_PART),
        ((DATA_PART, META_NAME), PairState.DATA_PART),
        ((DATA_PART, META_PART), PairState.BOTH_PARTS),
    ],
)
@pytest.mark.parametrize("old", [True, False])
def test_verify_and_restore_roll_a_broken_off_export_forward_without_the_database(
    tmp_path: Path, before: tuple[str, str], state: PairState, old: bool
) -> None:
    workshop = Workshop(tmp_path, [order(1, kunde_name="alt"), order(2)])
    workshop.export()
    folder = workshop.archive / "2020" / "000001"
    kept = {name: (folder / name).read_bytes() for name in (DATA_NAME, META_NAME)}
    workshop.execute(("UPDATE auftraege SET kunde_name = 'neu' WHERE record_id = 1", ()))
    workshop.export()
    for name, place in zip((DATA_NAME, META_NAME), before, strict=True):
        (folder / name).rename(folder / place)
        if old and place != name and state is not PairState.BOTH_PARTS:
            (folder / name).write_bytes(kept[name])
    assert content(folder) == (state, "neu")
    rows = workshop.rows()
    workshop.database.unlink()
    dry = workshop.restore(tmp_path / "dry.db", dry_run=True)
    assert (dry.restored, dry.rolled_forward, content(folder)[0]) == (2, 1, state)
    result = workshop.verify()
    assert (result.ok, result.rolled_forward) == (True, 1)
    assert sorted(entry.name for entry in folder.iterdir()) == [DATA_NAME, META_NAME]
    workshop.restore()
    assert workshop.rows() == rows


def test_an_export_over_a_broken_off_one_never_leaves_the_only_pair_in_danger(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(1, kunde_name="neu")])
    workshop.export()
    folder = workshop.archive / "2020" / "000001"
    (folder / META_NAME).rename(folder / META_PART)
    workshop.execute(("UPDATE auftraege SET kunde_name = 'neuer'", ()))
    assert workshop.export(dry_run=True).exported == 1
    assert workshop.export().exported == 1
    assert content(folder) == (PairState.VALID, "neuer")
    assert sorted(entry.name for entry in folder.iterdir()) == [DATA_NAME, META_NAME]


def test_killed_at_any_moment_a_restore_leaves_the_old_or_the_new_database(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(i, kunde_name="Archiv") for i in range(1, 301)])
    workshop.export()
    workshop.execute(("UPDATE auftraege SET kunde_name = 'Datenbank'", ()))
    chance = random.Random(3)
    killed = 0
    for _ in range(6):
        killed += killed_after(RESTORE, chance.uniform(0.0, 1.2), str(tmp_path))
        connection = sqlite3.connect(workshop.database)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = connection.execute("SELECT DISTINCT kunde_name, count(*) FROM auftraege").fetchall()
        connection.close()
        assert names in ([("Archiv", 300)], [("Datenbank", 300)])
    assert killed >= 1
    workshop.restore()
    assert {row[2] for row in workshop.rows()} == {"Archiv"}
    assert not list(tmp_path.glob(".werkstatt.db.restored-*"))
    undo_restore(workshop.database)


def test_two_exporters_at_once_both_end_well(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(i) for i in range(1, 201)])
    both = [
        subprocess.Popen([sys.executable, "-c", EXPORT, str(tmp_path), "50"], stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(60) for process in both] == [0, 0]
    assert workshop.verify(database=True).ok
    assert not list(workshop.archive.glob(".backup.lock*"))


def test_the_lock_of_a_killed_export_is_taken_over(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(i) for i in range(1, 2001)])
    lock = workshop.archive / ".backup.lock"
    assert killed_after(EXPORT, 0.05, str(tmp_path), "100", made=lock)
    assert lock.exists()
    assert workshop.export(lock_wait_seconds=0.5).ok


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_stops_the_export_with_what_was_done_and_the_next_one_goes_on(
    small_disk: Path, tmp_path: Path
) -> None:
    workshop = Workshop(tmp_path, [order(i) for i in range(1, 1001)])
    workshop.archive.rmdir()
    workshop.archive = small_disk
    result = workshop.export(batch=100)
    assert "disk is full" in result.stopped
    assert 0 < result.exported < 1000
    with pytest.raises(StoreError, match=f"{result.exported} exported"):
        result.raise_for_failure("x")
    assert workshop.verify().ok
    assert workshop.verify().folders == result.exported
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    assert workshop.export().exported == 1000 - result.exported
    assert workshop.verify(database=True).ok


def test_a_read_only_archive_can_be_verified_and_restored_but_not_exported_to(small_disk: Path, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(i) for i in range(1, 11)])
    workshop.archive.rmdir()
    workshop.archive = small_disk
    workshop.export()
    folder = small_disk / "2020" / "000001"
    (folder / META_NAME).rename(folder / META_PART)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    workshop.execute(("UPDATE auftraege SET hash = 'x'", ()))
    with pytest.raises(StoreError, match="No permission"):
        workshop.export()
    result = workshop.verify()
    assert (result.ok, result.rolled_forward) == (True, 0)
    assert workshop.restore(tmp_path / "new.db").restored == 10


def test_a_folder_without_permission_is_one_failed_order(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, [order(i) for i in range(1, 11)])
    closed = workshop.archive / "2020" / "000001"
    closed.mkdir(parents=True)
    if os.geteuid() == 0:
        done = subprocess.run(["chattr", "+i", str(closed)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("no immutable folders here")
    else:
        closed.chmod(0o500)
    try:
        result = workshop.export()
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", str(closed)], check=True)
        closed.chmod(0o700)
    assert (result.exported, result.failed) == (9, 1)
    assert "9 exported, 1 failed" in result.summary()
    assert result.findings.kept[0].path == "order 000001"


def test_an_index_that_the_disk_refuses_stops_the_run_and_the_old_one_stays(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    workshop = Workshop(tmp_path, [order(1)])
    workshop.execute(("PRAGMA journal_mode = WAL", ()))
    workshop.export()
    known = (workshop.archive / INDEX_NAME).read_bytes()
    workshop.insert(*[order(i) for i in range(2, 1201)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The files of orders are small; the index reaches this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        result = workshop.export(batch=100, durable=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (result.exported, result.failed) == (1199, 0)
    assert not result.ok
    assert "File too large" in result.stopped
    assert (workshop.archive / INDEX_NAME).read_bytes() == known
    assert workshop.export().unchanged == 1200
    assert workshop.verify(database=True).findings.kept == []
