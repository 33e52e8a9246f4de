"""A sample check of the pairs of an order archive. Reads only.

A few orders of the index are inspected, so that an archive that is gone, empty or not mounted does not stand as good.
"""

from __future__ import annotations

from pathlib import Path

from backup_pipeline.errors import ValidationError
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.record import ArtefactKind
from backup_pipeline.sources.kind import SiteSource, StandingProblem
from backup_pipeline.sources.orders.archive.index import ENTRY_BYTES, parse_entry
from backup_pipeline.sources.orders.format.order import DATA_NAME, INDEX_NAME, META_NAME
from backup_pipeline.sources.orders.settings import OrdersSource

_SAMPLES = 25
_LONGEST_ENTRY = 1 << 16


def archive_problems(source: SiteSource[OrdersSource], plan: str, last_good: Manifest | None) -> list[StandingProblem]:
    """Return what is wrong with a source's archive.

    Args:
        source: the source.
        plan: the plan that captures it.
        last_good: the plan's newest good set; None where there is none.
    """
    return _of_archive(source.name, source.settings.archive, plan, _records_pairs(last_good, source.name))


def _records_pairs(last_good: Manifest | None, source: str) -> bool | None:
    if last_good is None:
        return None
    return any(r.kind is ArtefactKind.ORDER_PAIRS and r.source == source for r in last_good.artefacts)


def _of_archive(name: str, archive: Path, plan: str, records_pairs: bool | None) -> list[StandingProblem]:
    write = f"backup-pipeline backup {plan} writes them."
    mount = f"Is the archive mounted at {archive}? Check it with: backup-pipeline orders verify --source {name}"
    if not archive.is_dir():
        return [_problem("error", f"The archive of {name} is not there: {archive}.", mount)]
    try:
        inspected, without = _sample(archive)
    except FileNotFoundError:
        return [
            _problem("error", f"The archive of {name} has no {INDEX_NAME}: no order has its pair.", f"{mount}. {write}")
        ]
    except OSError as error:
        return [_problem("error", f"The archive of {name} cannot be read: {error.strerror}.", mount)]
    if without:
        reported = f"Of {inspected} orders of the archive of {name} that were checked, {without} have no pair."
        return [_problem("error", reported, f"{mount}. {write}")]
    if records_pairs is False:
        reported = f"The last good set does not say that the pairs of {name} were written."
        return [_problem("warning", reported, write)]
    return []


def _problem(severity: str, what: str, remedy: str) -> StandingProblem:
    return StandingProblem("archive", severity, what, remedy)


def _sample(archive: Path) -> tuple[int, int]:
    """Return how many orders were inspected, spread over the index, and how many of them lack a file of their pair."""
    inspected = without = 0
    with (archive / INDEX_NAME).open("rb") as file:
        size = file.seek(0, 2)
        sampled = set()
        for number in range(_SAMPLES):
            file.seek(size * number // _SAMPLES)
            file.readline(_LONGEST_ENTRY)
            begin = file.tell()
            line = file.readline(_LONGEST_ENTRY)
            if begin in sampled or not line.startswith(ENTRY_BYTES):
                continue
            sampled.add(begin)
            try:
                entry = parse_entry(line.decode("utf-8", "replace").rstrip().removesuffix(","))
            except ValidationError:
                # Verification reports a damaged index.
                continue
            if entry.row_deleted:
                continue
            inspected += 1
            without += not all((archive / entry.path / file_name).is_file() for file_name in (DATA_NAME, META_NAME))
    return inspected, without
