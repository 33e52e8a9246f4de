"""Copies of sets in a vault: equal to the byte, unreadable to others, refused when anything was changed."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from backup_pipeline.errors import BackupSystemError, RefusedError, SetNotFoundError, ValidationError
from backup_pipeline.stores.vault import recover, write_copy
from backup_pipeline.stores.vault.check import check_content, check_stored
from backup_pipeline.stores.vault.clean import clean
from backup_pipeline.stores.vault.copy_content import CopyContent
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline.stores.vault.machine_keys import MachineKeys
from backup_pipeline.stores.vault.names import COPIES, DESCRIPTION, chunk_object, copy_name
from backup_pipeline.stores.vault.signing import Signer, new_private_key
from backup_pipeline.stores.vault.vault import VaultReader, change_recipients, initialise, join
from backup_pipeline_tests.support.archive_sets import tree
from backup_pipeline_tests.support.memory_place import MemoryPlace
from backup_pipeline_tests.support.vault_sites import FILES, PLAN, SETTINGS, VaultSite


@pytest.fixture
def site(tmp_path: Path) -> VaultSite:
    return VaultSite(tmp_path).init()


def contents(folder: Path) -> dict[str, bytes]:
    return {path: content for path, (_, _, content) in tree(folder).items()}


@pytest.mark.parametrize("encryption", ["age", "none"])
def test_a_fetched_set_is_equal_to_the_byte(tmp_path: Path, encryption: str) -> None:
    site = VaultSite(tmp_path, encryption=encryption).init()  # type: ignore[arg-type]
    set_id = site.seal()
    result = site.copy(set_id)
    assert result.sent
    fetched = site.fetch(result.copy, tmp_path / "elsewhere")
    assert contents(fetched) == contents(site.store.path_of(set_id))


def test_the_same_set_is_not_sent_twice_and_a_like_one_costs_little(site: VaultSite) -> None:
    files = FILES | {"big.bin": random.Random(2).randbytes(20_000_000)}
    first = site.copy(site.seal(0, files))
    again = site.copy(site.store.ids()[0])
    assert again.already_there
    assert not again.sent
    like = site.copy(site.seal(1, files | {"zz.txt": b"one more"}))
    assert like.sent_bytes < first.sent_bytes / 2


def test_nothing_of_a_set_is_readable_in_the_vault(site: VaultSite) -> None:
    site.copy(site.seal())
    everything = b"\n".join(
        name.encode() + b"\n" + data
        for name, (data, _) in site.place.objects.items()
        if not name.endswith((".md", ".py"))
    )
    for word in (b"nightly", b"werkstatt", b"auftraege", b"Meier", b"076329", b"many/", b"zz.txt", b"row 1"):
        assert word not in everything
    assert site.identity.encode() not in everything


def test_the_identity_is_nowhere_on_the_machine_that_writes(site: VaultSite) -> None:
    site.copy(site.seal())
    assert not [path for path in site.folder.rglob("*") if path.is_file() and b"AGE-SECRET" in path.read_bytes()]
    assert {path.stat().st_mode & 0o777 for path in (site.folder / "keys").iterdir()} == {0o600}


def test_a_vault_without_recipients_is_refused_before_anything_leaves(tmp_path: Path) -> None:
    site = VaultSite(tmp_path)
    site.recipients = ()
    with pytest.raises(RefusedError, match="no recipients"):
        initialise(site.access)
    assert not site.place.objects


def test_a_vault_with_other_recipients_than_the_settings_is_refused(site: VaultSite) -> None:
    set_id = site.seal()
    site.recipients = (new_identity()[1],)
    before = dict(site.place.objects)
    with pytest.raises(RefusedError, match="the settings name"):
        site.copy(set_id)
    assert site.place.objects == before


def test_a_replaced_vault_is_refused(site: VaultSite, tmp_path: Path) -> None:
    set_id = site.seal()
    other = VaultSite(tmp_path / "other").init()
    site.place.objects[DESCRIPTION] = other.place.objects[DESCRIPTION]
    with pytest.raises(RefusedError, match="another key"):
        site.copy(set_id)


def test_a_changed_description_is_refused(site: VaultSite) -> None:
    document = json.loads(site.place.get(DESCRIPTION))
    document["recipients"] = [new_identity()[1]]
    site.place.put(DESCRIPTION, json.dumps(document).encode())
    with pytest.raises(RefusedError, match="not signed"):
        site.copy(site.seal())


def test_another_identity_is_refused_by_name(site: VaultSite) -> None:
    other, public = new_identity()
    with pytest.raises(RefusedError, match="does not open the vault") as caught:
        VaultReader(site.place, other)
    assert public in caught.value.remedy


def test_a_copy_under_another_name_is_refused(site: VaultSite) -> None:
    first, second = site.copy(site.seal()), site.copy(site.seal(1))
    site.place.objects[COPIES + second.copy] = site.place.objects[COPIES + first.copy]
    with pytest.raises(RefusedError, match="under another name"):
        site.reader().catalog.copy(second.copy)


def test_a_copy_that_another_signed_is_refused(site: VaultSite) -> None:
    copy = site.copy(site.seal()).copy
    own = site.keys.signer()
    assert own is not None
    forger = Signer(new_private_key())
    data = site.place.objects[COPIES + copy][0]
    first, line, signature, rest = data.split(b"\n", 3)
    forged = json.dumps({"key": forger.public, "signature": forger.sign("backup-pipeline vault copy 1", line)})
    site.place.put(COPIES + copy, b"\n".join((first, line, forged.encode(), rest)))
    with pytest.raises(RefusedError, match="another key"):
        site.reader().catalog.copy(copy)
    genuine = json.loads(signature)["signature"]
    # Its last byte is small, and zero once in sixteen times; the first is anything.
    claimed = json.dumps({"key": own.public, "signature": ("A" if genuine[0] != "A" else "B") + genuine[1:]})
    site.place.put(COPIES + copy, b"\n".join((first, line, claimed.encode(), rest)))
    with pytest.raises(RefusedError, match="signature is not right"):
        site.reader().catalog.copy(copy)


def test_lost_changed_cut_and_swapped_chunks_are_found_and_named(site: VaultSite, tmp_path: Path) -> None:
    copy = site.copy(site.seal()).copy
    names = [name for name in site.place.objects if name.startswith("chunks/")]
    whole = dict(site.place.objects)
    first, second = whole[names[0]], whole[names[1]]
    damages = {
        "missing": None,
        "changed": (bytes([first[0][0] ^ 1]) + first[0][1:], first[1]),
        "bytes": (first[0][:-1], first[1]),
        "swapped": second,
    }
    for damage in damages.values():
        site.place.objects = dict(whole)
        if damage is None:
            del site.place.objects[names[0]]
        else:
            site.place.objects[names[0]] = damage
        found = check_stored(site.access.catalog())
        assert found.bad_copies == {copy}
        assert names[0] in found.findings[0].subject
        with pytest.raises(ValidationError, match="chunk"):
            site.fetch(copy, tmp_path / "elsewhere")
        assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("damage", ["missing", "changed", "account"])
def test_a_damaged_copy_is_mended_from_its_set_and_no_copy_relies_on_it(
    site: VaultSite, tmp_path: Path, damage: str
) -> None:
    set_id = site.seal()
    copy = site.copy(set_id).copy
    [name, *_] = [name for name in site.place.objects if name.startswith("chunks/")]
    whole = site.place.get(name)
    if damage == "account":
        site.place.put(COPIES + copy, b"rubbish")
    elif damage == "missing":
        site.place.delete(name)
    else:
        site.place.put(name, bytes([whole[0] ^ 1]) + whole[1:])
    catalog = site.access.catalog()
    found = check_stored(catalog)
    assert found.bad_copies == {copy}
    site.keys.note_bad_chunks(catalog.description.vault, found.bad_chunks, whole=True)
    like = site.copy(site.seal(1)).copy
    site.fetch(like, tmp_path / "like")
    mended = site.copy(set_id)
    assert (mended.copy, mended.already_there) == (copy, False)
    assert contents(site.fetch(copy, tmp_path / "to")) == contents(site.store.path_of(set_id))
    again = check_stored(site.access.catalog())
    assert not again.findings
    site.keys.note_bad_chunks(catalog.description.vault, again.bad_chunks, whole=True)
    assert site.copy(set_id).already_there


def test_a_copy_of_another_in_the_place_of_ones_own_is_not_replaced(site: VaultSite) -> None:
    set_id = site.seal()
    first, second = site.copy(set_id), site.copy(site.seal(1))
    site.place.objects[COPIES + first.copy] = site.place.objects[COPIES + second.copy]
    with pytest.raises(RefusedError, match="under another name"):
        site.copy(set_id)


def test_a_whole_vault_is_found_whole_with_and_without_the_identity(site: VaultSite) -> None:
    site.copy(site.seal())
    reader = site.reader()
    result = check_stored(reader.catalog)
    check_content(reader.catalog, reader.catalog.copies()[0], reader.opener, reader.id_key, result)
    assert not result.findings
    assert result.decrypted == [f"{PLAN}/{site.store.ids()[0]}"]
    assert result.read_bytes == sum(len(d) for n, (d, _) in site.place.objects.items() if n.startswith("chunks/"))


def test_one_file_is_read_from_the_chunks_that_hold_it(site: VaultSite) -> None:
    copy = site.copy(site.seal()).copy
    reader = site.reader()
    opened = reader.reader(reader.catalog.copy(copy))
    before = site.place.calls
    assert opened.read_file("many/007.txt") == b"row 7"
    assert site.place.calls - before <= 2
    assert opened.read_file("werkstatt_db.sql") == FILES["werkstatt_db.sql"]


def test_a_set_that_is_damaged_on_disk_is_not_copied(site: VaultSite) -> None:
    set_id = site.seal()
    site.store.path_of(set_id, "many/007.txt").write_bytes(b"row 8")
    with pytest.raises(ValidationError, match="not what the manifest says"):
        site.copy(set_id)
    assert not site.access.catalog().copy_names()


def test_a_copy_killed_at_any_call_is_invisible_and_goes_on(tmp_path: Path) -> None:
    site = VaultSite(tmp_path).init()
    set_id = site.seal()
    allowed = 0
    while True:
        left = [allowed]
        calls: list[str] = []

        def stop(call: str, name: str, left: list[int] = left, calls: list[str] = calls) -> None:
            left[0] -= 1
            calls.append(f"{call} {name}")
            if left[0] < 0:
                raise KeyboardInterrupt

        site.place.before = stop
        try:
            result = site.copy(set_id, workers=1)
            break
        except KeyboardInterrupt:
            site.place.before = lambda call, name: None
            for copy in site.access.catalog().copies()[0]:
                # It is visible as soon as it is whole: all that is left is to withdraw its announcement.
                assert calls[-1].startswith("delete pending/")
                assert all(chunk_object(chunk.name) in site.place.objects for chunk in copy.header.needed)
        allowed += 1
    site.place.before = lambda call, name: None
    assert allowed > 8
    assert result.sent <= 1
    assert contents(site.fetch(result.copy, tmp_path / "to")) == contents(site.store.path_of(set_id))


def test_recipients_change_and_later_copies_use_no_chunk_that_only_the_old_one_opens(
    site: VaultSite, tmp_path: Path
) -> None:
    site.copy(site.seal())
    old = site.identity
    site.identity, added = new_identity()
    site.recipients = (added,)
    change_recipients(site.access)
    second = site.copy(site.seal(1)).copy
    site.fetch(second, tmp_path / "to")
    with pytest.raises(RefusedError):
        VaultReader(site.place, old)


def test_a_machine_that_lost_its_keys_joins_again_with_the_identity(site: VaultSite) -> None:
    site.copy(site.seal())
    site.keys = MachineKeys(site.folder / "new-keys")
    with pytest.raises(RefusedError, match="signing key"):
        site.copy(site.seal(1))
    join(site.access, site.reader().opener)
    assert not site.copy(site.store.ids()[1]).already_there


def test_a_place_without_a_vault_says_so(tmp_path: Path) -> None:
    with pytest.raises(SetNotFoundError, match="no vault"):
        VaultReader(MemoryPlace(), "")


def test_a_copy_that_became_visible_too_long_after_its_announcement_is_refused(site: VaultSite) -> None:
    set_id = site.seal()

    announced = []

    def later(call: str, name: str) -> None:
        if call == "create" and name.startswith("pending/"):
            announced.append(name)
        if call == "list" and name == "chunks/" and len(announced) == 1:
            announced.append(name)
            site.place.now += timedelta(days=31)

    site.place.before = later
    with pytest.raises(BackupSystemError, match="More than 30 days"):
        site.copy(set_id)
    assert not site.access.catalog().copy_names()


def test_what_an_announced_copy_needs_is_kept_however_long_its_writer_sleeps(site: VaultSite) -> None:
    set_id = site.seal()
    asleep = []

    def sleep(call: str, name: str) -> None:
        if call == "create" and name.startswith("copies/") and not asleep:
            asleep.append(name)
            # The machine was suspended for three days in the middle of this call; a cleaner runs meanwhile.
            site.place.now += timedelta(hours=75)
            clean(site.access.catalog(), lambda: site.place.now)

    site.place.before = sleep
    copy = site.copy(set_id).copy
    [stored] = site.access.catalog().copies()[0]
    assert stored.name == copy
    assert all(chunk_object(chunk.name) in site.place.objects for chunk in stored.header.needed)
    assert not [name for name in site.place.objects if name.startswith("pending/")]


def test_a_copy_is_whole_while_others_store_its_chunks_under_other_names(site: VaultSite) -> None:
    site.copy(site.seal(0))
    vault = site.access.catalog().description.vault
    others = [site.seal(number) for number in range(2, 7)]

    def another(call: str, name: str) -> None:
        if call == "create" and name.startswith("pending/") and others:
            site.place.before = lambda call, name: None
            stored = [name.rpartition("/")[2] for name in site.place.objects if name.startswith("chunks/")]
            # A writer that may not rely on what is there stores it again.
            site.keys.note_bad_chunks(vault, stored, whole=True)
            site.copy(others.pop(0))
            site.keys.note_bad_chunks(vault, [], whole=True)
            site.place.before = another

    site.place.before = another
    site.copy(site.seal(1))
    found = check_stored(site.access.catalog())
    assert found.copies == 3
    assert not found.findings


AGE = shutil.which("age")


@pytest.mark.parametrize("plan", ["../../outside", "/tmp/outside", "a/b", "", "quote'and\nnewline"])
def test_a_forged_vault_writes_nothing_outside_of_the_target(
    plan: str, site: VaultSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The recipients are public: whoever can write to the place can make a vault with keys and names of his own.
    set_id = site.seal()
    forged = lambda **fields: CopyContent.model_construct(**{**fields, "plan": plan})  # noqa: E731
    monkeypatch.setattr(write_copy, "CopyContent", forged)
    monkeypatch.setattr(write_copy, "copy_name", lambda key, _, one: copy_name(key, plan, one))
    copy = site.copy(set_id).copy
    with pytest.raises(BackupSystemError):
        site.fetch(copy, tmp_path / "deep" / "to")
    assert not (tmp_path / "deep").exists()
    if AGE is None:
        return
    vault = site.write_out(tmp_path / "vault")
    (tmp_path / "identity.txt").write_text(f"{site.identity}\n")
    before = sorted(tmp_path.iterdir())
    program = [sys.executable, "-I", "-S", str(vault / "recover.py"), str(vault), "--identity", "identity.txt"]
    done = subprocess.run(
        [*program, "--copy", copy, "--to", str(tmp_path / "deep" / "to")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no name" in done.stderr
    assert "without --signer" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(AGE is None, reason="needs the program age")
def test_a_stranger_recovers_with_python_and_age_alone(site: VaultSite, tmp_path: Path) -> None:
    set_id = site.seal()
    copy = site.copy(set_id).copy
    vault = site.write_out(tmp_path / "vault")
    identity = tmp_path / "identity.txt"
    identity.write_text(f"# created by age-keygen\n{site.identity}\n")
    program = [sys.executable, "-I", "-S", str(vault / "recover.py"), str(vault), "--identity", str(identity)]
    signer = site.access.trusted()[0]
    listed = subprocess.run([*program, "--signer", signer], capture_output=True, text=True, check=True).stdout
    assert f"{copy}  {PLAN}/{set_id}" in listed
    target = tmp_path / "recovered"
    subprocess.run([*program, "--copy", copy, "--to", str(target)], check=True, capture_output=True)
    assert contents(target / PLAN / set_id) == contents(site.store.path_of(set_id))
    assert (target / "backup.yaml").read_text() == SETTINGS
    subprocess.run(["sha256sum", "--quiet", "-c", "records/sealed.sha256"], cwd=target / PLAN / set_id, check=True)
    other = Signer(new_private_key()).public
    refused = subprocess.run([*program, "--signer", other], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "kit" in refused.stderr


def test_recover_py_checks_signatures_as_the_library_does() -> None:
    for _ in range(5):
        signer = Signer(new_private_key())
        signature = signer.sign("purpose", b"data")
        assert recover.is_signed(signer.public, b"purpose\ndata", signature)
        assert not recover.is_signed(signer.public, b"purpose\ndatA", signature)
        assert not recover.is_signed(Signer(new_private_key()).public, b"purpose\ndata", signature)
