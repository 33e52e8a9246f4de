"""Stores as accidents and other people leave them: read-only, with planted links, with sets from the future."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.errors import StoreError
from backup_pipeline.model.restore import RestoreOptions
from backup_pipeline.operations.backup import BackupRun, RunIdentity
from backup_pipeline.operations.known_tables import known_tables, remember_tables
from backup_pipeline.operations.restore import apply_restore, plan_restore
from backup_pipeline.operations.run_log import append_run_line
from backup_pipeline.operations.stores import open_store, resolve_set
from backup_pipeline.operations.verify import verify_set
from backup_pipeline.tools.files import append_line, read_ordinary
from backup_pipeline_tests.sites import TestSite
from backup_pipeline_tests.unit.invented_sets import make_set

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


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only, for root too."""
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "a-w", folder], check=True)
        yield
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
        return
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("lost", [True, False])
def test_a_read_only_store_restores_and_says_what_it_cannot_keep(tmp_path: Path, lost: bool) -> None:
    site, set_id = site_with_a_set(tmp_path)
    if lost:
        (tmp_path / "files").rename(tmp_path / "lost")
    with read_only(site.site.store_folder("nightly")):
        options = RestoreOptions(skip_emergency_backup=not lost)
        plan = plan_restore(site.site, "nightly", set_id, "files", options)
        done = apply_restore(site.site, "nightly", set_id, "files", options, plan_id=plan.plan_id, confirm=plan.confirm)
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
        append_run_line(
            store, plan="p", set_id=None, manifest=None, failures=("x",), began=datetime.now(UTC), now=datetime.now(UTC)
        )
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
        open_store(site.site, "nightly").folder_beside(".in-use")
    with pytest.raises(OSError):
        read_ordinary(known / "shop.json")


def test_latest_passes_over_sets_whose_time_has_not_come(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    site.write("sources: {files: {kind: folder, path: f}, more: {kind: folder, path: m}}\n"
               "plans: {nightly: {sources: [files, more]}}\n")  # fmt: skip
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
