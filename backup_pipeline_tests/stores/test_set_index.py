"""The index beside the sets of a store is only a cache: what is listed is what the sets are."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.manifest import MANIFEST_NAME, Purpose
from backup_pipeline.model.proof import PROOFS_FOLDER, ProofKind
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.operations.retention.cleanup import cleanup
from backup_pipeline.operations.status.listing import list_plan
from backup_pipeline.operations.status.page import status_page
from backup_pipeline.operations.status.plan import site_status
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.stores.set_index import index_name, listed_sets
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set
from backup_pipeline_tests.support.read_only import read_only

NOW = at("2026-11-21 12:00")
SETS = 24
LISTED = """
import json, sys
from pathlib import Path
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.stores.set_index import listed_sets
for _ in range(5):
    found = listed_sets(LocalStore(Path(sys.argv[1]), "nightly"), settled_seconds=0)
    print(json.dumps([(one.set_id, one.size, one.proven) for one in found]))
    (Path(sys.argv[1]) / ".index.nightly.json").unlink(missing_ok=True)
"""


class CountingStore(LocalStore):
    """A store that counts which sets are read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "nightly")
        self.were_read: list[SetId] = []

    def read(self, set_id: SetId) -> BackupSet:
        """Read a set."""
        self.were_read.append(set_id)
        return super().read(set_id)


def hour(number: int) -> SetId:
    return set_id_at(at("2026-11-20 02:00") + timedelta(hours=number))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose store has sets of every sort."""
    (tmp_path / "backup.yaml").write_text(SITE)
    store = LocalStore(tmp_path / "backups" / "nightly", "nightly")
    for number in range(SETS):
        make_set(
            store,
            at("2026-11-20 02:00") + timedelta(hours=number),
            size=1000 + number,
            bad_checks=number % 3,
            partial=number == 3,
            purpose=Purpose.EMERGENCY if number == 4 else Purpose.BACKUP,
        )
    add_proof(store, hour(5), ProofKind.VERIFICATION, at("2026-11-20 09:00"))
    add_proof(store, hour(5), ProofKind.DRILL, at("2026-11-20 10:00"), rto_seconds=3.5)
    add_proof(store, hour(6), ProofKind.VERIFICATION, at("2026-11-20 09:00"), passed=False, findings=["truncated"])
    make_set(store, at("2026-11-19 02:00"), sealed=False, failed="bucket materials is missing")
    (store.folder / make_set(store, at("2026-11-18 02:00")) / MANIFEST_NAME).write_text("{}")
    return load_site(tmp_path, environment={})


@pytest.fixture
def store(site: Site) -> CountingStore:
    """Return its store, with an index."""
    store = CountingStore(site.store_folder("nightly"))
    listed_sets(store, settled_seconds=0)
    store.were_read.clear()
    assert index_of(store).is_file()
    return store


def index_of(store: LocalStore) -> Path:
    return store.folder / index_name("nightly")


def outputs(site: Site) -> list[object]:
    """Return all that list, status, its page and a dry clean-up are made of."""
    # The room on the disk changes by itself.
    status = [replace(one, free=None, full_at=None) for one in site_status(site, NOW)]
    return [
        [(one.as_dict(NOW), one.notes) for one in list_plan(site, "nightly")],
        [one.as_dict(NOW) for one in status],
        status_page(status, now=NOW, site="site", timezone="UTC"),
        cleanup(site, "nightly", now=NOW, dry_run=True),
    ]


def without_index(site: Site) -> list[object]:
    index = site.store_folder("nightly") / index_name("nightly")
    index.unlink(missing_ok=True)
    found = outputs(site)
    assert not index.exists()  # the sets changed less than a minute ago
    return found


def forged(store: LocalStore, change: Callable[[str], str]) -> bytes:
    """Return an index with other content whose digest is right."""
    head, _, body = index_of(store).read_bytes().partition(b"\n")
    body = change(body.decode()).encode()
    return head[: head.rindex(b" ") + 1] + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def test_with_an_index_everything_is_listed_as_without_one(site: Site, store: CountingStore) -> None:
    with_index = outputs(site)
    assert with_index == without_index(site)
    assert len(with_index[0]) == SETS + 2


def test_sets_that_did_not_change_are_not_read_again(store: CountingStore) -> None:
    listed_sets(store)
    # Those without a good manifest: what they are may change any time.
    assert store.were_read == [set_id_at(at("2026-11-18 02:00")), set_id_at(at("2026-11-19 02:00"))]


def test_a_set_that_changed_a_moment_ago_is_not_put_into_the_index(site: Site) -> None:
    store = CountingStore(site.store_folder("nightly"))
    listed_sets(store)
    assert not index_of(store).exists()


def rewrite_manifest(folder: Path) -> None:
    """Change a figure in place, size and times as before."""
    place = folder / MANIFEST_NAME
    before = place.stat()
    place.write_text(place.read_text().replace('"rows": 10', '"rows": 99'))
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (place.stat().st_size, place.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def change_proof(folder: Path) -> None:
    for place in (folder / PROOFS_FOLDER).iterdir():
        place.write_text(place.read_text().replace('"passed": true', '"passed":  true'))


def replace_folder(folder: Path) -> None:
    folder.rename(folder.with_name("aside"))
    subprocess.run(["cp", "-a", folder.with_name("aside"), folder], check=True)
    (folder / MANIFEST_NAME).write_text("{}")


@pytest.mark.parametrize(
    "change",
    [
        rewrite_manifest,
        change_proof,
        replace_folder,
        lambda folder: (folder / MANIFEST_NAME).unlink(),
        lambda folder: next((folder / PROOFS_FOLDER).iterdir()).unlink(),
        lambda folder: (folder / PROOFS_FOLDER / "2026-11-21T100000_000000Z_drill.json").write_text("{}"),
        lambda folder: (folder / "files_db.sql.gz").unlink(),
        lambda folder: folder.rename(folder.with_name("2026-11-20T233000Z")),
    ],
)
def test_a_set_that_was_changed_is_listed_as_it_is_now(site: Site, store: CountingStore, change) -> None:
    before = outputs(site)
    change(store.folder / hour(5))
    changed = outputs(site)
    assert changed[0] != before[0]
    assert changed == without_index(site)


def deep(text: str) -> str:
    return '{"a":' * 100_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, store: b"",
        lambda data, store: data[: len(data) // 2],
        lambda data, store: data.replace(b'"size":1015', b'"size":1016'),
        lambda data, store: data.replace(b"index 3", b"index 4"),
        lambda data, store: os.urandom(1000),
        lambda data, store: forged(store, deep),
        lambda data, store: forged(store, lambda text: "[]"),
        lambda data, store: forged(store, lambda text: text.replace('"size":1015', '"size":1e999')),
        lambda data, store: forged(store, lambda text: text.replace('"proofs"', '"proof"')),
        lambda data, store: forged(store, lambda text: text.replace(f'"set_id":"{hour(5)}"', '"set_id":"../.."')),
        lambda data, store: forged(store, lambda text: text.replace('"plan":"nightly"', '"plan":"other"')),
    ],
)
def test_a_damaged_index_is_not_used_and_made_anew(site: Site, store: CountingStore, damage) -> None:
    index, good = index_of(store), index_of(store).read_bytes()
    expected = outputs(site)
    index.write_bytes(damage(good, store))
    assert index.read_bytes() != good
    assert outputs(site) == expected
    index.write_bytes(damage(good, store))
    listed_sets(store, settled_seconds=0)
    store.were_read.clear()
    listed_sets(store)
    assert hour(5) not in store.were_read or b"../.." in index.read_bytes()


@pytest.mark.parametrize("place", ["link", "pipe", "folder"])
def test_what_stands_in_the_place_of_an_index_is_not_read(site: Site, store: CountingStore, place: str) -> None:
    index, elsewhere = index_of(store), store.folder.parent / "elsewhere.json"
    expected = outputs(site)
    elsewhere.write_bytes(forged(store, lambda text: text.replace('"size":1015', '"size":7')))
    content = elsewhere.read_bytes()
    index.unlink()
    {"link": lambda: index.symlink_to(elsewhere), "pipe": lambda: os.mkfifo(index), "folder": index.mkdir}[place]()
    assert outputs(site) == expected
    listed_sets(store, settled_seconds=0)
    assert outputs(site) == expected
    assert elsewhere.read_bytes() == content


def give_to_another(index: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(index, 12345, 12345)


@pytest.mark.parametrize(
    "change", [give_to_another, lambda index: index.chmod(0o666), lambda index: index.chmod(0o620)]
)
def test_an_index_that_another_user_can_write_is_not_used(site: Site, store: CountingStore, change) -> None:
    index = index_of(store)
    index.write_bytes(forged(store, lambda text: text.replace('"size":1015', '"size":7')))
    assert {one.set_id: one.size for one in listed_sets(store)}[hour(5)] == 7  # our own is
    change(index)
    assert {one.set_id: one.size for one in listed_sets(store)}[hour(5)] == 1015
    assert outputs(site) == without_index(site)


def test_a_store_that_cannot_be_written_is_listed_without_an_index(site: Site) -> None:
    expected = without_index(site)
    store = CountingStore(site.store_folder("nightly"))
    with read_only(store.folder):
        assert len(listed_sets(store, settled_seconds=0)) == SETS + 2
        assert outputs(site) == expected
    assert not index_of(store).exists()


def test_processes_that_list_at_once_and_remove_the_index_list_the_same(site: Site, store: CountingStore) -> None:
    expected = json.dumps([(one.set_id, one.size, one.proven) for one in store.sets()])
    command = [sys.executable, "-c", LISTED, str(store.folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert printed == [[expected] * 5] * 3
    assert not [path for path in store.folder.iterdir() if path.name.endswith(".part")]


def exchange_proofs(text: str) -> str:
    """Return an index in which the results of hour 5 are those of hour 7."""
    entries = json.loads(text)
    proven, other = entries[hour(5)]["known"], entries[hour(7)]["known"]
    other["proofs"] = [{**proof, "set_id": hour(7)} for proof in proven.pop("proofs")]
    return json.dumps(entries)


def test_what_is_removed_is_never_decided_by_the_index(site: Site, store: CountingStore) -> None:
    index_of(store).write_bytes(forged(store, exchange_proofs))
    shown = {one.set_id for one in cleanup(site, "nightly", now=NOW, dry_run=True).verdict.removed}
    assert shown & {hour(5), hour(7)} == {hour(5)}
    assert set(cleanup(site, "nightly", now=NOW).removed) & {hour(5), hour(7)} == {hour(7)}
    assert hour(5) in store.ids()
