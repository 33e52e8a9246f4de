"""What is green means that it is there: one store, several damages, and what each command says of them."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.retention.cleanup import cleanup
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, make_set
from backup_pipeline_tests.support.sites import TestSite

DUMP = "files_db.sql.gz"
DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)
NIGHT = NOW - timedelta(hours=2)


@pytest.fixture
def site(tmp_path: Path) -> TestSite:
    made = TestSite(tmp_path)
    made.write(SITE.replace('    schedule: "0 2 * * *"\n', ""))
    return made


@pytest.fixture
def store(site: TestSite) -> LocalStore:
    return open_store(site.site, "nightly")


@pytest.fixture
def nights(site: TestSite, store: LocalStore) -> list[SetId]:
    """Four sets, all proven, the newest two hours old."""
    made = [make_set(store, NIGHT - days * DAY) for days in (3, 2, 1, 0)]
    for one in made:
        add_proof(store, one, ProofKind.VERIFICATION, NOW - timedelta(minutes=20))
        add_proof(store, one, ProofKind.DRILL, NOW - timedelta(minutes=10))
    assert standing(site) == ("good", "")
    assert site.run("alerts", "check").code == 0
    return made


def standing(site: TestSite) -> tuple[str, str]:
    (plan,) = json.loads(site.run("status", "--json").out)["plans"]
    return plan["standing"], " | ".join(problem["what"] for problem in plan["problems"])


def listed(site: TestSite, set_id: SetId) -> dict[str, object]:
    sets = json.loads(site.run("list", "--json").out)["sets"]
    return next(one for one in sets if one["set"] == set_id)


def open_incidents(site: TestSite) -> str:
    checked = site.run("alerts", "check")
    reported = site.run("alerts", "list").out
    assert checked.code == (0 if "No incidents." in reported else 6)
    return reported


def test_a_set_whose_file_is_gone_is_green_in_no_command(
    site: TestSite, store: LocalStore, nights: list[SetId]
) -> None:
    file = store.path_of(nights[-1], DUMP)
    content = file.read_bytes()
    for damage in (file.unlink, lambda: file.write_bytes(b""), lambda: file.write_bytes(content[:-1])):
        file.write_bytes(content)
        damage()
        one = listed(site, nights[-1])
        assert (one["state"], one["verified"], one["proven"]) == ("damaged", False, False)
        assert DUMP in str(one["notes"])
        assert DUMP in site.run("show", f"nightly/{nights[-1]}").out
        worst, reported = standing(site)
        assert (worst, DUMP in reported) == ("failing", True)
        assert json.loads(site.run("status", "--json").out)["plans"][0]["last_proven"] == nights[-2]
        assert DUMP in open_incidents(site)
        page = site.folder / "status.html"
        site.run("status", "--html", str(page))
        assert "✕ Failing" in page.read_text("utf-8")
    file.write_bytes(content)
    assert standing(site)[0] == "good"
    assert "No incidents." in open_incidents(site)


def test_retention_does_not_let_go_of_others_for_a_set_whose_files_are_gone(
    site: TestSite, store: LocalStore, nights: list[SetId]
) -> None:
    store.path_of(nights[2], DUMP).unlink()
    verdict = cleanup(site.site, "nightly", now=NOW, dry_run=True).verdict
    assert [one.set_id for one in verdict.removed] == [nights[0]]
    store.path_of(nights[3], DUMP).unlink()
    held = cleanup(site.site, "nightly", now=NOW)
    assert (held.removed, str(nights[3]) in held.verdict.refusal) == ((), True)


def test_a_sealed_set_that_nobody_cleaned_up_is_missed(site: TestSite, store: LocalStore, nights: list[SetId]) -> None:
    log = store.folder / "backup_log.txt"
    log.write_text(
        "".join(
            f"2026-01-01 02:00:00 - backup - INFO - nightly/{one} complete, 3 artefacts, 9 rows, 1 bytes, 1 s\n"
            for one in nights
        )
    )
    assert standing(site)[0] == "good"
    shutil.rmtree(store.folder / nights[-1])
    worst, reported = standing(site)
    assert (worst, f"Set {nights[-1]} was sealed, is not in the store any more" in reported) == ("attention", True)
    assert f"Set {nights[-1]} was sealed" in open_incidents(site)
    with log.open("a") as file:
        file.write(f"2026-01-02 02:00:00 - cleanup - INFO - nightly/{nights[-1]} removed, 9 bytes: old\n")
    assert standing(site)[0] == "good"
    assert "No incidents." in open_incidents(site)


def test_a_set_of_the_future_makes_no_plan_good_for_a_year(
    site: TestSite, store: LocalStore, nights: list[SetId]
) -> None:
    site.write(SITE.replace('schedule: "0 2 * * *"', "overdue_after: 1h"))
    future = make_set(store, NOW + 365 * DAY)
    worst, reported = standing(site)
    assert (worst, "Overdue" in reported, f"The time of set {future} has not come" in reported) == (
        "failing",
        True,
        True,
    )
    reported = open_incidents(site)
    assert "The backup is overdue." in reported
    assert f"The time of set {future} has not come" in reported


def test_sources_rows_and_checks_that_never_came_are_named(
    site: TestSite, store: LocalStore, nights: list[SetId]
) -> None:
    text = SITE.replace('    schedule: "0 2 * * *"\n', "    verify: '0 4 * * 0'\n    drill: '0 5 * * 0'\n")
    text = text.replace("[files, more]", "[files, more, added]")
    site.write(
        text.replace("  more: {", "  added: {kind: folder, path: added}\n  nowhere: {kind: folder, path: x}\n  more: {")
    )
    reported = standing(site)
    assert reported == ("attention", "The last good set does not hold added, which is in the plan.")
    assert "nowhere" in site.run("status").out
    assert json.loads(site.run("status", "--json").out)["sources_in_no_plan"] == ["nowhere"]
    for one in nights:
        shutil.rmtree(store.folder / one)
    old = make_set(store, NOW - 40 * DAY)
    make_set(store, NIGHT, tables=0)
    worst, what = standing(site)
    assert worst == "attention"
    assert "No verification in 40 days." in what
    assert "No proof in 40 days." in what
    assert "The last good set holds no row of files." in what
    assert "No verification in 40 days." in open_incidents(site)
    add_proof(store, old, ProofKind.VERIFICATION, NOW)
    assert "No verification" not in standing(site)[1] + open_incidents(site)


def test_the_list_of_incidents_says_when_the_stores_were_last_inspected(site: TestSite, store: LocalStore) -> None:
    assert "never inspected" in site.run("alerts", "list").out
    assert json.loads(site.run("alerts", "list", "--json").out)["inspected_at"] is None
    site.run("alerts", "check")
    assert "last inspected" in site.run("alerts", "list").out
