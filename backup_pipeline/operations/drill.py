"""A drill of a sealed set: everything in it is restored for real into a scratch area, compared, and removed again.

Only a set that passed is proven. How each kind is restored and compared stands in `restore`.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.postgres_dump import catalog_of, fingerprints_of, large_objects_of
from backup_pipeline.artefacts.postgres_roles import roles_of
from backup_pipeline.errors import (
    MissingFileError,
    RefusedError,
    SettingsError,
    StoreError,
    ValidationError,
)
from backup_pipeline.model.manifest import MANIFEST_NAME, Manifest
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import Finding, Proof, ProofKind
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.model.set_id import SetId, set_time
from backup_pipeline.operations.in_use import in_use
from backup_pipeline.operations.orders_backup import recorded_pairs
from backup_pipeline.operations.orders_drill import ArchiveDrill
from backup_pipeline.operations.stores import open_store
from backup_pipeline.operations.time_limits import within_the_plans_limit
from backup_pipeline.operations.verify import keep_proof, verification_of
from backup_pipeline.restore.comparison import Expectation
from backup_pipeline.restore.drill_database import DrillOutcome, drill_database
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import OrdersSource
from backup_pipeline.stores.contract import Store
from backup_pipeline.tools import limits
from backup_pipeline.tools.postgres.target import PostgresTarget
from backup_pipeline.tools.scratch_folders import scratch_folder

DRILL_VARIABLE = "DRILL_DATABASE_URL"
# A scratch server may lose everything at any moment: nothing is logged that need not be.
SCRATCH_SETTINGS = {
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "shared_buffers": "256MB",
    "autovacuum": "off",
    "max_connections": "60",
}
# Restored tables with their indexes, against the bytes of the tables in the live database.
_SPACE_FACTOR = 2.5
_SPACE_AT_LEAST = 200_000_000


@within_the_plans_limit("The drill")
def drill_set(
    site: Site,
    plan_name: str,
    set_id: SetId,
    *,
    run_id: str = "",
    jobs: int = 0,
    before_comparison: Callable[[PostgresTarget], None] | None = None,
    progress: ProgressSink = no_progress,
    now: Callable[[], datetime] = utc_now,
) -> Proof:
    """Drill one set and store the result with it.

    Args:
        site: the site; `DRILL_DATABASE_URL` in its environment names a scratch server of its own.
        plan_name: the plan.
        set_id: a sealed set.
        run_id: the Dagster run, for the result.
        jobs: connections for loading and comparing; from the number of cores when 0.
        before_comparison: called with each restored database; the tests damage it there.
        progress: told what is being restored and compared.
        now: the clock.

    Returns:
        The result with `rto_seconds` (time to restore everything) and `rpo_seconds` (age of the data).

    Raises:
        RefusedError: the set is not sealed. StoreError: not enough disk for the scratch area.
        BackupSystemError: the scratch server cannot be had; no result is stored then.
    """
    store = open_store(site, plan_name)
    with in_use(store, set_id, "drill"):
        proof = _drill(site, store, set_id, run_id, jobs, before_comparison, progress, now)
        # Work that was ended by a limit proves nothing, and says nothing against the set.
        limits.check()
        keep_proof(store, proof)
        return proof


def _drill(
    site: Site,
    store: Store,
    set_id: SetId,
    run_id: str,
    jobs: int,
    before_comparison: Callable[[PostgresTarget], None] | None,
    progress: ProgressSink,
    now: Callable[[], datetime],
) -> Proof:
    known = store.read(set_id)
    manifest, plan_name = known.manifest, known.plan
    if manifest is None:
        raise RefusedError(
            "Only a sealed set can be drilled.",
            where=f"{plan_name}/{set_id}",
            remedy="backup-pipeline list shows the sealed sets.",
        )
    started = now()
    total = DrillOutcome()
    checked = verification_of(store, set_id, progress=progress, now=now)
    total.findings += checked.findings
    with ExitStack() as stack:
        scratch = _Scratch(site, stack, store, manifest)
        for source in manifest.sources:
            records = [record for record in manifest.artefacts if record.source == source]
            settings = site.settings.sources.get(source)
            archive = None
            if isinstance(settings, OrdersSource):
                recorded = recorded_pairs(records, source)
                archive = ArchiveDrill(settings, scratch.folder, set_time(set_id), progress, recorded)
            try:
                part = _drill_source(
                    store, manifest, records, scratch, jobs, before_comparison, progress, started, archive
                )
            except (ValidationError, MissingFileError) as error:
                # What the set says of the source is itself damaged: the others are drilled all the same.
                part = DrillOutcome()
                part.findings.append(Finding(subject=error.where or "set", problem=error.what, remedy=error.remedy))
            if archive is not None:
                part.findings += archive.outcome.findings
                part.skipped += archive.outcome.skipped
                part.numbers |= archive.outcome.numbers
                part.details |= archive.outcome.details
            _add(total, source, part)
    finished = now()
    total.numbers["rto_seconds"] = round(float(total.numbers.get("restore_seconds", 0)), 3)
    total.numbers["rpo_seconds"] = round((started - set_time(set_id)).total_seconds(), 1)
    total.numbers["bytes"] = manifest.size
    with store.open(set_id, MANIFEST_NAME) as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return Proof(
        kind=ProofKind.DRILL,
        set_id=set_id,
        plan=plan_name,
        manifest_sha256=digest,
        started_at=started,
        finished_at=finished,
        passed=not total.findings,
        covered=tuple(record.name for record in manifest.artefacts),
        findings=tuple(total.findings),
        skipped=tuple(total.skipped),
        numbers=total.numbers,
        details=total.details,
        run_id=run_id,
    )


def _add(total: DrillOutcome, source: str, part: DrillOutcome) -> None:
    def named(finding: Finding) -> Finding:
        return finding.model_copy(update={"subject": f"{source}: {finding.subject}"})

    total.findings += [named(finding) for finding in part.findings]
    total.skipped += [named(finding) for finding in part.skipped]
    for name, value in part.numbers.items():
        total.numbers[name] = round(total.numbers.get(name, 0) + value, 3)
    total.details[source] = {**part.details, **part.numbers}


def _drill_source(
    store: Store,
    manifest: Manifest,
    records: list[ArtefactRecord],
    scratch: _Scratch,
    jobs: int,
    before_comparison: Callable[[PostgresTarget], None] | None,
    progress: ProgressSink,
    now: datetime,
    archive: ArchiveDrill | None,
) -> DrillOutcome:
    def open_file(path: str) -> BinaryIO:
        return store.open(manifest.set_id, path)

    kinds = {record.kind: record for record in records}
    if dump := kinds.get(ArtefactKind.POSTGRES_DUMP):
        from backup_pipeline.restore.drill_exports import compare_exports

        exports = [record for record in records if record.kind is ArtefactKind.TABLE_EXPORT]
        expected = expectation_of(open_file, dump, kinds.get(ArtefactKind.POSTGRES_ROLES))
        utf8 = expected.catalog is None or expected.catalog.encoding == "UTF8"

        def more_checks(target: PostgresTarget) -> list[Finding]:
            if archive is not None:
                archive.compare_server(target)
            return compare_exports(open_file, exports, target, utf8=utf8)

        return drill_database(
            lambda: open_file(dump.files[0].path),
            expected,
            scratch.server(written_by(dump)),
            written_by=written_by(dump),
            jobs=jobs,
            before_comparison=before_comparison,
            more_checks=more_checks,
            progress=progress,
        )
    from backup_pipeline.restore.drill_files import drill_files

    outcome = drill_files(open_file, records, scratch.folder, now=now)
    if archive is not None:
        archive.compare_copy(open_file, records, scratch.folder, now)
    return outcome


def expectation_of(
    open_file: Callable[[str], BinaryIO], dump: ArtefactRecord, roles: ArtefactRecord | None
) -> Expectation:
    """Return what a set recorded of a database beside its dump."""
    return Expectation(
        catalog=catalog_of(open_file, dump),
        roles=roles_of(open_file, roles) if roles else None,
        fingerprints=fingerprints_of(dump),
        large_objects=large_objects_of(dump),
    )


def written_by(dump: ArtefactRecord) -> int:
    """Return the major version of the pg_dump that wrote a dump; 0 when it was not recorded."""
    version = dump.tool.version if dump.tool else ""
    major = version.partition(".")[0]
    return int(major) if major.isdigit() else 0


class _Scratch:
    """Where a drill restores to; made when first needed, removed whatever happens."""

    def __init__(self, site: Site, stack: ExitStack, store: Store, manifest: Manifest) -> None:
        self._site = site
        self._stack = stack
        self._store = store
        self._manifest = manifest
        self._folder: Path | None = None
        self._servers: dict[int, PostgresTarget] = {}

    @property
    def folder(self) -> Path:
        """A folder for files."""
        if self._folder is None:
            self._check_space()
            self._folder = self._stack.enter_context(scratch_folder("backup-pipeline-drill-"))
        return self._folder

    def server(self, written_by_major: int) -> PostgresTarget:
        """Return a server that is not older than the dump's pg_dump."""
        if url := self._site.value(DRILL_VARIABLE):
            from backup_pipeline.tools.postgres.databases import data_folder
            from backup_pipeline.tools.postgres.target import parse_target

            target = parse_target(url, variable=DRILL_VARIABLE, environment=self._site.environment)
            if folder := data_folder(target):
                self._check_space(folder)
            return target
        if written_by_major not in self._servers:
            from backup_pipeline.tools.postgres.embedded import scratch_server

            self._check_space()
            major = _embedded_major(written_by_major)
            running = self._stack.enter_context(scratch_server(major=major, settings=SCRATCH_SETTINGS))
            self._servers[written_by_major] = running.target()
        return self._servers[written_by_major]

    def _check_space(self, place: Path | None = None) -> None:
        place = place or Path(tempfile.gettempdir())
        needed = space_needed(self._store, self._manifest)
        free = shutil.disk_usage(place).free
        if free < needed:
            raise StoreError(
                f"The drill needs about {needed / 1e6:,.0f} MB for its scratch area, {free / 1e6:,.0f} MB are free.",
                where=str(place),
                remedy=f"Free space, set TMPDIR to a larger disk, or name a scratch server in {DRILL_VARIABLE}.",
            )


def space_needed(store: Store, manifest: Manifest) -> int:
    """Return the bytes that restoring a set takes, estimated from the sizes of its tables and files."""
    needed = _SPACE_AT_LEAST
    for record in manifest.artefacts:
        if record.kind is ArtefactKind.POSTGRES_DUMP:
            # A catalog that is damaged or missing is found by the drill itself.
            with suppress(ValidationError, MissingFileError):
                catalog = catalog_of(lambda path: store.open(manifest.set_id, path), record)
                needed += int(_SPACE_FACTOR * sum(table.bytes for table in catalog.tables))
        elif record.kind is not ArtefactKind.TABLE_EXPORT:
            needed += 4 * record.size
    return needed


def _embedded_major(at_least: int) -> int:
    from backup_pipeline.tools.postgres.clients import embedded_folders, installed_clients
    from backup_pipeline.tools.postgres.embedded import binaries

    embedded = {folder.resolve() for folder in embedded_folders()}
    majors = sorted({c.major for c in installed_clients() if c.folder.resolve() in embedded and c.major >= at_least})
    if not majors:
        if not embedded:
            binaries()
        raise SettingsError(
            f"No embedded PostgreSQL is new enough for a dump that was written by pg_dump {at_least}.",
            where=DRILL_VARIABLE,
            remedy=f"Name a scratch server of version {at_least} or newer in {DRILL_VARIABLE}.",
        )
    return majors[0]
