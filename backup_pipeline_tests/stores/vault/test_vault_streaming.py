"""Files that leave the machine while they are written: the same chunks, nothing on the disk, killed at any instant."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.errors import StoreError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.stores.contract import SetWriter
from backup_pipeline.stores.vault.clean import clean
from backup_pipeline.stores.vault.cutting import SetStream, cut, cut_growing, large_from
from backup_pipeline.stores.vault.description import Cutting
from backup_pipeline.stores.vault.names import CHUNKS, COPIES
from backup_pipeline_tests.stores.vault.test_vault_plan_store import Killed, draft, held, seal
from backup_pipeline_tests.support.archive_sets import NOW
from backup_pipeline_tests.support.examples import examples
from backup_pipeline_tests.support.vault_sites import VaultSite

DUMP = random.Random(5).randbytes(24_000_000)
_SMALL = Cutting(average=4096, smallest=512, largest=16384)


@pytest.fixture
def site(tmp_path: Path) -> VaultSite:
    return VaultSite(tmp_path).init()


def stream(writer: SetWriter, data: bytes, watch: Callable[[int], None] = lambda size: None) -> ArtefactRecord:
    """Write a dump in pieces as pg_dump gives them, and its record."""
    with writer.create("shop_db.sql.gz", stream=True) as file:
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])
            watch(file.tell())
    record = ArtefactRecord(
        key=("s", "dump"),
        source="s",
        kind=ArtefactKind.POSTGRES_DUMP,
        set_id=writer.draft.set_id,
        files=(writer.file_record("shop_db.sql.gz", file),),
        source_label="s",
        started_at=NOW,
        finished_at=NOW,
    )
    writer.write_record(record)
    return record


@given(st.integers(0, 300_000), st.integers(0, 1 << 32), st.integers(1, 50_000))
@settings(max_examples=examples(60))
def test_a_growing_file_is_cut_as_one_whose_size_is_known(more: int, seed: int, step: int) -> None:
    data = random.Random(seed).randbytes(large_from(_SMALL) + more)
    known = SetStream({"a": len(data)}, lambda path: io.BytesIO(data), {}, lambda done: None, where="set")
    assert list(cut_growing(io.BytesIO(data), _SMALL, b"key")) == list(cut(known, _SMALL, b"key"))


def test_what_is_streamed_is_never_on_the_disk(site: VaultSite) -> None:
    store = site.plan_store()
    writer = store.begin(draft())
    most = 0

    def watch(size: int) -> None:
        nonlocal most
        most = max(most, held(store))

    record = stream(writer, DUMP, watch)
    assert most < 100_000
    assert record.files[0].size == len(DUMP)
    set_id = seal(writer)
    with site.copied().open(set_id, "shop_db.sql.gz") as file:
        assert file.read() == DUMP
    again = store.begin(draft(1))
    before = len(site.place.objects)
    stream(again, DUMP[:1000] + b"changed" + DUMP[1007:])
    seal(again)
    assert len(site.place.objects) < before + 8, "the changed chunk, the records, the copy"


def test_a_small_file_that_may_be_streamed_stays_until_its_record(site: VaultSite) -> None:
    store = site.plan_store()
    writer = store.begin(draft())
    stream(writer, b"rows" * 1000)
    assert held(store) > 4000
    seal(writer)
    with site.copied().open(writer.draft.set_id, "shop_db.sql.gz") as file:
        assert file.read() == b"rows" * 1000


@pytest.mark.parametrize("stored", [0, 1, 7, 15, 22])
def test_a_killed_stream_leaves_chunks_for_a_retry_or_for_cleaning(site: VaultSite, stored: int) -> None:
    store = site.plan_store()
    writer = store.begin(draft())

    def die(size: int) -> None:
        if size >= len(DUMP) * stored // 22:
            raise Killed

    with pytest.raises(Killed):
        stream(writer, DUMP, die)
    assert store.read(writer.draft.set_id).state is SetState.INCOMPLETE
    assert store.read(writer.draft.set_id).records == ()
    assert not [name for name in site.place.objects if name.startswith(COPIES)]
    left = {name for name in site.place.objects if name.startswith(CHUNKS)}
    # A new backup, not the completion of the first: it finds what was sent as well.
    again = store.begin(draft(1))
    stream(again, DUMP)
    set_id = seal(again)
    found = {name for name in site.place.objects if name.startswith(CHUNKS)}
    assert not [name for name in found if "." in name], "no chunk was sent a second time"
    with site.copied().open(set_id, "shop_db.sql.gz") as file:
        assert file.read() == DUMP
    assert left <= found
    store.remove(set_id)
    store.remove(writer.draft.set_id)
    site.place.now += timedelta(hours=80)
    clean(site.access.catalog(), lambda: site.place.now)
    assert not [name for name in site.place.objects if name.startswith((CHUNKS, COPIES))]


def test_a_chunk_that_reads_otherwise_than_it_was_sent_is_sent_again(site: VaultSite) -> None:
    store = site.plan_store()
    writer = store.begin(draft())
    damaged: list[str] = []

    def damage(call: str, name: str) -> None:
        if call == "get" and name.startswith(CHUNKS) and len(damaged) < 2:
            damaged.append(name)
            data, at = site.place.objects[name]
            site.place.objects[name] = (data[:-1] + bytes([data[-1] ^ 1]), at)

    site.place.before = damage
    stream(writer, DUMP)
    set_id = seal(writer)
    assert len(damaged) == 2
    with site.copied().open(set_id, "shop_db.sql.gz") as file:
        assert file.read() == DUMP


def test_a_vault_that_keeps_nothing_whole_ends_the_capture(site: VaultSite) -> None:
    store = site.plan_store()
    writer = store.begin(draft())

    def lose(call: str, name: str) -> None:
        if call == "get" and name.startswith(CHUNKS):
            site.place.objects.pop(name, None)

    site.place.before = lose
    with pytest.raises(StoreError, match="not what is read back"):
        stream(writer, DUMP)
    assert store.read(writer.draft.set_id).records == ()
