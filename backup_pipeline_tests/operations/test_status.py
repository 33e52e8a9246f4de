"""`status`: what is told of a plan's standing, and what counts as wrong."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.operations.sites.stores import open_store, plan_lock
from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline.settings.loader import load_site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set

NOW = at("2026-11-21 12:00")


@pytest.fixture
def site(tmp_path):
    (tmp_path / "backup.yaml").write_text(SITE.replace("keep_last: 2", "keep_last: 30"))
    return load_site(tmp_path, environment={})


@pytest.fixture
def store(site):
    return open_store(site, "nightly")


@pytest.fixture
def nights(store):
    """Five good nights, the first proven, each 100 bytes larger than the one before."""
    made = [make_set(store, at(f"2026-11-{day} 02:00"), size=1000 + 100 * day) for day in range(17, 22)]
    add_proof(store, made[0], ProofKind.VERIFICATION, at("2026-11-17 04:00"))
    add_proof(store, made[0], ProofKind.DRILL, at("2026-11-17 05:00"), rto_seconds=12)
    return made


def reported(site, now=NOW) -> str:
    return " | ".join(f"{p.severity}: {p.what}" for p in plan_status(site, "nightly", now).problems)


def test_a_plan_in_good_order_has_no_problems(site, nights):
    status = plan_status(site, "nightly", NOW)
    assert status.standing == "good"
    assert status.last_good.known.set_id == nights[-1]
    assert status.last_proven.known.set_id == nights[0]
    assert status.next_backup == at("2026-11-22 02:00")
    assert status.trend.per_day == pytest.approx(100)


def test_a_plan_without_any_backup_is_failing(site):
    status = plan_status(site, "nightly", NOW)
    assert status.standing == "failing"
    assert "no complete and good backup" in status.problems[0].what


def test_an_overdue_backup_is_an_error_with_the_time_it_was_due(site, nights):
    assert reported(site, NOW + timedelta(days=2)).startswith(
        "error: Overdue. The newest complete set is of 2026-11-21"
    )


def test_an_incomplete_newest_set_is_told_with_what_failed_and_how_to_complete_it(site, store, nights):
    make_set(store, at("2026-11-21 11:00"), sealed=False, failed="bucket materials is missing")
    status = plan_status(site, "nightly", NOW)
    assert "incomplete: more.tarball: bucket materials is missing" in status.problems[0].what
    assert "--resume" in status.problems[0].remedy
    with plan_lock(site, "nightly", "backup"):
        assert plan_status(site, "nightly", NOW).standing == "good"


def test_an_incomplete_partial_or_emergency_set_is_a_warning(site, store, nights):
    make_set(store, at("2026-11-21 11:00"), sealed=False, partial=True)
    status = plan_status(site, "nightly", NOW)
    assert status.standing == "attention"
    assert "partial or emergency set 2026-11-21T110000Z is incomplete" in status.problems[0].what


def test_damage_in_the_newest_set_is_an_error_and_the_set_before_is_the_last_good(site, store, nights):
    add_proof(store, nights[-1], ProofKind.VERIFICATION, NOW, passed=False, findings=["changed"])
    status = plan_status(site, "nightly", NOW)
    assert status.standing == "failing"
    assert status.last_good.known.set_id == nights[-2]


def test_clean_up_that_is_held_back_is_told(tmp_path, site, store, nights):
    (tmp_path / "backup.yaml").write_text(SITE)
    add_proof(store, nights[-1], ProofKind.VERIFICATION, NOW, passed=False, findings=["changed"])
    assert "Clean-up is held back" in reported(load_site(tmp_path, environment={}))


def test_nothing_proven_and_old_proofs_are_warnings(tmp_path, site, store):
    one = make_set(store, at("2026-11-21 02:00"))
    assert "warning: No set is proven" in reported(site)
    add_proof(store, one, ProofKind.DRILL, at("2026-11-21 05:00"))
    assert reported(site) == ""
    (tmp_path / "backup.yaml").write_text(SITE.replace("retention", "drill: '0 5 * * 0'\n    retention"))
    site = load_site(tmp_path, environment={})
    make_set(store, at("2027-01-21 02:00"))
    assert "warning: The last proof is 61 days old." in reported(site, at("2027-01-21 12:00"))


def test_a_disk_that_will_be_full_is_told_with_its_day(site, nights, monkeypatch):
    monkeypatch.setattr(LocalStore, "free_bytes", lambda _: 30_000)
    problem = next(p for p in plan_status(site, "nightly", NOW).problems if "disk" in p.what)
    assert problem.severity == "warning"
    assert "in 9 days, about 2026-11-30" in problem.what
    monkeypatch.setattr(LocalStore, "free_bytes", lambda _: 10_000)
    assert "error: The disk will be full in 3 days" in reported(site)


def test_failed_checks_of_the_last_good_set_are_told(site, store, nights):
    make_set(store, at("2026-11-21 03:00"), bad_checks=2)
    assert "warning: 4 checks of the last good set did not pass." in reported(site)


def test_a_store_that_cannot_be_read_is_a_problem_and_not_a_crash(site):
    site.settings.store.mkdir()
    (site.settings.store / "nightly").write_text("a file")
    status = plan_status(site, "nightly", NOW)
    assert status.standing == "failing"


def test_the_log_tells_of_runs_whose_sets_are_gone(site, store, nights):
    (store.folder / "backup_log.txt").write_text(
        "2026-10-01 02:01:00 - backup - INFO - nightly/2026-10-01T020000Z complete, 3 artefacts, 9 rows, 1 s\n"
        "2026-10-02 02:01:00 - backup - ERROR - nightly/2026-10-02T020000Z incomplete: boom, 1.0 s\n"
        "2026-10-02 02:01:00 - backup - ERROR - nightly not begun: boom, 1.0 s\n"
        "2026-10-02 02:01:00 - cleanup - INFO - nightly/2026-10-01T020000Z removed, 9 bytes: old\n"
    )
    assert plan_status(site, "nightly", NOW).past_runs == (
        ("2026-10-01T020000Z", "complete"),
        ("2026-10-02T020000Z", "incomplete"),
    )


def test_the_command_tells_the_same_as_text_and_as_json(site, nights, capsys):
    # The sets are of a past that this machine's clock has left behind: overdue, and said by the exit code.
    assert run_app(build_app(), ["status", "--config", str(site.folder)]) == 6
    text = capsys.readouterr().out
    assert f"last good    {nights[-1]}" in text
    assert f"last proven  {nights[0]}" in text
    assert run_app(build_app(), ["status", "nightly", "--config", str(site.folder), "--json"]) == 6
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert plan["last_good"]["set"] == nights[-1]
    assert plan["last_proven"] == nights[0]
    assert plan["growth_bytes_per_day"] == 100


def test_runs_that_failed_are_told_by_status_and_by_the_incidents_alike(site, nights):
    from backup_pipeline.operations.alerts import send as alerts

    def note(work: str, succeeded: bool, minute: int) -> None:
        moment = at(f"2026-11-21 11:{minute}")
        alerts.notify_run_finished(
            site, "nightly", alerts.FinishedRun(succeeded=succeeded, work=work, reason="no server"), moment
        )

    note("undo of shop", False, 10)
    note("backup", False, 11)
    assert "warning: The undo of shop failed or was refused: that says nothing against the backups" in reported(site)
    assert "error: The backup failed. no server" in reported(site)
    # Another source's undo says nothing of this one's.
    note("undo of desk", True, 12)
    note("backup", True, 13)
    assert "The undo of shop failed or was refused" in reported(site)
    assert "The backup failed." not in reported(site)
    note("undo of shop", True, 14)
    assert reported(site) == ""
