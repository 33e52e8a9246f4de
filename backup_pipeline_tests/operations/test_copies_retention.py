"""Retention of copies in a vault: reasons as for sets, marks before removal, nothing while the newest copy is bad."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.copies.copying import copy_into
from backup_pipeline.operations.sites.copy_records import vault_record
from backup_pipeline_tests.support.copies_site import CopiesSite
from backup_pipeline_tests.support.invented_sets import add_proof, make_set


@pytest.fixture
def site(tmp_path: Path) -> CopiesSite:
    return CopiesSite(tmp_path, entry=", retention: {keep_last: 1}").begin()


def copies(site: CopiesSite, count: int = 4) -> list[SetId]:
    """Make sets of the last days, the newest of today, each with a copy."""
    store = site.store("nightly")
    store.prepare()
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=count, minutes=5)
    made = []
    for number in range(count):
        made.append(make_set(store, start + timedelta(days=number + 1), size=1000 + number))
        copy_into(site.site, "offsite", "nightly", made[-1])
    return made


def cleaned(site: CopiesSite, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = site.run("vault", "clean", "offsite", "--json", *arguments)
    assert done.code == code, done.text
    found: dict[str, Any] = json.loads(done.out)
    return found


def kept(document: dict[str, Any]) -> dict[str, str]:
    """Return set → reasons of what stays."""
    [plan] = document["plans"]
    return {one["set"]: "; ".join(one["reasons"]) for one in plan["copies"] if one["keep"]}


def test_every_copy_has_a_reason_and_a_dry_run_touches_nothing(site: CopiesSite) -> None:
    made = copies(site)
    trial = cleaned(site, "--dry-run")
    assert set(kept(trial)) == {made[-1]}
    assert "last 1 of 1" in kept(trial)[made[-1]]
    assert not list((site.vault / "marks").glob("*"))
    text = site.run("vault", "clean", "offsite", "--dry-run").out
    assert text.count("no rule keeps it (last 1)") == 3


def test_copies_are_marked_first_and_go_72_hours_later(site: CopiesSite) -> None:
    made = copies(site)
    first = cleaned(site)
    assert first["plans"][0]["marked"] == made[:-1]
    assert first["removed_copies"] == []
    assert len(vault_record(site.site, "offsite").of_plan("nightly")) == 1
    old = time.time() - 73 * 3600
    for path in site.vault.rglob("*"):
        os.utime(path, (old, old))
    second = cleaned(site)
    assert len(second["removed_copies"]) == 3
    assert [one.set_id for one in vault_record(site.site, "offsite").copies["nightly"]] == made[-1:]
    assert cleaned(site)["plans"][0]["marked"] == []
    assert site.run("vault", "check", "offsite", "--identity", str(site.identity)).code == 0


def test_the_last_copy_of_a_proven_set_stays(site: CopiesSite) -> None:
    made = copies(site)
    add_proof(site.store("nightly"), made[1], ProofKind.DRILL, datetime.now(UTC))
    reasons = kept(cleaned(site))
    assert set(reasons) == {made[1], made[-1]}
    assert "the last copy whose set was proven in its store" in reasons[made[1]]
    # Also when the set itself has gone from the store since.
    site.store("nightly").remove(made[1])
    assert made[1] in kept(cleaned(site))


def test_nothing_goes_while_the_newest_copy_is_bad(site: CopiesSite) -> None:
    made = copies(site)
    copy = vault_record(site.site, "offsite").copies["nightly"][-1].copy_name
    file = site.vault / "copies" / copy
    file.write_bytes(file.read_bytes()[:-1])
    checked = site.run("vault", "check", "offsite")
    assert checked.code == 6, checked.text
    document = cleaned(site, code=8)
    assert f"the newest set {made[-1]} is bad" in document["plans"][0]["refusal"]
    assert document["plans"][0]["marked"] == []
    status = site.run("status", "nightly").out
    assert "Copies in offsite are not whole" in status


def test_a_copy_of_which_nothing_is_recorded_stays_until_an_identity_described_it(site: CopiesSite) -> None:
    made = copies(site)
    site.store("nightly").remove(made[0])
    (site.folder / ".backup-pipeline" / "copies" / "offsite.json").unlink()
    reasons = kept(cleaned(site, "--dry-run"))
    assert "not recorded here" in reasons[made[0]]
    assert site.run("vault", "check", "offsite", "--identity", str(site.identity)).code == 0
    assert made[0] not in kept(cleaned(site, "--dry-run"))


def test_cleanup_marks_copies_too_and_a_vault_that_is_away_keeps_no_set(site: CopiesSite) -> None:
    made = copies(site)
    settings = site.folder / "backup.yaml"
    settings.write_text(settings.read_text().replace("keep_last: 30", "keep_last: 2"))
    trial = json.loads(site.run("cleanup", "--dry-run", "--json").out)
    assert [len(vault["plans"][0]["copies"]) for vault in trial["vaults"]] == [4]
    away = site.vault.rename(site.parent / "unplugged")
    failed = site.run("cleanup", "--yes")
    assert failed.code == 9, failed.text
    assert list(site.store("nightly").sealed_ids()) == made[-2:]
    away.rename(site.vault)
    done = site.run("cleanup", "--yes", "--json")
    assert done.code == 0, done.text
    assert json.loads(done.out)["vaults"][0]["plans"][0]["marked"] == made[:-1]
