"""A drill of one database: restored for real beside nothing that matters, compared, checked, removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backup_pipeline.errors import BackupSystemError, RefusedError, SourceError
from backup_pipeline.model.drill_outcome import DrillOutcome
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.postgres.compare.comparison import Expectation, compare_database
from backup_pipeline.postgres.compare.reparsed import reparsed_by
from backup_pipeline.postgres.load.check import amcheck, quiet_copy
from backup_pipeline.postgres.load.excluded_extensions import ExcludedExtensions, exclude_extensions
from backup_pipeline.postgres.load.loading_role import LoadingRole, make_loading_role, time_limit
from backup_pipeline.postgres.load.rebuild import OpenDump, Rebuilt, rebuild_database
from backup_pipeline.postgres.load.scratch import mark_roles, scratch_database
from backup_pipeline.postgres.server.databases import create_roles, extension_versions, server_facts, server_features
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.scratch_server import (
    Needs,
    cause_in_versions,
    cause_of_refusal,
    missing_from,
    needs_of,
    too_old,
    unexercised,
)

Hook = Callable[[PostgresTarget], list[Finding]]
SECONDS_VARIABLE = "DRILL_TIMEOUT_SECONDS"
LEAST_SECONDS = 3600.0
BYTES_PER_SECOND = 1_000_000


def drill_database(
    open_dump: OpenDump,
    expected: Expectation,
    server: PostgresTarget,
    *,
    written_by: int = 0,
    jobs: int = 0,
    before_comparison: Callable[[PostgresTarget], None] | None = None,
    more_checks: Hook | None = None,
    seconds: float = 0,
    progress: ProgressSink = no_progress,
) -> DrillOutcome:
    """Restore a dump into a database of its own on a scratch server, compare everything, and remove it again.

    Args:
        open_dump: opens the dump.
        expected: what was recorded in the dump's snapshot.
        server: any database of the scratch server.
        written_by: major of the pg_dump that wrote it.
        jobs: connections.
        before_comparison: called with the restored database; the tests damage it there.
        more_checks: called with the restored database after the comparison, for table exports.
        seconds: after which the drill is ended; by the size of the tables when 0 (see `time_allowed`).
        progress: receives bytes loaded and tables compared.

    Raises:
        RefusedError: the role may not create databases there.
        BackupSystemError: the server is away, too old or full; a dump that cannot be restored is a finding instead.
    """
    outcome = DrillOutcome()
    facts = server_facts(server)
    if not facts.may_create_databases:
        raise RefusedError(
            f"Role {facts.user} may not create databases, so nothing can be restored for a drill.",
            where=server.label,
            remedy="Name a role with CREATEDB in DRILL_DATABASE_URL.",
        )
    recorded = dict(expected.roles.extensions) if expected.roles else {}
    needs = needs_of(expected.catalog, recorded, written_by)
    apart, _ = exclude_extensions(tuple(needs.extensions), facts.extensions)
    name = f"the scratch server (PostgreSQL {facts.major})"
    features = server_features(server)
    outcome.missing_here += missing_from(needs, name, facts.extensions, features, apart.extensions)
    if facts.major < written_by:
        outcome.missing_here.append(too_old(name, written_by))
    if outcome.missing_here:
        return outcome
    outcome.skipped += apart.as_skipped()
    outcome.skipped += unexercised(needs, features)
    roles = (*(expected.roles.needed if expected.roles else ()), *(expected.catalog.roles if expected.catalog else ()))

    def passed_over(left: str) -> None:
        outcome.skipped.append(
            Finding(
                subject=f"database {left}",
                problem="was left by a killed drill of another role, which this role may not remove",
                remedy=f'As its owner or a superuser: drop database "{left}" with (force);',
            )
        )

    with scratch_database(server, passed_over) as target:
        loading = role_for = None
        if facts.superuser:
            described = expected.roles.roles if expected.roles else ()

            def role_for(database: PostgresTarget) -> LoadingRole:
                return make_loading_role(
                    database, roles, server_facts(server).roles, lambda made: mark_roles(database, made),
                    dict(needs.extensions),
                    powerful={role.name for role in described if role.superuser},
                    bypassing={role.name for role in described if role.bypass_row_security},
                )  # fmt: skip

            loading = role_for(target)
            outcome.details["roles_made_for_the_drill"] = [*sorted(loading.owners - {*loading.stand_ins.values()})]
        else:
            # Asked now: what a killed drill left has just been removed.
            present = server_facts(server).roles
            made = create_roles(server, sorted({role for role in roles if role not in present}))
            mark_roles(target, made)
            outcome.details["roles_made_for_the_drill"] = list(made)
        drill = _Drill(
            open_dump, expected, needs, apart, server, target, loading, role_for, jobs, before_comparison, more_checks,
            progress,
        )  # fmt: skip
        who = loading.name if loading else facts.user
        with time_limit(server, target.database, who, seconds or time_allowed(expected)) as watch:
            try:
                drill.run(outcome, name, written_by)
            except BackupSystemError:
                if not watch.reached:
                    raise
        if watch.reached:
            return _ended(watch.seconds)
        return outcome


def time_allowed(expected: Expectation) -> float:
    """Return the seconds that a drill of a database may take: an hour, and a second for each MB of its tables."""
    size = sum(table.bytes for table in expected.catalog.tables) if expected.catalog else 0
    return LEAST_SECONDS + size / BYTES_PER_SECOND


def _ended(seconds: float) -> DrillOutcome:
    outcome = DrillOutcome()
    outcome.missing_here.append(
        Finding(
            subject="time",
            problem=f"the drill was ended after {seconds:,.0f} s; a function of the database may never return, or this "
            "machine is too slow",
            remedy=f"Give it more in {SECONDS_VARIABLE}, or look at the functions that CHECKs and indexes call.",
        )
    )
    return outcome


@dataclass
class _Drill:
    open_dump: OpenDump
    expected: Expectation
    needs: Needs
    apart: ExcludedExtensions
    server: PostgresTarget
    target: PostgresTarget
    loading: LoadingRole | None
    role_for: Callable[[PostgresTarget], LoadingRole] | None
    jobs: int
    before_comparison: Callable[[PostgresTarget], None] | None
    more_checks: Hook | None
    progress: ProgressSink

    def run(self, outcome: DrillOutcome, server: str, written_by: int) -> None:
        """Restore, compare and check; what was found goes into the outcome."""
        catalog = self.expected.catalog
        try:
            rebuilt = rebuild_database(
                self.open_dump, self.target, written_by=written_by,
                encoding=catalog.encoding if catalog else "", locale=catalog.locale if catalog else None,
                jobs=self.jobs, skip=self.apart if self.apart.extensions else None,
                loading=self.loading, only_pg_dumps=True, search_path=self.expected.search_path,
                progress=self.progress,
            )  # fmt: skip
        except BackupSystemError as error:
            if not error.permanent:
                raise
            reported = f"{error.where}: {error.what}" if error.where else error.what
            cause = cause_of_refusal(reported, server, self.needs, restricted=self.loading is not None)
            if cause is None:
                available = extension_versions(self.server, self.needs.extensions)
                cause = cause_in_versions(reported, server, self.needs, available)
            if cause is not None and isinstance(error, SourceError):
                outcome.missing_here.append(cause)
            else:
                outcome.findings.append(Finding(subject="dump", problem=f"cannot be restored: {error.what}"))
            return
        outcome.numbers |= {"restore_seconds": round(rebuilt.seconds, 3), "data_bytes": rebuilt.data_bytes}
        quieted = rebuilt.quieted if self.loading else quiet_copy(self.target)
        outcome.details["quieted"] = list(quieted)
        if self.before_comparison is not None:
            self.before_comparison(self.loading.superuser if self.loading else self.target)
        self._compare(outcome, rebuilt)

    def _compare(self, outcome: DrillOutcome, rebuilt: Rebuilt) -> None:
        # What the copy brings along is executed by reading it, too: never as a superuser.
        copy = self.loading.target if self.loading else self.target
        comparison = compare_database(
            copy, self.expected, ignore_schemas=self.apart.schemas, skipped_lines=rebuilt.skipped_lines,
            jobs=self.jobs or 2,
            reparse=reparsed_by(self.server, self.open_dump, written_by=self.needs.written_by,
                                encoding=self.expected.catalog.encoding if self.expected.catalog else "",
                                skip=self.apart if self.apart.extensions else None,
                                loading=self.role_for, only_pg_dumps=True),
            loading=self.loading, progress=self.progress,
        )  # fmt: skip
        known = {f"extension {name}" for name in self.needs.extensions}
        hidden = {f"extension {name}" for name in self.apart.extensions} | ({"extension amcheck"} - known)
        for finding in comparison.findings:
            if finding.subject in known and finding.problem.startswith("is '"):
                # The server's version of an extension says nothing about the backup.
                outcome.skipped.append(finding)
            elif finding.subject not in hidden:
                outcome.findings.append(finding)
        outcome.skipped += comparison.skipped
        outcome.numbers |= {
            "compare_seconds": round(comparison.seconds, 3),
            "tables": comparison.tables,
            "rows": comparison.rows,
        }
        damaged, why_not = amcheck(copy, self.expected.search_path)
        outcome.findings += [Finding(subject=f"index {name}", problem=problem) for name, problem in damaged]
        if why_not:
            outcome.skipped.append(Finding(subject="amcheck", problem=why_not))
        if self.more_checks is not None:
            outcome.findings += self.more_checks(copy)
