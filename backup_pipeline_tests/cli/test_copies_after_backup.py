"""`backup` copies what it has sealed into the plan's vaults; a copy that fails is said and never fails the backup."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.errors import ExitCode
from backup_pipeline.operations.copies.copying import missing_copies
from backup_pipeline.operations.sites.copy_records import vault_record
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline_tests.support.copies_site import CopiesSite


@pytest.fixture
def site(tmp_path: Path) -> CopiesSite:
    return CopiesSite(tmp_path).begin()


def test_a_backup_is_copied_after_its_seal_and_status_knows_it(site: CopiesSite) -> None:
    done = site.run("backup", "nightly", "--json")
    assert done.code == 0, done.text
    document = json.loads(done.out)
    [copy] = document["copies"]
    assert (copy["to"], copy["set"], copy["copied"]) == ("offsite", f"nightly/{document['set']}", True)
    assert copy["sent_bytes"] > 0
    listed = json.loads(site.run("vault", "list", "offsite", "--identity", str(site.identity), "--json").out)
    assert [row["set"] for row in listed["copies"]] == [copy["set"]]

    [known] = json.loads(site.run("status", "nightly", "--json").out)["plans"][0]["copies"]
    assert (known["newest"], known["missing"], known["off_site"]) == (document["set"], [], False)
    # The stored bytes are those of the chunks as they lie there.
    chunks = sum(path.stat().st_size for path in (site.vault / "chunks").rglob("*") if path.is_file())
    assert known["stored_bytes"] == chunks
    text = site.run("status", "nightly").out
    assert "offsite: 1, newest" in text
    assert "A folder cannot lock objects" in text


def test_a_copy_that_fails_leaves_the_backup_sealed_and_is_made_by_the_next_one(site: CopiesSite) -> None:
    away = site.vault.rename(site.parent / "unplugged")
    failed = site.run("backup", "nightly", "--json")
    document = json.loads(failed.out)
    assert (failed.code, document["exit_code"], document["sealed"]) == (12, ExitCode.NOT_COPIED, True)
    [copy] = document["copies"]
    assert not copy["copied"]
    assert str(site.vault) in str(copy["error"])
    assert site.run("verify", "nightly/latest").code == 0
    opened = [incident.what for incident in read_state(site.site).open]
    assert [what for what in opened if f"Set {document['set']} has no copy in offsite" in what], opened
    problems = [problem.what for problem in plan_status(site.site, "nightly", datetime.now(UTC)).problems]
    assert any("has no copy in offsite" in what for what in problems)

    away.rename(site.vault)
    site.change_files("new")
    again = site.run("backup", "nightly")
    assert again.code == 0, again.text
    assert again.out.count("copied into offsite") == 2
    assert not [found for found in read_state(site.site).open if "no copy in offsite" in found.what]


def test_text_output_names_the_remedy_of_a_failed_copy(site: CopiesSite) -> None:
    site.vault.rename(site.parent / "unplugged")
    failed = site.run("backup", "nightly")
    assert failed.code == ExitCode.NOT_COPIED
    assert "sealed" in failed.out
    assert "has no copy in offsite" in failed.err
    assert "backup-pipeline vault copy offsite nightly/" in failed.err


def test_sets_that_were_missed_are_copied_in_their_order_and_older_ones_are_not(site: CopiesSite) -> None:
    plain = site.folder / "backup.yaml"
    text = plain.read_text()
    plain.write_text(text.replace("    copies: [{to: offsite}]\n", ""))
    assert site.run("backup", "nightly").code == 0
    first = site.store("nightly").sealed_ids()[-1]
    plain.write_text(text)
    site.change_files("second")
    assert site.run("backup", "nightly").code == 0
    second = site.store("nightly").sealed_ids()[-1]
    copied = {one.set_id for one in vault_record(site.site, "offsite").copies["nightly"]}
    assert copied == {second}
    assert site.run("vault", "copy", "offsite", f"nightly/{first}").code == 0
    assert missing_copies(site.site, "nightly", "offsite") == ()
    assert [one.set_id for one in vault_record(site.site, "offsite").copies["nightly"]] == [first, second]


def test_a_lost_record_is_built_anew_from_the_vault_without_an_identity(site: CopiesSite) -> None:
    assert site.run("backup", "nightly").code == 0
    before = vault_record(site.site, "offsite")
    [record] = (site.folder / ".backup-pipeline" / "copies").glob("offsite.json")
    record.unlink()
    set_id = site.store("nightly").sealed_ids()[-1]
    assert site.run("vault", "copy", "offsite", f"nightly/{set_id}").code == 0
    after = vault_record(site.site, "offsite")
    assert after.copies["nightly"][0].copy_name == before.copies["nightly"][0].copy_name
    assert after.copies["nightly"][0].sources == ("files",)
    assert after.stored_bytes == before.stored_bytes


def test_status_nags_for_the_kit_and_says_what_is_missing_of_3_2_1_1_0(site: CopiesSite) -> None:
    assert site.run("backup", "nightly").code == 0
    assert site.run("drill", "nightly/latest").code == 0
    status = plan_status(site.site, "nightly", datetime.now(UTC))
    assert any("No kit of offsite was printed" in problem.what for problem in status.problems)
    holds = {answer.rule: answer.holds for answer in status.answers}
    # The vault is a folder on the store's own disk: a copy more, and no other medium.
    assert holds == {
        "3 copies": True,
        "2 media": False,
        "1 off-site": False,
        "1 immutable": False,
        "0 errors": True,
    }
    site.vault_settings = ", off_site: true"
    site.settle()
    status = plan_status(site.site, "nightly", datetime.now(UTC))
    assert {answer.rule: answer.holds for answer in status.answers}["1 off-site"]


def test_a_copy_that_is_days_late_is_an_error(site: CopiesSite) -> None:
    assert site.run("backup", "nightly").code == 0
    site.vault.rename(site.parent / "unplugged")
    site.change_files("later")
    assert site.run("backup", "nightly").code == ExitCode.NOT_COPIED
    for days, severity in ((0, "warning"), (4, "error")):
        status = plan_status(site.site, "nightly", datetime.now(UTC) + timedelta(days=days))
        [found] = [problem for problem in status.problems if "has no copy" in problem.what]
        assert found.severity == severity


def test_status_asks_for_a_kit_and_a_drill_from_the_vault_until_both_were_made(site: CopiesSite) -> None:
    assert site.run("backup", "nightly").code == 0
    assert site.run("drill", "nightly/latest").code == 0

    def asked_for() -> list[str]:
        problems = plan_status(site.site, "nightly", datetime.now(UTC)).problems
        return [word for word in ("No kit of offsite", "drilled from offsite") if any(word in p.what for p in problems)]

    assert asked_for() == ["No kit of offsite", "drilled from offsite"]
    kit = site.run("vault", "kit", "offsite", "--identity", str(site.identity), "--html", str(site.parent / "kit.html"))
    assert kit.code == 0, kit.text
    assert asked_for() == ["drilled from offsite"]
    drilled = site.run("drill", "offsite:nightly/latest", "--identity", str(site.identity))
    assert drilled.code == 0, drilled.text
    assert asked_for() == []
    [status] = json.loads(site.run("status", "nightly", "--json").out)["plans"]
    set_id = site.store("nightly").sealed_ids()[-1]
    assert status["copies"][0]["proven_from_vault"] == set_id
    assert status["standing"] == "good"
    zero = status["three_two_one_one_zero"][-1]
    assert zero["holds"]
    assert "from the store" in zero["what"]
    assert "from offsite" in zero["what"]
    assert status["copies"][0]["proven_from_vault_seconds"] > 0
    assert status["copies"][0]["proven_from_vault_bytes"] == site.store("nightly").read(set_id).size
    shown = site.run("status", "nightly").out
    assert re.search(rf"{set_id} proven from there \([^)]+ restored in [\d.]+ s\)", " ".join(shown.split())), shown
