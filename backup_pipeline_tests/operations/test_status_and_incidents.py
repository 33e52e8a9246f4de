"""Status and incidents agree: what opens an incident is a problem of the status, and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.alerts.send import evaluate_incidents
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set

NOW = at("2026-11-21 12:00")
Change = Callable[[LocalStore, list[SetId]], None]


def nothing(store: LocalStore, made: list[SetId]) -> None:
    """Leave the site as it is."""


def newest_damaged(store: LocalStore, made: list[SetId]) -> None:
    add_proof(store, made[-1], ProofKind.VERIFICATION, at("2026-11-21 04:00"), passed=False, findings=["changed"])


def newest_not_proven(store: LocalStore, made: list[SetId]) -> None:
    add_proof(store, made[-1], ProofKind.DRILL, at("2026-11-21 05:00"), passed=False, findings=["is missing"])


def a_file_gone(store: LocalStore, made: list[SetId]) -> None:
    next((store.path_of(made[-1])).glob("*.sql.gz")).unlink()


def an_older_set_damaged(store: LocalStore, made: list[SetId]) -> None:
    add_proof(store, made[-2], ProofKind.VERIFICATION, at("2026-11-21 04:00"), passed=False, findings=["changed"])


def a_set_of_the_future(store: LocalStore, made: list[SetId]) -> None:
    make_set(store, NOW + timedelta(days=3))


def a_check_failed(store: LocalStore, made: list[SetId]) -> None:
    make_set(store, at("2026-11-21 03:00"), bad_checks=2)


def site_of(folder: Path) -> tuple[Site, LocalStore, list[SetId]]:
    """Return a site with five good nights, the newest verified and proven."""
    (folder / "backup.yaml").write_text(SITE.replace("keep_last: 2", "keep_last: 30"))
    site = load_site(folder, environment={})
    store = open_store(site, "nightly")
    made = [make_set(store, at(f"2026-11-{day} 02:00")) for day in range(17, 22)]
    for set_id in made:
        add_proof(store, set_id, ProofKind.VERIFICATION, at("2026-11-21 03:10"))
        add_proof(store, set_id, ProofKind.DRILL, at("2026-11-21 03:20"), rto_seconds=12)
    return site, store, made


@pytest.mark.parametrize(
    ("change", "moment", "severity"),
    [
        (nothing, NOW, None),
        (nothing, NOW + timedelta(days=2), "error"),
        (newest_damaged, NOW, "error"),
        (newest_not_proven, NOW, "error"),
        (a_file_gone, NOW, "error"),
        (an_older_set_damaged, NOW, "warning"),
        (a_set_of_the_future, NOW, "warning"),
        (a_check_failed, NOW, "warning"),
    ],
)
def test_status_and_incidents_agree(change: Change, moment: datetime, severity: str | None, tmp_path: Path) -> None:
    site, store, made = site_of(tmp_path)
    evaluate_incidents(site, NOW - timedelta(minutes=1))
    change(store, made)
    evaluate_incidents(site, moment)
    incidents = [incident.what for incident in read_state(site).open]
    problems = plan_status(site, "nightly", moment).problems
    assert bool(incidents) == bool(problems), (incidents, problems)
    worst = next((level for level in ("error", "warning") if level in {p.severity for p in problems}), None)
    assert worst == severity, (incidents, problems)
