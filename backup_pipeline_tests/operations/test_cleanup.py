"""Clean-up of a real store: what goes, what stays, what is refused, and what happens when it is interrupted."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import pytest

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.errors import ExitCode, LockError
from backup_pipeline.model.manifest import MANIFEST_NAME, Purpose
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.operations.retention.cleanup import cleanup
from backup_pipeline.operations.sites.stores import open_store, plan_lock
from backup_pipeline.settings.loader import load_site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set

NOW = at("2026-11-21 12:00")


@pytest.fixture
def site(tmp_path):
    (tmp_path / "backup.yaml").write_text(SITE)
    return load_site(tmp_path, environment={})


@pytest.fixture
def store(site) -> LocalStore:
    return open_store(site, "nightly")


@pytest.fixture
def five(store):
    return [make_set(store, at(f"2026-11-{day} 02:00")) for day in range(17, 22)]


def test_sets_that_no_rule_keeps_are_gone_and_the_others_untouched(site, store, five):
    result = cleanup(site, "nightly", now=NOW)
    assert result.removed == tuple(five[:3])
    assert store.ids() == tuple(five[3:])
    assert not (store.folder / five[0]).exists()
    assert result.freed == 3 * 1010
    assert all(one.manifest for one in store.sets())


def test_a_dry_run_gives_the_same_verdict_and_touches_nothing(site, store, five):
    dry = cleanup(site, "nightly", now=NOW, dry_run=True)
    assert store.ids() == tuple(five)
    assert dry.verdict == cleanup(site, "nightly", now=NOW).verdict
    assert dry.removed == ()


def test_every_removal_is_written_beside_the_sets_with_its_reason(site, store, five):
    cleanup(site, "nightly", now=NOW)
    lines = (store.folder / "backup_log.txt").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"2026-11-21 12:00:00 - cleanup - INFO - nightly/{five[0]} removed, 1010 bytes: no rule")


def test_the_last_proven_set_outlives_the_policy(site, store, five):
    add_proof(store, five[0], ProofKind.DRILL, NOW)
    cleanup(site, "nightly", now=NOW)
    assert five[0] in store.ids()


@pytest.mark.parametrize("newest", ["incomplete", "damaged", "failed"])
def test_nothing_goes_while_the_newest_set_is_bad(site, store, five, newest):
    last = five[-1]
    if newest == "incomplete":
        (store.folder / last / MANIFEST_NAME).unlink()
    elif newest == "damaged":
        (store.folder / last / MANIFEST_NAME).write_text("{")
    else:
        add_proof(store, last, ProofKind.VERIFICATION, NOW, passed=False, findings=["changed"])
    result = cleanup(site, "nightly", now=NOW)
    assert result.refused
    assert str(last) in result.verdict.refusal
    assert store.ids() == tuple(five)


def test_nothing_goes_when_the_clock_went_backwards(site, store, five):
    result = cleanup(site, "nightly", now=at("2026-11-20 12:00"))
    assert result.refused
    assert store.ids() == tuple(five)


def test_a_removal_that_was_interrupted_is_finished_by_the_next_one(site, store, five):
    # Killed right after the manifest went: the rest looks incomplete and is older than its grace time.
    (store.folder / five[0] / MANIFEST_NAME).unlink()
    shutil.rmtree(store.folder / five[0] / "tables")
    result = cleanup(site, "nightly", now=NOW)
    assert five[0] in result.removed
    assert not (store.folder / five[0]).exists()


def test_the_manifest_goes_first_so_that_a_half_removed_set_never_looks_whole(site, store, five, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cleanup(site, "nightly", now=NOW)
    assert store.read(five[0]).manifest is None
    assert store.read(five[1]).manifest is not None
    monkeypatch.undo()
    assert cleanup(site, "nightly", now=NOW).removed == tuple(five[:3])


def test_incomplete_sets_go_after_their_own_time(site, store, five):
    old = make_set(store, at("2026-11-10 03:00"), sealed=False)
    young = make_set(store, at("2026-11-20 03:00"), sealed=False)
    result = cleanup(site, "nightly", now=NOW)
    assert old in result.removed
    assert young in store.ids()


def test_emergency_sets_stay_for_their_own_time_and_do_not_count(site, store, five):
    young = make_set(store, at("2026-11-19 03:00"), purpose=Purpose.EMERGENCY)
    old = make_set(store, at("2026-09-19 03:00"), purpose=Purpose.EMERGENCY)
    cleanup(site, "nightly", now=NOW)
    assert store.ids() == (young, *five[3:])
    assert old not in store.ids()


def test_the_plans_lock_is_held_and_another_holder_is_named(site, store, five):
    with plan_lock(site, "nightly", "backup of nightly"), pytest.raises(LockError, match="backup of nightly"):
        cleanup(site, "nightly", now=NOW, wait_seconds=0)
    assert store.ids() == tuple(five)


def test_a_caller_that_holds_the_lock_says_so(site, store, five):
    with plan_lock(site, "nightly", "backup of nightly"):
        assert len(cleanup(site, "nightly", now=NOW, locked=True).removed) == 3


def test_an_incomplete_newest_set_is_being_written_while_the_lock_is_held(site, store, five):
    running = make_set(store, at("2026-11-21 11:00"), sealed=False)
    with plan_lock(site, "nightly", "backup of nightly"):
        verdict = cleanup(site, "nightly", now=NOW, dry_run=True).verdict
    assert verdict.refusal == ""
    assert running in {decision.set_id for decision in verdict.kept}
    assert cleanup(site, "nightly", now=NOW, dry_run=True).verdict.refusal


def test_a_set_that_changed_before_its_turn_is_judged_again(site, store, five, monkeypatch):
    original = LocalStore.remove

    def remove(self: LocalStore, set_id) -> None:
        # While the first set goes, a drill proves the second, and verification finds damage in the newest.
        original(self, set_id)
        if set_id == five[0]:
            add_proof(self, five[1], ProofKind.DRILL, NOW)
        if set_id == five[2]:
            raise AssertionError("must not be removed")

    monkeypatch.setattr(LocalStore, "remove", remove)
    (site.folder / "backup.yaml").write_text(SITE.replace("keep_last: 2", "keep_last: 3"))
    result = cleanup(load_site(site.folder, environment={}), "nightly", now=NOW)
    assert result.removed == (five[0],)
    assert result.spared == ((five[1], "the last proven set"),)


def test_damage_found_in_the_newest_set_stops_the_clean_up_that_is_under_way(site, store, five, monkeypatch):
    original = LocalStore.remove

    def remove(self: LocalStore, set_id) -> None:
        original(self, set_id)
        add_proof(self, five[-1], ProofKind.VERIFICATION, NOW + timedelta(seconds=1), passed=False, findings=["gone"])

    monkeypatch.setattr(LocalStore, "remove", remove)
    result = cleanup(site, "nightly", now=NOW)
    assert result.removed == (five[0],)
    assert [set_id for set_id, _ in result.spared] == five[1:3]
    assert "nothing is removed: the newest set" in result.spared[0][1]


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    return run_app(build_app(), ["cleanup", *arguments])


@pytest.fixture
def old(store):
    """Sets long ago, so that the real clock finds them old."""
    return [make_set(store, at(f"2020-11-{day} 02:00")) for day in range(17, 22)]


def test_the_command_lists_every_set_with_its_reason(site, store, old, capsys):
    assert run("--config", str(site.folder), "--dry-run") == 0
    reported = capsys.readouterr().out
    assert "last 1 of 2; the last complete set" in reported
    assert "no rule keeps it (last 2)" in reported
    assert "2 kept, 3 to remove" in reported
    assert store.ids() == tuple(old)


def test_the_command_does_not_remove_without_being_told_to(site, store, old, capsys):
    assert run("--config", str(site.folder), "--json") == ExitCode.REFUSED
    assert store.ids() == tuple(old)
    assert run("--config", str(site.folder), "--json", "--yes") == 0
    assert store.ids() == tuple(old[3:])


def test_a_refusal_has_its_exit_code_and_reason_in_json(site, store, old, capsys):
    (store.folder / old[-1] / MANIFEST_NAME).unlink()
    assert run("nightly", "--config", str(site.folder), "--json", "--yes") == ExitCode.REFUSED
    (reported,) = json.loads(capsys.readouterr().out)["plans"]
    assert "is incomplete" in reported["refusal"]
    assert reported["removed"] == []
    assert all(one["keep"] and one["reasons"] for one in reported["sets"])


def test_an_unknown_plan_is_named_with_the_right_one(site, capsys):
    assert run("nightli", "--config", str(site.folder)) == ExitCode.SETTINGS
    assert "Did you mean nightly?" in capsys.readouterr().err
