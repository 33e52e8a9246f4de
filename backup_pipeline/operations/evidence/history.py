"""A plan's runs as evidence needs them: what each did, who asked for it, how it ended. Not how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from backup_pipeline.model.evidence import NOT_RECORDED


@dataclass(frozen=True, slots=True)
class HistoryRun:
    """A run as Dagster's history has it: what it did, of which set, who asked for it, and how it ended.

    Attributes:
        step: of a restore or an undo: `plan`, `apply` or `undo`; "" for other runs.
        source: of a restore or an undo; "" for other runs and where it is not known.
        reason: why a restore or an undo failed, without secrets or rows.
    """

    run_id: str
    operation: str
    set_name: str
    who: str
    began: datetime
    ended: datetime
    failed: bool
    step: str = ""
    source: str = ""
    reason: str = ""


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

    def around(self, operation: str, moment: datetime, source: str = "") -> HistoryRun | None:
        """Return the run that did such a thing (to a source) at a moment; the run of a mere plan did nothing."""
        return next(
            (
                one
                for one in self.runs
                if one.operation == operation
                and one.step != "plan"
                and (not source or one.source in ("", source))
                and one.began <= moment <= one.ended
            ),
            None,
        )
