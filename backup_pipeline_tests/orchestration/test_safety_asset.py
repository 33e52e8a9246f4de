"""The safety asset in Dagster: its answer, a check per plan, and the sensor that keeps it fresh."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.model.proof import ProofKind
from backup_pipeline.operations.alerts.acknowledge import acknowledge
from backup_pipeline.operations.alerts.send import evaluate_incidents
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.page import status_page
from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline.orchestration.safety_asset import KEY, safety_asset, safety_sensor
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set

NOW = at("2026-11-21 12:00")
TWO_PLANS = SITE + "  other:\n    sources: [files]\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    for name in ("files", "more"):
        (tmp_path / name).mkdir()
    (tmp_path / "backup.yaml").write_text(TWO_PLANS, "utf-8")
    return load_site(tmp_path, environment={})


def _ticked(site: Site, instance: dg.DagsterInstance, moment: datetime, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance, cursor=cursor)
    found = safety_sensor(site, lambda: moment)(context)
    assert isinstance(found, (dg.SensorResult, dg.SkipReason))
    return found if isinstance(found, dg.SensorResult) else dg.SensorResult(skip_reason=found)


def test_the_sensor_reports_each_plan_and_rests_until_something_changes(site: Site) -> None:
    store = LocalStore(site.store_folder("nightly"), "nightly")
    made = make_set(store, at("2026-11-21 02:00"))
    with dg.DagsterInstance.ephemeral() as instance:
        first = _ticked(site, instance, NOW)
        checks = {e.check_name: e for e in first.asset_events if isinstance(e, dg.AssetCheckEvaluation)}
        assert set(checks) == {"nightly", "other"}
        assert "no complete and good backup" in (checks["other"].description or "")
        assert checks["other"].severity is dg.AssetCheckSeverity.ERROR
        rest = _ticked(site, instance, NOW + timedelta(minutes=5), first.cursor)
        assert rest.asset_events == []
        assert "Nothing has changed" in str(rest.skip_reason)
        store.remove(made)
        again = _ticked(site, instance, NOW + timedelta(minutes=10), first.cursor)
        assert len(again.asset_events) == 3


def test_who_acknowledged_what_is_said_with_the_reason(site: Site) -> None:
    late = make_set(LocalStore(site.store_folder("nightly"), "nightly"), at("2026-11-11 02:00"))
    evaluate_incidents(site, NOW)
    keys = [one.key for one in read_state(site).open if one.key.startswith("overdue:nightly")]
    assert (late, keys) == ("2026-11-11T020000Z", ["overdue:nightly"])
    with dg.DagsterInstance.ephemeral() as instance:
        before = _ticked(site, instance, NOW)
        acknowledge(site, keys, by="anna", now=NOW, quiet=timedelta(days=3), reason="<b> disk is ordered")
        after = _ticked(site, instance, NOW, before.cursor)
    (shown,) = [one for one in after.asset_events if isinstance(one, dg.AssetMaterialization)]
    sentence = "acknowledged by anna until 2026-11-24 12:00 UTC: "
    assert f"{sentence}\\<b\\> disk is ordered" in str(shown.metadata["safety"].value)
    checks = [one for one in after.asset_events if isinstance(one, dg.AssetCheckEvaluation)]
    assert [(one.check_name, one.passed) for one in checks if sentence in str(one.description)] == [("nightly", False)]
    page = status_page([plan_status(site, "nightly", NOW)], now=NOW, site="site", timezone="UTC")
    assert f"{sentence}&lt;b&gt; disk is ordered" in page


def test_materialising_it_shows_the_answer_as_text_that_cannot_be_markup(site: Site) -> None:
    store = LocalStore(site.store_folder("nightly"), "nightly")
    made = make_set(store, at("2026-11-21 02:00"), sealed=False, failed="<img src=x> | `rm` [a](http://evil)")
    make_set(store, at("2026-11-20 02:00"))
    add_proof(store, made, ProofKind.VERIFICATION, NOW)
    result = dg.materialize([safety_asset(site)], raise_on_error=False)
    assert result.success
    (event,) = result.asset_materializations_for_node("safety")
    text = str(event.metadata["safety"].value)
    assert text.startswith("# No.")
    assert "\\<img src=x\\> \\| \\`rm\\` \\[a\\](http://evil)" in text
    assert {one.check_name: one.passed for one in result.get_asset_check_evaluations()} == {
        "nightly": False,
        "other": False,
    }
    assert event.asset_key == KEY
