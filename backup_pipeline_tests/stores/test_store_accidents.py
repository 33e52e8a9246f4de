"""Stores as accidents and other people leave them: read-only, with planted links, with sets from the future."""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from backup_pipeline.errors import RefusedError, SettingsError, StoreError
from backup_pipeline.model.restore import RestoreOptions
from backup_pipeline.operations.backup.known_tables import known_tables, remember_tables
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.operations.proof.verify import verify_set
from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore
from backup_pipeline.operations.sites import identity as site_identity
from backup_pipeline.operations.sites.run_log import append_run_line
from backup_pipeline.operations.sites.stores import open_store, plan_lock, resolve_set
from backup_pipeline.settings.loader import load_site
from backup_pipeline.system.files import append_line, make_folder_in, read_ordinary
from backup_pipeline_tests.support.invented_sets import make_set
from backup_pipeline_tests.support.read_only import read_only
from backup_pipeline_tests.support.sites import TestSite

SETTINGS = "sources: {files: {kind: folder, path: files}}\nplans: {nightly: {sources: [files]}}\n"


def site_with_a_set(tmp_path: Path) -> tuple[TestSite, str]:
    site = TestSite(tmp_path)
    site.write(SETTINGS)
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a").write_text("content")
    run = BackupRun(site.site, "nightly", RunIdentity("run", "run", datetime.now(UTC)))
    for _ in run.capture("files"):
        pass
    set_id = run.seal().set_id
    run.close()
    return site, set_id


@pytest.mark.parametrize("lost", [True, False])
def test_a_read_only_store_restores_and_says_what_it_cannot_keep(tmp_path: Path, lost: bool) -> None:
    site, set_id = site_with_a_set(tmp_path)
    if lost:
        (tmp_path / "files").rename(tmp_path / "lost")
    with read_only(site.site.store_folder("nightly")):
        options = RestoreOptions(skip_emergency_backup=not lost)
        plan = plan_restore(site.site, "nightly", set_id, "files", options)
        done = apply_restore(
            site.site, "nightly", set_id, "files", options, confirmation=Confirmation(plan.plan_id, plan.confirm)
        )
        assert (tmp_path / "files" / "a").read_text() == "content"
        assert any("cannot be kept in the store" in warning and "undo" in warning for warning in done.warnings)
        with pytest.raises(StoreError, match=r"cannot be kept with the set.*nothing found"):
            verify_set(site.site, "nightly", set_id)


def test_links_planted_in_a_store_are_not_followed(tmp_path: Path) -> None:
    store, victim, elsewhere = tmp_path / "store", tmp_path / "victim", tmp_path / "elsewhere"
    store.mkdir()
    elsewhere.mkdir()
    victim.write_text("precious")
    log, known = store / "backup_log.txt", store / ".known"
    for plant in (log.symlink_to, log.hardlink_to):
        plant(victim)
        append_run_line(store, "line")
        with pytest.raises(OSError):
            append_line(log, "line")
        assert victim.read_text() == "precious"
        log.unlink()
    known.symlink_to(elsewhere)
    with pytest.raises(StoreError, match=r"\.known: A link stands in its place"):
        remember_tables(store, "shop", [("shop", "public", "t")])
    assert list(elsewhere.iterdir()) == []
    known.unlink()
    remember_tables(store, "shop", [("shop", "public", "t")])
    (known / "shop.json").unlink()
    (elsewhere / "shop.json").write_text('[["shop", "public", "planted"]]')
    (known / "shop.json").symlink_to(elsewhere / "shop.json")
    assert known_tables(store, "shop") == ()
    (store / ".in-use").symlink_to(elsewhere)
    site = TestSite(tmp_path)
    site.write(SETTINGS.replace("sources: [files]", f"sources: [files], store: {store}"))
    with pytest.raises(StoreError, match="A link"):
        make_folder_in(open_store(site.site, "nightly").folder, ".in-use", 0o700)
    with pytest.raises(OSError):
        read_ordinary(known / "shop.json")


def test_latest_passes_over_sets_whose_time_has_not_come(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    site.write(
        "sources: {files: {kind: folder, path: f}, more: {kind: folder, path: m}}\n"
        "plans: {nightly: {sources: [files, more]}}\n"
    )
    store = open_store(site.site, "nightly")
    now = datetime.now(UTC)
    ahead = [make_set(store, now + timedelta(days=days)) for days in (365, 366)]
    # Nothing else is there: this machine's clock is wrong, as after a reset, and the newest is wanted all the same.
    assert resolve_set(site.site, "nightly/latest") == ("nightly", ahead[1])
    past = make_set(store, now - timedelta(days=1))
    make_set(store, now - timedelta(days=2))
    assert resolve_set(site.site, "nightly/latest") == ("nightly", past)
    soon = make_set(store, now + timedelta(minutes=1))
    assert resolve_set(site.site, "nightly/latest") == ("nightly", soon)


def test_a_store_of_another_site_is_neither_written_nor_cleaned_up(tmp_path: Path) -> None:
    keeps_one = SETTINGS.replace("sources: [files]", "sources: [files], retention: {keep_last: 1}")
    shared = f"store: {tmp_path}/shared\n{keeps_one}"
    sites = []
    for name in ("one", "two"):
        (tmp_path / name / "files").mkdir(parents=True)
        (tmp_path / name / "files" / "a").write_text(name)
        site = TestSite(tmp_path / name)
        site.write(shared)
        sites.append(site)
        # As outside of containers, where these tests may run and commands have processes of their own.
        (site.folder / ".site-id").write_text(f"{len(sites)}" * 32)
    one, two = sites
    store = open_store(one.site, "nightly")
    with plan_lock(one.site, "nightly", "first", 0):
        pass
    made = tuple(make_set(store, datetime.now(UTC) - timedelta(days=days)) for days in (2, 1))
    for command in (("backup", "nightly"), ("cleanup", "nightly", "--yes")):
        refused = two.run(*command)
        assert (refused.code, f"another site ({one.folder}" in refused.err + refused.out) == (8, True), refused
    assert store.ids() == made
    assert two.run("list", "--json").code == two.run("show", "nightly/latest").code == 0
    with plan_lock(one.site, "nightly", "again", 0):
        pass
    one.folder.rename(tmp_path / "moved")
    with plan_lock(TestSite(tmp_path / "moved").site, "nightly", "moved", 0):
        pass
    (store.folder / ".site.json").unlink()
    with plan_lock(two.site, "nightly", "adopts", 0):
        pass
    assert two.run("cleanup", "nightly", "--yes").code == 0
    assert store.ids() == made[1:]


def test_a_site_makes_its_identity_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_identity, "_IN_A_CONTAINER", ())
    site = TestSite(tmp_path)
    site.write(SETTINGS)
    made = set()
    for _ in range(2):
        with plan_lock(site.site, "nightly", "here", 0):
            made.add((tmp_path / ".site-id").read_text())
    (identity,) = made
    assert identity.strip() in (site.site.store_folder("nightly") / ".site.json").read_text()


def test_a_store_that_is_empty_though_it_was_used_is_not_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk is not mounted: a set would lie under the mount point, and everything would be green."""
    monkeypatch.setattr(site_identity, "_IN_A_CONTAINER", ())
    (tmp_path / "site").mkdir()
    site = TestSite(tmp_path / "site")
    disk = tmp_path / "disk"
    site.write(
        f"store: {disk}\nsources: {{files: {{kind: folder, path: files}}}}\nplans: {{nightly: {{sources: [files]}}}}\n"
    )
    for _ in range(2):
        with plan_lock(site.site, "nightly", "here", 0):
            pass
    disk.rename(tmp_path / "unmounted")
    for _ in range(2):
        disk.mkdir(exist_ok=True)
        with pytest.raises(RefusedError, match="Is its disk mounted"), plan_lock(site.site, "nightly", "here", 0):
            pass
    shutil.rmtree(disk)
    (tmp_path / "unmounted").rename(disk)
    with plan_lock(site.site, "nightly", "mounted", 0):
        pass
    shutil.rmtree(disk)
    (tmp_path / "site" / ".backup-pipeline" / "stores.json").unlink()
    with plan_lock(site.site, "nightly", "emptied on purpose", 0):
        pass


def test_a_site_that_can_keep_no_identity_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_identity, "_IN_A_CONTAINER", (tmp_path,))
    site = TestSite(tmp_path)
    site.write(SETTINGS)
    store = open_store(site.site, "nightly")
    store.prepare()
    (store.folder / ".site.json").write_text('{"site": "of somebody else"}')
    with plan_lock(site.site, "nightly", "here", 0):
        assert not (tmp_path / ".site-id").exists()


def test_a_site_in_containers_keeps_its_identity_in_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_identity, "_IN_A_CONTAINER", (tmp_path,))
    state = tmp_path / "volume"
    state.mkdir()
    for name in ("first", "again"):
        # A new container has new folders of its own, and the same volumes.
        (tmp_path / name).mkdir()
        site = TestSite(tmp_path / name)
        site.variables["BACKUP_PIPELINE_STATE"] = str(state)
        site.write(f"store: {tmp_path}/shared\n" + SETTINGS)
        with plan_lock(site.site, "nightly", name, 0):
            assert not (tmp_path / name / ".site-id").exists()
    other = TestSite(tmp_path / "first")
    other.variables["BACKUP_PIPELINE_STATE"] = str(tmp_path / "first")
    other.write(f"store: {tmp_path}/shared\n" + SETTINGS)
    with pytest.raises(RefusedError, match="belongs to another site"), plan_lock(other.site, "nightly", "other", 0):
        pass
    shutil.rmtree(tmp_path / "shared")
    with pytest.raises(RefusedError, match="there is none now"), plan_lock(site.site, "nightly", "unmounted", 0):
        pass


def test_a_proof_is_not_written_through_a_link_in_the_place_of_its_folder(tmp_path: Path) -> None:
    site, set_id = site_with_a_set(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    proofs = site.site.store_folder("nightly") / set_id / "proofs"
    shutil.rmtree(proofs, ignore_errors=True)
    proofs.symlink_to(elsewhere)
    assert not verify_set(site.site, "nightly", set_id).passed
    assert list(elsewhere.iterdir()) == []
    assert proofs.is_dir()
    assert not proofs.is_symlink()
    assert len(list(proofs.iterdir())) == 1


@pytest.mark.parametrize("name", ["records", "files"])
def test_a_set_is_not_written_through_a_link_in_the_place_of_a_folder(tmp_path: Path, name: str) -> None:
    site, _ = site_with_a_set(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deeper").mkdir(parents=True)
    run = BackupRun(site.site, "nightly", RunIdentity("second", "second", datetime.now(UTC) + timedelta(minutes=1)))
    try:
        folder = site.site.store_folder("nightly") / run.set_id
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).symlink_to(elsewhere)
        for path in (f"{name}/file", f"{name}/deeper/file"):
            with pytest.raises(StoreError, match="A link lies where a folder of the set belongs"):
                run.writer.create(path)
    finally:
        run.close()
    assert [path.name for path in elsewhere.rglob("*")] == ["deeper"]


def test_a_manifest_that_is_again_what_was_sealed_is_good_again(tmp_path: Path) -> None:
    site, set_id = site_with_a_set(tmp_path)
    manifest = site.site.store_folder("nightly") / set_id / "manifest.json"
    sealed = manifest.read_bytes()
    for proven_before in (False, True):
        assert not proven_before or verify_set(site.site, "nightly", set_id).passed
        for changed in (sealed + b" ", sealed[:-5], b""):
            manifest.write_bytes(changed)
            assert not verify_set(site.site, "nightly", set_id).passed
        manifest.write_bytes(sealed)
        assert verify_set(site.site, "nightly", set_id).findings == ()
        assert open_store(site.site, "nightly").read(set_id).verified
    # Somebody who changes manifest and checksums alike is still found by what an earlier verification saw.
    changed = sealed.replace(b'"partial": false', b'"partial":  false')
    manifest.write_bytes(changed)
    sums = manifest.parent / "records" / "sealed.sha256"
    old, new = (hashlib.sha256(data).hexdigest() for data in (sealed, changed))
    sums.write_text(sums.read_text().replace(old, new))
    assert "has changed since" in str(verify_set(site.site, "nightly", set_id).findings)


def test_documents_beyond_any_size_are_refused_before_they_are_read(tmp_path: Path) -> None:
    site, set_id = site_with_a_set(tmp_path)
    folder = site.site.store_folder("nightly") / set_id
    with (folder / "manifest.json").open("r+b") as manifest:
        manifest.truncate(300 << 20)
    known = open_store(site.site, "nightly").read(set_id)
    assert (known.manifest, "has 315 MB, more than a document can have" in known.problem) == (None, True)
    (tmp_path / "backup.yaml").write_text(
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghij"))
        + SETTINGS
    )
    with pytest.raises(SettingsError, match="its aliases stand for more than any settings hold"):
        load_site(tmp_path)
    with (tmp_path / "backup.yaml").open("r+b") as settings:
        settings.truncate(300 << 20)
    with pytest.raises(SettingsError, match="no settings file: it has 315 MB"):
        load_site(tmp_path)
