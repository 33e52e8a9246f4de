"""A drill of one database: restored for real beside nothing that matters, compared, checked, removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from backup_pipeline.errors import BackupSystemError, RefusedError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.restore.comparison import Expectation, compare_database
from backup_pipeline.restore.neutralise import left_out
from backup_pipeline.restore.rebuild import OpenDump, rebuild_database
from backup_pipeline.restore.reparsed import reparsed_by
from backup_pipeline.tools.postgres.databases import create_roles, server_facts
from backup_pipeline.tools.postgres.restore_check import amcheck, quiet_copy
from backup_pipeline.tools.postgres.scratch import mark_roles, scratch_database
from backup_pipeline.tools.postgres.target import PostgresTarget

Hook = Callable[[PostgresTarget], list[Finding]]


@dataclass
class DrillOutcome:
    """What a drill of one source found. `numbers` are seconds and amounts, to be added up over sources."""

    findings: list[Finding] = field(default_factory=list)
    skipped: list[Finding] = field(default_factory=list)
    numbers: dict[str, float | int] = field(default_factory=dict)
    details: dict[str, JsonValue] = field(default_factory=dict)


def drill_database(
    open_dump: OpenDump,
    expected: Expectation,
    server: PostgresTarget,
    *,
    written_by: int = 0,
    jobs: int = 0,
    before_comparison: Callable[[PostgresTarget], None] | None = None,
    more_checks: Hook | None = None,
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
        progress: told bytes loaded and tables compared.

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
    needed = expected.roles.extension_names if expected.roles else frozenset()
    apart, missing = left_out(needed, facts.extensions)
    if missing:
        outcome.findings += [
            Finding(
                subject=f"extension {name}",
                problem="is not available on the scratch server, so the dump cannot be restored there",
                remedy="Name a server that has it in DRILL_DATABASE_URL.",
            )
            for name in missing
        ]
        return outcome
    outcome.skipped += apart.as_skipped()
    roles = (*(expected.roles.needed if expected.roles else ()), *(expected.catalog.roles if expected.catalog else ()))
    with scratch_database(server) as target:
        # Asked now: what a killed drill left has just been removed.
        present = server_facts(server).roles
        made = create_roles(server, sorted({role for role in roles if role not in present}))
        mark_roles(target, made)
        outcome.details["roles_made_for_the_drill"] = list(made)
        try:
            rebuilt = rebuild_database(
                open_dump, target, written_by=written_by,
                encoding=expected.catalog.encoding if expected.catalog else "",
                locale=expected.catalog.locale if expected.catalog else None, jobs=jobs,
                skip=apart if apart.extensions else None,
                progress=progress,
            )  # fmt: skip
        except BackupSystemError as error:
            if not error.permanent:
                raise
            outcome.findings.append(Finding(subject="dump", problem=f"cannot be restored: {error.what}"))
            return outcome
        outcome.numbers |= {"restore_seconds": round(rebuilt.seconds, 3), "data_bytes": rebuilt.data_bytes}
        outcome.details["quieted"] = list(quiet_copy(target))
        if before_comparison is not None:
            before_comparison(target)
        comparison = compare_database(
            target, expected, ignore_schemas=apart.schemas, left_out=rebuilt.left_out, jobs=jobs or 2,
            reparse=reparsed_by(server, open_dump, written_by=written_by,
                                encoding=expected.catalog.encoding if expected.catalog else "",
                                skip=apart if apart.extensions else None),
            progress=progress,
        )  # fmt: skip
        hidden = {f"extension {name}" for name in apart.extensions}
        outcome.findings += [f for f in comparison.findings if f.subject not in hidden]
        outcome.skipped += comparison.skipped
        outcome.numbers |= {
            "compare_seconds": round(comparison.seconds, 3),
            "tables": comparison.tables,
            "rows": comparison.rows,
        }
        damaged, why_not = amcheck(target)
        outcome.findings += [Finding(subject=f"index {name}", problem=problem) for name, problem in damaged]
        if why_not:
            outcome.skipped.append(Finding(subject="amcheck", problem=why_not))
        if more_checks is not None:
            outcome.findings += more_checks(target)
        return outcome
