"""Limits of time: whatever work waits for, it ends with the setting's name, and what it began is ended with it."""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backup_pipeline.errors import LockError, RefusedError, TimeLimitError
from backup_pipeline.operations.sites.up import only_one_up
from backup_pipeline.settings.loader import load_site
from backup_pipeline.system import limits, processes
from backup_pipeline.system.limits import Limit, limited
from backup_pipeline.system.locks import hold_lock
from backup_pipeline.system.threads import ContextThreadPool

_SHORT = Limit(0.3, "sources.shop.timeout", 60, "sources.shop.stall_timeout")
_STALLED = Limit(60, "sources.shop.timeout", 0.3, "sources.shop.stall_timeout")


def _reads_for_ever(limit: Limit) -> None:
    with processes.running(["sh", "-c", "exec sleep 600"]) as program:
        program.stdout.read()


@pytest.mark.parametrize("limit", [_SHORT, _STALLED])
def test_a_program_that_never_ends_is_ended_by_the_limit_that_is_named(limit: Limit) -> None:
    for work in (_reads_for_ever, lambda _: processes.run(["sleep", "600"], check=False)):
        setting = "timeout`" if limit is _SHORT else "stall_timeout`"
        with pytest.raises(TimeLimitError, match=rf"0.3s \(`sources.shop.{setting}\)"), limited("The work", limit):
            work(limit)


def test_what_waits_in_this_process_is_ended_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "_GRACE_SECONDS", 0.2)
    (tmp_path / "held").touch()
    with hold_lock(tmp_path / "lock"):
        for wait in (
            lambda: queue.SimpleQueue().get(),  # type: ignore[var-annotated]
            threading.Event().wait,
            lambda: time.sleep(600),
            lambda: hold_lock(tmp_path / "lock", wait_seconds=600).__enter__(),
        ):
            with pytest.raises(TimeLimitError, match="The work did not end"), limited("The work", _SHORT):
                wait()


def test_a_thread_that_computes_for_ever_is_ended_and_the_caller_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_GRACE_SECONDS", 0.2)
    heard: list[BaseException] = []

    def work() -> None:
        try:
            with limited("The work", _SHORT):
                while True:
                    pass
        except TimeLimitError as error:
            heard.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "`sources.shop.timeout`" in str(heard[0])


def test_work_that_moves_on_or_computes_is_not_ended_for_want_of_progress() -> None:
    # Long enough for a thread that waits for a busy processor.
    stalled = Limit(60, "sources.shop.timeout", 2, "sources.shop.stall_timeout")
    with limited("The work", stalled) as moving:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            limits.progressed()
            time.sleep(0.01)
    assert moving.error is None
    with limited("The work", stalled) as computing:
        processes.run(
            [sys.executable, "-c", "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass"]
        )
    assert computing.error is None


def test_of_works_side_by_side_only_the_one_that_stands_still_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others do, and the processor that they use, is none of its progress; what its own threads do is."""
    monkeypatch.setattr(limits, "_COMPUTING_SHARE", 0.02)
    stalled = Limit(60, "sources.shop.timeout", 2, "sources.shop.stall_timeout")
    heard: dict[str, str] = {}
    begun, ended = threading.Barrier(3), threading.Event()

    def work(name: str, wait: Callable[[], object]) -> None:
        try:
            with limited(name, stalled), ContextThreadPool(1) as pool:
                begun.wait()
                pool.submit(wait).result()
        except TimeLimitError as error:
            heard[name] = error.what

    def stand() -> None:
        try:
            with processes.running(["sleep", "600"]) as program:
                program.stdout.read()
        finally:
            ended.set()

    def move() -> None:
        while not ended.wait(0.01):
            limits.progressed()

    def compute() -> None:
        while not ended.is_set():
            pass

    works = {"Standing": stand, "Moving": move, "Computing": compute}
    threads = [threading.Thread(target=work, args=one) for one in works.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"Standing": "Standing made no progress for 2s (`sources.shop.stall_timeout`)."}


_FOREGROUND = """
import sys
from backup_pipeline.system.processes import run_in_foreground
child = '''
import signal, subprocess, sys, time
left = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
for number, code in ((signal.SIGINT, 41), (signal.SIGTERM, 42)):
    signal.signal(number, lambda n, _, code=code: sys.exit(code))
print(left.pid, flush=True)
time.sleep(600)
'''
sys.exit(run_in_foreground([sys.executable, "-c", child]))
"""


@pytest.mark.parametrize(("number", "code"), [(2, 41), (15, 42)])
def test_a_signal_to_a_foreground_commands_own_process_reaches_its_program(number: int, code: int) -> None:
    command = subprocess.Popen([sys.executable, "-c", _FOREGROUND], stdout=subprocess.PIPE)
    assert command.stdout is not None
    left = int(command.stdout.readline())
    command.send_signal(number)
    assert command.wait(timeout=60) == code
    # What it left running is ended too.
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
    command.stdout.close()


def test_a_second_up_of_a_site_is_refused_and_names_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backup.yaml").write_text("sources: {f: {kind: folder, path: f}}\nplans: {p: {sources: [f]}}\n")
    site = load_site(tmp_path, environment={})
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with only_one_up(site):
        with pytest.raises(RefusedError, match=r"are up already. Held by process \d+") as caught, only_one_up(site):
            pass
        assert not isinstance(caught.value, LockError)
    with only_one_up(site):
        pass


def test_a_signal_counts_although_the_watch_over_signals_ends_in_the_same_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "_INTERRUPTED", [])
    ours, reported = socket.socketpair()
    with ours, reported:
        reported.send(bytes([signal.SIGTERM]) + limits._END)
        limits._hear(ours)
    assert limits.received_signal() == signal.SIGTERM
