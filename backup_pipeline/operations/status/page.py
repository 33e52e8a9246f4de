"""The status of all plans as one self-contained HTML page, to read on a screen or to print for an auditor.

Pure: a text from values. Nothing is fetched by the page: styles and pictures stand in it (page.css,
status_charts). Names, counts, sizes and times only; no content of any source.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

from backup_pipeline import __version__
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.model.set_id import set_time
from backup_pipeline.operations.sites.stores import is_whole_backup
from backup_pipeline.operations.status.charts import Point, calendar, chart, legend
from backup_pipeline.operations.status.listing import ListedSet
from backup_pipeline.operations.status.plan import PlanStatus
from backup_pipeline.rules.retention import problem_of
from backup_pipeline.system.files import read_ordinary

_STANDINGS = {"good": "✓ Good", "attention": "! Needs attention", "failing": "✕ Failing"}
_LISTED_SETS = 12


@cache
def _style() -> str:
    return files("backup_pipeline.operations.status").joinpath("page.css").read_text("utf-8")


# Pages of earlier releases carry no generator.
_OWN = (b'<meta name="generator" content="backup-pipeline">', b'<header class="site"><div><h1>Backups of ')


def is_status_page(path: Path) -> bool:
    """Return whether a file is an earlier status page, which may be replaced; a person's own file may not."""
    try:
        content = read_ordinary(path)
    except OSError:
        return False
    return any(mark in content for mark in _OWN)


def status_page(plans: Sequence[PlanStatus], *, now: datetime, site: str, timezone: str) -> str:
    """Return the page.

    Args:
        plans: the standing of each plan.
        now: the present moment.
        site: the site's name, for the heading.
        timezone: IANA name of the zone in which days are counted.
    """
    zone = ZoneInfo(timezone)
    local = now.astimezone(zone)
    body = "".join(_plan(plan, now, zone) for plan in plans)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="backup-pipeline">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Backups of {escape(site)}, {local:%Y-%m-%d}</title>
<style>
{_style()}</style>
</head>
<body>
<main>
<header class="site"><div><h1>Backups of {escape(site)}</h1><p>{_summary(plans)}</p></div>
<p class="when">{local:%Y-%m-%d %H:%M} {escape(timezone)}</p></header>
{body}
<footer>
<p><b>Complete</b>: every artefact of every source was written, re-read and sealed with a manifest of checksums.
<b>Verified</b>: every file was read again later and equals the manifest.
<b>Proven</b>: the set was restored into a scratch server and found equal, table by table.
<b>RTO</b>: how long that restore took.</p>
<p>Made by backup-pipeline {escape(__version__)} from the manifests, proofs and logs in the stores. Set names are the
UTC time of their start; days are counted in {escape(timezone)}.</p>
</footer>
</main>
</body>
</html>
"""


def _summary(plans: Sequence[PlanStatus]) -> str:
    bad = [plan.plan for plan in plans if plan.standing != "good"]
    sets = sum(len(plan.sets) for plan in plans)
    verb = "needs" if len(bad) == 1 else "need"
    what = f"{_listed(bad)} {verb} attention" if bad else "all plans are in good order"
    return f"{len(plans)} {'plan' if len(plans) == 1 else 'plans'}, {sets} sets; {what}"


def _listed(names: Sequence[str]) -> str:
    *others, last = map(escape, names)
    return f"{', '.join(others)} and {last}" if others else last


def _plan(plan: PlanStatus, now: datetime, zone: ZoneInfo) -> str:
    problems = "".join(
        f'<li class="{p.severity}"><b>{p.severity}</b>: {escape(p.what)}'
        + (f"<span>{escape(p.remedy)}</span>" if p.remedy else "")
        + "</li>"
        for p in plan.problems
    )
    today = now.astimezone(zone).date()
    return f"""<section class="plan" id="plan-{escape(plan.plan)}">
<header><h2>{escape(plan.plan)}</h2><span class="standing {plan.standing}">{_STANDINGS[plan.standing]}</span>
<span class="store">{escape(plan.store)}</span></header>
{_facts(plan, now, zone)}
{f'<ul class="problems">{problems}</ul>' if problems else ""}
<div class="calendar-box"><h3>A year of backups</h3>
{calendar(_days(plan, zone), today, f"Backups of {plan.plan} by day")}{legend()}</div>
<h3>Over time</h3>
<div class="charts">{_charts(plan)}</div>
<h3>Newest sets</h3>
{_table(plan, now)}
</section>
"""


def _facts(plan: PlanStatus, now: datetime, zone: ZoneInfo) -> str:
    proof = plan.last_proven.known.last_proof(ProofKind.DRILL) if plan.last_proven else None
    rto = proof.numbers.get("rto_seconds") if proof else None
    measured = "measured by the last proof" if rto is not None else "measured by a proof"
    growth = f"{plan.trend.per_month_percent:+.1f} % in 30 days" if plan.trend else "no trend yet"
    full = f"full about {plan.full_at:%Y-%m-%d}" if plan.full_at else "enough for half a year"
    next_at = plan.next_backup.astimezone(zone) if plan.next_backup else None
    upcoming = (f"{next_at:%a %H:%M}", f"{next_at:%Y-%m-%d}") if next_at else ("by hand", "no schedule")
    size = short_bytes(plan.last_good.known.size) if plan.last_good else None
    facts = [
        ("Last good backup", _ago(plan.last_good, now), _stamp(plan.last_good, zone)),
        ("Last proven", _ago(plan.last_proven, now), _stamp(plan.last_proven, zone)),
        ("Last verified", _ago(plan.last_verified, now), _stamp(plan.last_verified, zone)),
        ("Next backup", *upcoming),
        ("Size of a set", size, growth),
        ("All sets", short_bytes(plan.size), f"{len(plan.sets)} kept"),
        ("Free space", short_bytes(plan.free) if plan.free is not None else "unknown", full),
        ("Time to restore (RTO)", short_seconds(rto) if rto is not None else None, measured),
    ]  # fmt: skip
    cells = "".join(
        f'<div><dt>{name}</dt><dd class="{"" if value else "missing"}">{value or "none"}'
        f"<small>{small}</small></dd></div>"
        for name, value, small in facts
    )
    return f'<dl class="facts">{cells}</dl>'


def _ago(one: ListedSet | None, now: datetime) -> str | None:
    return f"{_age(now - one.known.started_at)} ago" if one else None


def _age(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    if hours < 2:
        return f"{max(0, int(hours * 60))} min"
    return f"{int(hours)} h" if hours < 48 else f"{int(hours // 24)} days"


def _stamp(one: ListedSet | None, zone: ZoneInfo) -> str:
    return f"{one.known.started_at.astimezone(zone):%Y-%m-%d %H:%M}" if one else "&nbsp;"


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


def day_state(one: ListedSet) -> str | None:
    """Return how a set shows in the calendar; None for one that is being written."""
    known = one.known
    if one.running:
        return None
    if known.state is not SetState.COMPLETE or one.missing or problem_of(known):
        return "failed"
    return "proven" if one.proven else "verified" if one.verified else "complete"


def _days(plan: PlanStatus, zone: ZoneInfo) -> dict[date, tuple[str, str]]:
    """Return each day's state: the best set of the day, since one good backup a day is what counts."""
    rank = ("failed", "removed", "complete", "verified", "proven")
    states: dict[date, list[str]] = {}
    for one in plan.sets:
        if state := day_state(one):
            states.setdefault(one.known.started_at.astimezone(zone).date(), []).append(state)
    present = {one.known.set_id for one in plan.sets}
    for set_id, outcome in plan.past_runs:
        if set_id not in present:
            day = set_time(set_id).astimezone(zone).date()
            states.setdefault(day, []).append("removed" if outcome == "complete" else "failed")
    return {
        day: (max(found, key=rank.index), f"{len(found)} set{'s' if len(found) > 1 else ''}: {', '.join(found)}")
        for day, found in states.items()
    }


def _charts(plan: PlanStatus) -> str:
    whole = [one for one in plan.sets if is_whole_backup(one.known)]
    drills = sorted(
        (
            Point(proof.finished_at, proof.numbers["rto_seconds"], good=proof.passed)
            for one in plan.sets
            for proof in one.known.proofs
            if proof.kind is ProofKind.DRILL and "rto_seconds" in proof.numbers
        ),
        key=lambda point: point.at,
    )
    good = {one.known.set_id: not problem_of(one.known) for one in whole}
    sizes = [Point(one.known.started_at, one.known.size, good[one.known.set_id]) for one in whole]
    rows = [Point(one.known.started_at, one.rows, good[one.known.set_id]) for one in whole]
    return (
        chart("Size of a set", sizes, short_bytes)
        + chart("Rows of its tables", rows, short_count)
        + chart("Time to restore (RTO)", drills, short_seconds)
    )


def _proven(one: ListedSet) -> str:
    if one.proven:
        return "yes"
    return "not here" if one.known.not_drilled_here else "–"


def _table(plan: PlanStatus, now: datetime) -> str:
    if not plan.sets:
        return '<p class="empty">no sets yet</p>'
    rows = []
    for one in reversed(plan.sets[-_LISTED_SETS:]):
        passed, failed = one.checks
        state = "failed" if day_state(one) == "failed" else one.state
        bad = ' class="bad"' if state == "failed" else ""
        kinds = [
            w for w, holds in (("partial", one.partial), ("emergency", one.known.purpose.value == "emergency")) if holds
        ]
        note = escape("; ".join((*kinds, *one.notes)))
        rows.append(
            f"<tr><td>{one.known.set_id}</td><td{bad}>{one.state}</td>"
            f'<td class="n">{_age(now - one.known.started_at)}</td><td class="n">{short_bytes(one.known.size)}</td>'
            f'<td class="n">{one.rows:,}</td><td class="n">{passed} of {passed + failed}</td>'
            f"<td>{'yes' if one.verified else '–'}</td><td>{_proven(one)}</td>"
            f"<td>{note}</td></tr>"
        )
    heads = '<th>Set</th><th>State</th><th class="n">Age</th><th class="n">Size</th><th class="n">Rows</th>'
    heads += '<th class="n">Checks</th><th>Verified</th><th>Proven</th><th></th>'
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
