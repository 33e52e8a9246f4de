"""A plan whose only store is a vault: what stays on the machine, and kills between sending and sealing."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest

from backup_pipeline.errors import BackupSystemError, RefusedError, StoreError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.manifest import Draft
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.stores.contract import SetWriter
from backup_pipeline.stores.vault.clean import clean
from backup_pipeline.stores.vault.names import CHUNKS, COPIES
from backup_pipeline.stores.vault.plan_store import VaultPlanStore
from backup_pipeline_tests.support.archive_sets import NOW
from backup_pipeline_tests.support.sealed_sets import manifest_of, write_artefact
from backup_pipeline_tests.support.vault_sites import PLAN, VaultSite

LARGE = random.Random(3).randbytes(5_000_000)
FILES = {"shop_db.sql.gz": LARGE, "tables/a.parquet": b"rows" * 100, "empty.txt": b""}


@pytest.fixture
def site(tmp_path: Path) -> VaultSite:
    return VaultSite(tmp_path).init()


def draft(number: int = 0) -> Draft:
    moment = NOW + timedelta(seconds=number)
    return Draft(set_id=set_id_at(moment), plan=PLAN, root_run_id="r", sources=("s",), started_at=moment)


def capture(writer: SetWriter, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        write_artefact(writer, {path: data})


def seal(writer: SetWriter) -> SetId:
    for record in writer.records():
        assert [writer.check_file(file) for file in record.files] == [""]
    writer.seal(manifest_of(writer))
    return writer.draft.set_id


def held(store: VaultPlanStore) -> int:
    return sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())


def test_an_artefact_leaves_the_machine_with_its_record(site: VaultSite) -> None:
    store = site.plan_store()
    writer = store.begin(draft())
    capture(writer, FILES)
    assert held(store) < 100_000
    assert sum(len(data) for name, (data, _) in site.place.objects.items() if name.startswith(CHUNKS)) > len(LARGE)
    assert store.read(writer.draft.set_id).state is SetState.INCOMPLETE
    assert not [name for name in site.place.objects if name.startswith(COPIES)]
    with pytest.raises(StoreError, match="cannot read it"):
        writer.open("shop_db.sql.gz")
    set_id = seal(writer)
    left = {path.relative_to(store.folder / set_id).parts[0] for path in (store.folder / set_id).rglob("*")}
    assert left == {"manifest.json", "records"}
    for opened in (store, site.copied()):
        for path, data in FILES.items():
            with opened.open(set_id, path) as file:
                assert file.read() == data
    fetched = site.fetch(next(n for n in site.place.objects if n.startswith(COPIES)).removeprefix(COPIES), site.folder)
    assert {path: (fetched / path).read_bytes() for path in FILES} == FILES


def test_what_is_unchanged_is_not_sent_by_the_next_set(site: VaultSite) -> None:
    store = site.plan_store()
    writer = store.begin(draft())
    capture(writer, FILES)
    seal(writer)
    before = len(site.place.objects)
    again = store.begin(draft(1))
    capture(again, FILES)
    seal(again)
    assert len(site.place.objects) <= before + 2, "a copy, and its records"


def test_a_vault_that_cannot_be_written_is_known_before_the_capture(site: VaultSite) -> None:
    site.recipients = ()
    store = site.plan_store()
    with pytest.raises(RefusedError, match="no recipients"):
        store.begin(draft())
    assert store.ids() == ()


class Killed(BaseException):
    """The process is gone."""


def test_a_run_that_was_killed_at_any_call_is_completed(tmp_path: Path) -> None:
    files = FILES | {"shop_db.sql.gz": LARGE[:1_200_000]}
    for instant in range(100):
        site = VaultSite(tmp_path / str(instant)).init()
        store = site.plan_store()
        left = instant

        def die(call: str, name: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed(call)

        site.place.before = die
        try:
            writer = store.begin(draft())
            capture(writer, files)
            seal(writer)
            break
        except Killed:
            site.place.before = lambda call, name: None
        for set_id in store.ids():
            if store.read(set_id).draft is not None:
                again = store.reopen(set_id)
                done = {record.key[1] for record in again.records()}
                capture(again, {path: data for path, data in files.items() if path not in done})
                assert seal(again) == set_id
                assert store.read(set_id).state is SetState.COMPLETE
                with store.open(set_id, "shop_db.sql.gz") as file:
                    assert file.read() == files["shop_db.sql.gz"]
    assert instant > 10


def test_a_chunk_that_is_gone_before_the_seal_keeps_the_set_unsealed(site: VaultSite) -> None:
    store = site.plan_store()
    writer = store.begin(draft())
    capture(writer, FILES)
    gone = next(name for name in site.place.objects if name.startswith(CHUNKS))
    del site.place.objects[gone]
    with pytest.raises(BackupSystemError, match="not in the vault any more"):
        seal(writer)
    assert store.read(writer.draft.set_id).state is SetState.INCOMPLETE
    assert not [name for name in site.place.objects if name.startswith(COPIES)]


def test_a_removed_set_is_marked_and_its_chunks_go_after_the_grace_time(site: VaultSite) -> None:
    store = site.plan_store()
    writer = store.begin(draft())
    capture(writer, FILES)
    store.remove(seal(writer))
    assert store.ids() == ()
    assert [name for name in site.place.objects if name.startswith(CHUNKS)]
    site.place.now += timedelta(hours=80)
    clean(site.access.catalog(), lambda: site.place.now)
    assert not [name for name in site.place.objects if name.startswith((CHUNKS, COPIES))]
