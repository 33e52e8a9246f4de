"""Drill of one database: restored into a scratch database, compared, checked, removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from backup_pipeline.errors import BackupSystemError, RefusedError, SourceError
from backup_pipeline.model.drill_outcome import DrillOutcome
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.postgres.compare.comparison import Comparison, Expectation, compare_database
from backup_pipeline.postgres.compare.reparsed import reparsed_by
from backup_pipeline.postgres.load.check import amcheck, quiet_copy
from backup_pipeline.postgres.load.excluded_extensions import ExcludedExtensions, exclude_extensions
from backup_pipeline.postgres.load.load import Skip
from backup_pipeline.postgres.load.loading_role import LoadingRole, make_loading_role, time_limit
from backup_pipeline.postgres.load.rebuild import LoadOptions, OpenDump, Rebuilt, rebuild_database
from backup_pipeline.postgres.load.scratch import mark_roles, scratch_database
from backup_pipeline.postgres.server.databases import (
    ServerFacts,
    create_roles,
    extension_versions,
    server_facts,
    server_features,
)
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
from backup_pipeline.system.threads import ContextThreadPool

Hook = Callable[[PostgresTarget], list[Finding]]
SECONDS_VARIABLE = "DRILL_TIMEOUT_SECONDS"
LEAST_SECONDS = 3600.0
BYTES_PER_SECOND = 1_000_000


@dataclass(frozen=True)
class DrillHooks:
    """What is called with the restored database: before the comparison (tests damage it there), and beside it.

    `observe` receives the text of the dump as it is loaded.
    """

    before_comparison: Callable[[PostgresTarget], None] | None = None
    more_checks: Hook | None = None
    observe: Callable[[bytes], object] | None = None


def drill_database(
    open_dump: OpenDump,
    expected: Expectation,
    server: PostgresTarget,
    hooks: DrillHooks = DrillHooks(),
    *,
    jobs: int = 0,
    seconds: float = 0,
    progress: ProgressSink = no_progress,
) -> DrillOutcome:
    """Restore a dump into a database of its own on a scratch server, compare everything, and remove it again.

    Args:
        open_dump: opens the dump.
        expected: what was recorded in the dump's snapshot.
        server: any database of the scratch server.
        hooks: what is called with the restored database.
        jobs: connections.
        seconds: after which the drill is ended; by the size of the tables when 0 (see `time_allowed`).
        progress: receives bytes loaded and tables compared.

    Raises:
        RefusedError: the role may not create databases there.
        BackupSystemError: the server is away, too old or full; a dump that cannot be restored is a finding instead.
    """
    facts = server_facts(server)
    if not facts.may_create_databases:
        raise RefusedError(
            f"Role {facts.user} may not create databases, so nothing can be restored for a drill.",
            where=server.label,
            remedy="Name a role with CREATEDB in DRILL_DATABASE_URL.",
        )
    needs = needs_of(expected.catalog, dict(expected.roles.extensions) if expected.roles else {}, expected.written_by)
    apart, _ = exclude_extensions(tuple(needs.extensions), facts.extensions)
    outcome = _what_is_missing(needs, facts, server, apart)
    if outcome.missing_here:
        return outcome
    with scratch_database(server, lambda name: outcome.skipped.append(_left_behind(name))) as target:
        role_for = _role_maker(expected, needs, server) if facts.superuser else None
        loading = role_for(target) if role_for is not None else None
        if loading is not None:
            made = sorted(loading.owners - {*loading.stand_ins.values()})
        else:
            made = _make_roles(expected, server, target)
        outcome.details["roles_made_for_the_drill"] = [*made]
        expected = replace(expected, skipped_schemas=tuple(apart.schemas))
        drill = _DatabaseDrill(
            open_dump, expected, needs, apart, server, target, loading, role_for, hooks, jobs, progress
        )
        who = loading.name if loading else facts.user
        with time_limit(server, target.database, who, seconds or time_allowed(expected)) as watch:
            try:
                drill.run(outcome, _name_of(facts))
            except BackupSystemError:
                if not watch.reached:
                    raise
        return _ended(watch.seconds) if watch.reached else outcome


def _left_behind(database: str) -> Finding:
    return Finding(
        subject=f"database {database}",
        problem="was left by a killed drill of another role, which this role may not remove",
        remedy=f'As its owner or a superuser: drop database "{database}" with (force);',
    )


def _name_of(facts: ServerFacts) -> str:
    return f"the scratch server (PostgreSQL {facts.major})"


def _what_is_missing(
    needs: Needs, facts: ServerFacts, server: PostgresTarget, apart: ExcludedExtensions
) -> DrillOutcome:
    """Return an outcome with what the server lacks; where it lacks nothing, with what cannot be exercised there."""
    features = server_features(server)
    outcome = DrillOutcome()
    outcome.missing_here += missing_from(needs, _name_of(facts), facts.extensions, features, apart.extensions)
    if facts.major < needs.written_by:
        outcome.missing_here.append(too_old(_name_of(facts), needs.written_by))
    if not outcome.missing_here:
        outcome.skipped += apart.as_skipped()
        outcome.skipped += unexercised(needs, features)
    return outcome


def _recorded_roles(expected: Expectation) -> tuple[str, ...]:
    return (
        *(expected.roles.needed if expected.roles else ()),
        *(expected.catalog.roles if expected.catalog else ()),
    )


def _make_roles(expected: Expectation, server: PostgresTarget, target: PostgresTarget) -> list[str]:
    """Make the recorded roles that are missing, marked for removal, and return them."""
    # Asked now: what a killed drill left has just been removed.
    present = server_facts(server).roles
    made = create_roles(server, sorted({role for role in _recorded_roles(expected) if role not in present}))
    mark_roles(target, made)
    return list(made)


def _role_maker(expected: Expectation, needs: Needs, server: PostgresTarget) -> Callable[[PostgresTarget], LoadingRole]:
    """Return what makes the role that loads a database in a superuser's place."""
    described = expected.roles.roles if expected.roles else ()

    def role_for(database: PostgresTarget) -> LoadingRole:
        return make_loading_role(
            database,
            _recorded_roles(expected),
            server_facts(server).roles,
            lambda made: mark_roles(database, made),
            dict(needs.extensions),
            powerful={role.name for role in described if role.superuser},
            bypassing={role.name for role in described if role.bypass_row_security},
        )

    return role_for


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
            remedy=f"Give it more in {SECONDS_VARIABLE}, or inspect the functions that CHECKs and indexes call.",
        )
    )
    return outcome


@dataclass
class _DatabaseDrill:
    open_dump: OpenDump
    expected: Expectation
    needs: Needs
    apart: ExcludedExtensions
    server: PostgresTarget
    target: PostgresTarget
    loading: LoadingRole | None
    role_for: Callable[[PostgresTarget], LoadingRole] | None
    hooks: DrillHooks
    jobs: int
    progress: ProgressSink

    @property
    def _skip(self) -> Skip | None:
        return self.apart if self.apart.extensions else None

    def run(self, outcome: DrillOutcome, server: str) -> None:
        """Restore, compare and check; what was found goes into the outcome."""
        options = LoadOptions(
            jobs=self.jobs,
            skip=self._skip,
            loading=self.loading,
            only_pg_dumps=True,
            observe=self.hooks.observe,
        )
        try:
            rebuilt = rebuild_database(
                self.open_dump, self.target, self.expected.origin, options, progress=self.progress
            )
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
        if self.hooks.before_comparison is not None:
            self.hooks.before_comparison(self.loading.superuser if self.loading else self.target)
        self._compare(outcome, rebuilt)

    def _compare(self, outcome: DrillOutcome, rebuilt: Rebuilt) -> None:
        # What the copy brings along is executed by reading it, too: never as a superuser.
        copy = self.loading.target if self.loading else self.target
        # The server adds up rows and inspects indexes while the exports are read here.
        with ContextThreadPool(2, "beside") as beside:
            more = beside.submit(self.hooks.more_checks, copy) if self.hooks.more_checks is not None else None
            indexes = beside.submit(amcheck, copy, self.expected.search_path)
            comparison = self._comparison(copy, rebuilt)
            damaged, why_not = indexes.result()
            found_beside = more.result() if more is not None else []
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
        outcome.findings += [Finding(subject=f"index {name}", problem=problem) for name, problem in damaged]
        if why_not:
            outcome.skipped.append(Finding(subject="amcheck", problem=why_not))
        outcome.findings += found_beside

    def _comparison(self, copy: PostgresTarget, rebuilt: Rebuilt) -> Comparison:
        return compare_database(
            copy,
            self.expected,
            skipped_lines=rebuilt.skipped_lines,
            reparse=reparsed_by(
                self.server,
                self.open_dump,
                self.expected.origin,
                skip=self._skip,
                loading=self.role_for,
                only_pg_dumps=True,
            ),
            jobs=self.jobs or 2,
            loading=self.loading,
            progress=self.progress,
        )
