"""Bringing rows of a backup into a live table by primary key, inside one transaction that is not committed here.

Rows go into temporary tables by COPY; what differs is found by one join per table; only that is written. Nothing is
truncated, no constraint is dropped. In which order and under which rules is decided by the caller.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import RefusedError, SourceError
from backup_pipeline.model.restore import ConflictRule, TableChange
from backup_pipeline.tools.postgres.connection import connected
from backup_pipeline.tools.postgres.restore_stream import CopyBlock
from backup_pipeline.tools.postgres.target import PostgresTarget

TableName = tuple[str, str]
_NEW, _TAKE = sql.Identifier("__backup_is_new"), sql.Identifier("__backup_is_taken")


@dataclass(frozen=True)
class TableFacts:
    """What an upsert must know of a table of the target."""

    key: tuple[str, ...]
    columns: tuple[str, ...]
    generated: frozenset[str]
    always_identity: frozenset[str]
    triggers: tuple[tuple[str, str], ...]
    rules: tuple[str, ...]
    row_security: bool
    kind: str


@dataclass
class _Staged:
    name: TableName
    columns: tuple[str, ...]
    facts: TableFacts
    stage: sql.Identifier
    diff: sql.Identifier
    change: TableChange
    notes: list[str] = field(default_factory=list)


_FACTS = """
select c.relkind, c.relrowsecurity,
       (select array_agg(a.attname order by k.n) from pg_catalog.pg_index i
          cross join unnest(i.indkey::int2[]) with ordinality k(attnum, n)
          join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
         where i.indrelid = c.oid and i.indisprimary),
       (select array_agg(a.attname order by a.attnum) from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
       (select array_agg(a.attname) from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attgenerated <> '' and not a.attisdropped),
       (select array_agg(a.attname) from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attidentity = 'a' and not a.attisdropped),
       (select array_agg(array[t.tgname::text, t.tgenabled::text]) from pg_catalog.pg_trigger t
         where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled in ('O', 'A') and t.tgtype & 20 <> 0),
       (select array_agg(r.rulename) from pg_catalog.pg_rewrite r
         where r.ev_class = c.oid and r.ev_type in ('2', '3') and r.ev_enabled <> 'D')
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relname = %s
"""
_SEQUENCE = """
select s.seqincrement, q.last_value, q.is_called, n.nspname, t.relname, a.attname
  from pg_catalog.pg_sequence s
 cross join lateral (select last_value, is_called from {sequence}) q
  left join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = s.seqrelid
       and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype in ('a', 'i')
  left join pg_catalog.pg_class t on t.oid = d.refobjid
  left join pg_catalog.pg_namespace n on n.oid = t.relnamespace
  left join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
 where s.seqrelid = %s::pg_catalog.regclass
"""


class MergeSession:
    """One transaction in the target's database. Commit is the caller's; leaving it otherwise rolls all back."""

    def __init__(self, target: PostgresTarget, connection: Connection[TupleRow]) -> None:
        self._target = target
        self._connection = connection
        self._staged: dict[TableName, _Staged] = {}
        self._silenced: list[tuple[TableName, str, str]] = []
        self._number = 0
        self.as_replica = False

    @property
    def connection(self) -> Connection[TupleRow]:
        """The transaction's connection, for what else belongs into it."""
        return self._connection

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
        row = self._connection.execute(_FACTS, list(table)).fetchone()
        if row is None:
            return None
        return TableFacts(
            kind=str(row[0]),
            row_security=bool(row[1]),
            key=tuple(row[2] or ()),
            columns=tuple(row[3] or ()),
            generated=frozenset(row[4] or ()),
            always_identity=frozenset(row[5] or ()),
            triggers=tuple((str(name), str(state)) for name, state in row[6] or ()),
            rules=tuple(row[7] or ()),
        )

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
        self._connection.execute(
            sql.SQL("create temporary table {} on commit drop as select {} from only {} with no data").format(
                sql.Identifier(f"backup_rows_{number}"), _columns(columns), sql.Identifier(*name)
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
        if condition:
            self._keep(stage, name, condition)
        self._connection.execute(sql.SQL("analyze {}").format(stage))
        self._staged[name] = _Staged(
            name, columns, facts, stage, sql.Identifier("pg_temp", f"backup_changes_{number}"),
            TableChange(table=f"{name[0]}.{name[1]}"),
        )  # fmt: skip

    def _copy(self, stage: sql.Identifier, block: CopyBlock) -> None:
        columns = sql.SQL("({})").format(_columns(block.columns)) if block.columns else sql.SQL("")
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

    def _keep(self, stage: sql.Identifier, name: TableName, condition: str) -> None:
        query = sql.SQL("delete from {} as {} where ({}) is not true").format(
            stage, sql.Identifier(name[1]), sql.SQL(condition)
        )  # fmt: skip
        try:
            # Prepared: the protocol then takes one statement and no more.
            self._connection.execute(query, prepare=True)
        except psycopg.Error as error:
            raise RefusedError(
                f"The condition is not understood: {error.diag.message_primary or error}.",
                where=f"--rows {name[0]}.{name[1]}",
                remedy="Write SQL over the table's columns, as in 'public.orders: id in (1, 2)'.",
            ) from error

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
        take, kept_all = _taking(item, rule, newer_column)
        if kept_all:
            item.notes.append(f"has no column {newer_column}: rows that differ are kept as they are")
        if item.facts.key:
            self._compare_by_key(item, take, [] if keys_only else _written(item))
        else:
            self._compare_whole_rows(item)
        return self._noted(item)

    def _noted(self, item: _Staged) -> TableChange:
        notes = list(item.notes)
        if item.facts.triggers:
            notes.append(f"triggers: {', '.join(name for name, _ in item.facts.triggers)}")
        if item.facts.row_security:
            notes.append("row level security is on; this role must bypass it")
        missing = [c for c in item.facts.columns if c not in item.columns and c not in item.facts.generated]
        if missing:
            notes.append(f"columns that the backup has not got take their default: {', '.join(missing)}")
        item.change = item.change.model_copy(update={"note": "; ".join(notes)})
        return item.change

    def _compare_by_key(self, item: _Staged, take: sql.Composable, columns: Sequence[str]) -> None:
        on = sql.SQL(" and ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(c)) for c in item.facts.key)
        differs = _differs(columns)
        self._connection.execute(
            sql.SQL(
                "create temporary table {diff} on commit drop as"
                " select s.*, t.ctid is null as {new}, t.ctid is null or ({take}) as {taken}"
                " from {stage} s left join only {table} t on {on} where t.ctid is null or {differs}"
            ).format(
                diff=sql.Identifier(item.diff._obj[-1]), new=_NEW, taken=_TAKE, take=take, stage=item.stage,
                table=sql.Identifier(*item.name), on=on, differs=differs,
            )
        )  # fmt: skip
        row = self._connection.execute(
            sql.SQL(
                "select (select count(*) from {stage}), (select count(*) from only {table}),"
                " count(*) filter (where {new}), count(*) filter (where not {new} and {taken}),"
                " count(*) filter (where not {new}) from {diff}"
            ).format(stage=item.stage, table=sql.Identifier(*item.name), new=_NEW, taken=_TAKE, diff=item.diff)
        ).fetchone()
        assert row is not None
        backup, target, insert, update, conflicts = (int(value) for value in row)
        item.change = TableChange(
            table=item.change.table, backup=backup, target=target, insert=insert, update=update,
            unchanged=backup - insert - conflicts, only_in_target=target - (backup - insert), conflicts=conflicts,
            kept=conflicts - update,
        )  # fmt: skip

    def _compare_whole_rows(self, item: _Staged) -> None:
        """Without a key a row is its whole text; as many are missing as the backup has more of the same."""
        item.notes.append("has no primary key: rows that are absent are inserted, none is updated")
        whole = _row(_written(item), "x")
        self._connection.execute(
            sql.SQL(
                "create temporary table {diff} on commit drop as"
                " select s.*, true as {new}, true as {taken} from (select x.*, {whole} as __text,"
                " row_number() over (partition by {whole}) as __number from {stage} x) s"
                " left join (select {whole} as __text, count(*) as __count from only {table} x group by 1) t"
                " on t.__text = s.__text where s.__number > coalesce(t.__count, 0)"
            ).format(
                diff=sql.Identifier(item.diff._obj[-1]), new=_NEW, taken=_TAKE, whole=whole, stage=item.stage,
                table=sql.Identifier(*item.name),
            )
        )  # fmt: skip
        row = self._connection.execute(
            sql.SQL("select (select count(*) from {}), (select count(*) from only {}), count(*) from {}").format(
                item.stage, sql.Identifier(*item.name), item.diff
            )
        ).fetchone()
        assert row is not None
        backup, target, insert = (int(value) for value in row)
        item.change = TableChange(
            table=item.change.table, backup=backup, target=target, insert=insert, update=0,
            unchanged=backup - insert, only_in_target=target - (backup - insert), conflicts=0,
        )  # fmt: skip

    def silence_triggers(self, tables: Iterable[TableName]) -> None:
        """Switch the tables' own triggers off until `restore_triggers`; foreign keys stay in force.

        Where the tables belong to another role (a platform's own), the session acts as a replica instead: that leaves
        out foreign keys too, so `check_references` must be called when everything is written.
        """
        try:
            with self._connection.transaction():
                for name in tables:
                    for trigger, state in self._staged[name].facts.triggers:
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
            constraint, table = error.diag.constraint_name, error.diag.table_name
            raise SourceError(
                f"Constraint {constraint} of table {table} does not hold with the backup's rows "
                f"(SQLSTATE {error.sqlstate}). Nothing was changed.",
                where=self._target.label,
                remedy="Restore the table that it refers to as well, choose fewer rows, or rebuild.",
            ) from None

    def _write_one(self, item: _Staged) -> None:
        statement = _update(item) or (_insert(item) if item.change.insert else None)
        written = self._connection.execute(statement).rowcount if statement is not None else 0
        self._judge(item, *((0, written) if item.change.update else (written, 0)))

    def _write_cycle(self, items: list[_Staged]) -> None:
        parts: list[sql.Composable] = []
        counts: list[sql.Composable] = []
        for number, item in enumerate(items):
            for kind, statement in (("u", _update(item)), ("i", _insert(item))):
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

    def _judge(self, item: _Staged, inserted: int, updated: int) -> None:
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
        if not item.facts.key or not _written(item):
            return 0
        on = sql.SQL(" and ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(c)) for c in item.facts.key)
        row = self._connection.execute(
            sql.SQL("select count(*) from {} s join only {} t on {} where s.{} and {}").format(
                item.diff, sql.Identifier(*item.name), on, _TAKE, _differs(_written(item))
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
                f"Constraint {error.diag.constraint_name} of table {error.diag.table_name} does not hold with the "
                "backup's rows. Nothing was changed.",
                where=self._target.label,
                remedy="Restore the table that it refers to as well, choose fewer rows, or rebuild.",
            ) from None

    def raise_sequence(self, sequence: str, last: int, called: bool, tables: Iterable[TableName] | None) -> str:
        """Set a sequence to the furthest of what it is, what the backup says, and the largest value in its column.

        Sequences are not transactional: a rollback leaves this one further, which harms nobody.

        Args:
            sequence: its name as the dump writes it, quoted where needed.
            last: the backup's value.
            called: whether that value had been handed out.
            tables: only sequences of these tables' columns; every sequence when None.

        Returns:
            What was done, "" when nothing.
        """
        try:
            with self._connection.transaction():
                query = sql.SQL(_SEQUENCE).format(sequence=sql.SQL(sequence))
                row = self._connection.execute(query, [sequence]).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return f"sequence {sequence} is not in the target"
        if row is None:
            return ""
        increment, now, now_called, schema, table, column = row
        owner = (str(schema), str(table)) if table is not None else None
        if tables is not None and owner not in set(tables):
            return ""
        sign = 1 if increment > 0 else -1
        best = max([(sign * now, bool(now_called)), (sign * last, called)])
        if owner is not None:
            found = self._connection.execute(
                sql.SQL("select {}({}) from {}").format(
                    sql.SQL("max" if sign > 0 else "min"), sql.Identifier(str(column)), sql.Identifier(*owner)
                )
            ).fetchone()
            if found and found[0] is not None:
                best = max(best, (sign * int(found[0]), True))
        if best == (sign * now, bool(now_called)):
            return ""
        self._connection.execute(
            "select pg_catalog.setval(%s::pg_catalog.regclass, %s, %s)", [sequence, sign * best[0], best[1]]
        )
        return f"sequence {sequence} set to {sign * best[0]}"


def _columns(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def _written(item: _Staged) -> list[str]:
    """Columns that can be compared and written: the block's, in its order."""
    return [c for c in item.columns if c not in item.facts.generated]


def _row(columns: Sequence[str], alias: str) -> sql.Composed:
    listed = sql.SQL(", ").join(sql.Identifier(alias, name) for name in columns)
    return sql.SQL("row({})::text").format(listed)


def _differs(columns: Sequence[str]) -> sql.Composable:
    """The rows' images differ: exact for every type, also those without an equality operator; NULL equals NULL."""
    if not columns:
        return sql.SQL("false")
    left, right = (sql.SQL(", ").join(sql.Identifier(alias, name) for name in columns) for alias in ("t", "s"))
    return sql.SQL("pg_catalog.record_image_ne(row({}), row({}))").format(left, right)


def _taking(item: _Staged, rule: ConflictRule, newer_column: str) -> tuple[sql.Composable, bool]:
    if rule is ConflictRule.BACKUP:
        return sql.SQL("true"), False
    if rule is ConflictRule.NEWER and newer_column in item.columns and newer_column in item.facts.columns:
        column = sql.Identifier(newer_column)
        return sql.SQL("coalesce(s.{0} > t.{0}, t.{0} is null and s.{0} is not null)").format(column), False
    return sql.SQL("false"), rule is ConflictRule.NEWER


def _update(item: _Staged) -> sql.Composed | None:
    fixed = set(item.facts.key) | item.facts.always_identity
    columns = [name for name in _written(item) if name not in fixed]
    if not item.change.update or not columns:
        return None
    sets = sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(sql.Identifier(name)) for name in columns)
    on = sql.SQL(" and ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(c)) for c in item.facts.key)
    return sql.SQL("update only {} t set {} from {} s where not s.{} and s.{} and {}").format(
        sql.Identifier(*item.name), sets, item.diff, _NEW, _TAKE, on
    )


def _insert(item: _Staged) -> sql.Composed:
    columns = _columns(_written(item))
    if not _written(item):
        return sql.SQL("insert into {} select from {} s where s.{}").format(sql.Identifier(*item.name), item.diff, _NEW)
    return sql.SQL("insert into {} ({}) overriding system value select {} from {} s where s.{}").format(
        sql.Identifier(*item.name), columns, columns, item.diff, _NEW
    )


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
