"""Undo of an upsert: rows that it wrote get their values from the set made just before, or go; nothing else changes.

No rows are kept for it. Both sets, the one that was restored and the one that was made just before, are loaded into
temporary tables: what the upsert wrote is where they differ. A row that was written again since stays as it is: it is
neither the row that was restored nor one of the upsert's own transaction, in which a trigger may have changed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from backup_pipeline.errors import RefusedError, SourceError
from backup_pipeline.model.catalog import Catalog
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.restore import ConflictRule
from backup_pipeline.postgres.load.check import catalog_of
from backup_pipeline.postgres.load.input import plain_sql
from backup_pipeline.postgres.load.rebuild import OpenDump
from backup_pipeline.postgres.merge.merge import MergeSession, merge_session, transaction_of
from backup_pipeline.postgres.merge.statements import Staged, TableName, written_columns
from backup_pipeline.postgres.merge.upsert import Upsert, UpsertRequest
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import without_values
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.upsert_order import order_of_leaves, root_of

_GOING, _BACK = sql.Identifier("pg_temp", "rows_going"), sql.Identifier("pg_temp", "rows_back")


@dataclass(frozen=True)
class WrittenBefore:
    """What an upsert wrote.

    Attributes:
        tables: those that it wrote to, as `schema.table`.
        conditions: table → SQL condition that its rows met.
        on_conflict: who won where rows differed.
        newer_column: for the rule `newer`.
        without_triggers: whether the tables' own triggers stay silent.
        written_by: the newest major of the pg_dumps that wrote the dumps.
        transaction: in which it wrote (see `merge.transaction_of`); "" where it is not known.
    """

    tables: frozenset[str]
    conditions: Mapping[TableName, str] = field(default_factory=dict)
    on_conflict: ConflictRule = ConflictRule.BACKUP
    newer_column: str = "updated_at"
    without_triggers: bool = False
    written_by: int = 0
    transaction: str = ""


@dataclass(frozen=True)
class TakenBack:
    """What became of the rows of one table that an upsert wrote.

    Attributes:
        put_back: rows that have the values from before again.
        removed: rows that were not there before.
        changed_since: rows that were written again since, and stay as they are.
        rewritten: of the rows that were put back, those that a trigger changed as they were written.
    """

    table: str
    put_back: int
    removed: int
    changed_since: int
    rewritten: int = 0


def take_back(
    restored: OpenDump,
    before: OpenDump,
    target: PostgresTarget,
    written: WrittenBefore,
    *,
    progress: ProgressSink = no_progress,
) -> tuple[TakenBack, ...]:
    """Take an upsert back in one transaction, everything or nothing. What was taken back already is left alone.

    Args:
        restored: opens the dump that was restored.
        before: opens the dump made just before.
        target: the live database.
        written: what the upsert wrote.
        progress: receives the number of tables read.

    Raises:
        RefusedError: a table has not its columns of then any more, or other rows point at rows that would go: nothing
            was changed.
        SourceError: a constraint does not hold, or a trigger stands in the way: nothing was changed.
    """
    client = choose_client(server_facts(target).major, at_least=written.written_by)
    catalog = catalog_of(target)
    with merge_session(target, commit=True) as session:
        present = {(table.schema_name, table.name) for table in catalog.tables if table.kind == "table"}
        session.lock(name for name in present if ".".join(name) in written.tables)
        rows = _TakeBack(session, target, catalog, written)
        staged = []
        for open_dump, conditions in ((restored, written.conditions), (before, {})):
            request = UpsertRequest(
                lambda name: ".".join(name) in written.tables, conditions=conditions, insert_absent=True
            )
            upsert = Upsert(session, catalog, request)
            with open_dump() as file, plain_sql(file, client) as reader:
                upsert.read(reader, progress)
            if reasons := upsert.outcome.refused_tables:
                raise _refused("; ".join(reasons), target)
            staged.append(session.take_staged())
        return rows.run(*staged)


def _refused(what: str, target: PostgresTarget) -> RefusedError:
    return RefusedError(
        f"The rows cannot be taken back one by one: {what}. Nothing was changed.",
        where=target.label,
        remedy="Go back to the backup made just before as a whole: its plan shows what that would take along.",
    )


class _TakeBack:
    def __init__(self, session: MergeSession, target: PostgresTarget, catalog: Catalog, written: WrittenBefore) -> None:
        self._session = session
        self._target = target
        self._catalog = catalog
        self._written = written
        self._leaf_of = {(t.schema_name, t.name): t.leaf_of for t in catalog.tables if t.leaf_of}
        self._own = _own_rows(session, written.transaction)

    def run(self, restored: Mapping[TableName, Staged], before: Mapping[TableName, Staged]) -> tuple[TakenBack, ...]:
        names = sorted(name for name in restored if restored[name].facts.key and name in before)
        self._execute(sql.SQL("create temporary table {} (relation oid, place tid) on commit drop").format(_GOING))
        self._execute(
            sql.SQL("create temporary table {} (relation oid, place tid, loaded tid) on commit drop").format(_BACK)
        )
        found = {name: self._find(restored[name], before[name]) for name in names}
        self._refuse_rows_that_are_pointed_at([name for name in names if found[name].removed])
        tables = self._catalog.tables
        refers_to = {(t.schema_name, t.name): [(k.to_schema, k.to_table) for k in t.foreign_keys] for t in tables}
        order = [name for group in order_of_leaves(names, self._leaf_of, refers_to) for name in group]
        if self._written.without_triggers:
            self._session.silence_triggers_of({name: restored[name].facts for name in names})
        try:
            with self._session.as_the_application():
                for name in order:
                    self._write(name, _update(restored[name], before[name]), found[name].put_back)
                for name in reversed(order):
                    self._write(name, _delete(restored[name]), found[name].removed)
                self._session.check_constraints()
        except psycopg.IntegrityError as error:
            what = f"Constraint {error.diag.constraint_name} of table {error.diag.table_name} would not hold"
            raise _refused(what, self._target) from None
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.errors.RaiseException) as error:
            raise _refused(f"{without_values(error)} (SQLSTATE {error.sqlstate})", self._target) from None
        self._session.restore_triggers()
        if self._session.as_replica:
            self._session.check_references(_keys_of(self._catalog, names))
        return tuple(
            replace(one, rewritten=self._rewritten(restored[name], before[name])) for name, one in found.items()
        )

    def _execute(self, statement: sql.Composed, *, temporary: bool = True) -> psycopg.Cursor[tuple[object, ...]]:
        with self._session.event_triggers.quiet() if temporary else nullcontext():
            return self._session.connection.execute(statement)

    def _find(self, restored: Staged, before: Staged) -> TakenBack:
        """Note which rows go and which get their values back, and count those that were written again since."""
        parts = _parts(restored, before, self._written, self._own)
        self._execute(
            sql.SQL(
                "insert into {going} select t.tableoid, t.ctid from {stage} s join only {table} t on {t_is_s}"
                " left join {earlier} e on {e_is_s} where e.ctid is null and not {t_from_s}"
            ).format(going=_GOING, **parts)
        )
        self._execute(
            sql.SQL(
                "insert into {back} select t.tableoid, t.ctid, e.ctid from {stage} s join only {table} t on {t_is_s}"
                " join {earlier} e on {e_is_s} where {e_from_s} and ({taken}) and not {t_from_s}"
            ).format(back=_BACK, **parts)
        )
        row = self._execute(
            sql.SQL(
                "select (select count(*) from {back} where relation = {oid}::regclass),"
                " (select count(*) from {going} where relation = {oid}::regclass), count(*)"
                " from {stage} s left join only {table} t on {t_is_s} left join {earlier} e on {e_is_s}"
                " where (e.ctid is null and t.ctid is not null and {t_from_s}) or (e.ctid is not null and {e_from_s}"
                " and ({taken}) and (t.ctid is null or ({t_from_s} and {t_from_e})))"
            ).format(back=_BACK, going=_GOING, oid=sql.Literal(_quoted(restored.name)), **parts)
        ).fetchone()
        assert row is not None
        back, going, changed = (int(str(value)) for value in row)
        return TakenBack(".".join(restored.name), back, going, changed)

    def _rewritten(self, restored: Staged, before: Staged) -> int:
        """Count rows that were put back and have other values all the same."""
        parts = _parts(restored, before, self._written, self._own)
        row = self._execute(
            sql.SQL(
                "select count(*) from {back} b join {earlier} e on e.ctid = b.loaded join only {table} t on {t_is_e}"
                " where b.relation = {oid}::regclass and {t_from_e}"
            ).format(back=_BACK, oid=sql.Literal(_quoted(restored.name)), **parts)
        ).fetchone()
        return int(str(row[0])) if row else 0

    def _refuse_rows_that_are_pointed_at(self, names: list[TableName]) -> None:
        """Refuse where rows that stay point at rows that would go: a key may take them along, or empty them."""
        reasons = set()
        for child in self._catalog.tables:
            for key in child.foreign_keys:
                for name in names:
                    if (key.to_schema, key.to_table) not in (name, root_of(name, self._leaf_of)):
                        continue
                    pairs = sql.SQL(" and ").join(
                        sql.SQL("t.{} = c.{}").format(sql.Identifier(b), sql.Identifier(a))
                        for a, b in zip(key.columns, key.to_columns, strict=True)
                    )
                    row = self._execute(
                        sql.SQL(
                            "select count(*) from {child} c where exists (select from {going} g join only {table} t"
                            " on t.tableoid = g.relation and t.ctid = g.place where {pairs}) and not exists"
                            " (select from {going} g where g.relation = c.tableoid and g.place = c.ctid) and not exists"
                            " (select from {back} b where b.relation = c.tableoid and b.place = c.ctid)"
                        ).format(
                            child=sql.Identifier(child.schema_name, child.name),
                            going=_GOING,
                            back=_BACK,
                            table=sql.Identifier(*name),
                            pairs=pairs,
                        ),
                        temporary=False,
                    ).fetchone()
                    if row and row[0]:
                        reasons.add(
                            f"{row[0]} rows of {child.schema_name}.{child.name} point at rows of {'.'.join(name)} that "
                            "were not there before"
                        )
        if reasons:
            raise _refused("; ".join(sorted(reasons)), self._target)

    def _write(self, name: TableName, statement: sql.Composed | None, expected: int) -> None:
        if not expected or statement is None:
            return
        done = self._execute(statement, temporary=False).rowcount
        if done != expected:
            raise SourceError(
                f"{expected} rows were to be taken back, and {done} were: a trigger or row level security stands in "
                "the way. Nothing was changed.",
                where=f"{self._target.label}: {'.'.join(name)}",
                remedy="Use a role that bypasses row level security, or go back to the backup made just before.",
            )


def _quoted(name: TableName) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in name)


def _row(alias: str, columns: Iterable[str]) -> sql.Composed:
    return sql.SQL("row({})").format(sql.SQL(", ").join(sql.Identifier(alias, name) for name in columns))


# Numbers of transactions are compared by their lower half, which comes again after as many.
_NUMBERS = 1 << 32


def _own_rows(session: MergeSession, transaction: str) -> sql.Composable:
    """Return the condition that nobody wrote a row since an upsert's transaction; false where that cannot be known."""
    now = transaction_of(session.connection)
    server, _, number = transaction.partition("/")
    if not number or now.partition("/")[0] != server or int(now.partition("/")[2]) - int(number) >= _NUMBERS // 2:
        return sql.SQL("false")
    return sql.SQL("t.xmin::text = {}").format(sql.Literal(str(int(number) % _NUMBERS)))


def _parts(restored: Staged, before: Staged, written: WrittenBefore, own: sql.Composable) -> dict[str, sql.Composable]:
    """Return the pieces of the comparisons of `t` (live), `s` (what was restored) and `e` (what was there before).

    `t_from_s` holds where a row was written since: it differs and is not the upsert's `own`.
    """
    columns = [name for name in written_columns(restored) if name in before.columns]

    def same_key(one: str, other: str) -> sql.Composable:
        pairs = (
            sql.SQL("{} = {}").format(sql.Identifier(one, name), sql.Identifier(other, name))
            for name in restored.facts.key
        )
        return sql.SQL(" and ").join(pairs)

    def differs(one: str, other: str) -> sql.Composable:
        return sql.SQL("pg_catalog.record_image_ne({}, {})").format(_row(one, columns), _row(other, columns))

    taken: sql.Composable = sql.SQL("true" if written.on_conflict is ConflictRule.BACKUP else "false")
    if written.on_conflict is ConflictRule.NEWER and written.newer_column in columns:
        column = sql.Identifier(written.newer_column)
        taken = sql.SQL("coalesce(s.{0} > e.{0}, e.{0} is null and s.{0} is not null)").format(column)
    return {
        "stage": restored.stage,
        "earlier": before.stage,
        "table": sql.Identifier(*restored.name),
        "t_is_s": same_key("t", "s"),
        "e_is_s": same_key("e", "s"),
        "t_is_e": same_key("t", "e"),
        "t_from_s": sql.SQL("({} and not {})").format(differs("t", "s"), own),
        "e_from_s": differs("e", "s"),
        "t_from_e": differs("t", "e"),
        "taken": taken,
    }


def _update(restored: Staged, before: Staged) -> sql.Composed | None:
    fixed = set(restored.facts.key) | restored.facts.always_identity
    columns = [name for name in written_columns(restored) if name in before.columns and name not in fixed]
    if not columns:
        return None
    sets = sql.SQL(", ").join(sql.SQL("{0} = e.{0}").format(sql.Identifier(name)) for name in columns)
    return sql.SQL(
        "update only {} t set {} from {} b join {} e on e.ctid = b.loaded where b.relation = t.tableoid"
        " and b.place = t.ctid"
    ).format(sql.Identifier(*restored.name), sets, _BACK, before.stage)


def _delete(restored: Staged) -> sql.Composed:
    return sql.SQL("delete from only {} t using {} g where g.relation = t.tableoid and g.place = t.ctid").format(
        sql.Identifier(*restored.name), _GOING
    )


def _keys_of(
    catalog: Catalog, names: Iterable[TableName]
) -> Iterable[tuple[TableName, tuple[str, ...], TableName, tuple[str, ...]]]:
    wanted = set(names)
    return (
        ((t.schema_name, t.name), key.columns, (key.to_schema, key.to_table), key.to_columns)
        for t in catalog.tables
        for key in t.foreign_keys
        if (t.schema_name, t.name) in wanted
    )
