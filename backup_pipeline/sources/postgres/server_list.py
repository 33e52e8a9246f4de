"""The databases of a server: which of them are captured, and the list of all as `<source>_databases.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import BinaryIO

from pydantic import ValidationError as PydanticError

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.errors import BackupSystemError, SourceError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.catalog import DatabaseEntry, ServerDocument
from backup_pipeline.model.known_databases import name_on_one_line
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import DATABASES_CAPTURED, ArtefactKind, ArtefactRecord, CheckResult, Severity
from backup_pipeline.postgres.catalog.read import read_server_roles
from backup_pipeline.postgres.server.connection import asking, server_version
from backup_pipeline.postgres.server.discovery import MAINTENANCE, ListedDatabase, listed_databases, tables_of
from backup_pipeline.postgres.server.swap import is_side_of
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.settings.types import CORRECT_PATTERN, NO_SUCH_DATABASE, DatabaseSelection
from backup_pipeline.sources.kind import CandidateDatabase, SiteSource
from backup_pipeline.sources.postgres.settings import PostgresSource

_IN_SUMMARY = 8
_NEW_IN_THE_RUN = "was found when the run had begun; the next one captures it"
_NOT_IN_THE_RUN = "this run captures only a part of the plan"


def find_databases(source: SiteSource[PostgresSource], known: Set[str]) -> list[CandidateDatabase]:
    """Return the databases that a server has now; those that are not known yet are connected to.

    Raises:
        BackupSystemError: the server does not answer.
    """
    target = target_of(source.site, source.settings.connection, source.name)
    selection = source.settings.databases or DatabaseSelection()
    listed = listed_databases(target)
    return [_judged(one, target, selection, known, {each.name for each in listed} | known) for one in listed]


def _judged(
    one: ListedDatabase, target: PostgresTarget, selection: DatabaseSelection, known: Set[str], names: Set[str]
) -> CandidateDatabase:
    if reason := _on_purpose(one, selection, names):
        return CandidateDatabase(one.name, reason)
    if not one.name.isprintable():
        return CandidateDatabase(one.name, "its name holds control characters", "alter database … rename to …")
    if one.name in known:
        return CandidateDatabase(one.name)
    if not one.may_connect:
        remedy = f'grant connect on database "{one.name}" to "{target.user}"; or exclude it in backup.yaml.'
        return CandidateDatabase(one.name, f"the role {target.user} has no right to connect to it", remedy)
    try:
        tables = tables_of(target.with_database(one.name))
    except BackupSystemError as error:
        # CONNECT is not all that pg_hba.conf asks for.
        return CandidateDatabase(one.name, error.what.rstrip("."), error.remedy or "Exclude it in backup.yaml.")
    if one.name == MAINTENANCE and not tables:
        return CandidateDatabase(one.name, "it is the maintenance database and holds no table")
    return CandidateDatabase(one.name)


def _on_purpose(one: ListedDatabase, selection: DatabaseSelection, names: Set[str]) -> str:
    """Return why a database is skipped though nothing is wrong; "" where it is to be captured."""
    if one.is_template:
        return "it is a template"
    if one.is_invalid:
        return "a DROP DATABASE of it was interrupted; it can only be dropped"
    if not one.takes_connections:
        return "it allows no connections"
    if not selection.selects(one.name):
        return "the settings do not select it"
    if "__" in one.name and any(is_side_of(one.name, other) for other in names):
        return "a restore or an undo put it aside"
    return ""


@dataclass(frozen=True)
class _ServerNow:
    """What a server has while a set is written.

    Attributes:
        version: the server's.
        entries: its databases.
        faults: those, and the patterns, that are wrongly without a capture: name and what to do.
        late: those that were found when the run had begun.
    """

    version: str
    entries: tuple[DatabaseEntry, ...]
    faults: tuple[tuple[str, str, str], ...]
    late: frozenset[str]


def capture_list(source: SiteSource[PostgresSource], context: CaptureContext) -> Iterator[ArtefactRecord]:
    """Capture the list of a server's databases and its roles; yield its record, key (source, "databases").

    Raises:
        SourceError: no database of the server is in the set, so that there would be nothing but the list.
        BackupSystemError: the server does not answer.
    """
    started = context.now()
    target = target_of(source.site, source.settings.connection, source.name)
    with asking(target) as connection:
        _, version = server_version(connection)
        roles = read_server_roles(connection)
    found = _server_now(source, context, target, version)
    captured = {one.name: one.source for one in found.entries if one.source}
    if not captured and not context.writer.draft.partial:
        raise _nothing(found, target)
    path = f"{context.source}_databases.json"
    with context.writer.create(path) as file:
        document = ServerDocument(server_version=version, databases=found.entries, roles=roles)
        file.write(document.model_dump_json(indent=1).encode() + b"\n")
    listed: list[JsonValue] = [{"name": name, "source": own} for name, own in captured.items()]
    record = ArtefactRecord(
        key=(context.source, "databases"),
        source=context.source,
        kind=ArtefactKind.POSTGRES_DATABASES,
        set_id=context.writer.draft.set_id,
        files=(context.writer.file_record(path, file),),
        source_label=target.label,
        server_version=version,
        started_at=started,
        finished_at=context.now(),
        checks=(_captured_check(found, len(captured)), _before_check(found, captured, _before(context))),
        facts={"databases": str(len(captured))},
        details={"databases": listed, "skipped": len(found.entries) - len(captured), "roles": len(roles)},
    )
    context.writer.write_record(record)
    yield record


def _server_now(
    source: SiteSource[PostgresSource], context: CaptureContext, target: PostgresTarget, version: str
) -> _ServerNow:
    draft = context.writer.draft
    known = source.site.databases.get(source.name)
    in_set = {one.name: one.source for one in known.databases if one.source in draft.sources} if known else {}
    before = _before(context) or frozenset()
    judged = {one.name: one for one in find_databases(source, in_set.keys())}
    entries, faults, late = [], [], set()
    for one in listed_databases(target):
        judgement = judged.get(one.name, CandidateDatabase(one.name, _NEW_IN_THE_RUN))
        own = "" if judgement.skipped else in_set.get(one.name, "")
        skipped = judgement.skipped
        if not own and not skipped:
            skipped = _NOT_IN_THE_RUN if draft.partial else _NEW_IN_THE_RUN
            if not draft.partial:
                late.add(one.name)
                if one.name in before:
                    faults.append((one.name, skipped, "Start the backup again."))
        elif judgement.remedy:
            faults.append((one.name, skipped, judgement.remedy))
        entries.append(_entry(one, own, skipped))
    selection = source.settings.databases or DatabaseSelection()
    faults += [(pattern, NO_SUCH_DATABASE, CORRECT_PATTERN) for pattern in selection.unmatched(judged)]
    return _ServerNow(version, tuple(entries), tuple(faults), frozenset(late))


def _entry(one: ListedDatabase, own: str, skipped: str) -> DatabaseEntry:
    return DatabaseEntry(
        name=one.name,
        source=own,
        skipped=skipped,
        owner=one.owner,
        encoding=one.encoding,
        collation=one.collation,
        ctype=one.ctype,
        tablespace=one.tablespace,
        connection_limit=one.connection_limit,
        size=one.size,
    )


def _nothing(found: _ServerNow, target: PostgresTarget) -> SourceError:
    if found.late:
        return SourceError(
            f"No database of the server is in this run: {len(found.late)} were found when it had begun.",
            where=target.label,
            remedy="Start the backup again; it captures them.",
        )
    reasons = "; ".join(f"{name_on_one_line(one.name)}: {one.skipped}" for one in found.entries[:_IN_SUMMARY])
    return SourceError(
        f"No database of the server is captured ({reasons}).",
        where=target.label,
        remedy="Correct `databases` of the source in backup.yaml, or grant the role the right to connect.",
    )


def _captured_check(found: _ServerNow, captured: int) -> CheckResult:
    shown = "; ".join(f"{name_on_one_line(name)}: {why}" for name, why, _ in found.faults[:_IN_SUMMARY])
    more = f" and {len(found.faults) - _IN_SUMMARY} more" if len(found.faults) > _IN_SUMMARY else ""
    return CheckResult(
        name=DATABASES_CAPTURED,
        passed=not found.faults,
        severity=Severity.WARN,
        summary=f"not captured: {shown}{more}" if found.faults else f"{captured} databases",
        table=tuple({"database": name, "why": why, "what to do": remedy} for name, why, remedy in found.faults),
        numbers={"databases": captured, "not_captured": len(found.faults)},
    )


def _before(context: CaptureContext) -> frozenset[str] | None:
    """Return the databases that the last set holds; None where it does not say."""
    previous: Manifest | None = context.previous
    for record in previous.artefacts if previous else ():
        listed = record.details.get("databases")
        if record.source == context.source and isinstance(listed, list):
            return frozenset(str(one.get("name")) for one in listed if isinstance(one, dict))
    return None


def _before_check(found: _ServerNow, captured: Mapping[str, str], before: frozenset[str] | None) -> CheckResult:
    changes: list[dict[str, JsonValue]] = []
    summary = "nothing to compare with" if before is None else "the same databases as in the last set"
    if before is not None:
        skipped = {one.name: one.skipped for one in found.entries}
        now = {*captured} | found.late
        changes += (
            {"database": name, "change": "new", "what": captured.get(name) or _NEW_IN_THE_RUN}
            for name in sorted(now - before)
        )
        changes += (
            {"database": name, "change": "gone", "what": skipped.get(name) or "dropped or renamed"}
            for name in sorted(before - now)
        )
    if changes:
        summary = ", ".join(f"{one['change']} {one['database']}" for one in changes[:_IN_SUMMARY])
        summary += f" and {len(changes) - _IN_SUMMARY} more" if len(changes) > _IN_SUMMARY else ""
    return CheckResult(
        name="databases_as_before",
        passed=not changes,
        severity=Severity.WARN,
        summary=summary,
        table=tuple(changes),
        numbers={"changes": len(changes)},
    )


def inspect_list(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with the list of a sealed set."""
    path = record.files[0].path
    try:
        with open_file(path) as file:
            document = ServerDocument.model_validate_json(file.read())
    except PydanticError:
        yield Finding(subject=path, problem="is no list of a server's databases")
        return
    listed = record.details.get("databases")
    captured = [{"name": one.name, "source": one.source} for one in document.databases if one.source]
    if captured != listed:
        yield Finding(subject=path, problem="does not name the databases that the record names")
