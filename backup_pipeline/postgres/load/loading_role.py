"""The role that a drill loads a dump as: it owns one scratch database, and has no right beyond it.

A dump is somebody else's program: what it brings along is executed by CHECKs, defaults, indexes and triggers while it
is loaded and compared. So nothing of that is done as a superuser. The superuser's own session runs only what
`load.dump_statements` recognises: extensions of a known list, owners, and a few objects that only a superuser may make.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from backup_pipeline.errors import RefusedError
from backup_pipeline.postgres.load.dump_statements import (
    AsSuperuser,
    NewExtension,
    Owner,
    column_options,
    function_signature,
    is_written_by_pg_dump,
    known_statement,
    leading_keywords,
    plain_foreign_table,
    rights_on,
    session_role,
    settings_to_lend,
    unquoted,
    with_roles,
)
from backup_pipeline.postgres.load.session import Tolerate, copy_rows, execute_statement
from backup_pipeline.postgres.load.stream import CopyBlock, Statement
from backup_pipeline.postgres.server.connection import open_connection, translated
from backup_pipeline.postgres.server.databases import maintenance
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system.threads import start_thread

# Extensions that a drill makes with superuser rights. Others are left to the loading role, which may make those that
# call themselves trusted. Not here: whatever starts programs, reads files or sends requests for anybody who asks.
KNOWN_EXTENSIONS = frozenset(
    """
    address_standardizer address_standardizer_data_us age amcheck autoinc bloom bool_plperl btree_gin btree_gist
    citext cube dblink dict_int dict_xsyn earthdistance file_fdw fuzzystrmatch h3 hll hstore hstore_plperl hypopg
    insert_username intagg intarray ip4r isn jsonb_plperl lo ltree moddatetime pageinspect periods pg_bigm
    pg_buffercache pg_freespacemap pg_hashids pg_ivm pg_jsonschema pg_partman pg_prewarm pg_repack pg_similarity
    pg_stat_statements pg_surgery pg_trgm pg_uuidv7 pg_visibility pg_walinspect pgaudit pgcrypto pgjwt pgmq
    pgrouting pgrowlocks pgstattuple pgtap plperl plpgsql plpgsql_check pltcl plv8 postgis postgis_sfcgal
    postgis_tiger_geocoder postgis_topology postgres_fdw prefix refint rum seg semver sslinfo tablefunc tcn
    temporal_tables tsm_system_rows tsm_system_time unaccent unit uuid-ossp vector xml2 zhparser
    """.split()
)
# A function by its schema, name and arguments as pg_dump wrote them: with names and modes; of an aggregate the types.
_FUNCTION = (
    "(select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
    " where n.nspname = %s and p.proname = %s"
    " and %s in (pg_get_function_identity_arguments(p.oid), oidvectortypes(p.proargtypes)))"
)
# Extension → its functions that connect to other servers or read files of this one: nobody calls them in a copy.
OUTWARD: Mapping[str, tuple[str, ...]] = {
    "dblink": ("dblink", "dblink_connect", "dblink_connect_u", "dblink_exec", "dblink_open", "dblink_send_query"),
    "postgres_fdw": ("postgres_fdw_disconnect", "postgres_fdw_disconnect_all"),
    "age": ("load_labels_from_file", "load_edges_from_file"),
}
# Kind of object → its catalog, the column of its owner, and how its number is found by its identity.
_OWNERS_OF = {
    "TABLE": ("pg_class", "relowner", "to_regclass(%s)"),
    "SEQUENCE": ("pg_class", "relowner", "to_regclass(%s)"),
    "FUNCTION": ("pg_proc", "proowner", _FUNCTION),
    "PROCEDURE": ("pg_proc", "proowner", _FUNCTION),
    "SCHEMA": ("pg_namespace", "nspowner", "to_regnamespace(%s)"),
    "TYPE": ("pg_type", "typowner", "to_regtype(%s)"),
    "DOMAIN": ("pg_type", "typowner", "to_regtype(%s)"),
    "LARGE OBJECT": ("pg_largeobject_metadata", "lomowner", "%s::oid"),
    "FOREIGN SERVER": ("pg_foreign_server", "srvowner", "(select oid from pg_foreign_server where srvname = %s)"),
}
_QUIET_SINCE = 17
_RIGHTS_ON_SETTINGS_SINCE = 150000
_PREDEFINED = "pg_"
_DATABASE_OWNER = "pg_database_owner"
_TABLESPACE = re.compile(r'SET default_tablespace = ("(?:[^"]|"")+"|[^\s";\']+);\Z')
_ENCODING = re.compile(r"SET client_encoding = '([A-Za-z0-9_]+)';\Z")
# What pg_dump writes before the extensions, and nothing of which can be called.
_HARMLESS = re.compile(
    r"SET |SELECT pg_catalog\.set_config|CREATE SCHEMA |ALTER SCHEMA |CREATE COLLATION |COMMENT ON |GRANT |REVOKE "
)


def quiet(target: PostgresTarget, major: int) -> PostgresTarget:
    """Return the way to a database on which its event triggers, those on login too, do not fire.

    There are triggers on login since version 17, and so is the setting.
    """
    if major < _QUIET_SINCE:
        return target
    options = dict(target.options)
    options["options"] = f"{options.get('options', '')} -c event_triggers=off".strip()
    return replace(target, options=tuple(sorted(options.items())))


@dataclass(frozen=True)
class LoadingRole:
    """A role without superuser rights, and the roles that it may give objects to.

    Attributes:
        target: the scratch database, as this role.
        superuser: the same, as the scratch server's superuser.
        owners: roles that were made for this database.
        stand_ins: recorded role → the role that stands for it, where the server has one of that name for others.
        versions: extension → recorded version.
    """

    target: PostgresTarget
    superuser: PostgresTarget
    owners: frozenset[str]
    stand_ins: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The role's name."""
        return self.target.user


def make_loading_role(
    target: PostgresTarget,
    needed: Iterable[str],
    present: Iterable[str],
    mark: Callable[[tuple[str, ...]], None],
    versions: Mapping[str, str],
    powerful: Collection[str] = (),
    bypassing: Collection[str] = (),
) -> LoadingRole:
    """Make the role that loads, and the roles that the dump names, on a scratch server.

    Args:
        target: the scratch database that is to be made, as a superuser.
        needed: roles that own or are granted something in the backup.
        present: the server's roles. What of `needed` is among them is not touched: another role stands for it.
        mark: receives the names of the roles that were made, so that they are removed whatever happens.
        versions: extension → recorded version.
        powerful: roles that were superusers. Theirs become members of the others', so that what they own may read it.
        bypassing: roles that row level security did not concern.
    """
    there = set(present)
    named = sorted(name for name in set(needed) if not name.startswith(_PREDEFINED))
    stand_ins = {name: f"{target.database}_r{at}" for at, name in enumerate(named) if name in there}
    # Superusers last, so that each can become a member of all before it.
    named.sort(key=lambda name: name in powerful)
    owners = [stand_ins.get(name, name) for name in named]
    loader, password = f"{target.database}_loader", secrets.token_urlsafe(24)
    with maintenance(target) as connection:
        major = connection.info.server_version // 10000
        hidden = connection.pgconn.encrypt_password(password.encode(), loader.encode(), b"scram-sha-256").decode()
        connection.execute(
            sql.SQL("create role {} login bypassrls password {}").format(sql.Identifier(loader), sql.Literal(hidden))
        )
        mark((loader,))
        for at, (name, owner) in enumerate(zip(named, owners, strict=True)):
            free = sql.SQL("bypassrls" if name in powerful or name in bypassing else "nobypassrls")
            connection.execute(sql.SQL("create role {} nologin {}").format(sql.Identifier(owner), free))
            mark((owner,))
            connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(owner), sql.Identifier(loader)))
            if name in powerful and at:
                others = sql.SQL(", ").join(sql.Identifier(other) for other in owners[:at])
                connection.execute(sql.SQL("grant {} to {}").format(others, sql.Identifier(owner)))
    return LoadingRole(
        replace(target, user=loader, password=password),
        quiet(target, major),
        frozenset(owners),
        stand_ins,
        versions,
    )


def hand_over(role: LoadingRole) -> None:
    """Give the new, empty database to the loading role, and let it read what the comparison needs."""
    name = sql.Identifier(role.name)
    with maintenance(role.superuser) as connection:
        connection.execute(
            sql.SQL("alter database {} owner to {}").format(sql.Identifier(role.superuser.database), name)
        )
    connection = open_connection(role.superuser)
    try:
        connection.execute(sql.SQL("grant select on pg_catalog.pg_largeobject to {}").format(name))
    finally:
        connection.close()


class Doorkeeper:
    """Refuses what pg_dump never writes where the scratch server's role has no superuser rights and loads by itself."""

    def takes(self, part: Statement | CopyBlock) -> bool:
        """Return False: everything is the loading role's.

        Raises:
            RefusedError: pg_dump writes no such statement.
        """
        if isinstance(part, Statement):
            # Only the leading keywords count, and they are ASCII in every encoding that a dump can have.
            refuse_foreign_statement(part.body.decode("utf-8", "surrogateescape"))
        return False

    def run(self, part: Statement | CopyBlock) -> None:
        """Never called: nothing is taken."""
        raise AssertionError(part)

    def as_loaded(self, part: Statement | CopyBlock) -> Statement | CopyBlock:
        """Return the part as it stands."""
        return part


def refuse_foreign_statement(text: str) -> None:
    """Raise RefusedError for a statement that pg_dump does not write."""
    if not is_written_by_pg_dump(text):
        raise RefusedError(
            f"The dump holds a statement that pg_dump does not write: {leading_keywords(text)}",
            where="dump",
            remedy="Do not restore this file. Check who can write to the store, and use another set.",
        )


class Steward:
    """The superuser's session beside a load: runs what is of the recognised list, refuses what pg_dump never writes.

    Args:
        role: who loads.
        tolerate: asked about what may be skipped.
    """

    def __init__(self, role: LoadingRole, tolerate: Tolerate) -> None:
        self._role = role
        self._tolerate = tolerate
        self._connection: Connection[TupleRow] | None = None
        self._codec = "utf-8"
        self._early = True
        self._as_other = False
        self._files: set[str] = set()
        self._last: list[bytes] = []
        self._wrappers: list[str] = []
        self._settings: set[str] = set()
        self.kept: list[tuple[str, str]] = []
        """Objects that stay with the superuser, and the role that owned each."""

    def __enter__(self) -> Steward:
        self._connection = open_connection(self._role.superuser)
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    @property
    def _session(self) -> Connection[TupleRow]:
        assert self._connection is not None
        return self._connection

    def takes(self, part: Statement | CopyBlock) -> bool:
        """Return whether the superuser's session runs this part.

        Raises:
            RefusedError: pg_dump writes no such statement.
        """
        if isinstance(part, CopyBlock):
            return self._is_extensions(part)
        text = self._text(part)
        refuse_foreign_statement(text)
        known = known_statement(text)
        if isinstance(known, NewExtension):
            return self._early and known.name in KNOWN_EXTENSIONS
        if text.startswith("CREATE FOREIGN TABLE ") and (table := plain_foreign_table(text)):
            return self._of_files(*table)
        if self._files and column_options(text) in self._files:
            return True
        if known is None and not self._as_other and (on := rights_on(text)) is not None:
            return self._is_the_copys(*on)
        if found := _ENCODING.match(text):
            self._follow(found[1])
        self._lend_settings(settings_to_lend(text))
        if found := _TABLESPACE.match(text):
            self._lend_tablespace(unquoted(found[1]))
        if not _HARMLESS.match(text) and known is None:
            self._early = False
        return known is not None

    def run(self, part: Statement | CopyBlock) -> None:
        """Run a part that `takes` said yes to."""
        if isinstance(part, CopyBlock):
            with translated(self._role.superuser):
                copy_rows(self._session, self._role.superuser, part.table, part.header, part.chunks())
            return
        known = known_statement(self._text(part))
        match known:
            case Owner():
                self._own(part.body, known)
            case NewExtension():
                self._make_extension(known)
            case AsSuperuser(last=True):
                self._last.append(part.body)
            case AsSuperuser():
                body = with_roles(self._text(part), dict(self._role.stand_ins)).encode(self._codec, "surrogateescape")
                self._execute(body)
                if known.text.startswith("CREATE FOREIGN DATA WRAPPER"):
                    self._lend_wrappers()
            case None:
                # Rights on the copy's own objects: a superuser gives them as their owner, whoever else could.
                text = with_roles(self._text(part), dict(self._role.stand_ins))
                self._execute(text.encode(self._codec, "surrogateescape"))

    def as_loaded(self, part: Statement | CopyBlock) -> Statement | CopyBlock | None:
        """Return what the loading role runs of this part; None when it is skipped."""
        if isinstance(part, CopyBlock):
            return part
        text = self._text(part)
        role = session_role(text)
        if role is not None:
            self._as_other = bool(role)
        if role == "":
            return self._other(part, "RESET ROLE;")
        if role is not None:
            actual = self._role.stand_ins.get(role, role)
            if actual not in self._role.owners:
                self._tolerate(part.body, "42501")
                return None
            return self._other(part, f'SET ROLE "{actual.replace(chr(34), chr(34) * 2)}";')
        if self._role.stand_ins and text.startswith(("GRANT ", "REVOKE ", "ALTER DEFAULT PRIVILEGES ")):
            return self._other(part, with_roles(text, dict(self._role.stand_ins)))
        return part

    def finish(self, before_triggers: Callable[[], None]) -> None:
        """Run what comes last: take back what was lent, then make the event triggers, which nothing here fires."""
        for name in self._wrappers:
            with contextlib.suppress(psycopg.Error):
                self._session.execute(
                    sql.SQL("revoke usage on foreign data wrapper {} from {}").format(
                        sql.Identifier(name), sql.Identifier(self._role.name)
                    )
                )
        before_triggers()
        for body in self._last:
            self._execute(body)

    def _text(self, part: Statement) -> str:
        return part.body.decode(self._codec, "surrogateescape")

    def _other(self, part: Statement, text: str) -> Statement:
        body = text.encode(self._codec, "surrogateescape")
        return part if body == part.body else Statement(body, body)

    def _follow(self, encoding: str) -> None:
        self._session.execute("select set_config('client_encoding', %s, false)", [encoding])
        self._codec = "utf-8" if encoding in ("UTF8", "SQL_ASCII") else "latin-1"

    def _execute(self, body: bytes) -> None:
        execute_statement(self._session, body, self._role.superuser, self._tolerate, alone=True)

    def _own(self, body: bytes, known: Owner) -> None:
        """Give an object to the role that was made for its owner; never to one that has rights of its own."""
        actual = self._role.stand_ins.get(known.role, known.role)
        if known.kind in ("EVENT TRIGGER", "FOREIGN DATA WRAPPER") or known.identity in self._files:
            self.kept.append((known.identity, known.role))
        elif actual in self._role.owners or actual == _DATABASE_OWNER:
            quoted = '"' + actual.replace('"', '""') + '"'
            text = known.text(quoted).encode(self._codec, "surrogateescape")

            def stays(statement: bytes, state: str) -> bool:
                if state == "42501" and known.kind in ("PUBLICATION", "SUBSCRIPTION"):
                    self.kept.append((known.identity, known.role))
                    return True
                return self._tolerate(statement, state)

            execute_statement(self._session, text, self._role.superuser, stays, alone=True)
        else:
            self._tolerate(body, "42501")

    def _make_extension(self, known: NewExtension) -> None:
        version = self._role.versions.get(known.name, "")
        there = self._session.execute(
            "select from pg_available_extension_versions where name = %s and version = %s", [known.name, version]
        ).fetchone()
        statement = sql.SQL("create extension if not exists {} with schema {}").format(
            sql.Identifier(known.name), sql.Identifier(known.schema)
        )
        if there is not None:
            statement += sql.SQL(" version {}").format(sql.Literal(version))
        self._execute(statement.as_bytes(self._session))
        self._close_ways_out(known.name)
        self._lend_wrappers()

    def _close_ways_out(self, extension: str) -> None:
        """Take from everybody the functions of an extension that reach other servers or read files of this one."""
        for signature, kind in self._session.execute(
            "select p.oid::regprocedure::text, p.prokind from pg_proc p join pg_depend d on d.objid = p.oid"
            " and d.classid = 'pg_proc'::regclass and d.deptype = 'e' join pg_extension e on e.oid = d.refobjid"
            " and d.refclassid = 'pg_extension'::regclass where e.extname = %s and p.proname = any(%s)",
            [extension, list(OUTWARD.get(extension, ()))],
        ).fetchall():
            what = "procedure" if kind == "p" else "function"
            # The server itself wrote the signature, with its quotes.
            self._session.execute(f"revoke execute on {what} {signature} from public".encode())

    def _lend_wrappers(self) -> None:
        """Let the loading role make servers of foreign data wrappers, as their owner can; nobody reads through them."""
        found = self._session.execute("select fdwname from pg_foreign_data_wrapper").fetchall()
        for name in sorted({str(row[0]) for row in found} - {*self._wrappers}):
            wrapper = sql.Identifier(name)
            # Without a handler a foreign table can be made and described, and connects nowhere.
            self._session.execute(sql.SQL("alter foreign data wrapper {} no handler").format(wrapper))
            self._session.execute(
                sql.SQL("grant usage on foreign data wrapper {} to {}").format(wrapper, sql.Identifier(self._role.name))
            )
            self._wrappers.append(name)

    def _lend_settings(self, names: Collection[str]) -> None:
        """Let the loading role make functions with these settings, where there is such a right (since PostgreSQL 15).

        It goes with the role: `drop_roles` takes it back.
        """
        if self._session.info.server_version < _RIGHTS_ON_SETTINGS_SINCE:
            return
        for name in sorted({*names} - self._settings):
            self._session.execute(
                sql.SQL("grant set on parameter {} to {}").format(sql.Identifier(name), sql.Identifier(self._role.name))
            )
            self._settings.add(name)

    def _lend_tablespace(self, name: str) -> None:
        """Let the loading role put tables where they were, on a server that has the tablespace; goes with the role."""
        if self._session.execute("select from pg_tablespace where spcname = %s", [name]).fetchone() is not None:
            self._session.execute(
                sql.SQL("grant create on tablespace {} to {}").format(
                    sql.Identifier(name), sql.Identifier(self._role.name)
                )
            )

    def _of_files(self, name: str, server: str) -> bool:
        """Whether a foreign table shows a file of the server. It stays with the superuser, and nobody reads it."""
        found = self._session.execute(
            "select from pg_foreign_server s join pg_foreign_data_wrapper w on w.oid = s.srvfdw"
            " where s.srvname = %s and w.fdwname = 'file_fdw'",
            [server],
        ).fetchone()
        if found is not None:
            self._files.add(name)
        return found is not None

    def _is_the_copys(self, kind: str, identity: str) -> bool:
        """Whether an object belongs to the loading role or one made for the copy: not to the server, no extension's."""
        catalog, column, number = _OWNERS_OF[kind]
        known_by = [identity]
        if kind == "FOREIGN SERVER":
            known_by = [unquoted(identity)]
        elif number is _FUNCTION:
            known_by = [*function_signature(identity)]
        row = self._session.execute(
            f"select pg_get_userbyid({column}) from {catalog} where oid = {number}".encode(),  # noqa: S608 - constants
            known_by,
        ).fetchone()
        return bool(row and row[0] in {self._role.name, *self._role.owners, _DATABASE_OWNER})

    def _is_extensions(self, block: CopyBlock) -> bool:
        """Whether the rows go into a table of an extension, whose columns and triggers are the extension's own."""
        row = self._session.execute(
            "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'"
            " where n.nspname = %s and c.relname = %s)",
            list(block.table),
        ).fetchone()
        return bool(row and row[0])


@dataclass
class TimeLimit:
    """Whether a role's sessions were ended because their time was up."""

    seconds: float
    reached: bool = False


@contextlib.contextmanager
def time_limit(server: PostgresTarget, database: str, role: str, seconds: float) -> Iterator[TimeLimit]:
    """End a role's sessions in a database once the time is up; a session may ignore being cancelled, never being ended.

    Args:
        server: the scratch server, as its superuser or as the role itself.
        database: the scratch database. Other sessions of the same role are left alone.
        role: who loads and compares.
        seconds: from now on.
    """
    limit = TimeLimit(seconds)
    over = threading.Event()

    def watch() -> None:
        if over.wait(seconds):
            return
        limit.reached = True
        with contextlib.suppress(Exception), maintenance(server) as connection:
            while not over.is_set():
                connection.execute(
                    "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity"
                    " where usename = %s and datname = %s",
                    [role, database],
                )
                time.sleep(0.2)

    thread = start_thread(watch, "time limit")
    try:
        yield limit
    finally:
        over.set()
        thread.join(timeout=10)
