"""A drill of a sealed set: everything in it is restored for real into a scratch area, compared, and removed again.

Only a set that passed is proven. How a source is restored and compared is the matter of the restorer that its artefacts
name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import BinaryIO

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.drilling import AS_USUAL, DrillArea, DrillBeside, DrillOptions, Drills, SealedPart
from backup_pipeline.artefacts.restorer import restorer_of
from backup_pipeline.artefacts.time_limits import within_the_plans_limit
from backup_pipeline.artefacts.types import inspect
from backup_pipeline.errors import MissingFileError, RefusedError, ValidationError
from backup_pipeline.model.drill_outcome import DrillOutcome
from backup_pipeline.model.manifest import CHECKSUM_NAME, MANIFEST_NAME, Manifest
from backup_pipeline.model.progress import ProgressSink, named, no_progress
from backup_pipeline.model.proof import IMPORTED_SOURCES, Finding, Proof, ProofKind
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId, set_time
from backup_pipeline.operations.proof.verify import keep_proof, verification_of
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of
from backup_pipeline.stores.contract import Store
from backup_pipeline.system import limits

_SPACE_AT_LEAST = 200_000_000
_IMPORTED = (
    "restored without an error and counted (files: compared one by one), against the imported backup and not against "
    "its source, where no fingerprints were taken"
)


@within_the_plans_limit("The drill")
def drill_set(
    site: Site,
    plan_name: str,
    set_id: SetId,
    *,
    run_id: str = "",
    options: DrillOptions = AS_USUAL,
    progress: ProgressSink = no_progress,
    now: Callable[[], datetime] = utc_now,
) -> Proof:
    """Drill one set and store the result with it.

    Args:
        site: the site; `DRILL_DATABASE_URL` in its environment names a scratch server of its own.
        plan_name: the plan, or `VAULT:PLAN`.
        set_id: a sealed set.
        run_id: the Dagster run, for the result.
        options: how it is done.
        progress: receives what is being restored and compared.
        now: the clock.

    Returns:
        The result with `rto_seconds` (time to restore everything) and `rpo_seconds` (age of the data).

    Raises:
        RefusedError: the set is not sealed. StoreError: not enough disk for the scratch area.
        BackupSystemError: the scratch server cannot be had; no result is stored then.
    """
    with reading(site, plan_name, set_id, "drill", proves=True) as store:
        known = store.read(set_id)
        if known.manifest is None:
            raise RefusedError(
                "Only a sealed set can be drilled.",
                where=f"{plan_name}/{set_id}",
                remedy="backup-pipeline list shows the sealed sets.",
            )
        started = now()
        inspected_later = _inspected_by_drills(known.manifest)
        checked = verification_of(store, set_id, progress=progress, now=now, inspected_later=inspected_later)
        with ExitStack() as stack:
            space = _space_needed(store, known.manifest)
            area = DrillArea(site, stack, space, started, options, progress)
            total = _Drill(store, known.manifest, area).run(checked)
        proof = _proof(store, known.manifest, total, (started, now()), run_id)
        # Work that was ended by a limit proves nothing, and says nothing against the set.
        limits.check()
        keep_proof(store, proof)
        return proof


class _Drill:
    """The drill of one set: each source that is whole, in the order of the manifest."""

    def __init__(self, store: Store, manifest: Manifest, area: DrillArea) -> None:
        self._store = store
        self._manifest = manifest
        self._area = area
        self._progress = area.progress
        self._drills: dict[str, Drills] = {}

    def run(self, checked: Proof) -> DrillOutcome:
        """Return what was found by a verification and by restoring the sources that it found whole."""
        total = DrillOutcome(findings=[*checked.findings])
        broken = {finding.subject for finding in checked.findings}
        # Where they do not fit together nobody knows what was sealed.
        unknown = sorted(broken & {MANIFEST_NAME, CHECKSUM_NAME})
        for source in self._manifest.sources:
            part = _part(self._store, self._manifest, source)
            changed = sorted(file.path for record in part.records for file in record.files if file.path in broken)
            if changed or unknown:
                outcome = _not_loaded(changed or unknown)
                self._inspect(part, outcome, broken)
            else:
                outcome = self._drill(source, part)
            _add(total, source, outcome)
        return total

    def _drill(self, source: str, part: SealedPart) -> DrillOutcome:
        self._area.progress = named(self._progress, source)
        beside = self._beside(source, part)
        restorer = restorer_of(record.kind for record in part.records)
        if restorer.name not in self._drills:
            self._drills[restorer.name] = restorer.drills(self._area)
        try:
            outcome = self._drills[restorer.name].drill(part, beside)
        except (ValidationError, MissingFileError) as error:
            # What the set says of the source is itself damaged: the others are drilled all the same.
            outcome = DrillOutcome()
            outcome.findings.append(Finding(subject=error.where or "set", problem=error.what, remedy=error.remedy))
            self._inspect(part, outcome)
        if beside is not None:
            outcome.add(beside.outcome)
        if any(record.imported for record in part.records):
            outcome.numbers[IMPORTED_SOURCES] = 1
            outcome.skipped.append(Finding(subject="imported", problem=_IMPORTED))
        return outcome

    def _inspect(self, part: SealedPart, outcome: DrillOutcome, broken: Collection[str] = ()) -> None:
        """Inspect what the drill would have inspected, but for the artefacts of which a file is broken."""
        restorer = restorer_of(record.kind for record in part.records)
        for record in part.records:
            if restorer.inspected_by_drill(record) and not any(file.path in broken for file in record.files):
                outcome.findings += inspect(part.open_file, record)

    def _beside(self, source: str, part: SealedPart) -> DrillBeside | None:
        site = self._area.site
        if source not in site.settings.sources:
            return None
        kind, configured = kind_of(site, source)
        captured = set_time(self._manifest.set_id)
        return kind.drill_beside(configured, part.records, self._area.folder, captured, self._area.progress)


def _inspected_by_drills(manifest: Manifest) -> Callable[[ArtefactRecord], bool]:
    """Return which artefacts are inspected where the drill reads them anyway: nothing is decoded twice."""
    kinds: dict[str, list[str]] = {}
    for record in manifest.artefacts:
        kinds.setdefault(record.source, []).append(record.kind)
    restorers = {source: restorer_of(of_source) for source, of_source in kinds.items()}
    return lambda record: restorers[record.source].inspected_by_drill(record)


def _part(store: Store, manifest: Manifest, source: str) -> SealedPart:
    def open_file(path: str) -> BinaryIO:
        return store.open(manifest.set_id, path)

    return SealedPart(open_file, [record for record in manifest.artefacts if record.source == source])


def _space_needed(store: Store, manifest: Manifest) -> Callable[[], int]:
    """Return what estimates the bytes that restoring a set takes."""

    def parts() -> Iterator[int]:
        for source in manifest.sources:
            part = _part(store, manifest, source)
            yield restorer_of(record.kind for record in part.records).scratch_bytes(part)

    return lambda: _SPACE_AT_LEAST + sum(parts())


def _proof(
    store: Store, manifest: Manifest, total: DrillOutcome, times: tuple[datetime, datetime], run_id: str
) -> Proof:
    started, finished = times
    total.numbers["rto_seconds"] = round(float(total.numbers.get("restore_seconds", 0)), 3)
    total.numbers["rpo_seconds"] = round((started - set_time(manifest.set_id)).total_seconds(), 1)
    total.numbers["bytes"] = manifest.size
    with store.open(manifest.set_id, MANIFEST_NAME) as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return Proof(
        kind=ProofKind.DRILL,
        set_id=manifest.set_id,
        plan=manifest.plan,
        manifest_sha256=digest,
        started_at=started,
        finished_at=finished,
        passed=not (total.findings or total.missing_here),
        covered=tuple(record.name for record in manifest.artefacts),
        findings=tuple(total.findings),
        skipped=tuple(total.skipped),
        missing_here=tuple(total.missing_here),
        numbers=total.numbers,
        details=total.details,
        run_id=run_id,
    )


def _not_loaded(files: list[str]) -> DrillOutcome:
    """What is not what was sealed may have been written by anybody: it is found, and never executed."""
    outcome = DrillOutcome()
    outcome.findings += [
        Finding(
            subject=path,
            problem="is not what was sealed, so nothing of this source was loaded",
            remedy="Check who can write to the store; drill another set.",
        )
        for path in files
    ]
    return outcome


def _add(total: DrillOutcome, source: str, part: DrillOutcome) -> None:
    def named(finding: Finding) -> Finding:
        return finding.model_copy(update={"subject": f"{source}: {finding.subject}"})

    total.findings += [named(finding) for finding in part.findings]
    total.skipped += [named(finding) for finding in part.skipped]
    total.missing_here += [named(finding) for finding in part.missing_here]
    for name, value in part.numbers.items():
        total.numbers[name] = round(total.numbers.get(name, 0) + value, 3)
    total.details[source] = {**part.details, **part.numbers}
