"""What the commands say where an identity, a signer or a plan's former name is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from backup_pipeline_tests.support.copies_site import CopiesSite


@pytest.fixture
def site(tmp_path: Path) -> CopiesSite:
    made = CopiesSite(tmp_path).begin()
    done = made.run("backup", "nightly")
    assert done.code == 0, done.text
    return made


def test_a_copy_is_shown_without_an_identity_as_far_as_it_stands_in_plain(site: CopiesSite) -> None:
    (set_id,) = site.store("nightly").ids()
    for name in ("offsite:nightly/latest", f"offsite:nightly/{set_id}"):
        done = site.run("show", name)
        assert done.code == 0, done.text
        assert set_id in done.out
        assert "no drill from the vault has passed" in done.out
        assert "--identity FILE" in done.out
        assert f"backup-pipeline show nightly/{set_id}" in done.out
        assert "secret-name" not in done.text
    shown = json.loads(site.run("show", "offsite:nightly/latest", "--json").out)
    assert (shown["set_id"], shown["plan"], shown["encrypted"]) == (set_id, "nightly", True)
    with_identity = site.run("show", "offsite:nightly/latest", "--identity", str(site.identity))
    assert "files" in with_identity.out
    missing = site.run("show", "offsite:nightly/2020-01-01T000000Z")
    assert missing.code != 0
    assert "backup-pipeline list offsite:" in missing.err


def test_a_machine_that_joins_is_warned_of_the_key_that_it_does_not_trust(site: CopiesSite, tmp_path: Path) -> None:
    shutil.copytree(
        site.folder, tmp_path / "other" / "site", ignore=shutil.ignore_patterns("backups", ".backup-pipeline")
    )
    other = CopiesSite.__new__(CopiesSite)
    other.__dict__.update(site.__dict__ | {"folder": tmp_path / "other" / "site"})
    done = other.run("vault", "init", "offsite", "--identity", str(site.identity), "--json")
    assert done.code == 0, done.text
    first, second = json.loads(done.out)["signed_by"][::-1][:2]
    warned = [key for key in (first, second) if f'signers: ["{key}"]' in done.err]
    assert len(warned) == 1
    assert "do not count here" in done.err
    other.vault_settings = f', signers: ["{warned[0]}"]'
    other.settle()
    done = other.run("vault", "init", "offsite", "--identity", str(site.identity))
    assert done.code == 0, done.text
    assert "do not count here" not in done.text


def test_a_plan_that_was_renamed_says_where_its_sets_are(tmp_path: Path) -> None:
    site = CopiesSite(tmp_path).begin()
    settings = (site.folder / "backup.yaml").read_text().replace("copies: [{to: offsite}]", 'store: "vault:offsite"')
    site.write(settings)
    assert site.run("backup", "nightly").code == 0
    site.write(settings.replace("nightly:", "every_night:"))
    done = site.run("show", "every_night/latest")
    assert done.code != 0
    assert "Was the plan renamed?" in done.err
    assert "backup-pipeline list offsite:nightly --identity FILE" in done.err
    done = site.run("list", "offsite:nightly", "--identity", str(site.identity))
    assert done.code == 0, done.text
    assert "nightly" in done.out
