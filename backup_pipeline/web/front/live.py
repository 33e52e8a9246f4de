"""What runs now: a part of the home page that htmx asks for anew every few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from starlette.responses import Response

from backup_pipeline.operations.status.overview import Overview
from backup_pipeline.operations.status.progress import SetProgress, running_sets
from backup_pipeline.orchestration.activity import ActiveRun, active_runs
from backup_pipeline.orchestration.run_progress import Piece, pieces_of
from backup_pipeline.web.front.context import Front
from backup_pipeline.web.front.pages import PageRequest

BUSY_SECONDS, IDLE_SECONDS = 3, 15
"""How often the part is asked for while something runs, and while nothing does."""
_MOST_ARTEFACTS = 12


@dataclass(frozen=True)
class LiveWork:
    """One piece of work that runs or waits: a run of Dagster's, a set that is being written, or both.

    Attributes:
        title: what it is, as in `backup of nightly`.
        run: the run; None for a backup that another machine makes.
        progress: of the set that it writes; None for other work.
        shown: the artefacts to show, those in progress and the last that were done.
        elapsed: since it began; None while it waits.
        pieces: of the work of a run that writes no set, as it reports them.
    """

    title: str
    run: ActiveRun | None
    progress: SetProgress | None
    elapsed: timedelta | None
    pieces: tuple[Piece, ...] = ()

    @property
    def name(self) -> str:
        """What distinguishes it from other work, also in the next answer."""
        return self.run.run_id if self.run else self.progress.set_id if self.progress else self.title


def live_work(front: Front, now: datetime) -> list[LiveWork]:
    """Return what runs or waits now, runs first."""
    sets = {one.plan: one for one in running_sets(front.site(), now)}
    instance = front.instance
    found = []
    for run in active_runs(instance) if instance is not None else ():
        progress = None
        if run.operation in ("backup", "capture") and not run.waiting:
            progress = sets.pop(run.plan, None)
        elapsed = now - run.started_at if run.started_at else None
        pieces = pieces_of(instance, run.run_id) if instance is not None and progress is None and elapsed else ()
        found.append(LiveWork(_title(run), run, progress, elapsed, pieces))
    found += [LiveWork(f"Backup of {one.plan}", None, one, now - one.started_at) for one in sets.values()]
    return found


def _title(run: ActiveRun) -> str:
    # Of a copy either of them names the vault too.
    place = run.set_name.rpartition("/")[0]
    subject = run.set_name if place and (place.endswith(run.plan) or run.plan.endswith(place)) else run.plan
    if run.source:
        work = {"plan": "Plan of a restore of", "undo": "Undo of the restore of"}.get(run.step, "Restore of")
        return f"{work} {run.source}{f' from {run.set_name}' if run.set_name else ''}"
    return f"{run.operation.replace('_', ' ').capitalize()}{f' of {subject}' if subject else ''}"


def usual_seconds(overview: Overview, work: LiveWork) -> float | None:
    """Return how long work of that kind took the last time, None when it is not known."""
    plan = overview.plan(work.run.plan) if work.run else None
    if plan is None or work.run is None:
        return None
    if work.run.operation == "backup":
        return plan.last_good.seconds if plan.last_good else None
    return plan.proof.restore_seconds if work.run.operation == "drill" and plan.proof else None


def live_part(asked: PageRequest) -> Response:
    """Return the part of the home page that moves; when work has ended since, the browser loads the whole page."""
    now = asked.front.now()
    answer = asked.render("live.html.jinja", **live_values(asked.front, now))
    before = set(filter(None, asked.query.get("running", "").split(",")))
    if before - {one.name for one in live_work(asked.front, now)}:
        answer.headers["HX-Refresh"] = "true"
    return answer


def live_values(front: Front, now: datetime) -> dict[str, Any]:
    """Return what templates/live.html.jinja needs."""
    work = live_work(front, now)
    overview = front.overview()
    return {
        "work": [(one, usual_seconds(overview, one)) for one in work],
        "running": ",".join(one.name for one in work),
        "every": BUSY_SECONDS if work else IDLE_SECONDS,
        "most": _MOST_ARTEFACTS,
        "zone": front.site().settings.timezone,
    }
