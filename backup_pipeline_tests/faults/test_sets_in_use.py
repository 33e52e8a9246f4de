"""A set that another process reads is not removed by a clean-up; a dead reader's mark does not keep it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from backup_pipeline.errors import SetNotFoundError
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.retention.cleanup import cleanup
from backup_pipeline.operations.retention.in_use import FOLDER, in_use, to_be_removed
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.system.locks import living_marks
from backup_pipeline_tests.support.invented_sets import SITE, at, make_set

NOW = at("2026-11-21 12:00")
_CONTEXT = multiprocessing.get_context("spawn")


def _read_until_killed(folder: str, set_id: str) -> None:
    with in_use(LocalStore(Path(folder), "nightly"), SetId(set_id), "drill"):
        time.sleep(600)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "backup.yaml").write_text(SITE)
    return load_site(tmp_path, environment={})


@pytest.fixture
def store(site: Site) -> LocalStore:
    return open_store(site, "nightly")


@pytest.fixture
def five(store: LocalStore) -> list[SetId]:
    return [make_set(store, at(f"2026-11-{day} 02:00")) for day in range(17, 22)]


@pytest.fixture
def reader(store: LocalStore, five: list[SetId]) -> Iterator[BaseProcess]:
    """Another process that reads the oldest set."""
    process = _CONTEXT.Process(target=_read_until_killed, args=(str(store.folder), five[0]))
    process.start()
    deadline = time.monotonic() + 60
    while not living_marks(store.folder / FOLDER, five[0]):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    process.kill()
    process.join()


def test_a_set_that_another_process_reads_stays_and_the_others_go(
    site: Site, store: LocalStore, five: list[SetId], reader: BaseProcess
) -> None:
    planned = {d.set_id: d.reasons for d in cleanup(site, "nightly", now=NOW, dry_run=True).verdict.kept}
    assert f"in use by process {reader.pid}" in planned[five[0]][0]
    assert "drill of nightly" in planned[five[0]][0]
    assert cleanup(site, "nightly", now=NOW).removed == tuple(five[1:3])
    assert store.ids() == (five[0], *five[3:])


def test_the_mark_of_a_killed_reader_does_not_keep_a_set(
    site: Site, store: LocalStore, five: list[SetId], reader: BaseProcess
) -> None:
    assert reader.pid
    os.kill(reader.pid, signal.SIGKILL)
    reader.join()
    assert cleanup(site, "nightly", now=NOW).removed == tuple(five[:3])
    assert list((store.folder / FOLDER).iterdir()) == []


def test_a_reader_that_comes_between_decision_and_removal_is_noticed(
    site: Site, store: LocalStore, five: list[SetId], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LocalStore.remove
    reading = in_use(store, five[1], "verification")

    def remove(self: LocalStore, set_id: SetId) -> None:
        original(self, set_id)
        reading.__enter__()

    monkeypatch.setattr(LocalStore, "remove", remove)
    (site.folder / "backup.yaml").write_text(SITE.replace("keep_last: 2", "keep_last: 3"))
    result = cleanup(load_site(site.folder, environment={}), "nightly", now=NOW)
    reading.__exit__(None, None, None)
    assert result.removed == (five[0],)
    assert "verification of nightly" in dict(result.spared)[five[1]]


def test_a_reader_that_comes_while_a_set_is_removed_gives_way(store: LocalStore, five: list[SetId]) -> None:
    with to_be_removed(store, five[0]) as readers:
        assert readers == ""
        with pytest.raises(SetNotFoundError, match="being removed by process"), in_use(store, five[0], "drill"):
            pytest.fail("must not be read")


def test_where_no_mark_can_be_made_a_clean_up_says_so_and_leaves_the_sets(
    site: Site, store: LocalStore, five: list[SetId]
) -> None:
    (store.folder / FOLDER).write_text("in the way")
    done = cleanup(site, "nightly", now=NOW)
    assert not done.removed
    assert len(done.failed) > 0
    assert FOLDER in done.failed[0][1]
    assert store.ids() == tuple(five)
