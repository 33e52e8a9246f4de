"""Reading back what a restored (or live) database holds, over several connections; quieting and checking a copy.

What is compared with what, and what a difference means, is decided in `rules` and `restore`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from threading import local

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.catalog import Catalog, RolesDocument
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.record import Fingerprint
from backup_pipeline.postgres.catalog.details import USER_MAPPINGS
from backup_pipeline.postgres.catalog.partitions import read_conditions, rows_of
from backup_pipeline.postgres.catalog.read import digest_of, read_catalog, read_roles
from backup_pipeline.postgres.catalog.search_path import (
    NOT_FOUND,
    is_not_found,
    own_search_path,
    under_search_path,
    with_catalog,
)
from backup_pipeline.postgres.export.fingerprint import (
    HASH_RECORD,
    HASH_TEXT,
    HashableTypes,
    fingerprint_large_objects,
    fingerprint_table,
    fingerprint_with,
    row_alias,
    row_hash,
)
from backup_pipeline.postgres.server.connection import (
    connected,
    connection_ended,
    open_connection,
    was_ended,
    without_values,
)
from backup_pipeline.postgres.server.snapshot import list_tables
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system.threads import ContextThreadPool

TableName = tuple[str, str]


def catalog_of(target: PostgresTarget) -> Catalog:
    """Return all that the target's database consists of."""
    with connected(target) as connection:
        return read_catalog(connection)


def catalog_and_roles_of(target: PostgresTarget) -> tuple[Catalog, RolesDocument]:
    """Return the database's catalog and what it needs of the server's roles."""
    with connected(target) as connection:
        catalog = read_catalog(connection)
        return catalog, read_roles(connection, catalog)


def large_objects_of(target: PostgresTarget) -> Fingerprint | None:
    """Return count and content hash of the large objects; None when this role may not read them."""
    with connected(target) as connection:
        return fingerprint_large_objects(connection)


def owner_of_schema(target: PostgresTarget, schema: str) -> str:
    """Return the role that owns a schema of the target's database; "" where there is no such schema."""
    with connected(target) as connection:
        row = connection.execute(
            "select pg_get_userbyid(nspowner) from pg_namespace where nspname = %s", [schema]
        ).fetchone()
        return str(row[0]) if row else ""


def tables_of(target: PostgresTarget) -> list[TableName]:
    """Return (schema, table) of every ordinary and partitioned user table."""
    with connected(target) as connection:
        return list_tables(connection)


def row_counts_of(target: PostgresTarget, tables: Sequence[TableName]) -> dict[TableName, int | str]:
    """Return how many rows each table has itself, without those of its children, or why they cannot be counted.

    Of an extension's configuration table (PostGIS's `spatial_ref_sys`) only the site's own rows count: the others come
    with the extension, and pg_dump does not write them.
    """
    found: dict[TableName, int | str] = {}
    if not tables:
        return found
    with connected(target) as connection:
        conditions = read_conditions(connection)
        for name in tables:
            try:
                own = rows_of(*name, (), None, conditions.get(name, ""))
                row = connection.execute(sql.SQL("select count(*) from {} t").format(own)).fetchone()
                found[name] = int(row[0]) if row else 0
            except psycopg.Error as error:
                found[name] = _unread(error, target)
    return found


def fingerprints_of(
    target: PostgresTarget,
    algorithms: Mapping[TableName, str],
    *,
    jobs: int = 2,
    search_path: str = "",
    progress: ProgressSink = no_progress,
) -> dict[TableName, Fingerprint | str]:
    """Return each table's fingerprint by the named algorithm ("" for the fastest), or why there is none.

    Args:
        target: the database.
        algorithms: table → algorithm of the recorded fingerprint.
        jobs: connections.
        search_path: for tables whose functions need one; the role's and database's own by default.
        progress: receives the number of tables done.
    """
    mine = local()
    opened: list[Connection[TupleRow]] = []
    types = HashableTypes()

    def one(item: tuple[TableName, str]) -> tuple[TableName, Fingerprint | str]:
        algorithm = item[1]
        if getattr(mine, "connection", None) is None:
            mine.connection = open_connection(target)
            opened.append(mine.connection)
        try:
            if algorithm not in ("", HASH_RECORD, HASH_TEXT):
                return item[0], f"the fingerprint algorithm {algorithm} is not known to this release"
            try:
                return item[0], _fingerprint(mine.connection, item[0], algorithm, types)
            except psycopg.Error as error:
                if not is_not_found(error):
                    raise
            with under_search_path(mine.connection, with_catalog(search_path) or own_search_path(mine.connection)):
                return item[0], _fingerprint(mine.connection, item[0], algorithm, types)
        except psycopg.Error as error:
            return item[0], _unread(error, target)
        except BackupSystemError as error:
            return item[0], error.what

    found: dict[TableName, Fingerprint | str] = {}
    try:
        with ContextThreadPool(max(1, jobs), "fingerprint") as pool:
            try:
                for done, (name, value) in enumerate(pool.map(one, algorithms.items()), 1):
                    found[name] = value
                    progress(Progress("compare", done, len(algorithms), "tables", finished=done == len(algorithms)))
            except BaseException:
                # An interrupt does not wait for what is being read.
                pool.shutdown(wait=False, cancel_futures=True)
                for connection in opened:
                    with contextlib.suppress(Exception):
                        connection.cancel_safe(timeout=5)
                raise
    finally:
        for connection in opened:
            connection.close()
    return found


def _fingerprint(
    connection: Connection[TupleRow], table: TableName, algorithm: str, types: HashableTypes
) -> Fingerprint:
    if not algorithm:
        return fingerprint_table(connection, *table, types)
    return fingerprint_with(connection, *table, algorithm)


def _unread(error: psycopg.Error, target: PostgresTarget) -> str:
    """Return why a table cannot be read; UnreachableError where the connection was ended, which says nothing of it."""
    if was_ended(error.sqlstate or "", str(error)):
        raise connection_ended(without_values(error), target) from None
    return f"cannot be read (SQLSTATE {error.sqlstate or 'connection lost'})"


def fingerprint_in_order(
    target: PostgresTarget, table: TableName, algorithm: str, columns: Sequence[str]
) -> Fingerprint | str:
    """Return a table's fingerprint as if its columns stood in this order, or why there is none.

    pg_dump cannot keep the order of inherited columns that a parent was given later; the rows are the same.
    """
    alias = row_alias(columns)
    listed = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    with connected(target) as connection:
        try:
            row = connection.execute(
                sql.SQL("select coalesce(sum({}), 0), count(*) from (select {} from only {}) as {}").format(
                    row_hash(algorithm, alias), listed, sql.Identifier(*table), sql.Identifier(alias)
                )
            ).fetchone()
        except psycopg.Error as error:
            return _unread(error, target)
        assert row is not None
        major = connection.info.server_version // 10000
        return Fingerprint(algorithm=algorithm, server_major=major, value=str(row[0]), rows=int(row[1]))


def quiet_copy(target: PostgresTarget, superuser: PostgresTarget | None = None) -> tuple[str, ...]:
    """Make sure that nothing of a restored copy comes alive: pg_cron jobs, pg_net's queue, subscriptions.

    Args:
        target: the copy, as a role that may do no harm where the copy's own triggers fire.
        superuser: the same as a role that may change subscriptions; `target`'s own when None.

    Returns one phrase for each thing that was put to rest.
    """
    quieted = []
    with connected(superuser or target) as connection:
        for name in _column(connection, _SUBSCRIPTIONS):
            subscription = sql.Identifier(name)
            for change in ("disable", "set (slot_name = none)"):
                with contextlib.suppress(psycopg.Error):
                    connection.execute(sql.SQL("alter subscription {} " + change).format(subscription))
            quieted.append(f"subscription {name} disabled")
    with connected(target) as connection:
        if _exists(connection, "cron.job"):
            count = connection.execute("update cron.job set active = false where active").rowcount
            if count:
                quieted.append(f"{count} pg_cron jobs deactivated")
        if _exists(connection, "net.http_request_queue"):
            count = connection.execute("delete from net.http_request_queue").rowcount
            if count:
                quieted.append(f"{count} queued pg_net requests dropped")
    return tuple(quieted)


_SUBSCRIPTIONS = (
    "select subname from pg_catalog.pg_subscription where subdbid ="
    " (select oid from pg_catalog.pg_database where datname = current_database())"
)


def drop_subscriptions(target: PostgresTarget) -> None:
    """Drop a scratch copy's subscriptions, which would keep the database from being dropped."""
    with contextlib.suppress(BackupSystemError), connected(target) as connection:
        names = _column(connection, _SUBSCRIPTIONS)
        # The copy's own event triggers must not fire for what is done to it here.
        for trigger in _column(connection, "select evtname from pg_catalog.pg_event_trigger") if names else ():
            connection.execute(sql.SQL("drop event trigger {}").format(sql.Identifier(trigger)))
        for name in names:
            for command in (
                "alter subscription {} disable",
                "alter subscription {} set (slot_name = none)",
                "drop subscription {}",
            ):
                connection.execute(sql.SQL(command).format(sql.Identifier(name)))


def _column(connection: Connection[TupleRow], query: str) -> list[str]:
    # pg_subscription's names are readable by superusers only on some versions.
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        return [str(row[0]) for row in connection.execute(query.encode()).fetchall()]
    return []


def _exists(connection: Connection[TupleRow], relation: str) -> bool:
    row = connection.execute("select to_regclass(%s) is not null", [relation]).fetchone()
    return bool(row and row[0])


_INDEXES = """
select c.oid::bigint, n.nspname || '.' || c.relname
  from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
  join pg_catalog.pg_am a on a.oid = c.relam join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where a.amname = 'btree' and c.relkind = 'i' and i.indisready and i.indisvalid and c.relpersistence <> 't'
"""


def _schema_of_amcheck(connection: Connection[TupleRow]) -> str:
    row = connection.execute(
        "select n.nspname from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace"
        " where e.extname = 'amcheck'"
    ).fetchone()
    return str(row[0]) if row else ""


def provide_amcheck(superuser: PostgresTarget, role: str) -> None:
    """Make the extension amcheck in a copy, where the server has it, and let a role use it."""
    with connected(superuser) as connection, contextlib.suppress(psycopg.Error):
        connection.execute("create extension if not exists amcheck schema pg_catalog")
        connection.execute(
            sql.SQL("grant execute on function {}(regclass, boolean) to {}").format(
                sql.Identifier(_schema_of_amcheck(connection), "bt_index_check"), sql.Identifier(role)
            )
        )


def servers_own_functions(connection_to: PostgresTarget) -> tuple[str, ...]:
    """Return the functions that make ranges: whoever owns the type, they are the server's first superuser's."""
    with connected(connection_to) as connection:
        return tuple(
            f"function {row[0]}"
            for row in connection.execute(
                "select p.oid::regprocedure::text from pg_proc p join pg_language l on l.oid = p.prolang"
                " where l.lanname = 'internal' and p.oid >= 16384 and p.prosrc ~ '^(multi)?range_constructor[0-9]$'"
            )
        )


def user_mappings_of(superuser: PostgresTarget) -> dict[str, str]:
    """Return the digests of a copy's user mappings, whose options only a superuser sees, as a catalog holds them."""
    with connected(superuser) as connection:
        return {str(name): digest_of(str(text or "")) for name, text in connection.execute(USER_MAPPINGS.encode())}


def amcheck(target: PostgresTarget, search_path: str = "") -> tuple[list[tuple[str, str]], str]:
    """Check every B-tree index against its table with amcheck, in a scratch database.

    Returns:
        (index, what is wrong) for each damaged one, and what could not be checked and why ("" when all was).
    """
    with connected(target) as connection:
        schema = _schema_of_amcheck(connection)
        if not schema:
            try:
                connection.execute("create extension if not exists amcheck schema pg_catalog")
            except psycopg.errors.InsufficientPrivilege:
                return [], "this role may not create the extension amcheck"
            except psycopg.Error:
                return [], "the server has no extension amcheck"
            schema = _schema_of_amcheck(connection)
        check = sql.SQL("select {}(%s::oid::regclass, true)").format(sql.Identifier(schema, "bt_index_check"))
        damaged: list[tuple[str, str]] = []
        unchecked: list[str] = []
        for oid, name in connection.execute(_INDEXES).fetchall():
            state = _state_of(connection, check, oid)
            if state in NOT_FOUND:
                # The index is over a function that needs the application's search_path.
                with under_search_path(connection, with_catalog(search_path) or own_search_path(connection)):
                    state = _state_of(connection, check, oid)
            if state in NOT_FOUND:
                # amcheck sets a search_path of its own since 15.20 (and 17), where such a function sees nothing.
                unchecked.append(str(name))
            elif state:
                damaged.append((str(name), f"amcheck found damage (SQLSTATE {state})"))
        names = ", ".join(unchecked[:5]) + (", …" if len(unchecked) > 5 else "")
        why = f"functions of {names} name others without their schema, which amcheck does not find" if unchecked else ""
        return damaged, why


def _state_of(connection: Connection[TupleRow], check: sql.Composed, oid: int) -> str:
    """Return the SQLSTATE of a check of one index, "" when it holds."""
    try:
        connection.execute(check, [oid])
    except psycopg.Error as error:
        return error.sqlstate or "lost"
    return ""
