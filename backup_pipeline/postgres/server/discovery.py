"""PostgreSQL servers that can be found without being named, and the databases of a server. Questions only."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.postgres.server.connection import asking
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target

_SOCKET_FOLDERS = ("/var/run/postgresql", "/run/postgresql", "/tmp")  # noqa: S108 - where servers put their sockets
_SOCKET = re.compile(r"\.s\.PGSQL\.(\d{1,5})")
MAINTENANCE = "postgres"
"""The database that tools connect to; it mostly holds nothing."""
_SECONDS = 10.0
_NAMED_BY = ("PGHOST", "PGHOSTADDR", "PGSERVICE")
_DATABASES = """
select d.datname, pg_catalog.pg_database_size(d.oid)
from pg_catalog.pg_database d
where d.datallowconn and not d.datistemplate and pg_catalog.has_database_privilege(d.oid, 'connect')
order by d.datname
"""
_EVERY_DATABASE = """
select d.datname, pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate,
       d.datctype, t.spcname, d.datistemplate, d.datallowconn, d.datconnlimit,
       pg_catalog.has_database_privilege(d.oid, 'connect'),
       case when pg_catalog.has_database_privilege(d.oid, 'connect') then pg_catalog.pg_database_size(d.oid) end
from pg_catalog.pg_database d join pg_catalog.pg_tablespace t on t.oid = d.dattablespace
order by d.datname
"""
# What an interrupted DROP DATABASE leaves.
_INVALID = -2
_TABLES = """
select count(*) from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
"""


@dataclass(frozen=True, slots=True)
class FoundDatabase:
    """A database of a server: its name, bytes on disk, and how many tables it has."""

    name: str
    size: int
    tables: int


@dataclass(frozen=True, slots=True)
class ListedDatabase:
    """A database as its server lists it.

    Attributes:
        size: bytes on disk; None where the role may not know.
        is_template: whether others are made of it (`template1`).
        takes_connections: whether it allows any (`datallowconn`).
        may_connect: whether this role has the right to connect.
        is_invalid: whether a DROP DATABASE of it was interrupted: it can only be dropped.
    """

    name: str
    owner: str
    encoding: str
    collation: str
    ctype: str
    tablespace: str
    size: int | None
    connection_limit: int
    is_template: bool
    takes_connections: bool
    may_connect: bool
    is_invalid: bool


def listed_databases(target: PostgresTarget) -> list[ListedDatabase]:
    """Return all databases of a server, by name.

    Raises:
        BackupSystemError: the server does not answer, or does not let this role in.
    """
    with asking(target, seconds=_SECONDS) as connection:
        rows = connection.execute(_EVERY_DATABASE).fetchall()
    return [
        ListedDatabase(
            name=str(name),
            owner=str(owner),
            encoding=str(encoding),
            collation=str(collation),
            ctype=str(ctype),
            tablespace=str(tablespace),
            size=size,
            connection_limit=int(limit),
            is_template=bool(template),
            takes_connections=bool(open_to_any),
            may_connect=bool(may_connect),
            is_invalid=limit == _INVALID,
        )
        for name, owner, encoding, collation, ctype, tablespace, template, open_to_any, limit, may_connect, size in rows
    ]


def tables_of(target: PostgresTarget) -> int:
    """Return how many tables a database has.

    Raises:
        BackupSystemError: the server does not let this role in.
    """
    with asking(target, seconds=_SECONDS) as connection:
        row = connection.execute(_TABLES).fetchone()
    return int(row[0]) if row else 0


def local_servers(environment: Mapping[str, str]) -> list[PostgresTarget]:
    """Return the servers that PGHOST or PGSERVICE name, or else those with a socket in one of the usual folders.

    Args:
        environment: the variables; PGUSER and PGPASSWORD count for all, the user of this process else.
    """
    user = environment.get("PGUSER") or getpass.getuser()
    if any(environment.get(name) for name in _NAMED_BY):
        named = parse_target(f"dbname={MAINTENANCE}", variable="PG* variables", user=user, environment=environment)
        return [named]
    sockets: dict[Path, PostgresTarget] = {}
    for folder in map(Path, _SOCKET_FOLDERS):
        for path in sorted(folder.glob(".s.PGSQL.*")):
            if (found := _SOCKET.fullmatch(path.name)) and path.is_socket():
                password = environment.get("PGPASSWORD", "")
                target = PostgresTarget(str(folder), int(found[1]), MAINTENANCE, user, password)
                sockets.setdefault(path.resolve(), target)
    return list(sockets.values())


def databases_of(target: PostgresTarget) -> list[FoundDatabase]:
    """Return the databases of a server that the role may connect to; without `postgres` where that has no tables.

    Raises:
        BackupSystemError: the server does not answer, or does not let this role in.
    """
    with asking(target, seconds=_SECONDS) as connection:
        rows = connection.execute(_DATABASES).fetchall()
    found = []
    for name, size in rows:
        try:
            tables = tables_of(target.with_database(name))
        except BackupSystemError:
            # CONNECT is not all that pg_hba.conf asks for.
            continue
        if tables or name != MAINTENANCE:
            found.append(FoundDatabase(name, int(size), tables))
    return found


def connection_string(target: PostgresTarget) -> str:
    """Return a target as a URL with its password: for `.env` alone."""
    login = quote(target.user, safe="") + (f":{quote(target.password, safe='')}" if target.password else "")
    options = dict(target.options)
    servers = ",".join(
        f"{quote(host, safe='') if ':' not in host else f'[{host}]'}:{port}" for host, port in target.addresses
    )
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(options.items()))
    url = f"postgresql://{login}{'@' if login else ''}{servers}/{quote(target.database, safe='')}"
    return f"{url}?{query}" if query else url
