"""Lists of copies in chunks of their own: shared between copies, guarded like data; copies of before are read."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.stores.objects.errors import ObjectLockedError
from backup_pipeline.stores.objects.folder import FolderPlace
from backup_pipeline.stores.vault import copy_content
from backup_pipeline.stores.vault.check import check_content, check_stored
from backup_pipeline.stores.vault.clean import GRACE, clean, mark
from backup_pipeline.stores.vault.copy_object import StoredCopy
from backup_pipeline.stores.vault.encryption import Opener, new_identity
from backup_pipeline.stores.vault.machine_keys import MachineKeys
from backup_pipeline.stores.vault.names import CHUNKS, COPIES, RECOVERY_PROGRAM, chunk_object
from backup_pipeline.stores.vault.sending import WriterOptions
from backup_pipeline.stores.vault.vault import change_recipients, open_reencryption
from backup_pipeline_tests.stores.vault.test_vault_copies import contents
from backup_pipeline_tests.support.memory_place import MemoryPlace
from backup_pipeline_tests.support.vault_sites import FILES, PLAN, VaultSite

FIXTURE = Path(__file__).parents[2] / "fixtures" / "vault_1"
FIRST = "2026-11-21T020000Z-ae7088a032a776bcac31f0e63bfd1f89"
HAS_AGE = pytest.mark.skipif(not shutil.which("age"), reason="the program age is not installed")


@pytest.fixture
def site(tmp_path: Path) -> VaultSite:
    return VaultSite(tmp_path).init()


@pytest.fixture
def earlier(tmp_path: Path) -> VaultSite:
    """A vault that a release before copies of version 2 has made, with what its machine kept."""
    shutil.copytree(FIXTURE / "vault", tmp_path / "vault")
    made = VaultSite(tmp_path, place=FolderPlace(tmp_path / "vault"))
    made.identity = (FIXTURE / "identity.txt").read_text().strip()
    made.recipient = made.reader().description.recipients[0]
    made.recipients = (made.recipient,)
    shutil.copytree(FIXTURE / "keys", tmp_path / "keys")
    made.keys = MachineKeys(tmp_path / "keys")
    return made


def _copy_of(site: VaultSite, name: str) -> StoredCopy:
    return site.access.catalog().copy(name)


def _many(count: int, changed: bytes = b"", size: int = 3000) -> dict[str, bytes]:
    content = random.Random(7)
    files = {f"many/{number:05}.txt": content.randbytes(size) for number in range(count)}
    return files | ({f"many/{count // 2:05}.txt": changed} if changed else {})


def _recover_py(folder: Path, identity: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "identity.txt").write_text(identity + "\n")
    command = [sys.executable, "-I", "-S", str(folder / "recover.py"), str(folder)]
    command += ["--identity", str(folder / "identity.txt"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_set_of_many_files_that_is_the_same_adds_half_a_percent(site: VaultSite) -> None:
    def stored() -> int:
        return sum(len(data) for data, _ in site.place.objects.values())

    # Where a vault cuts depends on its random key: with one that is fixed, what is counted repeats.
    site.keys.keep_id_key(site.reader().description.vault, b"k" * 32)
    first = site.copy(site.seal(0, _many(3000, size=8000)))
    before = stored()
    again = site.copy(site.seal(1, _many(3000, size=8000)))
    assert stored() - before <= 0.005 * again.size
    assert len(site.place.objects[COPIES + again.copy][0]) < 30_000
    shared = set(_copy_of(site, first.copy).header.list_chunks) & set(_copy_of(site, again.copy).header.list_chunks)
    assert len(shared) > 3


@HAS_AGE
def test_a_copy_with_lists_apart_comes_back_equal_by_either_program(site: VaultSite, tmp_path: Path) -> None:
    set_id = site.seal(0, FILES)
    copy = site.copy(set_id).copy
    assert _copy_of(site, copy).header.list_chunks
    assert contents(site.fetch(copy, tmp_path / "to")) == contents(site.store.path_of(set_id))
    vault = site.write_out(tmp_path / "written")
    listed = _recover_py(vault, site.identity, "--signer", site.access.trusted()[0])
    assert f"{copy}  {PLAN}/{set_id}" in listed.stdout, listed.stderr
    done = _recover_py(vault, site.identity, "--copy", copy, "--to", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "back" / PLAN / set_id) == contents(site.store.path_of(set_id))


@pytest.mark.parametrize("what", ["missing", "truncated", "swapped", "of another copy"])
def test_a_bad_list_chunk_is_named_and_mended(what: str, site: VaultSite, tmp_path: Path) -> None:
    set_id, other = site.seal(0, _many(1000)), site.seal(1, _many(1000, b"another row"))
    copy, beside = site.copy(set_id).copy, site.copy(other).copy
    chunks = _copy_of(site, copy).header.list_chunks
    spare = set(_copy_of(site, beside).header.list_chunks) - set(chunks)
    objects, bad = site.place.objects, chunk_object(chunks[0].name)
    whole = objects[bad]
    if what == "missing":
        del objects[bad]
    elif what == "truncated":
        objects[bad] = (whole[0][:-10], whole[1])
    else:
        source = chunks[1] if what == "swapped" else min(spare)
        objects[bad] = objects[chunk_object(source.name)]
    result = check_stored(site.access.catalog())
    assert copy in result.bad_copies
    assert result.bad_chunks == {chunks[0].name}
    with pytest.raises(BackupSystemError) as caught:
        site.fetch(copy, tmp_path / "to")
    assert chunks[0].name in caught.value.where
    if shutil.which("age"):
        vault = site.write_out(tmp_path / "written")
        done = _recover_py(vault, site.identity, "--copy", copy, "--to", str(tmp_path / "back"))
        assert done.returncode == 1
        assert chunks[0].name in done.stderr
        assert not (tmp_path / "back" / PLAN / set_id).exists()
    site.keys.note_bad_chunks(site.reader().description.vault, result.bad_chunks, whole=True)
    assert site.copy(set_id).sent >= 1
    assert contents(site.fetch(copy, tmp_path / "to")) == contents(site.store.path_of(set_id))


def test_the_version_of_a_copy_is_signed_and_a_later_one_is_named(site: VaultSite) -> None:
    copy = COPIES + site.copy(site.seal(0, FILES)).copy
    data, moment = site.place.objects[copy]
    for version, problem in ((b"1", "signature is not right"), (b"3", "version 3 .* reads up to 2")):
        site.place.objects[copy] = (data.replace(b"vault copy 2 ", b"vault copy " + version + b" ", 1), moment)
        [bad] = site.access.catalog().copies()[1]
        with pytest.raises(BackupSystemError, match=problem):
            raise bad.error


def test_list_chunks_go_with_the_last_copy_that_needs_them(site: VaultSite, tmp_path: Path) -> None:
    first, second = (site.copy(site.seal(number, _many(1000))).copy for number in range(2))
    for name, gone in ((first, False), (second, True)):
        mark(site.access.catalog(), [name])
        site.place.now += GRACE * 2
        clean(site.access.catalog(), lambda: site.place.now)
        if not gone:
            assert not check_stored(site.access.catalog()).findings
            site.fetch(second, tmp_path / "to")
    assert not [name for name in site.place.objects if name.startswith((CHUNKS, COPIES))]


def test_lists_apart_are_encrypted_anew(site: VaultSite, tmp_path: Path) -> None:
    set_id = site.seal(0, FILES)
    copy = site.copy(set_id).copy
    before = set(_copy_of(site, copy).header.needed)
    earlier, (site.identity, site.recipient) = site.identity, new_identity()
    site.recipients = (site.recipient,)
    change_recipients(site.access)
    result = open_reencryption(site.access, Opener(earlier), WriterOptions(clock=site.clock))()
    assert result.done == [copy]
    after = _copy_of(site, copy).header
    assert after.list_chunks
    assert not before & set(after.needed)
    assert contents(site.fetch(copy, tmp_path / "to")) == contents(site.store.path_of(set_id))


def test_a_vault_of_before_is_checked_fetched_copied_into_and_cleaned(earlier: VaultSite, tmp_path: Path) -> None:
    catalog = earlier.access.catalog()
    result = check_stored(catalog)
    assert (result.copies, result.findings) == (2, [])
    reader = earlier.reader()
    check_content(catalog, catalog.copies()[0], reader.opener, reader.id_key, result)
    assert len(result.decrypted) == 2
    assert not result.findings
    fetched = earlier.fetch(FIRST, tmp_path / "to")
    assert (fetched / "a.txt").read_bytes() == b"a row\n"
    # Its program cannot read what is written now, and is replaced first.
    place = earlier.place
    assert b"_LATEST_COPY" not in place.get(RECOVERY_PROGRAM)
    made = earlier.copy(earlier.seal(5, FILES))
    assert _copy_of(earlier, made.copy).header.version == 2
    assert b"_LATEST_COPY = 2" in place.get(RECOVERY_PROGRAM)
    mark(catalog, [FIRST])
    assert FIRST in clean(earlier.access.catalog()).waiting
    assert not check_stored(earlier.access.catalog()).findings


@HAS_AGE
def test_todays_program_and_that_of_before_read_a_vault_of_before(earlier: VaultSite, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    set_id = earlier.seal(5, FILES)
    for target in (tmp_path / "before", tmp_path / "after"):
        done = _recover_py(vault, earlier.identity, "--copy", FIRST, "--to", str(target))
        assert done.returncode == 0, done.stderr
        assert (target / PLAN / FIRST[:18] / "many" / "1.txt").read_bytes() == b"one"
        earlier.copy(set_id)


@HAS_AGE
def test_the_program_of_before_says_that_it_does_not_read_lists_apart(earlier: VaultSite, tmp_path: Path) -> None:
    old = (tmp_path / "vault" / RECOVERY_PROGRAM).read_bytes()
    copy = earlier.copy(earlier.seal(5, FILES)).copy
    (tmp_path / "vault" / RECOVERY_PROGRAM).write_bytes(old)
    done = _recover_py(tmp_path / "vault", earlier.identity)
    assert FIRST in done.stdout
    assert f"copies/{copy}: not a copy of version 1" in done.stderr


def test_a_program_that_cannot_be_replaced_gets_copies_that_it_reads(tmp_path: Path) -> None:
    site = VaultSite(tmp_path, place=_Fixed()).init()
    site.place.objects[RECOVERY_PROGRAM] = (FIXTURE.joinpath("vault", RECOVERY_PROGRAM).read_bytes(), site.place.now)
    site.place.fixed = True
    site.clock = lambda: site.place.now
    set_id = site.seal(0, FILES)
    copy = site.copy(set_id).copy
    assert _copy_of(site, copy).header.version == 1
    assert contents(site.fetch(copy, tmp_path / "to")) == contents(site.store.path_of(set_id))


class _Fixed(MemoryPlace):
    """A place whose policy forbids to write over what is there."""

    fixed = False

    def put(self, name: str, data: object, **options: object) -> None:
        if self.fixed and name in self.objects:
            raise ObjectLockedError("The storage forbids to replace it.", where=name, remedy="Wait.")
        super().put(name, data, **options)  # type: ignore[arg-type]


def test_an_account_that_is_cut_short_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [copy_content.packed(b"one"), copy_content.packed(b"two")]
    assert copy_content.unpacked(pieces) == b"onetwo"
    for bad in ([pieces[0], pieces[1][:-9]], [pieces[0][:5]]):
        with pytest.raises(ValueError, match="cut short"):
            copy_content.unpacked(bad)
    monkeypatch.setattr(copy_content, "_LARGEST_PLAIN", 5)
    with pytest.raises(ValueError, match="too large"):
        copy_content.unpacked(pieces)
