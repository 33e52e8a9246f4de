"""Copy, mark, sweep, kill and time interleaved at every call: no visible copy ever lacks a chunk."""

from __future__ import annotations

import copy
import shutil
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.stores.vault.clean import clean, mark
from backup_pipeline.stores.vault.names import chunk_object
from backup_pipeline.stores.vault.vault import VaultReader
from backup_pipeline_tests.support.examples import examples
from backup_pipeline_tests.support.vault_sites import VaultSite

_CONTENTS = ({"a": b"1" * 3000}, {"a": b"1" * 3000, "b": b"2"}, {"c": b"3" * 500})


class Killed(BaseException):
    """The process is gone."""


class Worker:
    """A process that takes one step (one call to the place) at a time; its threads are stepped like itself."""

    def __init__(self, site: VaultSite, work: Callable[[VaultSite], object]) -> None:
        self.go, self.stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.dead = self.finished = False
        self.site = copy.copy(site)
        self.site.place = site.place.for_process(self._before)
        self.work = work
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.stopped.acquire()

    def _before(self, call: str, name: str) -> None:
        # No request is on its way for days. Who removes something pauses before it asks the clock (see `_clean`).
        if call != "delete":
            self.pause()

    def _run(self) -> None:
        try:
            self.pause()
            self.work(self.site)
        except (BackupSystemError, Killed):
            pass
        finally:
            self.finished = True
            self.stopped.release()

    def pause(self) -> None:
        self.stopped.release()
        self.go.acquire()
        if self.dead:
            raise Killed

    def step(self) -> None:
        if not self.finished:
            self.go.release()
            self.stopped.acquire()

    def end(self, *, kill: bool) -> None:
        self.dead = kill
        while not self.finished:
            self.step()
        self.thread.join()


class VaultModel(RuleBasedStateMachine):
    """Up to four processes on one vault."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.site = VaultSite(self.folder).init()
        self.sets = [self.site.seal(number, content) for number, content in enumerate(_CONTENTS)]
        self.workers: list[Worker] = []

    def begin(self, work: Callable[[VaultSite], object]) -> None:
        self.workers.append(Worker(self.site, work))

    @precondition(lambda self: len(self.workers) < 4)
    @rule(number=st.integers(0, 2))
    def copy(self, number: int) -> None:
        self.begin(partial(self._copy, number))

    @precondition(lambda self: len(self.workers) < 4)
    @rule()
    def sweep(self) -> None:
        self.begin(self._clean)

    @precondition(lambda self: len(self.workers) < 4)
    @rule(number=st.integers(0, 2))
    def mark(self, number: int) -> None:
        self.begin(partial(self._mark, number))

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 3), steps=st.integers(1, 12))
    def step(self, which: int, steps: int) -> None:
        worker = self.workers[which % len(self.workers)]
        self.turn(worker, steps)
        self.workers = [one for one in self.workers if not one.finished]

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 3), kill=st.booleans())
    def end(self, which: int, kill: bool) -> None:
        worker = self.workers.pop(which % len(self.workers))
        worker.end(kill=kill)

    @rule(
        numbers=st.lists(st.integers(0, 2), min_size=1, max_size=2),
        marked=st.integers(0, 2),
        schedule=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.sampled_from([0, 0, 0, 1, 25, 73]))),
        kill=st.booleans(),
    )
    def race(self, numbers: list[int], marked: int, schedule: list[tuple[int, int, int]], kill: bool) -> None:
        """Begin copies, a mark and a cleaning at once, and let them take turns."""
        racers = [Worker(self.site, partial(self._copy, one)) for one in numbers]
        racers += [Worker(self.site, self._clean), Worker(self.site, partial(self._mark, marked))]
        for which, steps, hours in schedule:
            self.site.place.now += timedelta(hours=hours)
            self.turn(racers[which % len(racers)], steps)
        for racer in reversed(racers):
            racer.end(kill=kill)

    def turn(self, worker: Worker, steps: int) -> None:
        for _ in range(steps):
            worker.step()

    def _copy(self, number: int, site: VaultSite) -> None:
        # The first set's lists stand in its copy, those of the others are chunks.
        site.copy(self.sets[number], workers=1, lists_apart_from=0 if number else 1 << 20)

    def _clean(self, site: VaultSite) -> None:
        catalog, place = site.access.catalog(), site.place
        clean(catalog, lambda: place.now, lambda _: place.before("removed", ""), owner=str(id(site)))

    def _mark(self, number: int, site: VaultSite) -> None:
        catalog = site.access.catalog()
        mark(catalog, catalog.copy_names()[number : number + 1])

    @rule(hours=st.sampled_from([1, 13, 25, 49, 73]))
    def time_passes(self, hours: int) -> None:
        self.site.place.now += timedelta(hours=hours)

    @invariant()
    def every_visible_copy_is_whole(self) -> None:
        reader = VaultReader(self.site.place, self.site.identity)
        copies, damaged = reader.catalog.copies()
        assert not damaged
        for one in copies:
            for chunk in one.header.needed:
                assert len(self.site.place.objects[chunk_object(chunk.name)][0]) == chunk.size

    def teardown(self) -> None:
        for worker in self.workers:
            worker.end(kill=True)
        shutil.rmtree(self.folder)


def _examples(number: int) -> settings:
    return settings(
        max_examples=examples(number), stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )


TestVaultModel = VaultModel.TestCase
TestVaultModel.settings = _examples(50)


@pytest.mark.story
class TestVaultModelAtLength(TestVaultModel):  # type: ignore[misc, valid-type]
    settings = _examples(300)
