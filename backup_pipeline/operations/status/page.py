"""The status of all plans as one self-contained HTML page, to read on a screen or to print for an auditor.

Pure: a text from values, drawn by templates/page.html.jinja. Nothing is fetched by the page: styles and pictures stand
in it. Names, counts, sizes and times only; no content of any source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import jinja2

from backup_pipeline import __version__
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.operations.sites.stores import is_whole_backup
from backup_pipeline.operations.status.charts import DAY_STATES, Calendar, Chart, Point, calendar, chart
from backup_pipeline.operations.status.copies import CopiesStatus
from backup_pipeline.operations.status.days import day_state, days_of
from backup_pipeline.operations.status.listing import ListedSet
from backup_pipeline.operations.status.overview import restores_of, sizes_of
from backup_pipeline.operations.status.plan import PlanStatus, Problem
from backup_pipeline.rules.quantities import enumerated
from backup_pipeline.rules.retention import problem_of
from backup_pipeline.rules.three_two_one import Condition
from backup_pipeline.system.files import read_ordinary

_STANDINGS = {"good": "✓ Good", "attention": "! Needs attention", "failing": "✕ Failing"}
_LISTED_SETS = 12

# Pages of earlier releases carry no generator.
_OWN = (b'<meta name="generator" content="backup-pipeline">', b'<header class="site"><div><h1>Backups of ')


@cache
def templates() -> jinja2.Environment:
    """Return the page's templates; every value that they insert is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("backup_pipeline.operations.status"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def is_status_page(path: Path) -> bool:
    """Return whether a file is an earlier status page, which may be replaced; a person's own file may not."""
    try:
        content = read_ordinary(path)
    except OSError:
        return False
    return any(mark in content for mark in _OWN)


@dataclass(frozen=True, slots=True)
class SetRow:
    """A line of the table of newest sets, formatted."""

    set_id: str
    state: str
    failed: bool
    age: str
    size: str
    rows: str
    checks: str
    verified: str
    proven: str
    notes: str


@dataclass(frozen=True, slots=True)
class CopiesRow:
    """A line of the table of copies, formatted."""

    vault: str
    copies: str
    newest: str
    age: str
    size: str
    proven: str
    checked: str
    notes: str


@dataclass(frozen=True, slots=True)
class PlanSection:
    """A plan's part of the page, formatted; facts are name, value (None for none) and small print.

    Beside each problem stands who acknowledged it.
    """

    name: str
    standing: str
    store: str
    facts: Sequence[tuple[str, str | None, str]]
    problems: Sequence[tuple[Problem, Sequence[str]]]
    calendar: Calendar
    charts: Sequence[Chart]
    rows: Sequence[SetRow]
    copies: Sequence[CopiesRow]
    answers: Sequence[Condition]


def status_page(plans: Sequence[PlanStatus], *, now: datetime, site: str, timezone: str) -> str:
    """Return the page.

    Args:
        plans: the standing of each plan.
        now: the present moment.
        site: the site's name, for the heading.
        timezone: IANA name of the zone in which days are counted.
    """
    zone = ZoneInfo(timezone)
    return (
        templates()
        .get_template("page.html.jinja")
        .render(
            plans=[_section(plan, now, zone) for plan in plans],
            summary=_summary(plans),
            site=site,
            now=now.astimezone(zone),
            timezone=timezone,
            standings=_STANDINGS,
            day_states=DAY_STATES,
            version=__version__,
        )
    )


def _summary(plans: Sequence[PlanStatus]) -> str:
    bad = [plan.plan for plan in plans if plan.standing != "good"]
    sets = sum(len(plan.sets) for plan in plans)
    verb = "needs" if len(bad) == 1 else "need"
    what = f"{enumerated(bad)} {verb} attention" if bad else "all plans are in good order"
    return f"{len(plans)} {'plan' if len(plans) == 1 else 'plans'}, {sets} sets; {what}"


def _section(plan: PlanStatus, now: datetime, zone: ZoneInfo) -> PlanSection:
    return PlanSection(
        name=plan.plan,
        standing=plan.standing,
        store=str(plan.store),
        facts=_facts(plan, now, zone),
        problems=[(one, one.acknowledged(plan.incidents)) for one in plan.problems],
        calendar=calendar(days_of(plan, zone), now.astimezone(zone).date(), f"Backups of {plan.plan} by day"),
        charts=_charts(plan),
        rows=[_row(one, now) for one in reversed(plan.sets[-_LISTED_SETS:])],
        copies=[_copies_row(one, now) for one in plan.copies],
        answers=plan.answers,
    )


def _copies_row(one: CopiesStatus, now: datetime) -> CopiesRow:
    newest, check, known = one.newest, one.record.checks.get(one.plan), one.record.inspected_at
    stored, growth = one.record.stored_bytes, one.growth
    more = f" ({short_bytes(abs(growth))} {'more' if growth >= 0 else 'less'} in 30 days)" if growth is not None else ""
    asked = f"The vault was asked {_age(now - known)} ago." if known else "The vault was never asked."
    return CopiesRow(
        vault=one.vault,
        copies=str(len(one.copies)),
        newest=str(newest.set_id) if newest else "none",
        age=_age(now - newest.at) if newest else "–",
        size=f"{short_bytes(stored)}{more}" if stored is not None else "unknown",
        proven=f"{one.proven[0]}{f', {one.restored}' if one.restored else ''}" if one.proven else "none",
        checked=f"{check.at:%Y-%m-%d}" if check else "never",
        notes=f"{one.lock_text(now)} {asked}",
    )


def _facts(plan: PlanStatus, now: datetime, zone: ZoneInfo) -> list[tuple[str, str | None, str]]:
    proof = plan.last_proven.known.last_proof(ProofKind.DRILL) if plan.last_proven else None
    rto = proof.numbers.get("rto_seconds") if proof else None
    measured = "measured by the last proof" if rto is not None else "measured by a proof"
    growth = f"{plan.trend.per_month_percent:+.1f} % in 30 days" if plan.trend else "no trend yet"
    full = f"full about {plan.full_at:%Y-%m-%d}" if plan.full_at else "enough for half a year"
    next_at = plan.next_backup.astimezone(zone) if plan.next_backup else None
    upcoming = (f"{next_at:%a %H:%M}", f"{next_at:%Y-%m-%d}") if next_at else ("by hand", "no schedule")
    size = short_bytes(plan.last_good.known.size) if plan.last_good else None
    return [
        ("Last good backup", _ago(plan.last_good, now), _stamp(plan.last_good, zone)),
        ("Last proven", _ago(plan.last_proven, now), _stamp(plan.last_proven, zone)),
        ("Last verified", _ago(plan.last_verified, now), _stamp(plan.last_verified, zone)),
        ("Next backup", *upcoming),
        ("Size of a set", size, growth),
        ("All sets", short_bytes(plan.size), f"{len(plan.sets)} kept"),
        ("Free space", short_bytes(plan.free) if plan.free is not None else "unknown", full),
        ("Time to restore (RTO)", short_seconds(rto) if rto is not None else None, measured),
    ]


def _ago(one: ListedSet | None, now: datetime) -> str | None:
    return f"{_age(now - one.known.started_at)} ago" if one else None


def _age(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    if hours < 2:
        return f"{max(0, int(hours * 60))} min"
    return f"{int(hours)} h" if hours < 48 else f"{int(hours // 24)} days"


def _stamp(one: ListedSet | None, zone: ZoneInfo) -> str:
    return f"{one.known.started_at.astimezone(zone):%Y-%m-%d %H:%M}" if one else ""


def short_bytes(size: float) -> str:
    """Return a size in three digits: `1.23 GB`, `45.6 MB`."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError


def short_seconds(seconds: float) -> str:
    """Return a duration: `12 s`, `4.5 min`, `1.2 h`."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def short_count(count: float) -> str:
    """Return a count in three digits: `950`, `12.3 k`, `4.56 M`."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= factor * 0.9995:
            return f"{count / factor:.3g}{unit}"
    return f"{count:.3g}"


def _charts(plan: PlanStatus) -> list[Chart]:
    rows = [
        Point(one.known.started_at, one.rows, not problem_of(one.known))
        for one in plan.sets
        if is_whole_backup(one.known)
    ]
    return [
        chart("Size of a set", sizes_of(plan.sets), short_bytes),
        chart("Rows of its tables", rows, short_count),
        chart("Time to restore (RTO)", restores_of(plan.sets), short_seconds),
    ]


def _proven(one: ListedSet) -> str:
    if one.proven:
        return "yes"
    return "not here" if one.known.not_drilled_here else "–"


def _row(one: ListedSet, now: datetime) -> SetRow:
    passed, failed = one.checks
    apart = (("partial", one.partial), ("emergency", one.known.purpose is Purpose.EMERGENCY))
    return SetRow(
        set_id=one.known.set_id,
        state=one.state,
        failed=day_state(one) == "failed" or one.state == "failed",
        age=_age(now - one.known.started_at),
        size=short_bytes(one.known.size),
        rows=f"{one.rows:,}",
        checks=f"{passed} of {passed + failed}",
        verified="yes" if one.verified else "–",
        proven=_proven(one),
        notes="; ".join([*(name for name, holds in apart if holds), *one.notes]),
    )
