"""Databases as a whole: their properties, making, dropping, and swapping two names in one transaction.

What is inside of a database is not inspected here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import LockError, RefusedError, SourceError, UnreachableError
from backup_pipeline.model.catalog import DatabaseLocale
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.locales import locale_of
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import limits
from backup_pipeline.system.threads import start_thread

LONGEST_NAME = 63
_PATIENCE_SECONDS = 2.0
# CREATE DATABASE knows locale providers.
_PROVIDERS_SINCE = 15
# "invalid locale name", "encoding does not match locale", "could not open collator", "ICU is not supported".
_NO_SUCH_LOCALE = frozenset({"42809", "22023", "42704", "0A000"})
# Variables whose value is a list of quoted identifiers; pg_dumpall writes them as they are stored.
_LIST_VARIABLES = frozenset(
    {
        "search_path",
        "local_preload_libraries",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)


@dataclass(frozen=True, slots=True)
class DatabaseProperties:
    """What CREATE DATABASE, ALTER DATABASE, GRANT and COMMENT say of a database.

    Attributes:
        locale: clauses of CREATE DATABASE about encoding and collation, as (keyword, value).
        settings: (role or "", variable, value) of ALTER DATABASE SET and ALTER ROLE … IN DATABASE … SET.
        grants: (role or "" for PUBLIC, privilege, with grant option); None when nobody ever granted or revoked.
        size: bytes on disk.
    """

    name: str
    owner: str
    locale: tuple[tuple[str, str], ...]
    connection_limit: int
    comment: str | None
    settings: tuple[tuple[str, str, str], ...]
    grants: tuple[tuple[str, str, bool], ...] | None
    size: int
    tablespace: str = "pg_default"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a restore must know of a server before it begins. `may_become`: roles that this one may give things to."""

    major: int
    version: str
    user: str
    superuser: bool
    may_create_databases: bool
    roles: frozenset[str]
    extensions: frozenset[str]
    databases: frozenset[str]
    may_create_roles: bool = False
    may_become: frozenset[str] = frozenset()
    tablespaces: frozenset[str] = frozenset()


@contextlib.contextmanager
def maintenance(target: PostgresTarget) -> Iterator[Connection[TupleRow]]:
    """Connect to the target's server through a database that is not the target's own.

    Raises:
        UnreachableError, SourceError: neither `postgres` nor `template1` can be connected to.
    """
    *others, last = [name for name in ("postgres", "template1") if name != target.database]
    with contextlib.ExitStack() as opened:
        for name in others:
            with contextlib.suppress(SourceError):
                connection = opened.enter_context(connected(target.with_database(name)))
                break
        else:
            connection = opened.enter_context(connected(target.with_database(last)))
        yield connection


def server_facts(target: PostgresTarget) -> ServerFacts:
    """Return version, rights of this role, roles, available extensions and databases of the target's server."""
    with maintenance(target) as connection:
        row = connection.execute(
            "select current_user, rolsuper, rolsuper or rolcreatedb, rolsuper or rolcreaterole,"
            " current_setting('server_version') from pg_catalog.pg_roles where rolname = current_user"
        ).fetchone()
        assert row is not None
        return ServerFacts(
            major=connection.info.server_version // 10000,
            version=str(row[4]),
            user=str(row[0]),
            superuser=bool(row[1]),
            may_create_databases=bool(row[2]),
            may_create_roles=bool(row[3]),
            roles=_names(connection, "select rolname from pg_catalog.pg_roles"),
            extensions=_names(connection, "select name from pg_catalog.pg_available_extensions"),
            databases=_names(connection, "select datname from pg_catalog.pg_database"),
            tablespaces=_names(connection, "select spcname from pg_catalog.pg_tablespace"),
            # Since version 16 being a member does not always allow to act as the role.
            may_become=_names(
                connection,
                "select rolname from pg_catalog.pg_roles where pg_catalog.pg_has_role(oid,"
                " case when current_setting('server_version_num')::integer >= 160000 then 'SET' else 'MEMBER' end)",
            ),
        )


def extension_versions(target: PostgresTarget, names: Collection[str]) -> dict[str, frozenset[str]]:
    """Return the versions that the target's server has of each of these extensions, where it has any."""
    found: dict[str, set[str]] = {}
    query = "select name::text, version from pg_catalog.pg_available_extension_versions where name = any(%s)"
    with connected(target) as connection:
        for name, version in connection.execute(query, [list(names)]):
            found.setdefault(str(name), set()).add(str(version))
    return {name: frozenset(versions) for name, versions in found.items()}


def server_features(target: PostgresTarget) -> frozenset[str]:
    """Return what the target's server was built with, of `xml`, `icu`, `lz4`."""
    found = set()
    with maintenance(target) as connection:
        with contextlib.suppress(psycopg.errors.FeatureNotSupported):
            connection.execute("select xmlparse(content '<a/>')")
            found.add("xml")
        # A build with ICU makes these when the cluster is made; a few others are there without it.
        icu, lz4 = connection.execute(
            "select exists (select from pg_catalog.pg_collation where collname = 'und-x-icu'), coalesce((select 'lz4'"
            " = any(enumvals) from pg_catalog.pg_settings where name = 'default_toast_compression'), false)"
        ).fetchall()[0]
    return frozenset([*found, *(["icu"] if icu else []), *(["lz4"] if lz4 else [])])


def data_folder(target: PostgresTarget) -> Path | None:
    """Return where the target's server has its data, when that is on this machine and this role may know it."""
    if target.host not in ("localhost", "127.0.0.1", "::1") and not target.host.startswith("/"):
        return None
    with maintenance(target) as connection, contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        row = connection.execute("show data_directory").fetchone()
        # A server in a container has a folder of that name that is not here.
        if row and os.path.isdir(str(row[0])):  # noqa: PTH112 - False too where this user may not read it
            return Path(str(row[0]))
    return None


def _names(connection: Connection[TupleRow], query: str) -> frozenset[str]:
    return frozenset(str(row[0]) for row in connection.execute(query.encode()))


_PROPERTIES = """
select d.datname, pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate,
       d.datctype, to_jsonb(d), d.datconnlimit, pg_catalog.shobj_description(d.oid, 'pg_database'),
       pg_catalog.pg_database_size(d.oid), t.spcname, d.oid
  from pg_catalog.pg_database d join pg_catalog.pg_tablespace t on t.oid = d.dattablespace
 where d.datname = %s
"""
_SETTINGS = """
select coalesce(r.rolname, ''), split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
  from pg_catalog.pg_db_role_setting s left join pg_catalog.pg_roles r on r.oid = s.setrole
 cross join unnest(s.setconfig) c where s.setdatabase = %s order by 1, 2
"""
_GRANTS = """
select coalesce(r.rolname, ''), a.privilege_type, a.is_grantable
  from pg_catalog.pg_database d cross join lateral aclexplode(d.datacl) a
  left join pg_catalog.pg_roles r on r.oid = a.grantee
 where d.oid = %s order by 1, 2
"""


def read_properties(target: PostgresTarget) -> DatabaseProperties | None:
    """Return the properties of the target's database; None when it does not exist."""
    with maintenance(target) as connection:
        row = connection.execute(_PROPERTIES, [target.database]).fetchone()
        if row is None:
            return None
        details, oid = row[5], row[10]
        grants = None
        if details.get("datacl") is not None:
            grants = tuple((str(r), str(p), bool(g)) for r, p, g in connection.execute(_GRANTS, [oid]))
        return DatabaseProperties(
            name=str(row[0]),
            owner=str(row[1]),
            locale=_locale(
                str(row[2]), locale_of(str(row[3]), str(row[4]), details), connection.info.server_version // 10000
            ),
            connection_limit=int(row[6]),
            comment=row[7],
            settings=tuple((str(a), str(b), str(c)) for a, b, c in connection.execute(_SETTINGS, [oid])),
            grants=grants,
            size=int(row[8]),
            tablespace=str(row[9]),
        )


def _locale(encoding: str, locale: DatabaseLocale, major: int) -> tuple[tuple[str, str], ...]:
    """Return the clauses of CREATE DATABASE on a server of that major."""
    clauses = [("encoding", encoding), ("lc_collate", locale.collate), ("lc_ctype", locale.ctype)]
    if major >= _PROVIDERS_SINCE:
        # Said of libc too: a cluster's own default may be another.
        clauses.append(("locale_provider", locale.provider))
    if locale.provider != "libc" and locale.name:
        clauses.append(("icu_locale" if locale.provider == "icu" else "builtin_locale", locale.name))
    if locale.rules:
        clauses.append(("icu_rules", locale.rules))
    return tuple(clauses)


def create_database(
    target: PostgresTarget,
    like: DatabaseProperties | None = None,
    encoding: str = "",
    locale: DatabaseLocale | None = None,
) -> None:
    """Make the target's database, empty, from template0, with the encoding and collation of another.

    Args:
        target: the database.
        like: the other one; when None, `locale`, and where that is None or unknown to the server, the server's own.
        encoding: the one that it must have (any when empty): where it is another, the collation is `C`, which fits all.
            COPY of rows in SQL_ASCII checks nothing, so another encoding would end with texts that nobody can read.
        locale: the one that the backup recorded.

    Raises:
        SourceError: it exists, or this role may not create databases, or the collation is unknown to the server.
    """
    if like is None and locale is not None and encoding:
        with maintenance(target) as connection:
            clauses = _locale(encoding, locale, connection.info.server_version // 10000)
        with contextlib.suppress(_UnknownLocaleError):
            _create(target, clauses)
            return
    selection = like.locale if like else ()
    if encoding:
        usual = like or read_properties(target.with_database("template0"))
        if usual is None or dict(usual.locale)["encoding"] != encoding:
            selection = (("encoding", encoding), ("lc_collate", "C"), ("lc_ctype", "C"))
    _create(target, selection, like.tablespace if like else "pg_default")


class _UnknownLocaleError(Exception):
    """The server, or its operating system, has not got the locale or its provider."""


def _create(target: PostgresTarget, locale: Iterable[tuple[str, str]], tablespace: str = "pg_default") -> None:
    clauses: list[sql.Composable] = [sql.SQL("template template0")]
    for keyword, value in locale:
        # Keywords come from `_locale`, values are data.
        clauses.append(sql.SQL(f"{keyword} {{}}").format(sql.Literal(value)))
    if tablespace != "pg_default":
        clauses.append(sql.SQL("tablespace {}").format(sql.Identifier(tablespace)))
    with maintenance(target) as connection:
        try:
            connection.execute(
                sql.SQL("create database {} {}").format(sql.Identifier(target.database), sql.SQL(" ").join(clauses))
            )
        except psycopg.Error as error:
            if error.sqlstate in _NO_SUCH_LOCALE:
                raise _UnknownLocaleError from error
            raise


def read_money_as(target: PostgresTarget, locale: str) -> None:
    """Have the database's sessions write and read money by that locale, where the server's own default is another.

    A dump holds values of the type money as the session wrote them, and says nowhere by which locale. A locale that the
    server has not got is left: what cannot be read then is refused with its table.
    """
    with connected(target) as connection:
        row = connection.execute("select current_setting('lc_monetary')").fetchone()
    if row and row[0] != locale:
        with maintenance(target) as connection, contextlib.suppress(psycopg.DataError):
            connection.execute(
                sql.SQL("alter database {} set lc_monetary to {}").format(
                    sql.Identifier(target.database), sql.Literal(locale)
                )
            )


def comment_on_database(target: PostgresTarget, comment: str | None) -> None:
    """Set or remove the comment of the target's database."""
    with maintenance(target) as connection:
        connection.execute(
            sql.SQL("comment on database {} is {}").format(sql.Identifier(target.database), sql.Literal(comment))
        )


def apply_properties(target: PostgresTarget, like: DatabaseProperties) -> tuple[str, ...]:
    """Give the target's database the owner, limit, comment, settings and grants of another, in one transaction.

    Returns:
        The settings that this role may not make (a superuser's own, or another role's): they are skipped.
    """
    refused = []
    name = sql.Identifier(target.database)
    with maintenance(target) as connection, connection.transaction():
        run = connection.execute
        run(sql.SQL("alter database {} connection limit {}").format(name, sql.Literal(like.connection_limit)))
        run(sql.SQL("comment on database {} is {}").format(name, sql.Literal(like.comment)))
        for role, variable, value in like.settings:
            who = (
                sql.SQL("alter role {} in database {}").format(sql.Identifier(role), name)
                if role
                else sql.SQL("alter database {}").format(name)
            )
            quoted = sql.SQL(value) if variable.lower() in _LIST_VARIABLES else sql.Literal(value)
            parts = sql.SQL(".").join(sql.Identifier(part) for part in variable.split("."))
            try:
                with connection.transaction():
                    run(sql.SQL("{} set {} to {}").format(who, parts, quoted))
            except psycopg.errors.InsufficientPrivilege:
                refused.append(f"{variable} of role {role}" if role else variable)
        run(sql.SQL("alter database {} owner to {}").format(name, sql.Identifier(like.owner)))
        if like.grants is not None:
            run(sql.SQL("revoke all on database {} from public").format(name))
            run(sql.SQL("revoke all on database {} from {}").format(name, sql.Identifier(like.owner)))
            for role, privilege, grantable in like.grants:
                run(
                    sql.SQL("grant {} on database {} to {}{}").format(
                        sql.SQL(privilege),
                        name,
                        sql.Identifier(role) if role else sql.SQL("public"),
                        sql.SQL(" with grant option" if grantable else ""),
                    )
                )
    return tuple(refused)


def drop_database(target: PostgresTarget) -> None:
    """Drop the target's database with its connections; nothing happens when it does not exist.

    Raises:
        RefusedError: it has a subscription or a replication slot, which may hold a slot on another server.
    """
    with maintenance(target) as connection:
        try:
            connection.execute(
                sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(target.database))
            )
        except psycopg.errors.ObjectInUse as error:
            raise RefusedError(
                f"The database cannot be dropped: {error.diag.message_primary}.",
                where=target.label,
                remedy="Drop its subscriptions (DROP SUBSCRIPTION, in that database) or replication slots first.",
            ) from error


def create_roles(target: PostgresTarget, names: Iterable[str]) -> tuple[str, ...]:
    """Make the roles that are missing, without login and without rights; return those that were made.

    A role that is no superuser becomes a member of what it makes: else it could not give anything to them.
    """
    made = []
    facts = server_facts(target)
    with maintenance(target) as connection:
        for name in names:
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                connection.execute(sql.SQL("create role {} nologin").format(sql.Identifier(name)))
                made.append(name)
                if not facts.superuser:
                    connection.execute(sql.SQL("grant {} to current_user").format(sql.Identifier(name)))
    return tuple(made)


_LENT = """
select parname from pg_catalog.pg_parameter_acl, pg_catalog.aclexplode(paracl) lent
 where lent.grantee = (select oid from pg_catalog.pg_roles where rolname = %s)
"""


def drop_roles(target: PostgresTarget, names: Iterable[str]) -> None:
    """Drop roles that own nothing any more, with their rights on settings and tablespaces; those that do stay."""
    with maintenance(target) as connection:
        settings_have_rights = connection.info.server_version >= 150000
        for name in names:
            with contextlib.suppress(psycopg.Error):
                for (setting,) in connection.execute(_LENT, [name]).fetchall() if settings_have_rights else ():
                    connection.execute(
                        sql.SQL("revoke all on parameter {} from {}").format(
                            sql.Identifier(setting), sql.Identifier(name)
                        )
                    )
                for (place,) in connection.execute(_LENT_TABLESPACES, [name]).fetchall():
                    connection.execute(
                        sql.SQL("revoke all on tablespace {} from {}").format(
                            sql.Identifier(place), sql.Identifier(name)
                        )
                    )
                connection.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(name)))


_LENT_TABLESPACES = """
select t.spcname from pg_catalog.pg_tablespace t cross join lateral aclexplode(t.spcacl) a
  join pg_catalog.pg_roles r on r.oid = a.grantee where r.rolname = %s
"""
_OTHERS = """
select count(pg_catalog.pg_terminate_backend(pid)) from pg_catalog.pg_stat_activity
 where datname = any(%s) and pid <> pg_catalog.pg_backend_pid()
"""


def rename_together(target: PostgresTarget, renames: Iterable[tuple[str, str]]) -> None:
    """Rename databases (old, new) one after the other in ONE transaction: all of them or none.

    Connections to them are ended, also those that come in between: each rename locks its database against new
    connections, and a second session ends the old ones while the rename waits for them.

    Raises:
        RefusedError: this role may not rename them. UnreachableError: a session did not end. SourceError: otherwise.
    """
    pairs = list(renames)
    names = [old for old, _ in pairs]
    stop = threading.Event()
    with maintenance(target) as ender, maintenance(target) as connection:

        def end_sessions() -> None:
            # That others are ended is no progress of the renaming.
            limits.counts_for_nothing()
            with contextlib.suppress(psycopg.Error):
                while True:
                    ender.execute(_OTHERS, [names])
                    if stop.wait(0.05):
                        return

        thread: threading.Thread | None = None
        try:
            with connection.transaction():
                thread = start_thread(end_sessions, "end sessions")
                for old, new in pairs:
                    connection.execute(
                        sql.SQL("alter database {} rename to {}").format(sql.Identifier(old), sql.Identifier(new))
                    )
        except psycopg.errors.InsufficientPrivilege as error:
            raise RefusedError(
                f"This role may not rename databases here ({error.diag.message_primary}).",
                where=target.label,
                remedy="Managed servers often forbid it: restore with --upsert, or into a new database with --into.",
            ) from error
        except psycopg.errors.ObjectInUse as error:
            raise UnreachableError(
                f"A session or prepared transaction does not let go of the database ({error.diag.message_detail}).",
                where=target.label,
                remedy="End it, then apply again; nothing was changed.",
            ) from error
        finally:
            stop.set()
            if thread is not None:
                thread.join(timeout=10)


def obstacles_to_rename(target: PostgresTarget) -> tuple[str, ...]:
    """Return what would stop or follow a rename of the target's database: prepared transactions, replication slots."""
    with maintenance(target) as connection:
        prepared = connection.execute(
            "select count(*) from pg_catalog.pg_prepared_xacts where database = %s", [target.database]
        ).fetchone()
        slots = connection.execute(
            "select slot_name from pg_catalog.pg_replication_slots where database = %s", [target.database]
        ).fetchall()
    found = []
    if prepared and prepared[0]:
        found.append(f"{prepared[0]} prepared transactions hold the database")
    found += [f"replication slot {slot[0]} stays with the old database" for slot in slots]
    return tuple(found)


@contextlib.contextmanager
def sole_restore(target: PostgresTarget) -> Iterator[None]:
    """Be the only one of this program's processes that restores into the target's database.

    A session-level advisory lock in the maintenance database: it ends with the process, whatever happens to it; the
    server notices the end of one that was killed a moment later.

    Raises:
        LockError: another restore holds it; names its session.
    """
    key = f"backup-pipeline restore {target.database}"
    end = time.monotonic() + _PATIENCE_SECONDS
    with maintenance(target) as connection:
        question = "select pg_try_advisory_lock(hashtextextended(%s, 0))"
        while connection.execute(question, [key]).fetchone() != (True,):
            if time.monotonic() < end:
                time.sleep(0.05)
                continue
            raise LockError(
                "Another restore into this database is running.",
                where=target.label,
                remedy="Wait until it has ended; its session shows in pg_stat_activity as backup-pipeline.",
            )
        yield


def state_of_server(target: PostgresTarget) -> str:
    """Return what distinguishes one database from any other: the cluster's identifier (where readable) and its OID.

    A restored or re-created database has another one, even under the same name.
    """
    with maintenance(target) as connection:
        row = connection.execute("select oid::text from pg_database where datname = %s", [target.database]).fetchone()
        oid = str(row[0]) if row else "none"
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            system = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
            return f"{system[0] if system else ''}/{oid}"
        return f"{target.host}:{target.port}/{oid}"
