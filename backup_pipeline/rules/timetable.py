"""When a site's commands run, as lines of a crontab and as systemd's calendar expressions. Pure text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

CHECK_CRON = "*/15 * * * *"
_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_NAMES = {name.upper(): str(number) for number, name in enumerate(_DAYS[:7])}
_MONTHS = {
    name: str(number)
    for number, name in enumerate(
        ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"), 1
    )
}
_SHORTCUTS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One command of a site that runs by itself.

    Attributes:
        name: letters, digits, `_` and `-`, unlike the other jobs' of the site.
        cron: when, as five fields.
        arguments: of backup-pipeline, without `--config`.
        log: file in the site's folder that its output goes to.
        fresh: the log holds the last run alone.
    """

    name: str
    cron: str
    arguments: tuple[str, ...]
    log: str
    fresh: bool = False


def begin_mark(config: str) -> str:
    """Return the first line of a site's part of a crontab."""
    return f"# backup-pipeline: begin {config} (written by `backup-pipeline schedule install`; do not edit)"


def end_mark(config: str) -> str:
    """Return the last line of a site's part of a crontab."""
    return f"# backup-pipeline: end {config}"


def crontab_block(jobs: Sequence[Job], *, program: str, config: str, folder: str) -> str:
    """Return a site's part of a crontab, marks and all.

    Args:
        jobs: what is to run.
        program: path of backup-pipeline.
        config: path of backup.yaml.
        folder: the site's folder, in which the commands run.
    """
    lines = []
    for job in jobs:
        command_line = shlex.join([program, *job.arguments, "--config", config])
        command = f"cd {shlex.quote(folder)} && {command_line} {'>' if job.fresh else '>>'} {shlex.quote(job.log)} 2>&1"
        # In a crontab a per cent sign ends the command.
        lines.append(f"{_SHORTCUTS.get(job.cron, job.cron)} {command.replace('%', chr(92) + '%')}")
    return "\n".join([begin_mark(config), *lines, end_mark(config)]) + "\n"


def block_in(crontab: str, config: str) -> str:
    """Return a site's part of a crontab, "" where there is none."""
    return "".join(_split(crontab, config)[1])


def with_block(crontab: str, config: str, block: str) -> str:
    """Return the crontab with the site's part replaced, or added at its end; all other lines stay as they are."""
    before, old, after = _split(crontab, config)
    if not old and before and not before[-1].endswith("\n"):
        before[-1] += "\n"
    return "".join([*before, block, *after])


def _split(crontab: str, config: str) -> tuple[list[str], list[str], list[str]]:
    lines = crontab.splitlines(keepends=True)
    begins = [n for n, line in enumerate(lines) if line.startswith(f"# backup-pipeline: begin {config} (")]
    ends = [n for n, line in enumerate(lines) if line.rstrip("\n") == end_mark(config)]
    if not begins or not ends or ends[0] < begins[0]:
        return lines, [], []
    return lines[: begins[0]], lines[begins[0] : ends[0] + 1], lines[ends[0] + 1 :]


def on_calendar(cron: str, timezone: str) -> str:
    """Return a cron expression as systemd's OnCalendar.

    Raises:
        ValueError: it names both days of the month and days of the week: cron takes either, systemd both.
    """
    fields = _SHORTCUTS.get(cron, cron).split()
    if len(fields) != 5:
        raise ValueError("not five fields")
    minute, hour, day, month, weekday = fields
    if day not in ("*", "?") and weekday not in ("*", "?"):
        raise ValueError(
            "a day of the month and a day of the week together mean 'either' to cron and 'both' to systemd"
        )
    days = "" if weekday in ("*", "?") else _weekdays(weekday) + " "
    date = f"*-{_field(month, 1)}-{_field(day, 1)}"
    return f"{days}{date} {_field(hour, 0)}:{_field(minute, 0)}:00 {timezone}"


def _field(text: str, first: int) -> str:
    parts = []
    for part in text.upper().split(","):
        body, _, step = part.partition("/")
        body = re.sub("[A-Z]+", lambda found: _MONTHS.get(found[0], found[0]), body)
        if body in ("*", "?"):
            parts.append(f"{first}/{step}" if step else "*")
        else:
            low, dash, high = body.partition("-")
            span = f"{int(low):02}..{int(high):02}" if dash else f"{int(low):02}"
            parts.append(span + (f"/{step}" if step else ""))
    return ",".join(parts)


def _weekdays(text: str) -> str:
    found: set[int] = set()
    for part in text.upper().split(","):
        body, _, step = part.partition("/")
        body = re.sub("[A-Z]+", lambda match: _NAMES.get(match[0], match[0]), body)
        low, dash, high = ("0", "-", "6") if body == "*" else body.partition("-")
        last = int(high) if dash else 6 if step else int(low)
        found |= {number % 7 for number in range(int(low), last + 1, int(step or 1))}
    return ",".join(_DAYS[number] for number in sorted(found))
