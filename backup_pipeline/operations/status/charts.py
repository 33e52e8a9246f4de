"""Pictures of the status page as inline SVG: a calendar of days, and values over time. Pure; no page around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from html import escape

WEEKS = 53
_CELL, _GAP, _LEFT, _TOP = 11, 3, 30, 18
_WIDTH, _HEIGHT = 340, 150
_PLOT = (46, 12, 330, 122)  # left, top, right, bottom of the plot
DAY_WORDS = {
    "proven": "proven by a restore",
    "verified": "complete and verified",
    "complete": "complete",
    "failed": "failed, incomplete or damaged",
    "removed": "complete, removed since by retention",
}


def calendar(days: Mapping[date, tuple[str, str]], today: date, title: str) -> str:
    """Return a year of days as weeks of seven squares, Monday above.

    Args:
        days: state (a key of DAY_WORDS) and a text for each day that has one.
        today: the last day shown.
        title: what it shows, for screen readers.
    """
    monday = today - timedelta(days=today.weekday())
    first = monday - timedelta(weeks=WEEKS - 1)
    step = _CELL + _GAP
    parts = [
        f'<svg class="calendar" role="img" viewBox="0 0 {_LEFT + WEEKS * step} {_TOP + 7 * step}" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    ]
    for row, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"), (6, "Sun")):
        parts.append(f'<text class="label" x="0" y="{_TOP + row * step + 9}">{name}</text>')
    month = 0
    for week in range(WEEKS):
        begin = first + timedelta(weeks=week)
        if begin.month != month and week < WEEKS - 2:
            if month or begin.day <= 7:
                parts.append(f'<text class="label" x="{_LEFT + week * step}" y="11">{begin:%b}</text>')
            month = begin.month
        for row in range(7):
            day = begin + timedelta(days=row)
            if day <= today:
                parts.append(_day(_LEFT + week * step, _TOP + row * step, day, days.get(day)))
    return "".join(parts) + "</svg>"


def _day(x: float, y: float, day: date, known: tuple[str, str] | None) -> str:
    state, text = known or ("none", "no set")
    reported = f"<title>{day:%Y-%m-%d}: {escape(text)}</title>"
    square = f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" rx="2"/>'
    return f'<g class="day {state}">{reported}{square}{_mark(state, x, y)}</g>'


def _mark(state: str, x: float, y: float) -> str:
    """Return a sign besides the colour: prints in grey and eyes that see no red must tell states apart too."""
    if state == "failed":
        return f'<path d="M{x + 3} {y + 3}l5 5m0 -5l-5 5"/>'
    if state == "proven":
        return f'<path d="M{x + 2.5} {y + 5.5}l2.2 2.4l4 -4.6"/>'
    if state == "verified":
        return f'<circle cx="{x + 5.5}" cy="{y + 5.5}" r="1.6"/>'
    return ""


def legend() -> str:
    """Return the calendar's legend."""
    items = []
    for state, words in DAY_WORDS.items():
        square = f'<g class="day {state}"><rect x="0" y="0" width="11" height="11" rx="2"/>{_mark(state, 0, 0)}</g>'
        items.append(
            f'<span><svg viewBox="0 0 11 11" width="11" height="11" aria-hidden="true">{square}</svg>{words}</span>'
        )
    return f'<p class="legend">{"".join(items)}</p>'


@dataclass(frozen=True, slots=True)
class Point:
    """One value at one moment; `good` False draws it as a failure."""

    at: datetime
    value: float
    good: bool = True


def chart(title: str, points: Sequence[Point], words: Callable[[float], str]) -> str:
    """Return values over time as a line with a point for each, from zero.

    Args:
        title: the heading.
        points: the values, oldest first.
        words: how a value is reported.
    """
    last = f'<span class="value">{escape(words(points[-1].value))}</span>' if points else ""
    head = f'<figcaption><span class="name">{escape(title)}</span>{last}</figcaption>'
    if not points:
        return f'<figure>{head}<p class="empty">nothing recorded yet</p></figure>'
    left, top, right, bottom = _PLOT
    high = nice_ceiling(max(point.value for point in points))
    begin, end = points[0].at, points[-1].at
    span = (end - begin) / timedelta(seconds=1)

    def x_of(at: datetime) -> float:
        # A single point stands in the middle.
        return round(left + (right - left) * (((at - begin) / timedelta(seconds=1)) / span if span else 0.5), 1)

    def y_of(value: float) -> float:
        return round(bottom - (bottom - top) * (value / high if high else 0), 1)

    parts = [f'<svg role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-label="{escape(title)} over time">']
    for share in (0, 0.5, 1):
        y = y_of(high * share)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="label" x="{left - 5}" y="{y + 3}" text-anchor="end">{words(high * share)}</text>')
    ends = [(begin, "start"), (end, "end")] if span else [(begin, "middle")]
    for at, anchor in ends:
        parts.append(
            f'<text class="label" x="{x_of(at)}" y="{bottom + 16}" text-anchor="{anchor}">{at:%Y-%m-%d}</text>'
        )
    if len(points) > 1:
        line = " ".join(f"{x_of(point.at)},{y_of(point.value)}" for point in points)
        parts.append(f'<polygon class="area" points="{left},{bottom} {line} {right},{bottom}"/>')
        parts.append(f'<polyline class="line" points="{line}"/>')
    radius = 2.4 if len(points) <= 40 else 1.2
    for index, point in enumerate(points):
        size = radius + 1 if index == len(points) - 1 else radius
        reported = f"<title>{point.at:%Y-%m-%d %H:%M} UTC: {escape(words(point.value))}</title>"
        kind = "point" if point.good else "point failed"
        parts.append(
            f'<circle class="{kind}" cx="{x_of(point.at)}" cy="{y_of(point.value)}" r="{size}">{reported}</circle>'
        )
    return f"<figure>{head}{''.join(parts)}</svg></figure>"


def nice_ceiling(value: float) -> float:
    """Return the next of 1, 2, 2.5, 5 times a power of ten at or above `value`; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))
