"""`vault`: a set goes into a folder's vault and comes back from it, on this machine and on a bare one."""

from __future__ import annotations

import filecmp
import json
import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.operations.retention.in_use import readers_of
from backup_pipeline.operations.sites.stores import plan_lock
from backup_pipeline.operations.sites.vaults import open_access
from backup_pipeline.stores.vault import clean as clean_module
from backup_pipeline.stores.vault.clean import mark
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.support.forked_sites import ForkedCommand
from backup_pipeline_tests.support.sites import TestSite

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


def test_a_vault_that_is_not_made_leaves_no_identity_behind(site: TestSite, tmp_path: Path) -> None:
    unused = tmp_path / "unused.txt"
    again = site.run("vault", "init", "offsite", "--new-identity", str(unused))
    assert again.code == 8
    assert "already" in again.text
    assert not unused.exists()
    site.write(SETTINGS.format(vault=tmp_path / "new", recipient=""))
    (tmp_path / "new").mkdir()
    bare = site.run("vault", "init", "offsite")
    assert bare.code == 8
    assert "--new-identity FILE" in bare.text
    assert not list((tmp_path / "new").iterdir())


def test_status_asks_for_the_kit_of_a_vault_that_is_the_only_store(site: TestSite, tmp_path: Path) -> None:
    recipient = (tmp_path / "identity.txt").read_text().split()[3]
    settings = SETTINGS.format(vault=tmp_path / "vault", recipient=recipient)
    site.write(settings.replace("[files]}", '[files], store: "vault:offsite"}'))
    assert site.run("backup", "nightly").code == 0
    assert "No kit of offsite" in site.run("status").text
    kit = site.run("vault", "kit", "offsite", "--identity", str(tmp_path / "identity.txt"))
    assert kit.code == 0, kit.text
    assert "No kit of offsite" not in site.run("status").text


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


def _json(site: TestSite, *arguments: str) -> dict[str, Any]:
    done = site.run("vault", *arguments, "--json")
    assert done.code == 0, done.text
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_marked_copy_is_kept_for_its_grace_time_and_cleaning_says_so(site: TestSite, tmp_path: Path) -> None:
    _json(site, "copy", "offsite", "nightly/latest")
    catalog = open_access(site.site, "offsite").catalog()
    [copy] = catalog.copy_names()
    mark(catalog, [copy])
    found = _json(site, "clean", "offsite")
    assert list(found["waiting"]) == [copy]
    assert not found["removed_copies"]
    old = time.time() - 73 * 3600
    for path in (tmp_path / "vault").rglob("*"):
        os.utime(path, (old, old))
    trial = _json(site, "clean", "offsite", "--dry-run")
    assert trial["removed_copies"] == [copy]
    assert trial["removed_chunks"] > 0
    assert catalog.copy_names() == [copy]
    assert not list((tmp_path / "vault" / "leases").glob("*2"))
    done = _json(site, "clean", "offsite")
    assert {**trial, "dry_run": False} == done
    assert not [path for path in (tmp_path / "vault").glob("c*/**/*") if path.is_file()]


def test_a_second_cleaner_waits_for_the_first(site: TestSite) -> None:
    with clean_module._lease(open_access(site.site, "offsite").place, clean_module.utc_now):
        done = site.run("vault", "clean", "offsite")
    assert done.code == 4
    assert "Another cleaner" in done.err


def test_a_kit_holds_what_the_worst_day_needs_and_is_remembered(
    site: TestSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _json(site, "copy", "offsite", "nightly/latest")
    identity = tmp_path / "identity.txt"
    line = identity.read_text().splitlines()[-1]
    keys = open_access(site.site, "offsite").keys
    vault = open_access(site.site, "offsite").catalog().description.vault
    assert keys.kit(vault) is None
    printed = site.run("vault", "kit", "offsite", "--identity", str(identity))
    assert printed.code == 0, printed.text
    assert line in printed.out
    assert "█" in printed.out
    note = keys.kit(vault)
    assert note is not None
    assert note.recipients == site.site.settings.vaults["offsite"].recipients
    page = tmp_path / "kit.html"
    assert site.run("vault", "kit", "offsite", "--identity", str(identity), "--html", str(page)).code == 0
    assert page.stat().st_mode & 0o777 == 0o600
    assert line in page.read_text()
    assert "data:image/svg+xml" in page.read_text()
    assert site.run("vault", "kit", "offsite", "--identity", str(identity), "--html", str(page)).code == 8
    # The first command of the page is run as it stands, on a bare machine.
    [command] = [row.strip() for row in printed.out.splitlines() if "vault recover" in row]
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "identity.txt").write_text(line + "\n")
    monkeypatch.chdir(bare)
    assert run_app(build_app(), shlex.split(command)[1:]) == 0
    assert (bare / "recovered" / "backup.yaml").is_file()
    kept = [path for path in site.folder.rglob("*") if path.is_file() and line.encode() in path.read_bytes()]
    assert not kept


def test_a_kit_without_the_identity_or_with_another_is_refused(site: TestSite, tmp_path: Path) -> None:
    missing = site.run("vault", "kit", "offsite")
    assert missing.code == 3
    assert "--identity FILE" in missing.err
    other = tmp_path / "other.txt"
    other.write_text(new_identity()[0] + "\n")
    wrong = site.run("vault", "kit", "offsite", "--identity", str(other))
    assert wrong.code == 8
    assert other.read_text().strip() not in wrong.text


def test_recipients_change_and_old_copies_are_encrypted_anew(site: TestSite, tmp_path: Path) -> None:
    copied = _json(site, "copy", "offsite", "nightly/latest")["set"]
    secret, public = new_identity()
    new = tmp_path / "new.txt"
    new.write_text(secret + "\n")
    text = (site.folder / "backup.yaml").read_text()
    [before] = site.site.settings.vaults["offsite"].recipients
    (site.folder / "backup.yaml").write_text(text.replace(before, public))
    refused = site.run("vault", "copy", "offsite")
    assert refused.code == 8
    assert "vault recipients" in refused.err
    found = _json(site, "recipients", "offsite", "--change")
    assert (found["vault"], found["earlier_copies"]) == ([public], 1)
    assert _json(site, "recipients", "offsite", "--change")["generation"] == found["generation"]
    # Who reads the vault anew cannot read what was there, until the earlier identity encrypts it to him.
    assert site.run("vault", "fetch", "offsite", copied, "--identity", str(new)).code == 8
    done = _json(site, "reencrypt", "offsite", "--identity", str(tmp_path / "identity.txt"))
    assert len(done["done"]) == 1
    assert done["sent"]
    again = _json(site, "reencrypt", "offsite", "--identity", str(tmp_path / "identity.txt"))
    assert (again["done"], again["sent"], len(again["present"])) == ([], 0, 1)
    shutil.move(site.folder / "backups" / copied, tmp_path / "original")
    fetched = site.run("vault", "fetch", "offsite", copied, "--identity", str(new))
    assert fetched.code == 0, fetched.text
    assert _same(tmp_path / "original", site.folder / "backups" / copied)
    assert site.run("vault", "check", "offsite", "--identity", str(new)).code == 0
    assert site.run("vault", "check", "offsite", "--identity", str(tmp_path / "identity.txt")).code == 8


def test_a_vault_holds_no_name_no_row_and_no_secret_in_plain(site: TestSite, tmp_path: Path) -> None:
    (site.folder / "files" / "Kundenliste Meier.csv").write_text(
        "Meier;Hauptstrasse 7;IBAN DE02120300000000202051\n" * 50
    )
    (site.folder / "files" / "unterordner").mkdir()
    (site.folder / "files" / "unterordner" / "einzeln.txt").write_text("nur-einmal-4711")
    site.variables["WEBHOOK_TOKEN"] = "a-token-of-the-site"
    site.write_env()
    assert site.run("backup", "nightly").code == 0
    identity = tmp_path / "identity.txt"
    _json(site, "copy", "offsite", "nightly/latest")
    assert site.run("verify", "offsite:nightly/latest", "--identity", str(identity)).code == 0
    catalog = open_access(site.site, "offsite").catalog()
    mark(catalog, catalog.copy_names()[:1], "kept too long")
    _json(site, "clean", "offsite")
    access = open_access(site.site, "offsite")
    id_key = access.keys.id_key(catalog.description.vault)
    assert id_key is not None
    private = [path.read_bytes().strip() for path in access.keys.folder.iterdir() if path.suffix.endswith("key")]
    manifest = next((site.folder / "backups").rglob("manifest.json")).read_bytes()
    words = [
        *(b"nightly", b"files", b"folder", b"offsite", b"backup.yaml", b"manifest", b"secret", b"a secret row"),
        *(b"Kundenliste", b"Meier", b"Hauptstrasse", b"DE02120300000000202051", b"unterordner", b"nur-einmal-4711"),
        *(b"WEBHOOK_TOKEN", b"a-token-of-the-site", str(site.folder).encode()),
        *(identity.read_bytes().split()[-1], id_key, id_key.hex().encode(), *private),
        *(json.loads(manifest)["artefacts"][0]["files"][0]["sha256"].encode(),),
    ]
    found = [path for path in (tmp_path / "vault").rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path / "vault").parts[0] for path in found} >= {"copies", "chunks", "proofs", "marks"}
    for path in found:
        # The way back is the same in every vault.
        own = path.name in ("RECOVERY.md", "recover.py")
        readable = b"" if own else path.name.encode() + b"\n" + path.read_bytes()
        for word in words:
            assert word not in readable, f"{word!r} stands in {path}"


@pytest.mark.takes(seconds=2, together="forked")
def test_a_backup_need_not_wait_for_an_upload_and_cleanup_keeps_its_set(site: TestSite, tmp_path: Path) -> None:
    text = (site.folder / "backup.yaml").read_text()
    # Of many chunks, so that the copy lasts beyond the first.
    (site.folder / "files" / "big.bin").write_bytes(os.urandom(20_000_000))
    assert site.run("backup", "nightly").code == 0
    set_id = site.store("nightly").sealed_ids()[-1]
    slow = text.replace("{url:", "{megabytes_per_second: 0.3, url:")
    (site.folder / "backup.yaml").write_text(slow)
    copying = ForkedCommand(site, "vault", "copy", "offsite", f"nightly/{set_id}")
    try:
        while not list((tmp_path / "vault").glob("chunks/*/*")):
            assert copying.poll() is None, copying.communicate()
            time.sleep(0.05)
        with plan_lock(site.site, "nightly", "backup", wait_seconds=0):
            assert "copy into offsite" in readers_of(site.store("nightly"), set_id)
        assert copying.poll() is None
    finally:
        copying.kill()
        copying.communicate()
