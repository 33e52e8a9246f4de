"""Objects that somebody else put into a vault: each is one clear error, and no other copy's end."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.stores.objects.folder import FolderPlace
from backup_pipeline.stores.vault import write_copy
from backup_pipeline.stores.vault.clean import clean
from backup_pipeline.stores.vault.copy_content import CopyContent
from backup_pipeline.stores.vault.machine_keys import MachineKeys
from backup_pipeline.stores.vault.vault import VaultReader, join
from backup_pipeline_tests.support.vault_sites import PLAN, VaultSite

FEW = {"a.txt": b"a row\n"}


@pytest.fixture
def site(tmp_path: Path) -> VaultSite:
    """A site whose vault is a folder with one copy."""
    (tmp_path / "vault").mkdir()
    made = VaultSite(tmp_path, place=FolderPlace(tmp_path / "vault")).init()
    made.copy(made.seal(0, FEW))
    return made


def _recover_py(site: VaultSite, *arguments: str) -> subprocess.CompletedProcess[str]:
    identity = site.folder / "identity.txt"
    identity.write_text(f"{site.identity}\n")
    vault = site.folder / "vault"
    command = [sys.executable, "-I", "-S", str(vault / "recover.py"), str(vault), "--identity", str(identity)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_a_header_that_claims_to_be_huge_is_one_bad_copy(site: VaultSite) -> None:
    name = "2026-11-21T020000Z-" + "0" * 32
    hostile = b"backup-pipeline vault copy 1 999999999999 1\n" + b"x" * 100_000
    (site.folder / "vault" / "copies" / name).write_bytes(hostile)
    good, bad = site.access.catalog().copies()
    assert len(good) == 1
    assert [(one.name, "larger" in one.error.what) for one in bad] == [(name, True)]


@pytest.mark.parametrize(
    "signature", [b'{"key": "\\u001b[2Jall is well", "signature": ""}', b"[" * 60_000], ids=["escapes", "nested"]
)
def test_a_signature_that_is_none_is_one_bad_copy(signature: bytes, site: VaultSite) -> None:
    name = "2026-11-21T020000Z-" + "0" * 32
    hostile = b"backup-pipeline vault copy 1 2 1\n{}\n" + signature + b"\nx"
    (site.folder / "vault" / "copies" / name).write_bytes(hostile)
    [bad] = site.access.catalog().copies()[1]
    assert bad.error.what == "The copy is not signed."


def test_an_announcement_that_is_nested_without_end_is_refused(site: VaultSite) -> None:
    (site.folder / "vault" / "pending").mkdir(exist_ok=True)
    (site.folder / "vault" / "pending" / ("0" * 32)).write_bytes(b"[" * 100_000)
    with pytest.raises(RefusedError, match="announced"):
        clean(site.access.catalog())


def test_a_copy_cannot_bring_proofs_with_it(site: VaultSite, monkeypatch: pytest.MonkeyPatch) -> None:
    set_id = site.seal(1, FEW)

    def forged(**fields: object) -> CopyContent:
        first, *others = fields["files"]  # type: ignore[misc]
        proof = copy.copy(first)
        object.__setattr__(proof, "path", "proofs/2026-11-21T020000Z-drill.json")
        return CopyContent.model_construct(**{**fields, "files": (proof, *others)})  # type: ignore[arg-type]

    monkeypatch.setattr(write_copy, "CopyContent", forged)
    name = site.copy(set_id).copy
    reader = site.reader()
    with pytest.raises(StoreError, match="cannot be read"):
        reader.content(reader.catalog.copy(name))
    done = _recover_py(site, "--copy", name, "--to", str(site.folder / "back"))
    assert done.returncode == 1
    assert "not a path inside a set" in done.stderr


@pytest.mark.skipif(not shutil.which("age"), reason="the program age is not installed")
def test_recover_py_lists_the_others_when_copies_are_bad(site: VaultSite) -> None:
    copies = site.folder / "vault" / "copies"
    [good] = [path.name for path in copies.iterdir()]
    bad = {
        "2026-01-01T000000Z-nothing": b"",
        "2026-01-02T000000Z-shape": b'backup-pipeline vault copy 1 2 1\n[]\n"text"\nx',
        "2026-01-03T000000Z-deep": b"backup-pipeline vault copy 1 2 1\n[]\n" + b"[" * 100_000 + b"\nx",
        "2026-01-04T000000Z-\x1b[2Jescape": b"x",
    }
    for name, data in bad.items():
        (copies / name).write_bytes(data)
    os.mkfifo(copies / "2026-01-05T000000Z-pipe")
    (copies / "2026-01-06T000000Z-device").symlink_to("/dev/zero")
    done = _recover_py(site, "--signer", site.access.trusted()[0])
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == [good]
    assert len(done.stderr.splitlines()) == len(bad) + 2
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not shutil.which("age"), reason="the program age is not installed")
def test_what_recover_py_writes_is_for_its_user_alone(site: VaultSite) -> None:
    [copy] = [path.name for path in (site.folder / "vault" / "copies").iterdir()]
    done = _recover_py(site, "--copy", copy, "--to", str(site.folder / "back"))
    assert done.returncode == 0, done.stderr
    modes = {path.stat().st_mode & 0o777 for path in (site.folder / "back").rglob("*") if path.is_file()}
    assert modes == {0o600}


@pytest.mark.skipif(not shutil.which("age"), reason="the program age is not installed")
def test_copies_of_two_machines_are_read_with_both_their_keys(site: VaultSite) -> None:
    first = site.access.trusted()[0]
    site.keys = MachineKeys(site.folder / "other machine")
    join(site.access, site.reader().opener)
    second = site.access.trusted()[0]
    site.copy(site.seal(1, FEW))
    alone, both = _recover_py(site, "--signer", second), _recover_py(site, "--signer", second, "--signer", first)
    assert (alone.returncode, len(alone.stdout.splitlines())) == (1, 1)
    assert (both.returncode, len(both.stdout.splitlines())) == (0, 2)
    reader = VaultReader(site.place, site.identity, (second, first))
    assert [reader.content(copy).plan for copy in reader.catalog.copies()[0]] == [PLAN, PLAN]
    old_kit = _recover_py(site, "--signer", first)
    assert (old_kit.returncode, len(old_kit.stdout.splitlines())) == (1, 1)
    reader = VaultReader(site.place, site.identity, (first,), joined_later=True)
    assert [copy.signed_by for copy in reader.catalog.copies()[0]] == [first]
    with pytest.raises(RefusedError, match="another key"):
        VaultReader(site.place, site.identity, (first,))
    [refused] = site.access.catalog().copies()[1]
    assert "`signers`" in refused.error.remedy
