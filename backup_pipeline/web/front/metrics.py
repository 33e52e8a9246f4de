"""Prometheus metrics at /metrics: ages, sizes, durations and outcomes per plan, read from the overview alone.

Format: text exposition format 0.0.4, https://prometheus.io/docs/instrumenting/exposition_formats/. Times are moments
(seconds since 1970), not ages, so that an alert's rule works between two scrapes too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from starlette.responses import Response

from backup_pipeline import __version__
from backup_pipeline.operations.status.fleets import State
from backup_pipeline.operations.status.overview import Overview, PlanOverview
from backup_pipeline.web.front.pages import PageRequest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STANDINGS = {"good": 0, "attention": 1, "failing": 2}
_PREFIX = "backup_pipeline_"
HELP = {
    "build_info": "The release that serves these metrics.",
    "overview_timestamp_seconds": "When the stores were read for these metrics.",
    "plan_standing": "0 good, 1 needs attention, 2 failing.",
    "plan_problems": "What is wrong with the plan, by severity.",
    "last_good_timestamp_seconds": "Start of the newest good backup; 0 where there is none.",
    "last_good_size_bytes": "Bytes of the newest good backup.",
    "last_good_duration_seconds": "How long the newest good backup took.",
    "last_verified_timestamp_seconds": "When a set was last verified without a finding; 0 for never.",
    "last_proven_timestamp_seconds": "When a set was last restored and found equal; 0 for never.",
    "restore_duration_seconds": "How long the restore of the newest proof took (RTO as measured).",
    "longest_pause_seconds": "The longest time between two good backups in the past 30 days (RPO as measured).",
    "next_backup_timestamp_seconds": "When the schedule makes the next backup.",
    "sets": "Sets in the store, by state.",
    "store_size_bytes": "Bytes of all sets of the plan.",
    "disk_free_bytes": "Free bytes of the store's disk.",
    "disk_full_timestamp_seconds": "When that disk is expected to be full; absent while not within half a year.",
    "copies": "Copies of the plan's sets in the vault.",
    "copies_waiting": "Sets since the newest copy that have none in the vault.",
    "copy_newest_timestamp_seconds": "Start of the newest set with a copy in the vault; 0 where there is none.",
    "fleet_standing": "0 good, 1 needs attention, 2 failing.",
    "fleet_members": "Members of the fleet, by state.",
}
"""Every metric with its text; all are gauges."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric, with its labels."""

    name: str
    value: float
    labels: Mapping[str, str]


def metrics(asked: PageRequest) -> Response:
    """Return the metrics of the site."""
    return Response(exposition(asked.front.overview()), media_type=CONTENT_TYPE)


def exposition(overview: Overview) -> str:
    """Return an overview in the text exposition format."""
    samples = list(_samples(overview))
    lines = []
    for name, text in HELP.items():
        own = [one for one in samples if one.name == name]
        if own:
            lines += [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} gauge"]
            lines += [f"{_PREFIX}{name}{_labels(one.labels)} {one.value!r}" for one in own]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    escaped = (f'{name}="{value.translate(_ESCAPED)}"' for name, value in labels.items())
    text = ",".join(escaped)
    return f"{{{text}}}" if text else ""


_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def _samples(overview: Overview) -> Iterator[Sample]:
    yield Sample("build_info", 1, {"version": __version__})
    yield Sample("overview_timestamp_seconds", overview.at.timestamp(), {})
    for plan in overview.plans:
        for name, value, more in _of_plan(plan):
            if value is not None:
                yield Sample(name, value, {"plan": plan.plan, **more})
    for fleet in overview.fleets:
        yield Sample("fleet_standing", _STANDINGS[fleet.standing], {"fleet": fleet.name})
        for state in get_args(State):
            count = sum(one.state == state for one in fleet.members)
            yield Sample("fleet_members", count, {"fleet": fleet.name, "state": state})


def _of_plan(plan: PlanOverview) -> Iterator[tuple[str, float | None, dict[str, str]]]:
    good, proof = plan.last_good, plan.proof
    yield "plan_standing", _STANDINGS[plan.standing], {}
    for severity in ("error", "warning"):
        yield "plan_problems", sum(one.severity == severity for one in plan.problems), {"severity": severity}
    yield "last_good_timestamp_seconds", _time(good.started_at if good else None), {}
    yield "last_good_size_bytes", good.size if good else None, {}
    yield "last_good_duration_seconds", good.seconds if good else None, {}
    yield "last_verified_timestamp_seconds", _time(plan.verified_at), {}
    yield "last_proven_timestamp_seconds", _time(proof.at if proof else None), {}
    yield "restore_duration_seconds", proof.restore_seconds if proof else None, {}
    yield "longest_pause_seconds", plan.longest_pause.total_seconds() if plan.longest_pause else None, {}
    yield "next_backup_timestamp_seconds", plan.next_backup.timestamp() if plan.next_backup else None, {}
    for state in ("proven", "verified", "complete", "failed"):
        yield "sets", plan.states.get(state, 0), {"state": state}
    yield "store_size_bytes", plan.size, {}
    yield "disk_free_bytes", plan.free, {}
    yield "disk_full_timestamp_seconds", plan.full_at.timestamp() if plan.full_at else None, {}
    for copy in plan.copies:
        vault = {"vault": copy.vault}
        yield "copies", copy.copies, vault
        yield "copies_waiting", copy.waiting, vault
        yield "copy_newest_timestamp_seconds", _time(copy.newest_at), vault


def _time(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0
