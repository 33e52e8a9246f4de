"""Events of restores and undos: from their records, and from the history where one failed and left no record."""

from __future__ import annotations

from collections.abc import Iterator

from backup_pipeline.model.evidence import NOT_RECORDED, Event, EventKind
from backup_pipeline.model.restore import RestoreFailure, RestoreMode, RestoreResult
from backup_pipeline.operations.evidence.history import History, HistoryRun

FIGURES = ("rto_seconds", "rpo_seconds", "bytes", "tables", "rows", "files")
_MODES = {RestoreMode.REBUILD: "rebuilt beside what was live", RestoreMode.UPSERT: "rows brought in (upsert)"}
_STEPS = {"apply": EventKind.RESTORE, "undo": EventKind.UNDO}


def failed_run(run: HistoryRun) -> Event:
    """Return a run that failed: a restore or an undo where it was one, and not the mere plan of it."""
    kind = _STEPS.get(run.step, EventKind.RUN)
    set_id = run.set_name.rpartition("/")[2]
    of_restore = f"{run.source or 'a source'}{f' from {set_id}' if set_id else ''}"
    work = "plan of a restore" if run.step == "plan" else run.operation
    return Event(
        at=run.ended,
        kind=kind,
        subject=f"{work} {run.set_name}".strip() if kind is EventKind.RUN else of_restore,
        outcome="failed",
        good=False,
        who=run.who or NOT_RECORDED,
        run_id=run.run_id,
        detail=run.reason,
    )


def failed_in_the_shell(failure: RestoreFailure) -> Event:
    """Return a restore or an undo that failed in the shell, as a run that failed is one."""
    return Event(
        at=failure.ended,
        kind=_STEPS[failure.step],
        subject=f"{failure.source}{f' from {failure.set_id}' if failure.set_id else ''}",
        outcome="failed",
        good=False,
        who=failure.who,
        figures={"seconds": (failure.ended - failure.began).total_seconds()},
        detail=failure.reason,
    )


def events_of_restore(result: RestoreResult, history: History) -> Iterator[Event]:
    """Yield a restore that has a record, and that it was taken back where it was."""
    run = history.around("restore", result.finished_at, result.source)
    options = result.options
    # Of rows that are brought into a living database only these are known to be the backup's.
    whole = options.mode is not RestoreMode.UPSERT
    done = "selected files put in place" if options.files else _MODES[options.mode]
    what = done + (f", into {options.into}" if options.into else "")
    yield Event(
        at=result.finished_at,
        kind=EventKind.RESTORE,
        subject=f"{result.source} from {result.set_id}",
        outcome="differs from the set" if result.findings else "restored and found equal" if whole else "rows restored",
        good=not result.findings,
        who=history.who(run.run_id) if run else NOT_RECORDED,
        run_id=run.run_id if run else "",
        figures={"seconds": (result.finished_at - result.started_at).total_seconds(), **_amounts(result)},
        detail=f"{what}; target {result.target}"
        + (f"; emergency set {result.emergency_set}" if result.emergency_set else ""),
    )
    if result.undone_at is not None:
        back = history.around("undo", result.undone_at, result.source)
        yield Event(
            at=result.undone_at,
            kind=EventKind.UNDO,
            subject=f"{result.source} from {result.set_id}",
            outcome="undone",
            good=True,
            who=history.who(back.run_id) if back else NOT_RECORDED,
            run_id=back.run_id if back else "",
            figures=_amounts(result),
            detail=f"the restore of {result.finished_at:%Y-%m-%d %H:%M} UTC, whose figures these are, was taken back",
        )


def _amounts(result: RestoreResult) -> dict[str, float | int]:
    """Return what a restore was about; of rows brought in, those written (added or replaced)."""
    amounts: dict[str, float | int] = {"tables": len(result.tables)} if result.tables else {}
    if result.options.mode is RestoreMode.UPSERT and result.tables:
        amounts["rows"] = sum((one.insert or 0) + (one.update or 0) for one in result.tables)
    return {**amounts, **{name: value for name, value in result.numbers.items() if name in FIGURES}}
