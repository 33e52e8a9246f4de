"""Encrypting copies anew: the present recipients read them, and none lacks a chunk whatever is killed or cleaned."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.stores.vault.check import check_stored
from backup_pipeline.stores.vault.clean import clean, mark
from backup_pipeline.stores.vault.encryption import Opener, new_identity
from backup_pipeline.stores.vault.reencrypt import ReencryptResult
from backup_pipeline.stores.vault.sending import WriterOptions
from backup_pipeline.stores.vault.vault import VaultReader, change_recipients, open_reencryption
from backup_pipeline_tests.stores.vault.test_vault_copies import contents
from backup_pipeline_tests.support.vault_sites import VaultSite

_SMALL = {"a.txt": b"first row\n" * 9000, "b/c.txt": b"x"}


def _site(folder: Path) -> tuple[VaultSite, str]:
    """Return a site whose two copies, which share chunks, are of earlier recipients; and the earlier identity."""
    site = VaultSite(folder).init()
    for number in range(2):
        site.copy(site.seal(number, _SMALL | {"zz.bin": bytes([number]) * 200_000}))
    earlier = site.identity
    site.identity, added = new_identity()
    site.recipients = (added,)
    change_recipients(site.access)
    return site, earlier


def _reencrypt(site: VaultSite, identity: str) -> ReencryptResult:
    return open_reencryption(site.access, Opener(identity), WriterOptions(workers=1, clock=site.clock))()


def _all_are_read(site: VaultSite, folder: Path) -> None:
    reader = VaultReader(site.place, site.identity)
    for copy in reader.catalog.copies()[0]:
        fetched = reader.reader(copy).fetch(folder)
        assert contents(fetched) == contents(site.store.path_of(fetched.name))  # type: ignore[arg-type]


def test_copies_of_earlier_recipients_are_read_by_the_present_ones(tmp_path: Path) -> None:
    site, earlier = _site(tmp_path)
    with pytest.raises(BackupSystemError):
        _all_are_read(site, tmp_path / "before")
    done = _reencrypt(site, earlier)
    assert (len(done.done), done.present, done.failed) == (2, [], {})
    _all_are_read(site, tmp_path / "to")
    assert _reencrypt(site, earlier).sent == 0
    site.place.now += timedelta(hours=80)
    assert clean(site.access.catalog(), site.clock).removed_chunks > 0
    assert not check_stored(site.access.catalog()).findings
    for chunk in (name for name in site.place.objects if name.startswith("chunks/")):
        with pytest.raises(BackupSystemError, match="does not open"):
            Opener(earlier).open(site.place.get(chunk), name=chunk)


def test_a_file_of_several_identities_opens_what_any_of_them_opens(tmp_path: Path) -> None:
    site, earlier = _site(tmp_path)
    site.copy(site.seal(5, _SMALL))
    both = f"# until May\n{earlier}\n\n# from May on\n{site.identity}\n"
    reader = VaultReader(site.place, both)
    copies = reader.catalog.copies()[0]
    assert {copy.header.generation for copy in copies} == {1, 2}
    for copy in copies:
        fetched = reader.reader(copy).fetch(tmp_path / "to")
        assert contents(fetched) == contents(site.store.path_of(fetched.name))  # type: ignore[arg-type]
    if not shutil.which("age"):
        return
    vault = site.write_out(tmp_path / "vault")
    (tmp_path / "identities.txt").write_text(both)
    command = [sys.executable, "-I", "-S", str(vault / "recover.py"), str(vault)]
    listed = subprocess.run(
        [*command, "--identity", str(tmp_path / "identities.txt")], capture_output=True, text=True, check=True
    )
    assert len(listed.stdout.splitlines()) == 3


def test_a_damaged_or_marked_copy_does_not_keep_the_others(tmp_path: Path) -> None:
    site, earlier = _site(tmp_path)
    first, second = site.access.catalog().copy_names()
    own = site.access.catalog().copy(second).header.chunks[-1].name
    site.place.put(f"chunks/{own[:2]}/{own}", b"damaged")
    done = _reencrypt(site, earlier)
    assert done.done == [first]
    assert "chunk has 7 bytes" in done.failed[second].lower()
    mark(site.access.catalog(), [second])
    assert _reencrypt(site, earlier).failed == {}


@pytest.mark.parametrize("what", ["killed", "cleaned"])
def test_no_copy_lacks_a_chunk_whatever_happens_at_any_call(tmp_path: Path, what: str) -> None:
    number, happened = 0, True
    while happened:
        site, earlier = _site(tmp_path / str(number))
        happened = _with_event_at(number, site, earlier, what)
        site.place.before = lambda call, name: None
        assert not check_stored(site.access.catalog()).findings
        assert not _reencrypt(site, earlier).failed
        _all_are_read(site, tmp_path / f"to-{number}")
        number += 1
    assert number > 15


def _with_event_at(number: int, site: VaultSite, earlier: str, what: str) -> bool:
    """Encrypt anew, with something that happens before the call of this number; returns whether it came to that."""
    calls, done, lock = [0], [False], threading.Lock()

    def event(call: str, name: str) -> None:
        with lock:
            calls[0] += 1
            if calls[0] <= number or done[0]:
                return
            done[0] = True
            site.place.before = lambda call, name: None
        if what == "killed":
            raise KeyboardInterrupt
        # Long after the earlier copies: all that no copy names and that is old goes now.
        site.place.now += timedelta(hours=80)
        clean(site.access.catalog(), site.clock)

    site.place.before = event
    _ended(lambda: _reencrypt(site, earlier))
    return done[0]


def _ended(work: Callable[[], object]) -> None:
    try:
        work()
    except (KeyboardInterrupt, BackupSystemError):
        return
