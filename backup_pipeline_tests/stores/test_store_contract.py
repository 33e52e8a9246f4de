"""What every store promises. Another one joins by adding its maker to `STORES`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.errors import SetNotFoundError, StoreError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.manifest import Draft, Failure
from backup_pipeline.model.proof import Finding, Proof, ProofKind
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.model.source_done import SourceDone
from backup_pipeline.stores.contract import SetWriter, Store
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.system.files import make_folders, sha256_of, write_atomically
from backup_pipeline_tests.support.archive_sets import NOW
from backup_pipeline_tests.support.sealed_sets import manifest_of, write_artefact
from backup_pipeline_tests.support.vault_sites import VaultSite

STORES: dict[str, Callable[[Path], Store]] = {
    "local": lambda folder: LocalStore(folder / "store", "nightly"),
    "vault alone": lambda folder: VaultSite(folder / "site").init().plan_store(),
}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)


def draft(number: int = 0) -> Draft:
    moment = NOW + timedelta(seconds=number)
    return Draft(set_id=set_id_at(moment), plan="nightly", root_run_id="run", sources=("s",), started_at=moment)


def write(writer: SetWriter, path: str, data: bytes = b"data", *key: str) -> ArtefactRecord:
    return write_artefact(writer, {path: data}, *key)


def sealed(store: Store, number: int = 0) -> SetId:
    writer = store.begin(draft(number))
    write(writer, "a.txt")
    writer.seal(manifest_of(writer))
    return writer.draft.set_id


def proof(set_id: SetId, number: int) -> Proof:
    return Proof(
        kind=ProofKind.VERIFICATION,
        set_id=set_id,
        plan="nightly",
        manifest_sha256="0" * 64,
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=number),
        passed=bool(number % 2),
    )


def test_what_was_written_is_read_back_with_its_size_and_digest(store: Store) -> None:
    writer = store.begin(draft())
    record = write(writer, "tables/s/x.bin", b"1234")
    with writer.open("tables/s/x.bin") as file:
        assert file.read() == b"1234"
    writer.seal(manifest_of(writer))
    with store.open(writer.draft.set_id, "tables/s/x.bin") as file:
        assert file.seek(2) == 2
        assert file.read() == b"34"
    assert record.files[0].size == 4
    assert record.files[0].sha256 == "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"
    assert ("tables/s/x.bin", 4) in list(store.files(writer.draft.set_id))


def _break_off(writer: SetWriter, path: str, data: bytes) -> None:
    with writer.create(path) as file:
        file.write(data)
        raise RuntimeError


def test_a_file_that_was_not_finished_does_not_appear(store: Store) -> None:
    writer = store.begin(draft())
    with pytest.raises(RuntimeError):
        _break_off(writer, "a.txt", b"half")
    with pytest.raises(StoreError, match="missing"):
        writer.open("a.txt")
    assert [path for path, _ in store.files(writer.draft.set_id) if not path.startswith("records/")] == []


def test_a_failed_second_try_leaves_the_first_file(store: Store) -> None:
    writer = store.begin(draft())
    write(writer, "a.txt", b"first")
    with pytest.raises(RuntimeError):
        _break_off(writer, "a.txt", b"second")
    with writer.open("a.txt") as file:
        assert file.read() == b"first"


def test_a_set_without_manifest_is_incomplete_and_can_be_completed(store: Store) -> None:
    writer = store.begin(draft())
    write(writer, "a.txt")
    writer.write_failure(Failure(key=("s", "b.txt"), what="down", at=NOW))
    known = store.read(writer.draft.set_id)
    assert known.state is SetState.INCOMPLETE
    assert [failure.what for failure in known.failures] == ["down"]
    assert [record.key for record in known.records] == [("s", "a.txt")]
    again = store.reopen(writer.draft.set_id)
    write(again, "b.txt")
    assert store.read(writer.draft.set_id).failures == ()
    again.seal(manifest_of(again))
    assert store.read(writer.draft.set_id).state is SetState.COMPLETE
    with pytest.raises(StoreError):
        store.reopen(writer.draft.set_id)
    with pytest.raises(StoreError):
        again.seal(manifest_of(again))


def test_the_same_set_cannot_begin_twice(store: Store) -> None:
    store.begin(draft())
    with pytest.raises(StoreError, match="exists"):
        store.begin(draft())


def test_a_replaced_record_takes_its_earlier_files_with_it(store: Store) -> None:
    writer = store.begin(draft())
    write(writer, "old_name.zip", b"1", "s", "archive")
    write(writer, "shared.bin", b"1", "s", "other")
    write(writer, "new_name.zip", b"2", "s", "archive")
    paths = [path for path, _ in store.files(writer.draft.set_id) if not path.startswith("records/")]
    assert sorted(paths) == ["new_name.zip", "shared.bin"]
    assert len(writer.records()) == 2


def test_a_captured_source_drops_what_an_earlier_try_left(store: Store) -> None:
    writer = store.begin(draft())
    write(writer, "gone.bin", b"1", "s", "gone")
    write(writer, "kept.bin", b"1", "s", "kept")
    writer.write_failure(Failure(key=("s",), what="down", at=NOW))
    writer.write_done(SourceDone(source="s", keys=(("s", "kept"),), started_at=NOW, finished_at=NOW))
    assert [record.key for record in writer.records()] == [("s", "kept")]
    assert [done.source for done in writer.sources_done()] == ["s"]
    assert store.read(writer.draft.set_id).failures == ()
    with pytest.raises(StoreError):
        writer.open("gone.bin")
    writer.begin_source("s")
    assert writer.sources_done() == ()


ODD = [
    *[("s", name) for name in ("a.b", "a/b", "a%2Fb", "ü", "\n", "failed", "done", "%66ailed", "..", " ")],
    *[("s", "💾" * 60), ("s", "💾" * 61), ("s", "a", "b"), ("s", "x", "failed"), ("records", "set")],
]


def test_odd_keys_do_not_meet_or_hide(store: Store) -> None:
    writer = store.begin(draft())
    for number, key in enumerate(ODD):
        write(writer, f"{number}.bin", b"x", *key)
    for key in ODD:
        writer.write_failure(Failure(key=(*key, "f"), what="x", at=NOW))
    assert {record.key for record in writer.records()} == set(ODD)
    assert {failure.key for failure in store.read(writer.draft.set_id).failures} == {(*key, "f") for key in ODD}
    assert len({path.casefold() for path, _ in store.files(writer.draft.set_id)}) == 3 * len(ODD) + 1


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", ".", "a\0b"])
def test_a_path_outside_the_set_is_refused(store: Store, path: str) -> None:
    writer = store.begin(draft())
    with pytest.raises(StoreError), writer.create(path):
        pass
    with pytest.raises(StoreError):
        writer.open(path)


@pytest.mark.parametrize("name", ["..", "../store", "latest", "2026-13-01T000000Z", ""])
def test_what_is_no_sets_name_is_not_found_and_nothing_is_removed(store: Store, tmp_path: Path, name: str) -> None:
    kept = sealed(store)
    for call in (
        store.read,
        store.remove,
        lambda set_id: list(store.files(set_id)),
        lambda set_id: store.open(set_id, "x"),
    ):
        with pytest.raises(SetNotFoundError):
            call(SetId(name))
    assert store.ids() == (kept,)
    assert store.read(kept).state is SetState.COMPLETE


def test_sets_are_listed_oldest_first_and_foreign_folders_are_not_sets(store: Store) -> None:
    assert store.ids() == ()
    ids = [sealed(store, number) for number in (5, 1, 3)]
    assert store.ids() == tuple(sorted(ids))
    assert [each.set_id for each in store.sets()] == sorted(ids)


def test_removing_is_complete_and_can_be_repeated(store: Store) -> None:
    kept, gone = sealed(store, 1), sealed(store, 2)
    store.remove(gone)
    store.remove(gone)
    assert store.ids() == (kept,)
    with pytest.raises(SetNotFoundError):
        store.read(gone)


def test_proofs_are_kept_in_order_and_the_newest_counts(store: Store) -> None:
    set_id = sealed(store)
    for number in (2, 3, 1):
        store.add_proof(set_id, proof(set_id, number))
    known = store.read(set_id)
    assert len(known.proofs) == 3
    assert known.last_proof(ProofKind.VERIFICATION) == proof(set_id, 3)
    assert known.verified


def test_damage_found_now_outweighs_a_drill_of_a_time_to_come(store: Store) -> None:
    set_id = sealed(store)
    now = datetime.now(UTC)
    drill = proof(set_id, 1).model_copy(
        update={"kind": ProofKind.DRILL, "passed": True, "findings": (), "finished_at": now + timedelta(days=365)}
    )
    store.add_proof(set_id, drill)
    assert store.read(set_id).proven
    damage = Finding(subject="a", problem="changed")
    found = drill.model_copy(
        update={"kind": ProofKind.VERIFICATION, "passed": False, "findings": (damage,), "finished_at": now}
    )
    store.add_proof(set_id, found)
    known = store.read(set_id)
    assert not known.proven
    assert not known.verified
    store.add_proof(set_id, drill.model_copy(update={"finished_at": now + timedelta(minutes=1)}))
    assert store.read(set_id).proven


def test_scratch_space_is_private_and_gone_afterwards(store: Store) -> None:
    writer = store.begin(draft())
    with writer.scratch() as folder:
        (folder / "x").write_bytes(b"1")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_free_space_is_known_before_the_first_set(store: Store) -> None:
    free = store.free_bytes()
    assert free is None or free > 0


# --- Stores that are read: a folder, and a vault into which its sets were copied

READERS: dict[str, Callable[[VaultSite], Store]] = {"local": lambda site: site.store, "vault": VaultSite.copied}


@pytest.fixture(params=sorted(READERS))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    site = VaultSite(tmp_path / "site").init()
    site.seal(2, {"b.txt": b"second"})
    site.seal(0, {"a/x.bin": bytes(range(256)) * 9000, "empty.txt": b"", "a/y.txt": b"1234"})
    return lambda: READERS[request.param](site)


def test_what_is_read_of_a_set_is_what_was_sealed(opened: Callable[[], Store]) -> None:
    reading = opened()
    first, second = reading.ids()
    assert first < second
    assert reading.sealed_ids() == (first, second)
    assert [known.set_id for known in reading.sets()] == [first, second]
    known = reading.read(first)
    assert known.state is SetState.COMPLETE
    assert known.manifest is not None
    assert known.records == known.manifest.artefacts
    files = list(reading.files(first))
    assert files == sorted(files)
    for record in known.records:
        for file in record.files:
            assert (file.path, file.size) in files
            with reading.open(first, file.path) as stream:
                assert sha256_of(stream) == (file.size, file.sha256)
    assert list(reading.unexpected_entries(first)) == []


def test_a_file_of_a_set_is_read_from_any_place_in_it(opened: Callable[[], Store]) -> None:
    reading = opened()
    whole = bytes(range(256)) * 9000
    with reading.open(reading.ids()[0], "a/x.bin") as file:
        assert file.seek(-3, os.SEEK_END) == len(whole) - 3
        assert file.read() == whole[-3:]
        for place in (0, 1, 300_001, 1_000_000, len(whole)):
            file.seek(place)
            assert file.read(70_000) == whole[place : place + 70_000]
        assert file.read() == b""
    with reading.open(reading.ids()[0], "empty.txt") as file:
        assert file.read() == b""


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", ".", "a\0b", "a/missing.bin", "a"])
def test_what_is_no_file_of_a_set_is_not_opened(opened: Callable[[], Store], path: str) -> None:
    reading = opened()
    with pytest.raises(StoreError):
        reading.open(reading.ids()[0], path)


@pytest.mark.parametrize("name", ["..", "latest", "2026-13-01T000000Z", "2020-01-01T000000Z", ""])
def test_a_set_that_is_not_there_is_not_found(opened: Callable[[], Store], name: str) -> None:
    reading = opened()
    with pytest.raises(SetNotFoundError):
        reading.read(SetId(name))
    if name != "2020-01-01T000000Z":
        with pytest.raises(SetNotFoundError):
            reading.remove(SetId(name))


def test_proofs_are_seen_by_who_opens_the_store_next(opened: Callable[[], Store]) -> None:
    reading = opened()
    set_id = reading.ids()[0]
    for number in (2, 3, 1):
        reading.add_proof(set_id, proof(set_id, number))
    known = opened().read(set_id)
    assert known.proofs == tuple(proof(set_id, number) for number in (1, 2, 3))
    assert known.verified
    assert not known.damaged_proofs
    assert not opened().read(opened().ids()[1]).proofs


# --- The local folder in particular


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", "nightly")


def test_files_are_private(local: LocalStore) -> None:
    set_id = sealed(local)
    local.add_proof(set_id, proof(set_id, 1))
    for path in [local.folder, *local.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_manifest_goes_first_when_a_set_is_removed(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    set_id = sealed(local)

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        local.remove(set_id)
    monkeypatch.undo()
    assert local.read(set_id).state is SetState.INCOMPLETE
    local.remove(set_id)
    assert local.ids() == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "manifest cannot be read"),
        (b"[1]", "manifest cannot be read"),
        (b"{", "manifest cannot be read"),
        (b"\xff\xfe", "manifest cannot be read"),
        (b'{"manifest_version": 99}', "manifest version 99 is not known"),
        (b'{"manifest_version": 1}', "set_id"),
        (b"[" * 100_000, "manifest cannot be read"),
    ],
)
def test_a_damaged_manifest_is_told_with_its_reason(local: LocalStore, content: bytes, reason: str) -> None:
    set_id = sealed(local)
    (local.folder / set_id / "manifest.json").write_bytes(content)
    known = local.read(set_id)
    assert known.state is SetState.DAMAGED
    assert reason in known.problem
    with pytest.raises(StoreError):
        local.reopen(set_id)


def test_a_manifest_whose_times_have_no_zone_is_damaged(local: LocalStore) -> None:
    place = local.folder / sealed(local) / "manifest.json"
    reported = json.loads(place.read_bytes())
    place.write_text(json.dumps({**reported, "started_at": "2026-11-21T02:00:00"}))
    known = local.read(local.ids()[0])
    assert known.state is SetState.DAMAGED
    assert "started_at" in known.problem


def test_a_manifest_of_another_set_is_not_taken_for_this_one(local: LocalStore) -> None:
    one, two = sealed(local, 1), sealed(local, 2)
    (local.folder / two / "manifest.json").write_bytes((local.folder / one / "manifest.json").read_bytes())
    assert local.read(two).state is SetState.DAMAGED
    assert one in local.read(two).problem


def test_a_damaged_record_of_an_unsealed_set_is_told(local: LocalStore) -> None:
    writer = local.begin(draft())
    write(writer, "a.txt")
    (record,) = (path for path in (writer.folder / "records").glob("*.json") if path.name != "set.json")
    record.write_text(json.dumps({"key": ["s"]}))
    assert record.name in local.read(writer.draft.set_id).problem
    with pytest.raises(StoreError):
        writer.records()


def test_the_seal_clears_what_a_killed_run_left(local: LocalStore) -> None:
    writer = local.begin(draft())
    write(writer, "a.txt")
    (writer.folder / ".b.txt.part").write_bytes(b"half")
    (writer.folder / ".scratch-x.part").mkdir()
    (writer.folder / ".scratch-x.part" / "copy.sqlite").write_bytes(b"1")
    writer.seal(manifest_of(writer))
    assert not list(writer.folder.rglob("*.part"))


def test_a_file_under_a_sets_name_is_no_set(local: LocalStore) -> None:
    local.prepare()
    (local.folder / "2026-11-21T020000Z").write_text("x")
    (local.folder / "backup_log.txt").write_text("x")
    assert local.ids() == ()


def test_a_store_that_vanishes_under_a_run_is_not_made_anew_where_it_was(local: LocalStore) -> None:
    writer = local.begin(draft())
    local.folder.rename(local.folder.with_name("unmounted"))
    with pytest.raises(StoreError, match="gone"):
        write(writer, "folder/a.txt")
    assert not local.folder.exists()


def test_a_folder_that_cannot_be_made_is_one_of_the_familys_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file"):
        make_folders(tmp_path / "file" / "below", 0o700)


def test_nothing_is_put_in_the_place_of_a_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StoreError, match="Not an ordinary file"):
        write_atomically(pipe, b"x")
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
