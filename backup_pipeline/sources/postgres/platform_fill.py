"""A project's dump into the new, empty database that a platform (Supabase) made: everything of the project's own, and
of the platform's schemas rows only.

A platform's database cannot be built beside and swapped, and nobody but the platform makes tables in its schemas. So
the project's schemas are made and filled in one transaction, rows of `auth` and `storage` go into the platform's tables
(see `supabase`), and everything is compared before the commit. A database that holds tables of a project already is
refused: that is what an upsert is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from backup_pipeline.errors import ValidationError
from backup_pipeline.model.catalog import Catalog
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import Fingerprint
from backup_pipeline.model.restore import TableChange
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.load.check import catalog_of
from backup_pipeline.postgres.load.fill import Filling
from backup_pipeline.postgres.load.input import plain_sql
from backup_pipeline.postgres.load.rebuild import OpenDump
from backup_pipeline.postgres.load.stream import CopyBlock, DumpParts, Statement
from backup_pipeline.postgres.merge.merge import merge_session
from backup_pipeline.postgres.merge.upsert import Upsert, UpsertOutcome, UpsertRequest
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.catalog_difference import differences
from backup_pipeline.rules.dump_limits import without_limits
from backup_pipeline.rules.skipped_statements import (
    Line,
    LineKind,
    SkippedStatements,
    line_of,
    reported,
    without_skipped,
)
from backup_pipeline.rules.verification import fingerprint_findings
from backup_pipeline.sources.postgres import supabase

TableName = tuple[str, str]
# pg_dump writes this above every object; the statements of the object follow.
_HEADING = re.compile(
    rb"^-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[^;]*); Schema: (?P<schema>[^;]*);", re.MULTILINE
)
_CALLS = re.compile(rb' EXECUTE FUNCTION (?:"((?:[^"]|"")+)"|([^\s".(]+))\.')
_ON_TABLE = re.compile(rb"CREATE (?:POLICY|TRIGGER) (\"(?:[^\"]|\"\")+\"|\S+) ")
_DUPLICATE, _NO_RIGHT = "42710", "42501"
# What a platform has of its own in any database; a backup's is neither missed nor made here.
_NOT_COMPARED = frozenset(
    {
        "extension",
        "event trigger",
        "publication",
        "published",
        "subscription",
        "default privilege",
        "other owner",
        "other grant",
        "other comment",
    }
)


def own_tables(catalog: Catalog) -> list[str]:
    """Return the tables that are a project's own, not the platform's."""
    return [table.label for table in catalog.tables if table.schema_name not in supabase.OWNED]


def fill_platform(
    open_dump: OpenDump,
    target: PostgresTarget,
    expected: Expectation,
    *,
    commit: bool,
    written_by: int = 0,
    progress: ProgressSink = no_progress,
) -> UpsertOutcome:
    """Put a project's dump into a platform's new database, in one transaction; with `commit` False only find out what.

    Args:
        open_dump: opens the dump.
        target: the platform's database, without tables of a project.
        expected: what was recorded with the dump.
        commit: False rolls back.
        written_by: major of the pg_dump that wrote the dump (for its pg_restore).
        progress: receives the number of tables filled.

    Raises:
        RefusedError: with `commit`, when anything stands against it. ValidationError: with `commit`, when what was put
            there differs from the backup. SourceError: a statement or row was refused. Nothing was changed then.
    """
    facts = server_facts(target)
    client = choose_client(facts.major, at_least=written_by)
    request = UpsertRequest(
        wanted=lambda name: name[0] in supabase.DATA_ONLY_SCHEMAS and supabase.may_be_written(name),
        versions=lambda name: name in supabase.VERSION_TABLES,
        everything=False,
        without_triggers=True,
        check_references=False,
    )
    left = SkippedStatements(facts.roles)
    catalog = catalog_of(target)
    with merge_session(target, commit=commit) as session:
        # The platform's rows first: the project's tables refer to them.
        rows = Upsert(session, catalog, request)
        with open_dump() as file, plain_sql(file, client) as reader:
            rows.read(reader, progress)
        rows.compare()
        outcome = rows.outcome
        if found := own_tables(catalog):
            outcome.reasons_against.append(f"it holds tables of a project already ({', '.join(found[:3])}, …)")
        if outcome.reasons_against and not commit:
            return outcome
        rows.write(sequences=commit)
        filling = Filling(session.connection, target)
        filling.suspend_default_privileges()
        with open_dump() as file, plain_sql(file, client) as reader:
            _fill(filling, DumpParts(reader), left, progress)
        filling.pin()
        filling.resume_default_privileges()
        _require_equal(_compare(filling, expected, left, facts.user), target)
        outcome.tables += [
            TableChange(table=".".join(name), backup=count, insert=count) for name, count in filling.rows.items()
        ]
        outcome.warnings += reported(left.lines, facts.user)
        if commit:
            filling.analyze()
    return outcome


def _require_equal(findings: Sequence[Finding], target: PostgresTarget) -> None:
    if findings:
        first = "; ".join(f"{f.subject} {f.problem}" for f in findings[:5])
        raise ValidationError(
            f"What was put into the database differs from the backup in {len(findings)} things: {first}.",
            where=target.label,
            remedy="Nothing was changed. Restore into a server of your own, or bring tables back with --upsert.",
        )


def _fill(filling: Filling, parts: DumpParts, left: SkippedStatements, progress: ProgressSink) -> None:
    for part, strict in _own_parts(parts):
        if isinstance(part, CopyBlock):
            filling.copy(part)
            progress(Progress("load tables", len(filling.rows), None, "tables"))
        elif strict:
            filling.run(part)
        else:
            filling.run(part, _taken(left))


def _taken(left: SkippedStatements) -> Callable[[bytes, str], bool]:
    def take(text: bytes, state: str) -> bool:
        if state == _DUPLICATE or left.take(text, state):
            return True
        if state == _NO_RIGHT and (found := _ON_TABLE.match(text)):
            left.lines.append(Line(LineKind.ON_PLATFORM, found[1].decode()))
            return True
        return False

    return take


def _own_parts(parts: DumpParts) -> Iterator[tuple[Statement | CopyBlock, bool]]:
    """Yield the parts that are a project's own, and whether each must succeed."""
    kind, schema, name = "", "", ""
    for part in parts:
        if isinstance(part, CopyBlock):
            if part.table[0] not in supabase.OWNED:
                yield part, True
            continue
        for found in _HEADING.finditer(part.text[: len(part.text) - len(part.body)]):
            kind, schema, name = (found[group].decode() for group in ("type", "schema", "name"))
        line = line_of(part.body)
        if schema in supabase.OWNED or name.removeprefix("SCHEMA ") in supabase.OWNED:
            # A project's triggers on auth.users and its policies on storage.objects are its own all the same.
            if kind == "POLICY" or (kind == "TRIGGER" and _function_schema(part.body) not in supabase.OWNED):
                yield part, False
            continue
        if line is not None and line.kind is LineKind.EXTENSION_COMMENT:
            continue
        yield part, line is None


def _function_schema(body: bytes) -> str:
    found = _CALLS.search(body)
    return (found[1] or found[2]).decode() if found else "auth"


def _compare(filling: Filling, expected: Expectation, left: SkippedStatements, user: str) -> list[Finding]:
    wanted = {name: mark for name, mark in expected.fingerprints.items() if name[0] not in supabase.OWNED}
    have: dict[TableName, Fingerprint | str] = {
        name: filling.fingerprint(name, mark.algorithm) for name, mark in wanted.items()
    }
    findings = fingerprint_findings(wanted, have)
    if expected.catalog is not None:
        made = filling.catalog()
        *objects, _ = without_limits(*without_skipped(expected.catalog, made, left.lines, user))
        findings += [
            finding
            for finding in differences(
                *objects,
                ignore_kinds=_NOT_COMPARED,
                ignore_schemas=supabase.OWNED,
                extra_allowed=True,
                # What was made a moment ago, in this transaction, is what the server makes of the dump's definitions.
                reparsed=made,
            )
            # The platform has its own owner and rights of the schema that every database has.
            if finding.subject not in ("owner schema public", "grant schema public", "comment schema public")
        ]
    return findings
