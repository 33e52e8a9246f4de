"""The steps of a run that this process executes: of an executor that gives steps processes of their own, none.

Dagster's resources know only the run; what is done ahead of a step must be done by the process that will
execute it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_STEPS: dict[str, frozenset[str]] = {}


def steps_here(run_id: str) -> frozenset[str]:
    """Return the keys of a run's steps that this process executes one after the other."""
    return _STEPS.get(run_id, frozenset())


@contextmanager
def executing_here(run_id: str, steps: Iterable[str]) -> Iterator[None]:
    """Make these the steps of a run that this process executes, during the block."""
    _STEPS[run_id] = frozenset(steps)
    try:
        yield
    finally:
        del _STEPS[run_id]
