"""Events of a plan in a period: from its sets, proofs, restores, incidents, the run log, and Dagster's history."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.evidence import NOT_COUNTED, Event, EventKind
from backup_pipeline.model.proof import Proof, ProofOutcome
from backup_pipeline.model.set_id import SetId, is_set_id, set_time
from backup_pipeline.operations.evidence.copies import proofs_of_copies
from backup_pipeline.operations.evidence.history import History
from backup_pipeline.operations.evidence.restores import FIGURES, events_of_restore, failed_in_the_shell, failed_run
from backup_pipeline.operations.restore.records import failures, results
from backup_pipeline.operations.sites.run_log import RUN_LOG_NAME
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.listing import ListedSet, list_plan
from backup_pipeline.operations.status.set_summaries import set_summaries
from backup_pipeline.settings.site import Site

_LOGGED = re.compile(
    r" - backup - \w+ - (?P<plan>\w+)/(?P<set>\S+) (?P<outcome>complete|incomplete)"
    r"(?:[^,:\n]*, (?P<artefacts>\d+) artefacts, (?P<rows>\d+) rows, (?P<bytes>\d+) bytes)?"
)
_MOST_FINDINGS = 3


@dataclass(frozen=True)
class Collected:
    """What happened in a period, oldest first; the last good backup before it; the first backup that is known."""

    events: tuple[Event, ...]
    good_before: datetime | None
    known_from: datetime | None


def collect(
    site: Site, plan: str, begin: datetime, end: datetime, history: History, *, from_files: bool = True
) -> Collected:
    """Return what happened to a plan in a period.

    Args:
        site: the site.
        plan: the plan.
        begin: the first moment of the period.
        end: the first moment after it.
        history: Dagster's runs of it.
        from_files: read the sets themselves; False takes what the index of their store holds, for pages.

    Raises:
        StoreError: the plan's store cannot be read.
    """
    sets = list(list_plan(site, plan, from_files=from_files))
    backups = [event for one in sets if (event := _of_set(one, history))]
    backups += _logged(site, plan, {one.known.set_id for one in sets})
    found = [*backups]
    found += [_of_proof(proof, history) for one in sets for proof in one.known.proofs]
    known = {(one.kind, one.subject, one.at) for one in found}
    # Of a plan whose only store is a vault a result is kept in both places.
    found += [
        event for set_id, event in proofs_of_copies(site, plan, history) if (event.kind, set_id, event.at) not in known
    ]
    found += [event for result in results(site, plan) for event in events_of_restore(result, history)]
    found += [failed_in_the_shell(failure) for failure in failures(site, plan)]
    found += _of_incidents(site, plan)
    found += _failed_runs(history, found)
    within = [one for one in found if begin <= one.at < end]
    return Collected(
        tuple(sorted(within, key=lambda one: (one.at, one.kind, one.subject))),
        max((one.at for one in backups if one.good and one.at < begin), default=None),
        min((one.at for one in backups), default=None),
    )


def newest_moment(site: Site, plan: str) -> datetime | None:
    """Return when the newest thing was done or found that evidence of a plan has without any history; None for never.

    A store that cannot be read has nothing.
    """
    moments = [one.opened_at for one in read_state(site, shared=False).open if one.plan == plan]
    with suppress(BackupSystemError):
        for one in set_summaries(open_store(site, plan), running=False):
            proofs = (one.verification, one.drill, one.not_drilled_here)
            moments += [one.facts.at, *(proof.finished_at for proof in proofs if proof)]
        for result in results(site, plan):
            moments += [result.finished_at, *([result.undone_at] if result.undone_at else [])]
        moments += [failure.ended for failure in failures(site, plan)]
    return max(moments, default=None)


def _failed_runs(history: History, found: Sequence[Event]) -> list[Event]:
    """Return the runs that failed and that no event tells of.

    The emergency set that a restore made first is the event of a backup, and says nothing of how the restore ended.
    """
    restored = {event.run_id for event in found if event.kind in (EventKind.RESTORE, EventKind.UNDO)}
    shown = {event.run_id for event in found}
    failed = [run for run in history.runs if run.failed]
    return [failed_run(run) for run in failed if run.run_id not in (restored if run.step else shown)]


def _of_set(one: ListedSet, history: History) -> Event | None:
    """Return the backup that made a set; None while it is being written."""
    known = one.known
    if one.running:
        return None
    purpose = "" if known.purpose.value == "backup" else f"{known.purpose.value} set"
    notes = [purpose, "only some of the plan's sources" if one.partial else "", *one.notes[:_MOST_FINDINGS]]
    whole = known.state is SetState.COMPLETE and not one.missing and not known.problem
    apart = whole and bool(one.partial or purpose)
    return Event(
        at=known.sealed_at or known.started_at,
        kind=EventKind.BACKUP,
        subject=known.set_id,
        outcome=NOT_COUNTED if apart else one.state,
        good=whole and not apart and not one.broken_data,
        who=history.who(known.run_id),
        run_id=known.run_id,
        sha256=known.manifest_sha256,
        figures={
            "bytes": known.size,
            "rows": one.rows,
            "artefacts": known.artefacts,
            **({"seconds": known.seconds} if known.seconds is not None else {}),
        },
        detail="; ".join(filter(None, notes)),
    )


def _of_proof(proof: Proof, history: History) -> Event:
    named = proof.run_id
    # Results of before they named their run.
    if not named and (run := history.around(proof.kind.value, proof.finished_at)) and proof.set_id in run.set_name:
        named = run.run_id
    wrong = proof.findings or proof.missing_here or proof.skipped
    return Event(
        at=proof.finished_at,
        kind=EventKind(proof.kind.value),
        subject=proof.set_id,
        outcome=proof.outcome.value,
        good=proof.outcome is ProofOutcome.PASSED,
        who=history.who(named),
        run_id=named,
        figures={
            "seconds": (proof.finished_at - proof.started_at).total_seconds(),
            **{name: proof.numbers[name] for name in FIGURES if name in proof.numbers},
        },
        sha256=proof.manifest_sha256,
        detail="; ".join(f"{one.subject}: {one.problem}" for one in wrong[:_MOST_FINDINGS]),
    )


def _logged(site: Site, plan: str, present: set[SetId]) -> Iterator[Event]:
    """Yield the backups of which only the run log knows: their sets were removed since."""
    try:
        text = (site.store_folder(plan) / RUN_LOG_NAME).read_text("utf-8", "replace")
    except OSError:
        return
    latest = {line["set"]: line for line in _LOGGED.finditer(text) if line["plan"] == plan and is_set_id(line["set"])}
    for name, line in latest.items():
        set_id = SetId(name)
        if set_id not in present:
            yield Event(
                at=set_time(set_id),
                kind=EventKind.BACKUP,
                subject=set_id,
                outcome=line["outcome"],
                good=line["outcome"] == "complete",
                figures={key: int(line[key]) for key in ("artefacts", "rows", "bytes") if line[key]},
                detail="the set is not in the store any more; this is what the run log says of it",
            )


def _of_incidents(site: Site, plan: str) -> Iterator[Event]:
    state = read_state(site)
    for incident in (*state.closed, *state.open):
        if incident.plan == plan:
            over = incident.closed_at
            until = f"over at {over:%Y-%m-%d %H:%M} UTC" if over else "open"
            known = incident.acknowledged
            said = f"acknowledged by {known.by} at {known.at:%Y-%m-%d %H:%M} UTC: {known.reason}" if known else ""
            yield Event(
                at=incident.opened_at,
                kind=EventKind.INCIDENT,
                subject=incident.what,
                outcome=until,
                good=over is not None,
                who="monitoring",
                detail="; ".join(text for text in (incident.reason, said.removesuffix(": ")) if text),
            )
