"""A database is lost, planned, brought back and taken back in the UI, and three rows too, as the Launchpad sends it."""

from __future__ import annotations

from typing import Any

import pytest

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import drop_database, server_facts
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.acceptance.conftest import Served
from backup_pipeline_tests.support.postgres_restore import ask, run
from backup_pipeline_tests.support.running_ui import Ui

_SELECTOR = '{repositoryLocationName: "backup-pipeline", repositoryName: "__repository__", %s: $job}'
DEFAULTS = f"""
query ($job: String!) {{
  runConfigSchemaOrError(selector: {_SELECTOR % "pipelineName"}) {{
    ... on RunConfigSchema {{ rootDefaultYaml allConfigTypes {{
      ... on CompositeConfigType {{ fields {{ name description isRequired }} }} }} }}
  }}
}}
"""
LAUNCH = f"""
mutation ($job: String!, $config: RunConfigData!, $tags: [ExecutionTag!]!) {{
  launchRun(executionParams: {{
    selector: {_SELECTOR % "jobName"}, runConfigData: $config, mode: "default", executionMetadata: {{tags: $tags}}
  }}) {{
    __typename
    ... on LaunchRunSuccess {{ run {{ runId }} }}
    ... on PythonError {{ message }}
    ... on RunConfigValidationInvalid {{ errors {{ message }} }}
  }}
}}
"""
PLAN = """
query ($id: ID!) { runOrError(runId: $id) { ... on Run { assets { key { path } } eventConnection { events {
  __typename
  ... on ObservationEvent { metadataEntries { label ... on TextMetadataEntry { text }
    ... on TableMetadataEntry { table { records } } } }
  ... on ExecutionStepFailureEvent { failureMetadata { metadataEntries { label } } error { message } }
} } } } }
"""


class Launchpad:
    """What a person does with the restore job of plan `live` in the UI."""

    def __init__(self, ui: Ui, set_id: str) -> None:
        self.ui, self.set_id = ui, set_id

    def run(self, job: str, config: dict[str, Any], *, partitioned: bool = True) -> tuple[str, list[dict[str, Any]]]:
        """Launch with this op config; return the run's status and events."""
        tags = [{"key": "dagster/partition", "value": self.set_id}] if partitioned else []
        op = "live__restore_shop" if partitioned else "live__undo"
        answer = self.ui.ask(LAUNCH, job=job, config={"ops": {op: {"config": config}}}, tags=tags)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        status = self.ui.wait_for_run(answer["run"]["runId"])
        events = self.ui.ask(PLAN, id=answer["run"]["runId"])["runOrError"]["eventConnection"]["events"]
        return status, events

    def plan(self, **config: Any) -> dict[str, Any]:
        """Return what the plan's observation shows."""
        status, events = self.run("live_restore", dict(config))
        assert status == "SUCCESS", events
        (seen,) = [event for event in events if event["__typename"] == "ObservationEvent"]
        return {entry["label"]: entry.get("text", entry.get("table")) for entry in seen["metadataEntries"]}

    def apply(self, plan: dict[str, Any], **config: Any) -> str:
        reported = {"step": "APPLY", "plan_id": plan["plan_id"], "confirm": plan["confirm"], **config}
        return self.run("live_restore", reported)[0]


def _orders(live: PostgresTarget) -> int:
    return int(str(ask(live, "select count(*) from orders")[0][0]))


@pytest.mark.story
@pytest.mark.takes(seconds=35, together="ui")
def test_a_person_restores_a_database_in_the_ui_and_takes_it_back(served: Served) -> None:
    ui, live = served.ui, served.live
    pad = Launchpad(ui, served.set_id)

    schema = ui.ask(DEFAULTS, job="live_restore")["runConfigSchemaOrError"]
    reported = {f["name"]: f for kind in schema["allConfigTypes"] for f in kind.get("fields") or []}
    assert not reported["confirm"]["isRequired"]
    shown = ("step", "plan_id", "mode", "into", "tables", "rows", "only", "on_conflict", "without_triggers")
    assert all(reported[name]["description"] and f"{name}:" in schema["rootDefaultYaml"] for name in shown)

    run(live, "delete from orders where id > 100")
    plan = pad.plan()
    assert pad.apply(plan) == "SUCCESS"
    assert _orders(live) == 300
    status, events = pad.run("live_undo", {"source": "shop", "confirm": live.database}, partitioned=False)
    assert status == "SUCCESS", events
    assert _orders(live) == 100
    with connected(live.with_database("postgres")) as connection:
        for name in server_facts(live).databases:
            if name.startswith(f"{live.database}__"):
                connection.execute(f'drop database "{name}" with (force)'.encode())


@pytest.mark.story
@pytest.mark.takes(seconds=60, together="ui")
def test_a_person_brings_back_a_lost_database_and_three_rows_in_the_ui(served: Served) -> None:
    live = served.live
    pad = Launchpad(served.ui, served.set_id)
    # The database is lost.
    drop_database(live)
    plan = pad.plan()
    assert "make database" in str(plan["steps"])
    assert live.database not in server_facts(live).databases
    assert pad.apply(plan) == "SUCCESS"
    assert _orders(live) == 300

    # Three rows.
    run(live, "delete from orders where id in (7, 8, 9)")
    rows = {"mode": "UPSERT", "rows": ["public.orders: id in (7, 8, 9)"]}
    plan = pad.plan(**rows)
    assert '"insert": 3' in str(plan["tables"]["records"])
    assert _orders(live) == 297
    assert pad.apply(plan, **rows) == "SUCCESS"
    assert _orders(live) == 300
