"""The `safety` asset: the answer to "are we safe?" with its reasons, one check per plan; a sensor keeps it fresh."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.model.incident import Incident
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.overview import Overview, PlanOverview, rough, site_overview
from backup_pipeline.operations.status.plan import Problem
from backup_pipeline.orchestration.metadata import failure_of
from backup_pipeline.orchestration.names import manifest_key
from backup_pipeline.settings.site import Site

KEY = dg.AssetKey(["safety"])
SECONDS = 300
_AT_LEAST_EVERY = timedelta(hours=1)
_MARKS = {"good": "✓", "attention": "!", "failing": "✕"}


def _cell(text: str) -> str:
    """Return a text that breaks no table of markdown and is taken literally."""
    escaped = "".join(f"\\{each}" if each in "\\`*_{}[]<>#|~" else each for each in text)
    return " ".join(escaped.split())


def as_markdown(overview: Overview, incidents: Sequence[Incident]) -> str:
    """Return the answer, what is wrong with the remedies and who acknowledged it, and a table of the plans."""
    lines = [f"# {_cell(overview.sentence)}", "", _cell(overview.detail), ""]
    lines += [
        f"- **{_cell(', '.join(reason.plans))}**: {_cell(_text(reason.problem, incidents))}"
        for reason in overview.reasons
    ]
    lines += ["", "| plan | state | last good | proven | next |", "| --- | --- | --- | --- | --- |"]
    for plan in overview.plans:
        good = f"{rough(overview.at - plan.last_good.started_at)} old" if plan.last_good else "none"
        proven = f"{rough(overview.at - plan.proof.at)} ago" if plan.proof else "never"
        following = f"{plan.next_backup:%Y-%m-%d %H:%M} UTC" if plan.next_backup else "by hand"
        standing = f"{_MARKS[plan.standing]} {plan.standing}{plan.unless}"
        lines.append(f"| {_cell(plan.plan)} | {standing} | {good} | {proven} | {following} |")
    return "\n".join(lines)


def _text(problem: Problem, incidents: Sequence[Incident]) -> str:
    """Return what is wrong, the remedy, and who acknowledged it until when."""
    return " ".join([problem.what, problem.remedy, *(f"({each})" for each in problem.acknowledged(incidents))])


def _metadata(overview: Overview, incidents: Sequence[Incident]) -> dict[str, Any]:
    return {
        "answer": overview.sentence,
        "safety": dg.MetadataValue.md(as_markdown(overview, incidents)),
        "plans good": sum(plan.standing == "good" for plan in overview.plans),
        "plans that need attention": sum(plan.standing == "attention" for plan in overview.plans),
        "plans failing": sum(plan.standing == "failing" for plan in overview.plans),
    }


def _severity(plan: PlanOverview) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if plan.standing == "failing" else dg.AssetCheckSeverity.WARN


def _reasons(plan: PlanOverview, incidents: Sequence[Incident]) -> str:
    return " ".join(_text(problem, incidents) for problem in plan.problems) or "Nothing speaks against it."


def safety_asset(site: Site) -> dg.AssetsDefinition:
    """Return the asset; materialising it inspects every store and asks no source and no vault."""

    @dg.multi_asset(
        name="safety",
        specs=[
            dg.AssetSpec(
                KEY,
                deps=[manifest_key(plan) for plan in site.single_plans],
                group_name="overview",
                kinds={"report"},
                description="Are we safe? The answer with its reasons, and one check per plan. The front page at "
                "/backups has the same with buttons.",
                code_version="1",
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(plan, asset=KEY, description=f"Nothing is wrong with the backups of {plan}.")
            for plan in site.single_plans
        ],
    )
    def safety() -> Iterator[Any]:
        try:
            overview, incidents = site_overview(site, utc_now()), read_state(site).open
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        for plan in overview.plans:
            yield dg.AssetCheckResult(
                asset_key=KEY,
                check_name=plan.plan,
                passed=plan.standing == "good",
                severity=_severity(plan),
                description=_reasons(plan, incidents),
            )
        yield dg.MaterializeResult(KEY, metadata=_metadata(overview, incidents))

    return safety


def safety_sensor(site: Site, now: Callable[[], datetime] = utc_now) -> dg.SensorDefinition:
    """Return the sensor: what it finds is reported when it is other than before, and once an hour in any case."""

    @dg.sensor(
        name="safety_sensor",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Keeps the asset `safety` fresh: whether the backups of every plan are good, and why not.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        overview, incidents = site_overview(site, now()), read_state(site).open
        state = [(plan.plan, plan.standing, _reasons(plan, incidents)) for plan in overview.plans]
        hour = int(overview.at.timestamp() // _AT_LEAST_EVERY.total_seconds())
        cursor = json.dumps([hour, state])
        if cursor == context.cursor:
            return dg.SkipReason(f"{overview.sentence} Nothing has changed.")
        checks = [
            dg.AssetCheckEvaluation(
                asset_key=KEY,
                check_name=plan.plan,
                passed=plan.standing == "good",
                severity=_severity(plan),
                description=_reasons(plan, incidents),
            )
            for plan in overview.plans
        ]
        return dg.SensorResult(
            asset_events=[dg.AssetMaterialization(KEY, metadata=_metadata(overview, incidents)), *checks], cursor=cursor
        )

    return sensor
