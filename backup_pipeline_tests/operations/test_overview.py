"""The overview: the answer to "are we safe?", its reasons, measured figures, and days that are never whitewashed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.model.copy_records import CopyRecord, VaultRecord
from backup_pipeline.model.incident import Incident, IncidentKind, IncidentState
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.status.copies import CopiesStatus
from backup_pipeline.operations.status.days import days_of
from backup_pipeline.operations.status.incident_state import change_state
from backup_pipeline.operations.status.overview import CopyFigures, Overview, overview_of, site_overview
from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set

NOW = at("2026-11-21 12:00")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "backup.yaml").write_text(SITE.replace("keep_last: 2", "keep_last: 90"), "utf-8")
    return load_site(tmp_path, environment={})


def nightly(site: Site) -> LocalStore:
    return LocalStore(site.store_folder("nightly"), "nightly")


def proven_set(store: LocalStore, text: str, seconds: float = 12.5) -> None:
    add_proof(store, make_set(store, at(text)), ProofKind.DRILL, at(text) + timedelta(hours=3), rto_seconds=seconds)


def answer(site: Site) -> tuple[str, str]:
    found: Overview = site_overview(site, NOW)
    return found.verdict, found.sentence


def test_a_plan_that_nothing_starts_is_named_and_changes_no_answer(tmp_path: Path) -> None:
    settings = SITE.replace('    schedule: "0 2 * * *"\n', "")
    for more, remedy in (("", "give it `schedule:"), ("    overdue_after: 30h\n", "")):
        (tmp_path / "backup.yaml").write_text(settings + more)
        (plan,) = site_overview(load_site(tmp_path, environment={}), NOW).plans
        assert plan.not_started.startswith(remedy)
        assert bool(plan.not_started) == bool(remedy)
        assert "starts this plan" not in str(plan.problems)


def test_the_word_of_a_plan_agrees_with_the_answer_about_its_place(site: Site) -> None:
    proven_set(nightly(site), "2026-11-21 02:00")
    found = site_overview(site, NOW)
    assert found.sentence == "Yes, unless this machine is lost."
    (plan,) = found.plans
    assert (plan.standing, plan.unless) == ("good", ", unless this machine is lost")
    assert replace(plan, standing="failing").unless == replace(plan, lost_with="").unless == ""


def test_the_answer_is_no_without_a_backup_and_yes_only_when_one_is_proven(site: Site) -> None:
    assert answer(site) == ("failing", "No. There is no good backup yet.")
    set_id = make_set(nightly(site), at("2026-11-21 02:00"))
    assert answer(site) == ("attention", "Yes, but 2 things need attention.")
    place, reason = site_overview(site, NOW).reasons
    assert "No copy leaves this machine" in place.problem.what
    assert (reason.plans, reason.problem.action) == (("nightly",), "drill")
    add_proof(nightly(site), set_id, ProofKind.DRILL, at("2026-11-21 03:00"), rto_seconds=9)
    assert answer(site) == ("attention", "Yes, unless this machine is lost.")
    found = site_overview(site, NOW)
    assert "10 hours old" in found.detail
    away = overview_of([replace(plan, lost_with="") for plan in found.plans], NOW)
    assert (away.verdict, away.sentence, away.reasons) == ("good", "Yes, you are safe.", ())


def test_reasons_come_worst_first_and_name_the_run_that_mends_them(site: Site) -> None:
    make_set(nightly(site), at("2026-11-19 02:00"))
    make_set(nightly(site), at("2026-11-21 02:00"), sealed=False, failed="the disk was full")
    found = site_overview(site, NOW)
    assert found.sentence == "No. Something is wrong with nightly."
    severities = [one.problem.severity for one in found.reasons]
    assert severities == sorted(severities)
    assert found.reasons[0].problem.action == "backup"
    assert any("the disk was full" in one.problem.what for one in found.reasons)


def test_what_several_plans_have_in_common_stands_once(site: Site) -> None:
    (site.folder / "backup.yaml").write_text(SITE + "  weekly: {sources: [files]}\n", "utf-8")
    both = load_site(site.folder, environment={})
    for plan in ("nightly", "weekly"):
        make_set(LocalStore(both.store_folder(plan), plan), at("2026-11-21 02:00"))
    found = site_overview(both, NOW)
    assert [(one.plans, one.problem.action) for one in found.reasons] == [
        (("nightly", "weekly"), each) for each in ("", "drill")
    ]


def test_measured_are_the_longest_pause_of_thirty_days_and_the_last_restore(site: Site) -> None:
    for text in ("2026-10-01 02:00", "2026-11-01 02:00", "2026-11-17 02:00", "2026-11-20 02:00"):
        proven_set(nightly(site), text, 33.0)
    (plan,) = site_overview(site, NOW).plans
    # The pause that ended on the first of November reaches into the window: that long nothing was backed up.
    assert plan.longest_pause == at("2026-11-01 02:00") - at("2026-10-01 02:00")
    assert plan.proof is not None
    assert (plan.proof.set_id, plan.proof.restore_seconds) == ("2026-11-20T020000Z", 33.0)


def test_a_failed_set_beside_a_good_one_spoils_its_day(site: Site) -> None:
    proven_set(nightly(site), "2026-11-20 02:00")
    make_set(nightly(site), at("2026-11-20 09:00"), sealed=False, failed="no room")
    proven_set(nightly(site), "2026-11-21 02:00")
    days = days_of(plan_status(site, "nightly", NOW), ZoneInfo("UTC"))
    assert {f"{day}": state for day, (state, _) in days.items()} == {"2026-11-20": "mixed", "2026-11-21": "proven"}


def test_a_failed_drill_spoils_the_day_it_was_made_on_too(site: Site) -> None:
    old = make_set(nightly(site), at("2026-11-18 02:00"))
    proven_set(nightly(site), "2026-11-20 02:00")
    add_proof(nightly(site), old, ProofKind.DRILL, at("2026-11-20 06:00"), passed=False, findings=["rows differ"])
    days = days_of(plan_status(site, "nightly", NOW), ZoneInfo("UTC"))
    assert {f"{day}": state for day, (state, _) in days.items()} == {"2026-11-18": "failed", "2026-11-20": "mixed"}


def test_advice_about_copies_spoils_no_day_and_a_failed_copy_does(site: Site) -> None:
    proven_set(nightly(site), "2026-11-20 02:00")
    for subject, state in (("kit:offsite", "proven"), ("copy:offsite", "mixed")):
        key = f"copies:nightly:{subject}"
        incident = Incident(
            key=key, kind=IncidentKind.COPIES, plan="nightly", what="It.", opened_at=at("2026-11-20 08:00")
        )
        change_state(site, lambda _, one=incident: (IncidentState(open=(one,)), None))
        days = days_of(plan_status(site, "nightly", NOW), ZoneInfo("UTC"))
        assert [found for found, _ in days.values()] == [state]


@pytest.mark.parametrize("kind", [IncidentKind.RUN_FAILED, IncidentKind.OVERDUE, IncidentKind.DAMAGED])
def test_an_incident_without_a_set_spoils_its_day_also_when_it_is_over(site: Site, kind: IncidentKind) -> None:
    proven_set(nightly(site), "2026-11-20 02:00")
    moment = at("2026-11-20 08:00")
    incident = Incident(key=f"{kind}:nightly:x", kind=kind, plan="nightly", what="It failed.", opened_at=moment)
    over = incident.model_copy(update={"closed_at": moment + timedelta(hours=1)})
    change_state(site, lambda _: (IncidentState(closed=(over,)), None))
    days = days_of(plan_status(site, "nightly", NOW), ZoneInfo("UTC"))
    assert [state for state, _ in days.values()] == ["mixed"]


def test_a_failed_restore_needs_attention_and_says_nothing_against_good_backups(site: Site) -> None:
    proven_set(nightly(site), "2026-11-21 02:00")
    reason = "Constraint payments_order_id_fkey (SQLSTATE 23503)."
    incident = Incident(
        key="run_failed:nightly:restore of shop",
        kind=IncidentKind.RUN_FAILED,
        plan="nightly",
        what="The restore of shop failed.",
        reason=reason,
        opened_at=at("2026-11-21 08:00"),
    )
    change_state(site, lambda _: (IncidentState(open=(incident,)), None))
    assert answer(site) == ("attention", "Yes, but 2 things need attention.")
    (plan,) = site_overview(site, NOW).plans
    assert [state for state, _ in plan.days.values()] == ["proven"]
    (problem,) = plan.problems
    assert problem.what.startswith("The restore of shop failed or was refused: that says nothing against the backups")
    assert (reason in problem.what, reason in problem.remedy) == (False, True)


def test_a_proof_of_an_older_set_is_not_said_of_the_newest(site: Site) -> None:
    proven_set(nightly(site), "2026-11-20 02:00")
    assert "Proven by a real restore: yes." in site_overview(site, NOW).detail
    make_set(nightly(site), at("2026-11-21 02:00"))
    assert "Proven by a real restore: an older one." in site_overview(site, NOW).detail


def test_the_newest_copy_is_called_proven_only_where_it_is_the_one_that_was(site: Site) -> None:
    old, new = make_set(nightly(site), at("2026-11-20 02:00")), make_set(nightly(site), at("2026-11-21 02:00"))
    copies = CopyFigures("offsite", "file:///mnt", False, 2, new, at("2026-11-21 02:00"), 0, SetId(new), None)
    assert copies.proof_text == "proven from there"
    assert replace(copies, proven=old).proof_text == f"an older one proven from there: {old}"


def test_the_copy_of_an_emergency_set_is_not_the_newest_of_its_plan(site: Site) -> None:
    whole, emergency = SetId("2026-11-20T020000Z"), SetId("2026-11-21T100000Z")
    copies = (
        CopyRecord(set_id=whole, copy_name="a"),
        CopyRecord(set_id=emergency, copy_name="b", purpose=Purpose.EMERGENCY, partial=True),
    )
    status = CopiesStatus("nightly", "offsite", "file:///mnt", VaultRecord(), copies, (), off_site=False)
    assert status.newest == copies[0]
    assert replace(status, copies=copies[1:]).newest == copies[1]
    assert replace(status, copies=()).newest is None


def test_what_could_be_lost_follows_the_schedule_and_not_the_minutes_since_a_backup(site: Site) -> None:
    make_set(nightly(site), NOW - timedelta(minutes=5))
    (first,) = site_overview(site, NOW).plans
    assert replace(first, interval=None).could_be_lost(NOW)[1] == "the plan has no schedule"
    make_set(nightly(site), NOW - timedelta(days=3))
    (plan,) = site_overview(site, NOW).plans
    daily = replace(plan, interval=timedelta(days=1))
    known = "at worst 2 days in the 3 days that are known"
    assert daily.could_be_lost(NOW) == ("up to 24 hours", f"by its schedule; 5 minutes now; {known}")
    assert replace(plan, interval=None).could_be_lost(NOW) == (
        "5 minutes and growing",
        f"the plan has no schedule; {known}",
    )
