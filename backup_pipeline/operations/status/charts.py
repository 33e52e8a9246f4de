"""Geometry of the status page's charts: a calendar of days, and values over time. charts.html.jinja draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

WEEKS = 53
_STEP, _LEFT, _TOP = 14, 30, 18
_PLOT = (46, 12, 330, 122)  # left, top, right, bottom of the plot
DAY_STATES = {
    "proven": "proven by a restore",
    "verified": "complete and verified",
    "complete": "complete",
    "mixed": "complete, and something failed too",
    "failed": "failed, incomplete or damaged",
    "removed": "complete, removed since by retention",
}


@dataclass(frozen=True, slots=True)
class CalendarLabel:
    """A month above or a weekday beside the calendar."""

    x: int
    y: int
    text: str


@dataclass(frozen=True, slots=True)
class CalendarDay:
    """A day's square; its state is a key of DAY_STATES, or `none`."""

    x: int
    y: int
    state: str
    text: str


@dataclass(frozen=True, slots=True)
class Calendar:
    """A year of days."""

    title: str
    labels: Sequence[CalendarLabel]
    days: Sequence[CalendarDay]
    width: int = _LEFT + WEEKS * _STEP
    height: int = _TOP + 7 * _STEP


def calendar(days: Mapping[date, tuple[str, str]], today: date, title: str) -> Calendar:
    """Return a year of days as weeks of seven squares, Monday above.

    Args:
        days: state (a key of DAY_STATES) and a text for each day that has one.
        today: the last day shown.
        title: what it shows, for screen readers.
    """
    monday = today - timedelta(days=today.weekday())
    first = monday - timedelta(weeks=WEEKS - 1)
    labels = [
        CalendarLabel(0, _TOP + row * _STEP + 9, name) for row, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"), (6, "Sun"))
    ]
    squares = []
    month = 0
    for week in range(WEEKS):
        begin = first + timedelta(weeks=week)
        x = _LEFT + week * _STEP
        if begin.month != month and week < WEEKS - 2:
            if month or begin.day <= 7:
                labels.append(CalendarLabel(x, 11, f"{begin:%b}"))
            month = begin.month
        for row in range(7):
            day = begin + timedelta(days=row)
            if day <= today:
                state, text = days.get(day) or ("none", "no set")
                squares.append(CalendarDay(x, _TOP + row * _STEP, state, f"{day:%Y-%m-%d}: {text}"))
    return Calendar(title, labels, squares)


@dataclass(frozen=True, slots=True)
class Point:
    """One value at one moment; `good` False draws it as a failure."""

    at: datetime
    value: float
    good: bool = True


@dataclass(frozen=True, slots=True)
class Dot:
    """A point at its place in the plot."""

    x: float
    y: float
    radius: float
    good: bool
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Values over time; without dots, nothing is recorded yet."""

    title: str
    newest: str = ""
    grid: Sequence[tuple[float, str]] = ()
    ends: Sequence[tuple[float, str, str]] = ()
    line: str = ""
    dots: Sequence[Dot] = ()
    left: int = _PLOT[0]
    right: int = _PLOT[2]
    bottom: int = _PLOT[3]


def chart(title: str, points: Sequence[Point], value_text: Callable[[float], str]) -> Chart:
    """Return values over time as a line with a dot for each, from zero.

    Args:
        title: the heading.
        points: the values, oldest first.
        value_text: formats a value.
    """
    if not points:
        return Chart(title)
    left, top, right, bottom = _PLOT
    high = nice_ceiling(max(point.value for point in points))
    begin, end = points[0].at, points[-1].at
    span = end - begin

    def x_of(at: datetime) -> float:
        # A single point stands in the middle.
        return round(left + (right - left) * ((at - begin) / span if span else 0.5), 1)

    def y_of(value: float) -> float:
        return round(bottom - (bottom - top) * value / high, 1)

    ends = [(begin, "start"), (end, "end")] if span else [(begin, "middle")]
    radius = 2.4 if len(points) <= 40 else 1.2
    dots = [
        Dot(
            x_of(point.at),
            y_of(point.value),
            radius + (point is points[-1]),
            point.good,
            f"{point.at:%Y-%m-%d %H:%M} UTC: {value_text(point.value)}",
        )
        for point in points
    ]
    return Chart(
        title,
        newest=value_text(points[-1].value),
        grid=[(y_of(high * share), value_text(high * share)) for share in (0, 0.5, 1)],
        ends=[(x_of(at), anchor, f"{at:%Y-%m-%d}") for at, anchor in ends],
        line=" ".join(f"{dot.x},{dot.y}" for dot in dots) if len(dots) > 1 else "",
        dots=dots,
    )


def nice_ceiling(value: float) -> float:
    """Return the next of 1, 2, 2.5, 5 times a power of ten at or above `value`; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))
