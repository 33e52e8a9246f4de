"""`vault`: a set goes into a folder's vault and comes back from it, on this machine and on a bare one."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path

import pytest

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline_tests.sites import TestSite

SETTINGS = """
store: backups
sources: {{files: {{kind: folder, path: files}}}}
plans: {{nightly: {{sources: [files]}}}}
vaults:
  offsite: {{url: "file://{vault}", recipients: [{recipient}]}}
"""


@pytest.fixture
def site(tmp_path: Path) -> TestSite:
    """A site with a sealed set, a vault in a folder beside, and its identity in `identity.txt`."""
    made = TestSite(tmp_path / "site")
    (made.folder / "files").mkdir(parents=True)
    (made.folder / "files" / "secret-name.txt").write_text("a secret row\n" * 5000)
    (tmp_path / "vault").mkdir()
    made.write(SETTINGS.format(vault=tmp_path / "vault", recipient=""))
    done = made.run("vault", "init", "offsite", "--new-identity", str(tmp_path / "identity.txt"), "--json")
    assert done.code == 0, done.text
    [recipient] = json.loads(done.out)["recipients"]
    made.write(SETTINGS.format(vault=tmp_path / "vault", recipient=recipient))
    assert made.run("backup", "nightly").code == 0
    return made


def _same(one: Path, other: Path) -> bool:
    found = filecmp.dircmp(one, other, ignore=["proofs"])
    return not (found.left_only or found.right_only or found.diff_files)


def test_a_set_goes_into_a_vault_and_comes_back_equal(site: TestSite, tmp_path: Path) -> None:
    identity = tmp_path / "identity.txt"
    assert identity.stat().st_mode & 0o777 == 0o600
    copied = json.loads(site.run("vault", "copy", "offsite", "nightly/latest", "--json").out)
    again = json.loads(site.run("vault", "copy", "offsite", "nightly/latest", "--json").out)
    assert (copied["already_there"], again["already_there"], again["sent"]) == (False, True, 0)
    listed = json.loads(site.run("vault", "list", "offsite", "--identity", str(identity), "--json").out)
    assert [row["set"] for row in listed["copies"]] == [copied["set"]]
    for more in ([], ["--identity", str(identity)]):
        checked = site.run("vault", "check", "offsite", *more)
        assert checked.code == 0, checked.text
    stored = b"".join(path.read_bytes() for path in (tmp_path / "vault").rglob("*") if path.is_file())
    assert b"secret" not in stored
    assert b"nightly" not in stored

    set_id = copied["set"].partition("/")[2]
    original = tmp_path / "original"
    shutil.move(site.folder / "backups" / "nightly" / set_id, original)
    fetched = site.run("vault", "fetch", "offsite", copied["set"], "--identity", str(identity))
    assert fetched.code == 0, fetched.text
    assert _same(original, site.folder / "backups" / "nightly" / set_id)
    assert site.run("verify", copied["set"]).code == 0


def test_a_bare_machine_recovers_sets_and_settings(site: TestSite, tmp_path: Path) -> None:
    copied = json.loads(site.run("vault", "copy", "offsite", "nightly/latest", "--json").out)["set"]
    target = tmp_path / "bare"
    where = ["--identity", str(tmp_path / "identity.txt"), "--to", str(target)]
    assert run_app(build_app(), ["vault", "recover", f"file://{tmp_path / 'vault'}", *where]) == 0
    [found] = target.rglob(copied.partition("/")[2])
    assert _same(site.folder / "backups" / copied, found)
    [settings] = target.rglob("backup.yaml")
    assert settings.read_text() == (site.folder / "backup.yaml").read_text()


def test_damage_and_a_wrong_identity_are_named(site: TestSite, tmp_path: Path) -> None:
    assert site.run("vault", "copy", "offsite", "nightly/latest").code == 0
    other = TestSite(tmp_path / "other")
    other.folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    other.write(SETTINGS.format(vault=tmp_path / "elsewhere", recipient=""))
    assert other.run("vault", "init", "offsite", "--new-identity", str(tmp_path / "wrong.txt")).code == 0
    refused = site.run("vault", "fetch", "offsite", "nightly/latest", "--identity", str(tmp_path / "wrong.txt"))
    assert refused.code != 0
    assert "Traceback" not in refused.text
    assert "identity" in refused.text
    chunk = next(path for path in (tmp_path / "vault" / "chunks").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    checked = site.run("vault", "check", "offsite")
    assert checked.code == 6, checked.text
    assert "1 bad" in checked.text


def test_a_vault_without_recipients_is_refused(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    (tmp_path / "vault").mkdir()
    site.write(SETTINGS.format(vault=tmp_path / "vault", recipient=""))
    done = site.run("vault", "init", "offsite")
    assert done.code != 0
    assert "recipients" in done.text
    assert list((tmp_path / "vault").iterdir()) == []
