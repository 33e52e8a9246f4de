"""Upsert: rows of a dump into an existing database, everything or nothing, by primary key in foreign-key order.

The same function plans (and rolls back) and applies. Which rows differ and how they are written is `merge`'s work, in
which order `rules.upsert_order`'s. No emergency backup here: `operations` makes it first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.catalog import Catalog
from backup_pipeline.model.changed_rows import ChangedRows, RowsView
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.restore import ConflictRule, TableChange
from backup_pipeline.postgres.catalog.table_facts import TableFacts
from backup_pipeline.postgres.load.check import catalog_of
from backup_pipeline.postgres.load.input import Observed, Readable, plain_sql
from backup_pipeline.postgres.load.rebuild import OpenDump
from backup_pipeline.postgres.load.stream import CopyBlock, DumpParts
from backup_pipeline.postgres.merge.merge import MergeSession, merge_session, transaction_of
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.encodings import decoded
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.upsert_order import order_of_leaves

TableName = tuple[str, str]
_SETVAL = re.compile(rb"SELECT pg_catalog\.setval\('((?:[^']|'')+)', (-?\d+), (true|false)\);")
_READ = "read rows"
_ENCODING = re.compile(rb"SET client_encoding = '([^']+)';")


@dataclass(frozen=True)
class UpsertRequest:
    """Which rows, and who wins.

    Attributes:
        wanted: says whether a table takes part, by schema and name.
        everything: no table was skipped, so every sequence takes part too.
        versions: says whether a table only records which version its schema has: it must be equal and is never written.
        conditions: table → SQL condition that its rows must meet.
        skip_refused: tables that cannot take rows are skipped with a warning instead of refusing all.
        check_references: foreign keys that would not hold stand against it; False to leave them to
            the server.
    """

    wanted: Callable[[TableName], bool]
    everything: bool = True
    versions: Callable[[TableName], bool] = lambda name: False
    conditions: Mapping[TableName, str] = field(default_factory=dict)
    on_conflict: ConflictRule = ConflictRule.BACKUP
    newer_column: str = "updated_at"
    insert_absent: bool = False
    without_triggers: bool = False
    skip_refused: bool = False
    check_references: bool = True


@dataclass
class UpsertOutcome:
    """What was (or would be) written, table by table, and what stands against it.

    Attributes:
        refused_tables: reasons against single tables, which `skip_refused` skips; they are among
            `reasons_against` too once everything was read.
        transaction: in which it was written (see `merge.transaction_of`); "" when it was only planned.
    """

    tables: list[TableChange] = field(default_factory=list)
    reasons_against: list[str] = field(default_factory=list)
    refused_tables: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    transaction: str = ""


def upsert_database(
    open_dump: OpenDump,
    target: PostgresTarget,
    request: UpsertRequest,
    *,
    commit: bool,
    written_by: int = 0,
    progress: ProgressSink = no_progress,
) -> UpsertOutcome:
    """Bring rows of a dump into the target's database in one transaction; with `commit` False only find out what.

    Args:
        open_dump: opens the dump.
        target: the live database.
        request: which rows, and who wins.
        commit: False rolls back.
        written_by: major of the pg_dump that wrote the dump (for its pg_restore).
        progress: receives the bytes of the dump and the number of tables read.

    Raises:
        RefusedError: with `commit`, when anything stands against it: all of it is named, nothing was changed.
        SourceError: a constraint does not hold, or a trigger swallows rows; nothing was changed.
    """
    client = choose_client(server_facts(target).major, at_least=written_by)
    catalog = catalog_of(target)
    with merge_session(target, commit=commit) as session:
        rows = Upsert(session, catalog, request)
        if commit:
            present = {(table.schema_name, table.name) for table in catalog.tables if table.kind == "table"}
            session.lock(name for name in present if request.wanted(name))
        with open_dump() as file, plain_sql(file, client) as reader:
            rows.read(reader, progress)
        rows.compare()
        if commit:
            rows.write()
            rows.outcome.transaction = transaction_of(session.connection)
    return rows.outcome


def rows_to_write(
    open_dump: OpenDump, target: PostgresTarget, request: UpsertRequest, view: RowsView, *, written_by: int = 0
) -> ChangedRows:
    """Return a page of the rows that an upsert of one table would add or replace; nothing is written.

    Args:
        open_dump: opens the dump.
        target: the live database.
        request: of the one table.
        view: which rows.
        written_by: major of the pg_dump that wrote the dump.

    Raises:
        RefusedError: the table cannot take rows, or is not in the dump.
    """
    client = choose_client(server_facts(target).major, at_least=written_by)
    with merge_session(target, commit=False) as session:
        rows = Upsert(session, catalog_of(target), request)
        with open_dump() as file, plain_sql(file, client) as reader:
            rows.read(reader, no_progress)
        if not session.staged:
            reasons = "; ".join(rows.outcome.refused_tables) or "the dump has no such table"
            raise RefusedError(f"Its rows cannot be compared one by one: {reasons}.", where=target.label)
        (table,) = session.staged
        session.compare(table, request.on_conflict, request.newer_column)
        return session.changed_rows(table, view)


class Upsert:
    """Rows of a dump on their way into the tables of one merge session: `read`, then `compare`, then `write`."""

    def __init__(self, session: MergeSession, catalog: Catalog, request: UpsertRequest) -> None:
        self._session = session
        self._catalog = catalog
        self._request = request
        self._sequences: list[tuple[str, int, bool]] = []
        self._leaf_of = {(t.schema_name, t.name): t.leaf_of for t in catalog.tables if t.leaf_of}
        self.outcome = UpsertOutcome()

    def read(self, reader: Readable, progress: ProgressSink) -> None:
        """Load the rows of a dump that are wanted into temporary tables."""
        session, request, encoding = self._session, self._request, ""
        done = 0

        def counted(data: bytes) -> None:
            nonlocal done
            done += len(data)
            progress(Progress(_READ, done))

        parts = DumpParts(Observed(reader, counted))
        for part in parts:
            if isinstance(part, CopyBlock):
                if request.versions(part.table):
                    _compare_version(session, part, self.outcome)
                elif request.wanted(part.table):
                    _stage(session, part, request, self.outcome, encoding)
                    progress(Progress("read tables", len(session.staged), None, "tables"))
            elif found := _SETVAL.match(part.body):
                name = decoded(found[1], parts.codec).replace("''", "'")
                self._sequences.append((name, int(found[2]), found[3] == b"true"))
            elif named := _ENCODING.match(part.body):
                encoding = named[1].decode()
                if encoding == "SQL_ASCII":
                    # As such the server would take any bytes; as its own encoding it checks them.
                    encoding = session.server_encoding
                encoding = "" if encoding == "UTF8" else encoding
        progress(Progress(_READ, done, done, finished=True))

    def compare(self) -> None:
        """Find what differs, and what stands against writing it."""
        session, request, outcome = self._session, self._request, self.outcome
        if warning := session.event_triggers.warning():
            outcome.warnings.append(warning)
        outcome.reasons_against += outcome.refused_tables
        if outcome.refused_tables and session.staged:
            outcome.reasons_against.append(
                f"--skip-refused skips the tables named before ({len(outcome.refused_tables)} reasons) and brings "
                f"back the other {len(session.staged)}"
            )
        outcome.tables = [
            session.compare(name, request.on_conflict, request.newer_column) for name in sorted(session.staged)
        ]
        missing = sorted(set(request.conditions) - set(session.staged))
        if not outcome.reasons_against:
            outcome.reasons_against += [f"table {'.'.join(name)} of --rows is not in the backup" for name in missing]
        if request.check_references:
            outcome.reasons_against += session.missing_references(self._leaf_of)

    def write(self, *, sequences: bool = True) -> None:
        """Write what differs; `sequences` False leaves them where they are (they do not follow a rollback).

        Raises:
            RefusedError: something stands against it. SourceError: a constraint does not hold.
        """
        session, request, outcome = self._session, self._request, self.outcome
        if outcome.reasons_against:
            raise RefusedError(
                f"The rows cannot be brought back: {'; '.join(outcome.reasons_against)}.",
                where="upsert",
                remedy="Choose other tables with --tables, or rebuild.",
            )
        tables = self._catalog.tables
        refers_to = {(t.schema_name, t.name): [(k.to_schema, k.to_table) for k in t.foreign_keys] for t in tables}
        if request.without_triggers:
            session.silence_triggers(session.staged)
        with session.as_the_application():
            for group in order_of_leaves(session.staged, self._leaf_of, refers_to):
                session.write(group)
            session.check_constraints()
        session.restore_triggers()
        if session.as_replica:
            outcome.warnings.append("triggers were skipped as a replica does; foreign keys were checked afterwards")
            session.check_references(
                ((t.schema_name, t.name), key.columns, (key.to_schema, key.to_table), key.to_columns)
                for t in tables
                for key in t.foreign_keys
                if (t.schema_name, t.name) in session.staged
            )
        if sequences:
            selection = None if request.everything else set(session.staged)
            notes = [session.raise_sequence(name, last, called, selection) for name, last, called in self._sequences]
            outcome.warnings += [note for note in notes if note]
        for name in session.staged:
            if count := session.differing_after(name):
                outcome.warnings.append(
                    f"{count} rows of {'.'.join(name)} are not the backup's after all: a trigger changed them "
                    "(--without-triggers leaves triggers out), or they differ in what cannot be updated (the spelling "
                    "of an equal key, an identity that is always generated)"
                )


def _compare_version(session: MergeSession, block: CopyBlock, outcome: UpsertOutcome) -> None:
    """Refuse rows of a schema whose version, as its own migrations table says, is not the backup's."""
    name = ".".join(block.table)
    facts = session.facts(block.table)
    if facts is None or not set(block.columns) <= set(facts.columns):
        block.drain()
        outcome.reasons_against.append(f"{name} is another one in the target: its schema has another version")
        return
    session.stage(block, facts)
    change = session.compare(block.table, ConflictRule.KEEP, "", keys_only=True)
    session.forget(block.table)
    if change.insert or change.only_in_target:
        outcome.reasons_against.append(
            f"{name} differs ({change.insert} migrations only in the backup, {change.only_in_target} only in the "
            "target): bring the target to the backup's version first"
        )


def _stage(
    session: MergeSession, block: CopyBlock, request: UpsertRequest, outcome: UpsertOutcome, encoding: str
) -> None:
    facts = session.facts(block.table)
    reasons = _reasons_against(block, facts, request)
    if request.skip_refused:
        outcome.warnings += [f"skipped: {reason}" for reason in reasons]
    else:
        outcome.refused_tables += reasons
    if facts is None or reasons:
        block.drain()
        return
    session.stage(block, facts, condition=request.conditions.get(block.table, ""), encoding=encoding)


def _reasons_against(block: CopyBlock, facts: TableFacts | None, request: UpsertRequest) -> list[str]:
    name = ".".join(block.table)
    if facts is None:
        return [f"table {name} is not in the target"]
    reasons = []
    if facts.kind not in ("r", "p"):
        reasons.append(f"{name} is not a table in the target")
    if missing := [column for column in block.columns if column not in facts.columns]:
        reasons.append(f"table {name} lacks columns of the backup: {', '.join(missing)}")
    if facts.rules:
        reasons.append(f"table {name} has rewrite rules for writing: {', '.join(facts.rules)}")
    if not facts.key and not request.insert_absent:
        why = "".join(
            f"; its unique index {index} is none, because {columns} may be null (SET NOT NULL makes it one)"
            for index, columns in facts.nullable_keys
        )
        reasons.append(
            f"table {name} has no primary key, nor a unique index over columns without nulls{why} (--insert-absent "
            "inserts the rows that it has not got)"
        )
    if facts.key and not set(facts.key) <= set(block.columns):
        reasons.append(f"table {name} has another key than the backup")
    return reasons


def matches(name: TableName, patterns: Iterable[str]) -> bool:
    """Return whether `schema.table` matches one of the patterns (`*`, `?`; a bare name means public)."""
    label = ".".join(name)
    return any(fnmatchcase(label, pattern if "." in pattern else f"public.{pattern}") for pattern in patterns)
