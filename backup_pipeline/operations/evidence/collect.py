"""Events of a plan in a period: from its sets, proofs, restores, incidents, the run log, and Dagster's history."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.evidence import NOT_COUNTED, NOT_RECORDED, Event, EventKind
from backup_pipeline.model.manifest import MANIFEST_NAME
from backup_pipeline.model.proof import Proof, ProofOutcome
from backup_pipeline.model.restore import RestoreMode, RestoreResult
from backup_pipeline.model.set_id import SetId, is_set_id, set_time
from backup_pipeline.operations.restore.records import results
from backup_pipeline.operations.sites.run_log import RUN_LOG_NAME
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.operations.status.listing import ListedSet, list_plan
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import PlanStore

_LOGGED = re.compile(
    r" - backup - \w+ - (?P<plan>\w+)/(?P<set>\S+) (?P<outcome>complete|incomplete)"
    r"(?:[^,:\n]*, (?P<artefacts>\d+) artefacts, (?P<rows>\d+) rows, (?P<bytes>\d+) bytes)?"
)
_FIGURES = ("rto_seconds", "rpo_seconds", "bytes", "tables", "rows", "files")
_MOST_FINDINGS = 3


@dataclass(frozen=True, slots=True)
class HistoryRun:
    """A run as Dagster's history has it: what it did, of which set, who asked for it, and how it ended."""

    run_id: str
    operation: str
    set_name: str
    who: str
    began: datetime
    ended: datetime
    failed: bool


@dataclass(frozen=True)
class History:
    """The runs of a plan in a period; `known` is False where there is no history to ask."""

    runs: Sequence[HistoryRun] = ()
    known: bool = False
    _by_id: Mapping[str, HistoryRun] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {run.run_id: run for run in self.runs})

    def who(self, run_id: str) -> str:
        """Return who asked for a run; NOT_RECORDED where the history has no such run."""
        run = self._by_id.get(run_id)
        return run.who if run and run.who else NOT_RECORDED

    def around(self, operation: str, moment: datetime) -> HistoryRun | None:
        """Return the run that did such a thing at a moment."""
        return next((one for one in self.runs if one.operation == operation and one.began <= moment <= one.ended), None)


@dataclass(frozen=True)
class Collected:
    """What happened in a period, oldest first; the last good backup before it; the first backup that is known."""

    events: tuple[Event, ...]
    good_before: datetime | None
    known_from: datetime | None


def collect(
    site: Site, plan: str, begin: datetime, end: datetime, history: History, *, digests: int | None = None
) -> Collected:
    """Return what happened to a plan in a period.

    Args:
        site: the site.
        plan: the plan.
        begin: the first moment of the period.
        end: the first moment after it.
        history: Dagster's runs of it.
        digests: read only so many manifests, the newest, for their digests and runs; all where it is None.

    Raises:
        StoreError: the plan's store cannot be read.
    """
    store = open_store(site, plan)
    sets = list(list_plan(site, plan))
    backups = [event for one in sets if (event := _of_set(one))]
    backups += _logged(site, plan, {one.known.set_id for one in sets})
    backups.sort(key=lambda one: one.at)
    of_period = [number for number, one in enumerate(backups) if begin <= one.at < end]
    for number in of_period[-digests:] if digests else of_period:
        backups[number] = _with_digest(store, backups[number], history)
    found = [*backups]
    found += [_of_proof(proof, history) for one in sets for proof in one.known.proofs]
    found += [event for result in results(site, plan) for event in _of_restore(result, history)]
    found += _of_incidents(site, plan)
    shown = {event.run_id for event in found}
    found += [_of_failed_run(run) for run in history.runs if run.failed and run.run_id not in shown]
    within = [one for one in found if begin <= one.at < end]
    return Collected(
        tuple(sorted(within, key=lambda one: (one.at, one.kind, one.subject))),
        max((one.at for one in backups if one.good and one.at < begin), default=None),
        min((one.at for one in backups), default=None),
    )


def _of_failed_run(run: HistoryRun) -> Event:
    return Event(
        at=run.ended,
        kind=EventKind.RUN,
        subject=f"{run.operation} {run.set_name}".strip(),
        outcome="failed",
        good=False,
        who=run.who or NOT_RECORDED,
        run_id=run.run_id,
    )


def _of_set(one: ListedSet) -> Event | None:
    """Return the backup that made a set, without what only its manifest holds; None while it is being written."""
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
        figures={
            "bytes": known.size,
            "rows": one.rows,
            "artefacts": known.artefacts,
            **({"seconds": known.seconds} if known.seconds is not None else {}),
        },
        detail="; ".join(filter(None, notes)),
    )


def _with_digest(store: PlanStore, event: Event, history: History) -> Event:
    """Return a backup with its run, who asked for it, and its manifest's digest; as it is where the set is gone."""
    try:
        known = store.read(SetId(event.subject))
    except BackupSystemError:
        return event
    run_id = known.manifest.run_id if known.manifest else known.draft.root_run_id if known.draft else ""
    digest = _manifest_digest(store, known.set_id)
    return event.model_copy(update={"run_id": run_id, "who": history.who(run_id), "sha256": digest})


def _manifest_digest(store: PlanStore, set_id: SetId) -> str:
    try:
        with store.open(set_id, MANIFEST_NAME) as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (OSError, BackupSystemError):
        return ""


def _of_proof(proof: Proof, history: History) -> Event:
    run = history.around(proof.kind.value, proof.finished_at)
    named = proof.run_id or (run.run_id if run and proof.set_id in run.set_name else "")
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
            **{name: proof.numbers[name] for name in _FIGURES if name in proof.numbers},
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


def _of_restore(result: RestoreResult, history: History) -> Iterator[Event]:
    run = history.around("restore", result.finished_at)
    options = result.options
    # Of rows that are brought into a living database only these are known to be the backup's.
    whole = options.mode is not RestoreMode.UPSERT
    what = options.mode.value + (f" into {options.into}" if options.into else "")
    yield Event(
        at=result.finished_at,
        kind=EventKind.RESTORE,
        subject=f"{result.source} from {result.set_id}",
        outcome="differs from the set" if result.findings else "restored and found equal" if whole else "rows restored",
        good=not result.findings,
        who=history.who(run.run_id) if run else NOT_RECORDED,
        run_id=run.run_id if run else "",
        figures={
            "seconds": (result.finished_at - result.started_at).total_seconds(),
            "tables": len(result.tables),
            **{name: value for name, value in result.numbers.items() if name in _FIGURES},
        },
        detail=f"{what}; target {result.target}"
        + (f"; emergency set {result.emergency_set}" if result.emergency_set else ""),
    )
    if result.undone_at is not None:
        back = history.around("undo", result.undone_at)
        yield Event(
            at=result.undone_at,
            kind=EventKind.UNDO,
            subject=f"{result.source} from {result.set_id}",
            outcome="undone",
            good=True,
            who=history.who(back.run_id) if back else NOT_RECORDED,
            run_id=back.run_id if back else "",
            detail=f"the restore of {result.finished_at:%Y-%m-%d %H:%M} UTC was taken back",
        )


def _of_incidents(site: Site, plan: str) -> Iterator[Event]:
    state = read_state(site)
    for incident in (*state.closed, *state.open):
        if incident.plan == plan:
            over = incident.closed_at
            until = f"over at {over:%Y-%m-%d %H:%M} UTC" if over else "open"
            yield Event(
                at=incident.opened_at,
                kind=EventKind.INCIDENT,
                subject=incident.what,
                outcome=until,
                good=over is not None,
                who="monitoring",
                detail=incident.reason,
            )
