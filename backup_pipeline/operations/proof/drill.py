"""A drill of a sealed set: everything in it is restored for real into a scratch area, compared, and removed again.

Only a set that passed is proven. How each kind is restored and compared stands in `restore`.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.time_limits import within_the_plans_limit
from backup_pipeline.errors import (
    MissingFileError,
    RefusedError,
    SettingsError,
    StoreError,
    ValidationError,
)
from backup_pipeline.model.manifest import CHECKSUM_NAME, MANIFEST_NAME, Manifest
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import Finding, Proof, ProofKind
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.model.server_offer import Offer
from backup_pipeline.model.set_id import SetId, set_time
from backup_pipeline.operations.proof.verify import keep_proof, verification_of
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.compare.scratch_restore import SECONDS_VARIABLE, DrillOutcome, drill_database
from backup_pipeline.postgres.load.excluded_extensions import WITHOUT
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.scratch_server import Needs, choose, closest, lacking, needs_of, preload
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.kind import DrillBeside
from backup_pipeline.sources.postgres.dump import catalog_of, fingerprints_of, large_objects_of
from backup_pipeline.sources.postgres.roles import roles_of
from backup_pipeline.sources.registry import kind_of
from backup_pipeline.stores.contract import Store
from backup_pipeline.system import limits
from backup_pipeline.system.scratch_folders import scratch_folder

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
        plan_name: the plan, or `VAULT:PLAN`.
        set_id: a sealed set.
        run_id: the Dagster run, for the result.
        jobs: connections for loading and comparing; from the number of cores when 0.
        before_comparison: called with each restored database; the tests damage it there.
        progress: receives what is being restored and compared.
        now: the clock.

    Returns:
        The result with `rto_seconds` (time to restore everything) and `rpo_seconds` (age of the data).

    Raises:
        RefusedError: the set is not sealed. StoreError: not enough disk for the scratch area.
        BackupSystemError: the scratch server cannot be had; no result is stored then.
    """
    with reading(site, plan_name, set_id, "drill", proves=True) as store:
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
    broken = {finding.subject for finding in checked.findings}
    # Where they do not fit together nobody knows what was sealed.
    unknown = sorted(broken & {MANIFEST_NAME, CHECKSUM_NAME})
    with ExitStack() as stack:
        scratch = _Scratch(site, stack, store, manifest)
        for source in manifest.sources:
            records = [record for record in manifest.artefacts if record.source == source]
            whole = not unknown and not any(file.path in broken for record in records for file in record.files)
            if not whole:
                changed = [file.path for record in records for file in record.files if file.path in broken]
                _add(total, source, _not_loaded(sorted(changed) or unknown))
                continue
            archive = None
            if source in site.settings.sources:
                kind, configured = kind_of(site, source)
                archive = kind.drill_beside(configured, records, scratch.folder, set_time(set_id), progress)
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
            remedy="Look at who can write to the store; drill another set.",
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


def _drill_source(
    store: Store,
    manifest: Manifest,
    records: list[ArtefactRecord],
    scratch: _Scratch,
    jobs: int,
    before_comparison: Callable[[PostgresTarget], None] | None,
    progress: ProgressSink,
    now: datetime,
    archive: DrillBeside | None,
) -> DrillOutcome:
    def open_file(path: str) -> BinaryIO:
        return store.open(manifest.set_id, path)

    kinds = {record.kind: record for record in records}
    if dump := kinds.get(ArtefactKind.POSTGRES_DUMP):
        from backup_pipeline.sources.postgres.drill_exports import compare_exports

        exports = [record for record in records if record.kind is ArtefactKind.TABLE_EXPORT]
        expected = expectation_of(open_file, dump, kinds.get(ArtefactKind.POSTGRES_ROLES))
        utf8 = expected.catalog is None or expected.catalog.encoding == "UTF8"

        def more_checks(target: PostgresTarget) -> list[Finding]:
            if archive is not None:
                archive.compare_server(target)
            return compare_exports(open_file, exports, target, utf8=utf8)

        place = scratch.server(needs_of_dump(expected, dump))
        if place.target is None:
            return DrillOutcome(missing_here=list(place.missing))
        outcome = drill_database(
            lambda: open_file(dump.files[0].path),
            expected,
            place.target,
            written_by=written_by(dump),
            seconds=scratch.seconds,
            jobs=jobs,
            before_comparison=before_comparison,
            more_checks=more_checks,
            progress=progress,
        )
        outcome.skipped += [Finding(subject=DRILL_VARIABLE, problem=reported) for reported in place.warnings]
        outcome.details["scratch_server"] = place.label
        return outcome
    from backup_pipeline.operations.proof.drill_files import drill_files

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
        self._servers: dict[Path, PostgresTarget] = {}

    @property
    def seconds(self) -> float:
        """How long the drill of a database may take; 0 for as long as its size allows."""
        text = self._site.value(SECONDS_VARIABLE)
        try:
            return float(text) if text else 0
        except ValueError:
            raise SettingsError(
                "Not a number of seconds.", where=SECONDS_VARIABLE, remedy="Write 7200, or remove the variable."
            ) from None

    @property
    def folder(self) -> Path:
        """A folder for files."""
        if self._folder is None:
            self._check_space()
            self._folder = self._stack.enter_context(scratch_folder("backup-pipeline-drill-"))
        return self._folder

    def server(self, needs: Needs) -> ScratchPlace:
        """Return a server that has what a database needs, or what this machine lacks of it."""
        if url := self._site.value(DRILL_VARIABLE):
            from backup_pipeline.postgres.server.databases import data_folder
            from backup_pipeline.postgres.server.target import parse_target

            target = parse_target(url, variable=DRILL_VARIABLE, environment=self._site.environment)
            if folder := data_folder(target):
                self._check_space(folder)
            return ScratchPlace(target, warnings=tuple(self._live_servers(target)), label=DRILL_VARIABLE)
        selection, missing = choose_server(needs)
        if selection is None:
            return ScratchPlace(None, missing=missing)
        if selection.folder not in self._servers:
            from backup_pipeline.postgres.server.embedded import scratch_server

            self._check_space()
            running = self._stack.enter_context(
                scratch_server(
                    major=selection.major,
                    settings=SCRATCH_SETTINGS | preload(needs),
                    # A name that no dump names: every role of the backup can be made as it was.
                    superuser=f"scratch_{secrets.token_hex(6)}",
                    programs=None if selection.embedded else selection.folder,
                )
            )
            self._servers[selection.folder] = running.target()
        label = f"embedded PostgreSQL {selection.major}" if selection.embedded else str(selection.folder)
        return ScratchPlace(self._servers[selection.folder], label=label)

    def _live_servers(self, target: PostgresTarget) -> Iterator[str]:
        """Yield what must be said of a scratch server that is one of the site's own."""
        from backup_pipeline.artefacts.targets import target_of

        for name, source in self._site.settings.sources.items():
            try:
                if source.connection is None:
                    continue
                live = target_of(self._site, source.connection, name)
            except SettingsError:
                continue
            if (live.host, live.port) == (target.host, target.port):
                yield f"is the server of source {name}: a drill loads what others may have written into a live server"

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


@dataclass(frozen=True)
class ScratchPlace:
    """A server to restore into, or (target None) what is missing for one.

    Attributes:
        target: any database of it, as the role that drills use.
        missing: what this machine lacks.
        warnings: what must be said of the server.
        label: which one it is, for the result: the variable, the folder of its programs, or the embedded one.
    """

    target: PostgresTarget | None
    missing: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    label: str = ""


def choose_server(needs: Needs) -> tuple[Offer | None, tuple[Finding, ...]]:
    """Return the first installed server that has what a database needs, else an embedded one, else what is missing.

    Nothing is started: control files and build options decide.
    """
    from backup_pipeline.postgres.server.embedded import reachable
    from backup_pipeline.postgres.server.installations import server_offers

    offers = [offer for offer in server_offers() if offer.embedded or reachable(offer.folder)]
    if selection := choose(offers, needs, WITHOUT):
        return selection, ()
    if nearest := closest(offers, needs, WITHOUT):
        return None, tuple(lacking(needs, nearest, WITHOUT))
    missing = Finding(
        subject="PostgreSQL",
        problem="no server is installed on this machine, and the embedded one is not either",
        remedy=f"Install one (Debian and PGDG: apt-get install postgresql-{needs.written_by or 'NN'}), or "
        f"pip install 'backup-pipeline[embedded]', or name a scratch server in {DRILL_VARIABLE}.",
    )
    return None, (missing,)


def needs_of_dump(expected: Expectation, dump: ArtefactRecord) -> Needs:
    """Return what a recorded database needs of the server that it is restored into."""
    extensions = dict(expected.roles.extensions) if expected.roles else {}
    return needs_of(expected.catalog, extensions, written_by(dump))
