"""An overdue backup shows in the UI: asked of Dagster's own evaluation and of the query that the UI's pages ask."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from backup_pipeline.orchestration.names import manifest_key
from backup_pipeline_tests.support.dagster_runs import loaded

SETTINGS = """
sources:
  files: {kind: folder, path: files}
plans:
  nightly: {sources: [files], schedule: "0 2 * * *"}
  session: {sources: [files], overdue_after: 12h}
  by_hand: {sources: [files]}
"""
STATUS = """query ($keys: [AssetKeyInput!]) { assetNodes(assetKeys: $keys) {
  assetKey { path } freshnessStatusInfo { freshnessStatus } } }"""


def test_a_manifest_that_is_too_old_is_shown_as_degraded_until_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster._daemon  # noqa: F401 - only after it can the next be imported
    from dagster._daemon.freshness import FreshnessDaemon
    from dagster_graphql.test.utils import execute_dagster_graphql

    with loaded(tmp_path, SETTINGS, monkeypatch) as (instance, workspace):
        assert instance.freshness_enabled
        plans = ("nightly", "session", "by_hand")

        def make() -> None:
            for plan in plans:
                instance.report_runless_asset_event(dg.AssetMaterialization(manifest_key(plan)))

        def shown(after: timedelta) -> dict[str, str | None]:
            """Let the daemon look so long after now; return what the UI then shows of each plan's manifest."""
            with freeze_time(datetime.now(UTC) + after):
                list(FreshnessDaemon().run_iteration(workspace))
                keys = [{"path": list(manifest_key(plan).path)} for plan in plans]
                found = execute_dagster_graphql(workspace.create_request_context(), STATUS, {"keys": keys})
            reported = {node["assetKey"]["path"][0]: node["freshnessStatusInfo"] for node in found.data["assetNodes"]}
            return {plan: info and info["freshnessStatus"] for plan, info in reported.items()}

        assert shown(timedelta()) == {"nightly": "UNKNOWN", "session": "UNKNOWN", "by_hand": None}
        make()
        assert shown(timedelta()) == {"nightly": "HEALTHY", "session": "HEALTHY", "by_hand": None}
        assert shown(timedelta(hours=13)) == {"nightly": "HEALTHY", "session": "DEGRADED", "by_hand": None}
        assert shown(timedelta(hours=31)) == {"nightly": "DEGRADED", "session": "DEGRADED", "by_hand": None}
        make()
        assert shown(timedelta()) == {"nightly": "HEALTHY", "session": "HEALTHY", "by_hand": None}
