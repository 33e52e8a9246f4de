"""Starting a run in the UI's process: the very request that Dagster's launchpad sends, so that one history holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import dagster as dg

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.set_id import SetId
from backup_pipeline.orchestration.names import LOCATION_NAME, REPOSITORY_NAME, STARTED_BY_TAG
from backup_pipeline.orchestration.partition_names import known_partition

_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}
"""


_STARTED = "LaunchRunSuccess"
_RELOAD = "mutation ($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }"


class UiWorkspace(Protocol):
    """What is used of the webserver's workspace, for which Dagster has no public type."""

    @property
    def instance(self) -> dg.DagsterInstance:
        """The history."""

    def create_request_context(self) -> Any:
        """Return the code locations as they are loaded now, for one request."""


@cache
def _schema() -> Any:
    from dagster_graphql.schema import create_schema

    return create_schema()


def submit_job(
    workspace: UiWorkspace,
    job: str,
    *,
    asked_by: str,
    run_config: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    partition: str | None = None,
    assets: Sequence[dg.AssetKey] | None = None,
) -> str:
    """Queue a run of a job, as its launchpad does, and return the run's id. It is started by the daemon.

    What is refused is asked for once more with definitions that are loaded anew: those of before may lack a source that
    is there since, such as a new database of a server.

    Args:
        workspace: the webserver's.
        job: the job's name.
        asked_by: who asked, for the run's tag.
        run_config: the run's configuration.
        tags: put on the run; the job's own are there too.
        partition: the partition, for partitioned jobs.
        assets: only these of its assets.

    Raises:
        RefusedError: the code location is not loaded, has no such job, or refuses the configuration.
    """
    named = {**(tags or {}), STARTED_BY_TAG: asked_by, **({"dagster/partition": partition} if partition else {})}
    selector: dict[str, object] = {
        "repositoryLocationName": LOCATION_NAME,
        "repositoryName": REPOSITORY_NAME,
        "jobName": job,
    }
    if assets is not None:
        selector["assetSelection"] = [{"path": list(key.path)} for key in assets]
    params = {
        "selector": selector,
        "mode": "default",
        "runConfigData": dict(run_config or {}),
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in named.items()]},
    }
    answer, found = _ask(workspace, _LAUNCH, params=params)
    if found.get("__typename") != _STARTED:
        _ask(workspace, _RELOAD, name=LOCATION_NAME)
        answer, found = _ask(workspace, _LAUNCH, params=params)
    if found.get("__typename") == _STARTED:
        return str(found["run"]["runId"])
    faults = [str(error) for error in answer.errors or ()]
    faults += [str(each["message"]) for each in found.get("errors") or ()] or [str(found.get("message") or "")]
    raise RefusedError(
        f"Dagster did not start {job}: {' '.join(filter(None, faults)) or 'no reason given'}",
        where=job,
        remedy="Is the code location loaded? Dagster's page Deployment shows its state.",
    )


def _ask(workspace: UiWorkspace, query: str, **variables: object) -> tuple[Any, dict[str, Any]]:
    """Return the answer of Dagster's GraphQL interface to a mutation, and what its one field holds."""
    context = workspace.create_request_context()
    answer = asyncio.run(_schema().execute_async(query, variable_values=variables, context_value=context))
    return answer, next(iter((answer.data or {}).values()), None) or {}


def submit_for_set(workspace: UiWorkspace, plan: str, set_id: SetId, stage: str, *, asked_by: str) -> str:
    """Queue a run of `<plan>_<stage>` (verification, drill, or one of a copy) for one set, and return the run's id."""
    # A set made a moment ago, or elsewhere, may not be a partition yet.
    partition = known_partition(workspace.instance, plan, set_id)
    return submit_job(workspace, f"{plan}_{stage}", asked_by=asked_by, partition=partition)
