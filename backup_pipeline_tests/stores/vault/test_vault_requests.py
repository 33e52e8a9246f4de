"""How many requests copies cost, and how much memory: counted on a folder, whatever the set."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.objects.folder import FolderPlace
from backup_pipeline.stores.vault.check import check_stored
from backup_pipeline.stores.vault.throttle import Throttle
from backup_pipeline_tests.support.counting_place import CountingPlace
from backup_pipeline_tests.support.vault_sites import VaultSite

_MIB = 1 << 20
# For lists, announcement and the copy itself; and cuts depend on a random key: some sets have a few chunks more.
_BESIDE = 30


@pytest.fixture
def place(tmp_path: Path) -> CountingPlace:
    (tmp_path / "vault").mkdir()
    return CountingPlace(FolderPlace(tmp_path / "vault"))


@pytest.fixture
def site(tmp_path: Path, place: CountingPlace) -> VaultSite:
    return VaultSite(tmp_path, place=place).init()


def _added(site: VaultSite, count: int, size: int, number: int = 0) -> str:
    """Seal a set and put many small files into it, as a source of many small files does."""
    set_id = site.seal(number)
    content = random.Random(3)
    for each in range(count):
        path = site.store.path_of(set_id, f"many/{each // 1000:03}/{each:06}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.randbytes(size))
    return set_id


def test_a_copy_costs_at_most_a_request_a_mebibyte(site: VaultSite, place: CountingPlace, tmp_path: Path) -> None:
    size = 96 * _MIB
    set_id = site.seal(0, {"big.bin": random.Random(4).randbytes(size)})
    place.calls.clear()
    copy = site.copy(set_id).copy
    assert place.requests <= size / _MIB + _BESIDE
    place.calls.clear()
    site.fetch(copy, tmp_path / "to")
    assert place.requests <= size / _MIB + _BESIDE
    place.calls.clear()
    check_stored(site.access.catalog())
    assert place.requests <= size / _MIB + _BESIDE


def test_many_small_files_share_chunks(site: VaultSite, place: CountingPlace, tmp_path: Path) -> None:
    set_id = _added(site, 4000, 300)
    place.calls.clear()
    copy = site.copy(set_id).copy
    assert place.requests <= 4000 / 50
    place.calls.clear()
    site.fetch(copy, tmp_path / "to")
    assert place.requests <= 4000 / 50


def test_small_files_cost_at_most_a_request_a_mebibyte(site: VaultSite, place: CountingPlace) -> None:
    set_id = _added(site, 8000, 6000)
    place.calls.clear()
    size = site.copy(set_id).size
    assert place.requests <= size / _MIB + _BESIDE
    place.calls.clear()
    assert site.copy(_added(site, 8000, 6000, number=1)).sent_bytes <= 0.005 * size
    assert place.requests <= _BESIDE


@pytest.mark.story
def test_a_hundred_thousand_small_files_cost_at_most_two_thousand_requests(
    site: VaultSite, place: CountingPlace, tmp_path: Path
) -> None:
    set_id = _added(site, 100_000, 4000)
    place.calls.clear()
    copy = site.copy(set_id).copy
    assert place.requests <= 2000
    place.calls.clear()
    fetched = site.fetch(copy, tmp_path / "to")
    assert place.requests <= 2000
    assert sum(1 for path in (fetched / "many").rglob("*.txt")) == 100_200


def test_a_copy_that_is_there_costs_a_few_requests(site: VaultSite, place: CountingPlace) -> None:
    set_id = site.seal()
    site.copy(set_id)
    place.calls.clear()
    assert site.copy(set_id).already_there
    assert place.requests <= 6


def test_a_set_that_changed_little_costs_little_more_than_its_lists(site: VaultSite, place: CountingPlace) -> None:
    data = random.Random(5).randbytes(48 * _MIB)
    site.copy(site.seal(0, {"big.bin": data}))
    place.calls.clear()
    sent = site.copy(site.seal(1, {"big.bin": data + b"one more row"})).sent
    assert place.calls["create"] <= sent + 2
    assert place.requests <= 22


class InFlight:
    """Passes every call on, and notes how many were under way at once, and their bytes."""

    def __init__(self, place: ObjectPlace) -> None:
        self._place = place
        self._lock = threading.Lock()
        self.now, self.most = 0, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._place, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            time.sleep(0.002)  # As over a network, so that others begin meanwhile.
            return call(*arguments, **options)
        finally:
            with self._lock:
                self.now -= 1


def test_requests_in_flight_are_bounded_whatever_is_done(tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir()
    place = InFlight(FolderPlace(tmp_path / "vault"))
    site = VaultSite(tmp_path, place=cast(ObjectPlace, place)).init()
    set_id = site.seal(0, {"big.bin": random.Random(6).randbytes(40 * _MIB)})
    for work in (
        lambda: site.copy(set_id),
        lambda: site.fetch(site.copy(set_id).copy, tmp_path / "to"),
        lambda: check_stored(site.access.catalog()),
    ):
        place.most = 0
        work()
        assert 2 <= place.most <= 8


_PEAK = r"""
import random, re, sys
from pathlib import Path
from backup_pipeline.stores.objects.folder import FolderPlace
from backup_pipeline_tests.support.vault_sites import VaultSite
folder, megabytes = Path(sys.argv[1]), int(sys.argv[2])
(folder / "vault").mkdir(parents=True)
site = VaultSite(folder, place=FolderPlace(folder / "vault")).init()
set_id = site.seal(0, {"small.txt": b"x"})
numbers = random.Random(1)
with (site.store.path_of(set_id) / "big.bin").open("wb") as file:
    for _ in range(megabytes):
        file.write(numbers.randbytes(1 << 20))
site.fetch(site.copy(set_id).copy, folder / "to")
# ru_maxrss of a process begins with that of the one that started it.
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
@pytest.mark.takes(seconds=20)
def test_memory_is_the_same_whatever_the_size_of_the_set(tmp_path: Path) -> None:
    def peak(megabytes: int) -> int:
        command = [sys.executable, "-c", _PEAK, str(tmp_path / str(megabytes)), str(megabytes)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # Below some 96 MiB not every thread has used all that it will ever use at once.
    small, large = peak(96), peak(288)
    assert large < 300
    assert large < small + 60


def test_the_limit_of_speed_holds_whatever_the_sizes() -> None:
    now = [100.0]
    throttle = Throttle(2_000_000, clock=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds))
    for size in (200_000, 4_000_000, 1, 1_799_999):
        throttle.wait(size)
    throttle.wait(1)  # Begins when all of the six megabytes before it have gone.
    assert now[0] == pytest.approx(103.0)
