"""Reading a database's catalog into `model.catalog`, for the record of a dump and for comparing a restored database.

The comparison itself is `rules.catalog_difference`. The SQL is in `catalog.queries`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.model.catalog import (
    LATER_KINDS,
    Catalog,
    CatalogTable,
    Equality,
    ForeignKey,
    Membership,
    RoleEntry,
    RolesDocument,
    SequenceState,
    TableKey,
    TableKind,
    essence,
    setting_without_secret,
)
from backup_pipeline.model.record import ColumnRecord
from backup_pipeline.postgres.catalog import queries
from backup_pipeline.postgres.catalog.details import detail_queries
from backup_pipeline.postgres.server.connection import server_version
from backup_pipeline.postgres.server.locales import locale_of

_KINDS: dict[str, TableKind] = {"r": "table", "p": "partitioned", "f": "foreign"}
# What the query's number means.
_EQUALITY: tuple[Equality, ...] = ("value", "server", "own")
_DIGEST_LENGTH = 16
_READABLE_DETAILS = frozenset({"other owner", "other grant"})


def digest_of(definition: str) -> str:
    """Return a short digest of the essence of a definition."""
    return hashlib.sha256(essence(definition).encode()).hexdigest()[:_DIGEST_LENGTH]


def read_catalog(connection: Connection[TupleRow]) -> Catalog:
    """Return all that the database consists of.

    Args:
        connection: a pinned session; inside a snapshot where it must agree with a dump.
    """
    major, version = server_version(connection)
    readable = {**queries.READABLE, "grant": queries.GRANTS, "default privilege": queries.DEFAULT_PRIVILEGES}
    asked = [
        *((kind, query, kind in readable) for kind, query in {**readable, **queries.OPAQUE}.items()),
        *(
            (kind, query, kind in _READABLE_DETAILS)
            for kind, several in detail_queries(major).items()
            for query in several
        ),
    ]
    alone = (queries.DATABASE, queries.REQUIREMENTS, queries.NEEDED_ROLES, queries.SEQUENCES)
    answers = _answers(connection, [*alone, *(query for _, query, _ in asked)])
    (database, *_), requirements, roles, sequences = itertools.islice(answers, len(alone))
    objects: dict[str, dict[str, str]] = {}
    for (kind, _, legible), rows in zip(asked, answers, strict=True):
        found = {str(name): str(text or "") for name, text in rows}
        objects.setdefault(kind, {}).update(
            found if legible else {name: digest_of(text) for name, text in found.items()}
        )
    owners = {*objects["owner"].values(), *objects["other owner"].values()}
    return Catalog(
        server_major=major,
        server_version=version,
        encoding=str(database[0]),
        collation=str(database[1]),
        locale=locale_of(*database[1:]),
        tables=read_tables(connection, sizes=True),
        objects={kind: found for kind, found in objects.items() if found},
        sequences=_sequences(connection, sequences),
        roles=tuple(sorted({*(str(role) for (role,) in roles), *owners})),
        kinds=LATER_KINDS,
        requirements=tuple(str(need) for (need,) in requirements),
    )


def _answers(connection: Connection[TupleRow], asked: Iterable[str]) -> Iterator[list[TupleRow]]:
    """Ask several queries at once: of a small database to wait for each answer takes longer than the answers."""
    cursor = connection.execute("\n;\n".join(asked).encode())
    yield cursor.fetchall()
    while cursor.nextset():
        yield cursor.fetchall()


def read_tables(
    connection: Connection[TupleRow], *, sizes: bool = False, keys: bool = True
) -> tuple[CatalogTable, ...]:
    """Return the user's tables with columns and keys, by schema and name, with a few queries in all.

    With `sizes` it waits for tables that another session holds exclusively. Without `keys` they are empty: to read them
    takes longer than all else.
    """
    named = queries.TABLES_WITH_SIZES if sizes else queries.TABLES
    described, tables, *of_keys = _answers(
        connection, [queries.COLUMNS, named, *((queries.KEYS, queries.FOREIGN_KEYS) if keys else ())]
    )
    columns: dict[int, list[ColumnRecord]] = defaultdict(list)
    for oid, name, kind, nullable, generated in described:
        columns[oid].append(ColumnRecord(name=name, type=kind, nullable=nullable, generated=generated))
    found = _keys(*of_keys) if keys else _Keys()
    return tuple(
        CatalogTable(
            schema_name=schema,
            name=name,
            kind=_KINDS[kind],
            columns=tuple(columns[oid]),
            keys=tuple(found.keys[oid]),
            foreign_keys=tuple(found.foreign[oid]),
            other_unique=tuple(found.others[oid]),
            leaf_of=None if parent is None else (str(parent_schema), str(parent)),
            row_security=secured,
            pages=int(pages or 0),
            bytes=int(size or 0),
        )
        for oid, schema, name, kind, secured, parent_schema, parent, pages, size in tables
    )


@dataclass(frozen=True)
class _Keys:
    """The keys of tables, foreign keys, and names of other unique indexes, by the table's number."""

    keys: dict[int, list[TableKey]] = field(default_factory=lambda: defaultdict(list))
    foreign: dict[int, list[ForeignKey]] = field(default_factory=lambda: defaultdict(list))
    others: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))


def _keys(unique: Iterable[TupleRow], foreign: Iterable[TupleRow]) -> _Keys:
    found = _Keys()
    for oid, primary, index, beyond, nulls_equal, names, equality, collations in unique:
        if beyond:
            found.others[oid].append(index)
            continue
        key = TableKey(
            columns=tuple(names),
            primary=primary,
            nulls_distinct=not nulls_equal,
            equality=_EQUALITY[equality],
            collations=tuple(collations) if any(collations) else (),
        )
        if key not in found.keys[oid]:
            found.keys[oid].append(key)
    for oid, names, schema, table, to_names in foreign:
        found.foreign[oid].append(
            ForeignKey(columns=tuple(names), to_schema=schema, to_table=table, to_columns=tuple(to_names))
        )
    return found


def _sequences(connection: Connection[TupleRow], found: Sequence[TupleRow]) -> dict[str, SequenceState]:
    # The names come quoted and qualified from format('%I.%I').
    readable = [name for name, _, _, allowed in found if allowed]
    states = _answers(connection, [f"select last_value, is_called from {name}" for name in readable])  # noqa: S608
    at = dict(zip(readable, (row for (row,) in states), strict=True)) if readable else {}
    return {
        str(name): SequenceState(
            definition=str(definition),
            last_value=int(at[name][0]) if name in at else None,
            is_called=bool(at[name][1]) if name in at else False,
            increment=int(increment),
        )
        for name, definition, increment, _ in found
    }


def read_roles(connection: Connection[TupleRow], catalog: Catalog) -> RolesDocument:
    """Return the server's roles without passwords, and what `catalog`'s database needs of them."""
    roles, database_settings = _roles_and_settings(connection)
    return RolesDocument(
        server_version=catalog.server_version,
        roles=roles,
        needed=catalog.roles,
        grants=catalog.objects.get("grant", {}),
        default_privileges=catalog.objects.get("default privilege", {}),
        extensions=catalog.objects.get("extension", {}),
        database_settings=database_settings,
    )


def read_server_roles(connection: Connection[TupleRow]) -> tuple[RoleEntry, ...]:
    """Return the server's roles without passwords."""
    return _roles_and_settings(connection)[0]


def _roles_and_settings(connection: Connection[TupleRow]) -> tuple[tuple[RoleEntry, ...], tuple[str, ...]]:
    """Return the roles, and the settings of the database that is connected to."""
    given, configured, found = _answers(connection, [queries.MEMBERSHIPS, queries.SETTINGS, queries.ROLES])
    members: dict[int, list[Membership]] = defaultdict(list)
    for member, role, admin, inherit, set_role in given:
        members[member].append(Membership(role=role, admin=admin, inherit=inherit, set_role=set_role))
    settings: dict[int, list[str]] = defaultdict(list)
    for role, here, setting in configured:
        settings[role].append(setting_without_secret(str(setting)) + (" (in this database)" if here and role else ""))
    roles = tuple(_role(row, members, settings) for row in found)
    return roles, tuple(settings[0])


def _role(row: TupleRow, members: dict[int, list[Membership]], settings: dict[int, list[str]]) -> RoleEntry:
    values: dict[str, Any] = dict(
        zip(
            (
                "name",
                "superuser",
                "login",
                "create_database",
                "create_role",
                "inherit",
                "replication",
                "bypass_row_security",
                "connection_limit",
                "valid_until",
            ),
            row,
            strict=False,
        )
    )
    return RoleEntry(**values, member_of=tuple(members[row[10]]), settings=tuple(settings[row[10]]))
