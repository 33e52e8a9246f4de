"""Bringing rows of a backup into a live table by primary key, inside one transaction that is not committed here.

Rows go into temporary tables by COPY; what differs is found by one join per table; only that is written. Nothing is
truncated, no constraint is dropped. In which order and under which rules is decided by the caller.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import RefusedError, SourceError
from backup_pipeline.model.changed_rows import ChangedRows, RowsView
from backup_pipeline.model.restore import ConflictRule, TableChange
from backup_pipeline.postgres.catalog.table_facts import TableFacts, table_facts
from backup_pipeline.postgres.load.sequences import raise_sequence
from backup_pipeline.postgres.load.stream import CopyBlock
from backup_pipeline.postgres.merge.changed_rows import page_of_rows
from backup_pipeline.postgres.merge.references import missing_references
from backup_pipeline.postgres.merge.statements import (
    NEW,
    TAKE,
    Staged,
    changed_rows,
    column_list,
    insert_statement,
    row_text,
    rows_differ,
    rows_taken,
    update_statement,
    written_columns,
)
from backup_pipeline.postgres.server.connection import PINNED_SETTINGS, connected, without_values
from backup_pipeline.postgres.server.event_triggers import EventTriggers
from backup_pipeline.postgres.server.target import PostgresTarget

TableName = tuple[str, str]


class MergeSession:
    """One transaction in the target's database. Commit is the caller's; leaving it otherwise rolls all back."""

    def __init__(self, target: PostgresTarget, connection: Connection[TupleRow]) -> None:
        self._target = target
        self._connection = connection
        self._staged: dict[TableName, Staged] = {}
        self._silenced: list[tuple[TableName, str, str]] = []
        self._number = 0
        self.as_replica = False
        self.event_triggers = EventTriggers(connection)

    @property
    def connection(self) -> Connection[TupleRow]:
        """The transaction's connection, for what else belongs into it."""
        return self._connection

    @property
    def server_encoding(self) -> str:
        """The encoding of the target's database."""
        return self._connection.info.parameter_status("server_encoding") or "UTF8"

    @property
    def staged(self) -> tuple[TableName, ...]:
        """Tables whose rows of the backup have been loaded."""
        return tuple(self._staged)

    def lock(self, tables: Iterable[TableName]) -> None:
        """Lock tables against writers (readers go on), in the order of their names."""
        names = sorted(tables)
        if names:
            listed = sql.SQL(", ").join(sql.Identifier(*name) for name in names)
            self._connection.execute(sql.SQL("lock table only {} in share row exclusive mode").format(listed))

    def facts(self, table: TableName) -> TableFacts | None:
        """Return what is to be known of a table of the target; None when it is not there."""
        return table_facts(self._connection, table)

    def stage(self, block: CopyBlock, facts: TableFacts, *, condition: str = "", encoding: str = "") -> None:
        """Load a table's rows of the backup into a temporary table.

        Args:
            block: the table's COPY block; read to its end.
            facts: the target's table; must have every column of the block.
            condition: SQL over the table's columns; only rows for which it is true stay.
            encoding: the dump's client encoding, where it is not UTF-8.

        Raises:
            RefusedError: the condition is not understood.
        """
        number, self._number = self._number, self._number + 1
        name, columns = block.table, block.columns
        stage = sql.Identifier("pg_temp", f"backup_rows_{number}")
        with self.event_triggers.quiet():
            self._connection.execute(
                sql.SQL("create temporary table {} on commit drop as select {} from only {} with no data").format(
                    sql.Identifier(f"backup_rows_{number}"), column_list(columns), sql.Identifier(*name)
                )
            )
        if encoding:
            self._connection.execute("select set_config('client_encoding', %s, true)", [encoding])
        try:
            self._copy(stage, block)
        finally:
            if encoding:
                with contextlib.suppress(psycopg.Error):
                    self._connection.execute("select set_config('client_encoding', 'UTF8', true)")
        live = self._keep(stage, name, facts, condition) if condition else None
        self._connection.execute(sql.SQL("analyze {}").format(stage))
        self._staged[name] = Staged(
            name,
            columns,
            facts,
            stage,
            sql.Identifier("pg_temp", f"backup_changes_{number}"),
            TableChange(table=f"{name[0]}.{name[1]}"),
            live,
        )

    def _copy(self, stage: sql.Identifier, block: CopyBlock) -> None:
        columns = sql.SQL("({})").format(column_list(block.columns)) if block.columns else sql.SQL("")
        try:
            with (
                self._connection.cursor() as cursor,
                cursor.copy(sql.SQL("copy {} {} from stdin").format(stage, columns)) as copy,
            ):
                for chunk in block.chunks():
                    copy.write(chunk)
        except psycopg.DataError as error:
            raise SourceError(
                f"The backup's rows do not fit the table as it is now (SQLSTATE {error.sqlstate}).",
                where=f"{self._target.label}: {'.'.join(block.table)}",
                remedy="Its columns have changed since: restore with rebuild, or into a new database with --into.",
            ) from None

    def _keep(self, stage: sql.Identifier, name: TableName, facts: TableFacts, condition: str) -> tuple[int, int]:
        """Remove loaded rows that do not meet a condition. A row that is live only is none of any loaded row's key."""
        alias, where = sql.Identifier(name[1]), sql.SQL(condition)
        same = sql.SQL(" and ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(column)) for column in facts.key)
        absent = sql.SQL("not exists (select from {} s where {})").format(stage, same if facts.key else sql.SQL("true"))
        count = sql.SQL(
            "select count(*), count(*) filter (where {}) from (select {}.* from only {} as {} where ({}) is true) t"
        ).format(absent, alias, sql.Identifier(*name), alias, where)
        query = sql.SQL("delete from {} as {} where ({}) is not true").format(stage, alias, where)
        try:
            # Prepared: the protocol then takes one statement and no more.
            row = self._connection.execute(count, prepare=True).fetchone()
            self._connection.execute(query, prepare=True)
        except psycopg.Error as error:
            raise RefusedError(
                f"The condition is not understood: {without_values(error)}.",
                where=f"--rows {name[0]}.{name[1]}",
                remedy="Write SQL over the table's columns, as in 'public.orders: id in (1, 2)'.",
            ) from None
        assert row is not None
        return int(row[0]), int(row[1])

    def take_staged(self) -> dict[TableName, Staged]:
        """Return the tables that were loaded, so that rows of another dump can be loaded beside them."""
        staged, self._staged = self._staged, {}
        return staged

    def missing_references(self, leaf_of: Mapping[TableName, TableName]) -> list[str]:
        """Return which foreign keys the compared rows would break; see `references`."""
        return missing_references(self._connection, self._staged, leaf_of)

    def changed_rows(self, table: TableName, view: RowsView) -> ChangedRows:
        """Return a page of the rows of a compared table that would be written; see `changed_rows`."""
        return page_of_rows(self._connection, self._staged[table], view)

    def forget(self, table: TableName) -> None:
        """Leave a table that was loaded out of everything that follows."""
        del self._staged[table]

    def compare(
        self, table: TableName, rule: ConflictRule, newer_column: str, *, keys_only: bool = False
    ) -> TableChange:
        """Find what differs between the backup's rows and the target's; nothing is written to the target.

        Args:
            table: one that was staged.
            rule: who wins.
            newer_column: for the rule `newer`.
            keys_only: take rows of equal key for equal.
        """
        item = self._staged[table]
        take, kept_all = rows_taken(item, rule, newer_column)
        if kept_all:
            item.notes.append(f"has no column {newer_column}: rows that differ are kept as they are")
        if item.facts.key:
            self._compare_by_key(item, take, [] if keys_only else written_columns(item))
        else:
            self._compare_whole_rows(item)
        return self._noted(item)

    def _noted(self, item: Staged) -> TableChange:
        notes = list(item.notes)
        if item.facts.key_index:
            columns = ", ".join(item.facts.key)
            notes.append(
                f"has no primary key: rows are distinguished by its unique index {item.facts.key_index} ({columns})"
            )
        if item.facts.triggers:
            notes.append(f"triggers: {', '.join(name for name, _ in item.facts.triggers)}")
        if item.facts.row_security:
            # The comparison read the table with `row_security` off, which the server refuses to any other role.
            notes.append("row level security is on, and this role bypasses it")
        missing = [c for c in item.facts.columns if c not in item.columns and c not in item.facts.generated]
        if missing:
            notes.append(f"columns that the backup has not got take their default: {', '.join(missing)}")
        item.change = item.change.model_copy(update={"note": "; ".join(notes)})
        return item.change

    def _compare_by_key(self, item: Staged, take: sql.Composable, columns: Sequence[str]) -> None:
        on = sql.SQL(" and ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(c)) for c in item.facts.key)
        differs = rows_differ(columns)
        with self.event_triggers.quiet():
            self._connection.execute(
                sql.SQL(
                    "create temporary table {diff} (loaded, is_new, is_taken) on commit drop as"
                    " select s.ctid, t.ctid is null, t.ctid is null or ({take})"
                    " from {stage} s left join only {table} t on {on} where t.ctid is null or {differs}"
                ).format(
                    diff=sql.Identifier(item.diff._obj[-1]),
                    take=take,
                    stage=item.stage,
                    table=sql.Identifier(*item.name),
                    on=on,
                    differs=differs,
                )
            )
        row = self._connection.execute(
            sql.SQL(
                "select (select count(*) from {stage}), (select count(*) from only {table}),"
                " count(*) filter (where {new}), count(*) filter (where not {new} and {taken}),"
                " count(*) filter (where not {new}) from {diff} d"
            ).format(stage=item.stage, table=sql.Identifier(*item.name), new=NEW, taken=TAKE, diff=item.diff)
        ).fetchone()
        assert row is not None
        backup, target, insert, update, conflicts = (int(value) for value in row)
        target, only_in_target = item.live or (target, target - (backup - insert))
        item.change = TableChange(
            table=item.change.table,
            backup=backup,
            target=target,
            insert=insert,
            update=update,
            unchanged=backup - insert - conflicts,
            only_in_target=only_in_target,
            conflicts=conflicts,
            kept=conflicts - update,
        )

    def _compare_whole_rows(self, item: Staged) -> None:
        """Without a key a row is its whole text; as many are missing as the backup has more of the same."""
        item.notes.append("has no primary key: rows that are absent are inserted, none is updated")
        whole = row_text(written_columns(item), "x")
        with self.event_triggers.quiet():
            self._connection.execute(
                sql.SQL(
                    "create temporary table {diff} (loaded, is_new, is_taken) on commit drop as"
                    " select s.place, true, true from (select x.ctid as place, {whole} as whole,"
                    " row_number() over (partition by {whole}) as number from {stage} x) s"
                    " left join (select {whole} as whole, count(*) as count from only {table} x group by 1) t"
                    " on t.whole = s.whole where s.number > coalesce(t.count, 0)"
                ).format(
                    diff=sql.Identifier(item.diff._obj[-1]),
                    whole=whole,
                    stage=item.stage,
                    table=sql.Identifier(*item.name),
                )
            )
        row = self._connection.execute(
            sql.SQL("select (select count(*) from {}), (select count(*) from only {}), count(*) from {}").format(
                item.stage, sql.Identifier(*item.name), item.diff
            )
        ).fetchone()
        assert row is not None
        backup, target, insert = (int(value) for value in row)
        target = item.live[0] if item.live else target
        item.change = TableChange(
            table=item.change.table,
            backup=backup,
            target=target,
            insert=insert,
            update=0,
            unchanged=backup - insert,
            only_in_target=target - (backup - insert),
            conflicts=0,
        )

    def silence_triggers(self, tables: Iterable[TableName]) -> None:
        """Switch the tables' own triggers off until `restore_triggers`; foreign keys stay in force.

        Where the tables belong to another role (a platform's own), the session acts as a replica instead: that leaves
        out foreign keys too, so `check_references` must be called when everything is written.
        """
        self.silence_triggers_of({name: self._staged[name].facts for name in tables})

    def silence_triggers_of(self, tables: Mapping[TableName, TableFacts]) -> None:
        """Do the same for tables whose facts are given."""
        try:
            with self._connection.transaction():
                for name, facts in tables.items():
                    for trigger, state in facts.triggers:
                        self._alter_trigger(name, "disable", trigger)
                        self._silenced.append((name, trigger, state))
        except psycopg.errors.InsufficientPrivilege:
            self._silenced.clear()
            self._connection.execute("set local session_replication_role = replica")
            self.as_replica = True

    def check_references(self, keys: Iterable[tuple[TableName, Sequence[str], TableName, Sequence[str]]]) -> None:
        """Check foreign keys (table, columns, referred table, its columns) of written tables row by row.

        Raises:
            SourceError: rows point at nothing; the transaction is to be given up.
        """
        for table, columns, to, to_columns in keys:
            pairs = sql.SQL(" and ").join(
                sql.SQL("r.{} = t.{}").format(sql.Identifier(b), sql.Identifier(a))
                for a, b in zip(columns, to_columns, strict=True)
            )
            filled = sql.SQL(" and ").join(sql.SQL("t.{} is not null").format(sql.Identifier(a)) for a in columns)
            row = self._connection.execute(
                sql.SQL("select count(*) from {} t where {} and not exists (select from {} r where {})").format(
                    sql.Identifier(*table), filled, sql.Identifier(*to), pairs
                )
            ).fetchone()
            if row and row[0]:
                raise SourceError(
                    f"{row[0]} rows would refer to rows of {'.'.join(to)} that are not there. Nothing was changed.",
                    where=f"{self._target.label}: {'.'.join(table)}",
                    remedy="Restore the table that it refers to as well, or choose fewer rows.",
                )

    def restore_triggers(self) -> None:
        """Switch the silenced triggers on again, as they were."""
        for name, trigger, state in self._silenced:
            self._alter_trigger(name, "enable always" if state == "A" else "enable", trigger)
        self._silenced.clear()

    def _alter_trigger(self, table: TableName, what: str, trigger: str) -> None:
        self._connection.execute(
            sql.SQL("alter table only {} " + what + " trigger {}").format(
                sql.Identifier(*table), sql.Identifier(trigger)
            )
        )

    @contextlib.contextmanager
    def as_the_application(self) -> Iterator[None]:
        """Have the role's and database's own search_path in force: triggers and functions may rely on it."""
        self._connection.execute(
            "select set_config('search_path', reset_val, true) from pg_catalog.pg_settings where name = 'search_path'"
        )
        yield
        self._connection.execute(
            "select pg_catalog.set_config('search_path', %s, true)", [PINNED_SETTINGS["search_path"]]
        )

    def write(self, group: Sequence[TableName]) -> None:
        """Write what differs in tables that were compared: one table, or a cycle of foreign keys in ONE statement,
        so that the keys are checked when all of the cycle's rows are there.

        Raises:
            SourceError: a constraint does not hold, or a trigger swallowed rows; the transaction is to be given up.
        """
        items = [self._staged[name] for name in group]
        try:
            # One that refers to itself is a cycle too: a changed row may point at one that is only now inserted.
            if len(items) == 1 and not (items[0].change.insert and items[0].change.update):
                self._write_one(items[0])
            else:
                self._write_cycle(items)
        except psycopg.IntegrityError as error:
            raise SourceError(
                f"{_constraint_of(error)} of table {error.diag.table_name} does not hold with the backup's rows "
                f"(SQLSTATE {error.sqlstate}). Nothing was changed.",
                where=self._target.label,
                remedy="Restore the table that it refers to as well, choose fewer rows, or rebuild.",
            ) from None
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.errors.RaiseException) as error:
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                raise
            tables = ", ".join(".".join(name) for name in group)
            triggers = any(item.facts.triggers for item in items)
            raise SourceError(
                f"The rows were refused{_where_of(error)}: {without_values(error)} (SQLSTATE {error.sqlstate}). "
                "Nothing was changed.",
                where=f"{self._target.label}: {tables}",
                remedy="A trigger may rely on what the application sets: restore with --without-triggers."
                if triggers
                else "Check the functions that the table's defaults, checks and columns call.",
            ) from None

    def _write_one(self, item: Staged) -> None:
        statement = update_statement(item) or (insert_statement(item) if item.change.insert else None)
        written = self._connection.execute(statement).rowcount if statement is not None else 0
        self._judge(item, *((0, written) if item.change.update else (written, 0)))

    def _write_cycle(self, items: list[Staged]) -> None:
        parts: list[sql.Composable] = []
        counts: list[sql.Composable] = []
        for number, item in enumerate(items):
            for kind, statement in (("u", update_statement(item)), ("i", insert_statement(item))):
                label = sql.Identifier(f"{kind}{number}")
                if statement is None:
                    counts.append(sql.SQL("0"))
                    continue
                parts.append(sql.SQL("{} as ({} returning 1)").format(label, statement))
                counts.append(sql.SQL("(select count(*) from {})").format(label))
        query = sql.SQL("with {} select {}").format(sql.SQL(", ").join(parts), sql.SQL(", ").join(counts))
        row = self._connection.execute(query).fetchone()
        assert row is not None
        for number, item in enumerate(items):
            self._judge(item, int(row[2 * number + 1]), int(row[2 * number]))

    def _judge(self, item: Staged, inserted: int, updated: int) -> None:
        if (inserted, updated) != (item.change.insert, item.change.update):
            raise SourceError(
                f"{item.change.insert} rows were to be inserted and {item.change.update} updated, but {inserted} and "
                f"{updated} were: a trigger or row level security stands in the way. Nothing was changed.",
                where=f"{self._target.label}: {item.change.table}",
                remedy="Restore with --without-triggers, or with a role that bypasses row level security.",
            )

    def differing_after(self, table: TableName) -> int:
        """Return how many written rows are not the backup's all the same, because a trigger changed them."""
        item = self._staged[table]
        if not item.facts.key or not written_columns(item):
            return 0
        on = sql.SQL(" and ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(c)) for c in item.facts.key)
        row = self._connection.execute(
            sql.SQL("select count(*) from {} join only {} t on {} where {} and {}").format(
                changed_rows(item), sql.Identifier(*item.name), on, TAKE, rows_differ(written_columns(item))
            )
        ).fetchone()
        assert row is not None
        return int(row[0])

    def check_constraints(self) -> None:
        """Have every deferred constraint checked now.

        Raises:
            SourceError: one does not hold; the transaction is to be given up.
        """
        try:
            self._connection.execute("set constraints all immediate")
        except psycopg.IntegrityError as error:
            raise SourceError(
                f"{_constraint_of(error)} of table {error.diag.table_name} does not hold with the backup's rows. "
                "Nothing was changed.",
                where=self._target.label,
                remedy="Restore the table that it refers to as well, choose fewer rows, or rebuild.",
            ) from None

    def raise_sequence(self, sequence: str, last: int, called: bool, tables: Iterable[TableName] | None) -> str:
        """Set a sequence to the furthest of what it is, the backup's value and its column's; see `sequences`."""
        return raise_sequence(self._connection, sequence, last, called, tables)


def _constraint_of(error: psycopg.IntegrityError) -> str:
    """Return what of a table does not hold; the error's own text and detail hold values."""
    if error.diag.constraint_name:
        return f"Constraint {error.diag.constraint_name}"
    return f"NOT NULL of column {error.diag.column_name}" if error.diag.column_name else "A partition's bound"


_FUNCTION_OF = re.compile(r'^(?:PL/\w+|SQL) function ((?:"[^"]*"|[\w$])+(?:\.(?:"[^"]*"|[\w$])+)?)', re.MULTILINE)


def _where_of(error: psycopg.Error) -> str:
    """Return the function in which the server stopped; the rest of its context may hold values."""
    found = _FUNCTION_OF.search(error.diag.context or "")
    return f" by function {found[1]}" if found else ""


@contextlib.contextmanager
def merge_session(target: PostgresTarget, *, commit: bool) -> Iterator[MergeSession]:
    """Open a transaction for a merge; at the end of the block it is committed, or rolled back when only planned.

    Args:
        target: the live database.
        commit: False to find out what would be done and leave no trace.
    """
    with connected(target, autocommit=False) as connection:
        connection.execute("set constraints all deferred")
        try:
            yield MergeSession(target, connection)
        except BaseException:
            connection.rollback()
            raise
        if commit:
            connection.commit()
        else:
            connection.rollback()


def transaction_of(connection: Connection[TupleRow]) -> str:
    """Return which transaction this is, as `SERVER/NUMBER`: rows that nobody wrote since carry it as their `xmin`.

    "" where the role may not know which server it is: numbers of another one mean other transactions.
    """
    try:
        with connection.transaction():
            row = connection.execute("select system_identifier from pg_catalog.pg_control_system()").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return ""
    number = connection.execute("select pg_catalog.txid_current()").fetchone()
    return f"{row[0]}/{number[0]}" if row and number else ""
