"""The lock file: one holder at a time, the dead make way, and nobody is cheated of it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from backup_pipeline.errors import LockError
from backup_pipeline.system.locks import (
    FOREIGN_STALE_SECONDS,
    HEARTBEAT_SECONDS,
    Holder,
    hold_lock,
    living_holder,
    living_marks,
    read_holder,
    require_held,
)


def _hold_until_killed(path: str) -> None:
    with hold_lock(Path(path), purpose="a child's work"):
        time.sleep(60)


def _count_under_lock(path: str, counter: str, times: int) -> None:
    for _ in range(times):
        with hold_lock(Path(path), wait_seconds=60, poll_seconds=0.001):
            number = int(Path(counter).read_text())
            Path(counter).write_text(str(number + 1))


def test_a_second_process_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".backup.lock"
    child = multiprocessing.get_context("spawn").Process(target=_hold_until_killed, args=(str(lock),))
    child.start()
    while read_holder(lock) is None:
        time.sleep(0.01)
    with pytest.raises(LockError, match=f"process {child.pid} on .*a child's work"), hold_lock(lock, wait_seconds=0.1):
        pass
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert lock.exists()
    with hold_lock(lock, wait_seconds=0.1) as mine:
        holder = read_holder(lock)
        assert holder is not None
        assert holder.token == mine.token
    assert not lock.exists()
    assert list(tmp_path.iterdir()) == []


def test_processes_that_fight_for_the_lock_never_hold_it_together(tmp_path: Path) -> None:
    lock, counter = tmp_path / ".backup.lock", tmp_path / "counter"
    counter.write_text("0")
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=_count_under_lock, args=(str(lock), str(counter), 40)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert counter.read_text() == "160"


def test_a_reused_process_id_does_not_count_as_alive(tmp_path: Path) -> None:
    lock = tmp_path / ".backup.lock"
    old = Holder(pid=os.getpid(), host=socket.gethostname(), process_started=1.0, since="long ago", token="x")
    lock.write_text(json.dumps(old.model_dump()))
    with hold_lock(lock, wait_seconds=0):
        assert lock.exists()


def _lock_held_by(path: Path, child: int, **other: object) -> Holder:
    """Wait for the child's lock and write it again with something else in it."""
    while (holder := read_holder(path)) is None or holder.pid != child:
        time.sleep(0.01)
    changed = holder.model_copy(update=other)
    path.write_text(json.dumps(changed.model_dump()))
    return changed


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="ticks and boots of Linux")
def test_a_step_of_the_clock_takes_no_lock_from_the_living(tmp_path: Path) -> None:
    lock = tmp_path / ".backup.lock"
    child = multiprocessing.get_context("spawn").Process(target=_hold_until_killed, args=(str(lock),))
    child.start()
    assert child.pid is not None
    try:
        here = _lock_held_by(lock, child.pid, process_started=1.0)
        hours_ago = time.time() - 5 * 3600
        other = {"pid": 2**22 + 1, "started_ticks": 1}
        cases: list[tuple[dict[str, object], float, bool]] = [
            ({}, time.time(), True),  # seconds, by NTP or a resumed machine: the start seems to be another
            ({}, hours_ago, True),  # five hours forward
            ({}, time.time() + 5 * 3600, True),  # and back
            ({**other, "pid_namespace": "pid:[1]"}, time.time(), True),  # a container of the same name
            ({**other, "pid_namespace": "pid:[1]", "clock_offset": here.clock_offset - 18000}, hours_ago, True),
            ({**other, "pid_namespace": "pid:[1]"}, hours_ago, False),
            ({**other, "boot_id": "another machine of this name"}, time.time(), True),
            ({**other, "boot_id": "before the machine was started again"}, hours_ago, False),
            (other, time.time(), False),  # the number is nobody's
            ({"started_ticks": 1}, time.time(), False),  # or somebody else's
        ]
        for change, refreshed, alive in cases:
            lock.write_text(json.dumps(here.model_copy(update=change).model_dump()))
            os.utime(lock, (refreshed, refreshed))
            assert (living_holder(lock) is not None) is alive, (change, refreshed)
    finally:
        child.kill()
        child.join()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="makes a PID namespace")
def test_a_container_with_this_hosts_name_keeps_its_lock_and_its_marks(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("may not make a namespace here")
    lock, marks = tmp_path / ".backup.lock", tmp_path / ".in-use"
    marks.mkdir()
    program = (
        "import sys, time; from pathlib import Path; from backup_pipeline.system.locks import hold_lock, hold_mark\n"
        "with hold_lock(Path(sys.argv[1])), hold_mark(Path(sys.argv[2]), 'set', purpose='drill'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", program, str(lock), str(marks)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        # Not the first file of that name: a mark has another one beside it while it is made.
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(LockError), hold_lock(lock, wait_seconds=0):
            pass
        assert [mark.purpose for mark in living_marks(marks, "set")] == ["drill"]
    finally:
        child.kill()
        child.wait()


def test_a_lock_of_another_host_counts_until_it_has_not_been_refreshed_for_long(tmp_path: Path) -> None:
    lock = tmp_path / ".backup.lock"
    other = Holder(pid=1, host="another.example.org", process_started=1.0, since="2026-11-21", token="x")
    lock.write_text(json.dumps(other.model_dump()))
    with pytest.raises(LockError, match=r"another\.example\.org"), hold_lock(lock, wait_seconds=0):
        pass
    # The promise for a killed container or machine is two minutes; a living one misses several refreshes before.
    assert 5 * HEARTBEAT_SECONDS < FOREIGN_STALE_SECONDS < 110
    os.utime(lock, (time.time() - 110, time.time() - 110))
    with hold_lock(lock, wait_seconds=0):
        pass


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from backup_pipeline.errors import LockError
from backup_pipeline.model.manifest import Draft, Manifest
from backup_pipeline.stores.contract import LOCK_NAME
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.system.locks import hold_lock
store, now = LocalStore(Path(sys.argv[1]), "nightly"), datetime(2026, 11, 21, tzinfo=UTC)
same = dict(set_id="2026-11-21T000000Z", plan="nightly", started_at=now, sources=("shop",), root_run_id="r")
with hold_lock(store.folder / LOCK_NAME):
    writer = store.begin(Draft(**same))
    print("begun", flush=True)
    sys.stdin.readline()
    manifest = Manifest.model_construct(**same)
    for write in (lambda: writer.create("late.sql").__enter__(), lambda: writer.seal(manifest)):
        try:
            write()
        except LockError as error:
            print(error, flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="makes another host")
def test_a_machine_that_stood_still_notices_that_its_lock_is_anothers(tmp_path: Path) -> None:
    lock = tmp_path / ".backup.lock"
    program = "import socket; socket.sethostname('another-machine')\n" + WRITER
    command = ["unshare", "--uts", sys.executable, "-c", program, str(tmp_path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        if child.stdout.readline() != "begun\n":
            pytest.skip("may not make a namespace here")
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(LockError, match="another-machine"), hold_lock(lock, wait_seconds=0):
            pass
        long_ago = time.time() - FOREIGN_STALE_SECONDS - 1
        os.utime(lock, (long_ago, long_ago))
        with hold_lock(lock, purpose="backup of nightly", wait_seconds=0) as mine:
            child.send_signal(signal.SIGCONT)
            written, _ = child.communicate("\n", timeout=30)
            assert written.count("lost its lock: it was taken over by") == 2, written
            assert "(backup of nightly)" in written
            # The other one has not removed it when it ended.
            require_held(lock)
            assert read_holder(lock) == mine
    finally:
        child.kill()
        child.wait()
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["set.json"]


def test_a_lock_that_somebody_removed_protects_nothing_any_more(tmp_path: Path) -> None:
    lock = tmp_path / ".backup.lock"
    require_held(lock)  # not taken by this process
    with hold_lock(lock):
        require_held(lock)
        lock.unlink()
        with pytest.raises(LockError, match="the file was removed"):
            require_held(lock)
    require_held(lock)


def test_processes_of_one_run_wait_for_each_other_longer_than_strangers(tmp_path: Path) -> None:
    lock = tmp_path / ".backup.lock"
    released = threading.Event()

    def first() -> None:
        with hold_lock(lock, owner="run 1"):
            released.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    while read_holder(lock) is None:
        time.sleep(0.01)
    with pytest.raises(LockError), hold_lock(lock, owner="run 2", wait_seconds=0.05):
        pass
    threading.Timer(0.5, released.set).start()
    with hold_lock(lock, owner="run 1", wait_seconds=0.05):
        assert released.is_set()
    thread.join()


def test_what_a_process_left_that_was_killed_while_it_took_the_lock_is_swept_away(tmp_path: Path) -> None:
    lock = tmp_path / ".backup.lock"
    left, stale, young = (tmp_path / f".backup.lock.{kind}{uuid.uuid4().hex}" for kind in ("", "stale-", ""))
    other = tmp_path / ".backup.lock.notes"
    for path in (left, stale, young, other):
        path.touch()
    for path in (left, stale, other):
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    with hold_lock(lock):
        assert sorted(tmp_path.iterdir()) == sorted([lock, young, other])


@pytest.mark.parametrize("pid", [-1, 2**70])
def test_a_damaged_number_of_a_process_is_nobody(tmp_path: Path, pid: int) -> None:
    lock = tmp_path / ".backup.lock"
    holder = Holder(pid=pid, host=socket.gethostname(), process_started=1.0, since="2026-11-21", token="x")
    lock.write_text(json.dumps(holder.model_dump()))
    with hold_lock(lock, wait_seconds=0):
        assert (now := read_holder(lock)) is not None
        assert now.pid == os.getpid()


def test_a_dead_lock_that_may_not_be_moved_is_told_and_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another user's lock in a folder with the sticky bit.
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    lock = tmp_path / ".backup.lock"
    dead = Holder(pid=os.getpid(), host=socket.gethostname(), process_started=1.0, since="long ago", token="x")
    lock.write_text(json.dumps(dead.model_dump()))
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(LockError, match="long ago"), hold_lock(lock, wait_seconds=0):
        pass
