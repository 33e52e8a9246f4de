"""The database in which workers without a shared disk keep what is known of sets: small documents, and locks.

Documents have a scope (`/`, a plan, `plan/set`), a name, and a version that every change replaces. A change can depend
on locks: it is made in the transaction that finds them held, so that who has lost one changes nothing. Times are the
server's alone; no clock of a worker is compared. What documents hold is not known here.
"""

from __future__ import annotations

import functools
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from backup_pipeline.errors import LockError, UnreachableError
from backup_pipeline.postgres.server.kept_connections import KeptConnections
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import limits
from backup_pipeline.system.locks import FOREIGN_STALE_SECONDS, HEARTBEAT_SECONDS, Holder

LOG = logging.getLogger("backup")
P = ParamSpec("P")
T = TypeVar("T")
POLL_SECONDS = HEARTBEAT_SECONDS / 10
# A server that restarts is back by then, and the locks of who waits for it are still its own.
PATIENCE_SECONDS = FOREIGN_STALE_SECONDS * 2 / 3
_PAUSE_SECONDS = 0.5
_TABLES = """
select pg_advisory_xact_lock(hashtext('backup_pipeline'));
create schema if not exists backup_pipeline;
create sequence if not exists backup_pipeline.versions;
create table if not exists backup_pipeline.documents (
    scope text collate "C" not null, name text collate "C" not null, data bytea not null,
    version bigint not null default nextval('backup_pipeline.versions'), primary key (scope, name));
create table if not exists backup_pipeline.locks (
    scope text collate "C" not null, name text collate "C" not null, token text not null, holder text not null,
    beaten timestamptz not null default clock_timestamp(), primary key (scope, name));
"""
_REMOVE_DEAD = """
delete from backup_pipeline.locks
where scope = %s and starts_with(name, %s) and right(name, length(%s)) = %s
and beaten < clock_timestamp() - make_interval(secs => %s)
"""
_WRITE = """
insert into backup_pipeline.documents (scope, name, data) values (%s, %s, %s) on conflict (scope, name) do update
set data = {data}, version = nextval('backup_pipeline.versions') returning version
"""

Held = Mapping[str, str]
"""Names of locks with the tokens of their holder."""


_FORSAKEN = b"set local idle_in_transaction_session_timeout = '15s'"


def _lasting(call: Callable[Concatenate[StateDatabase, P], T]) -> Callable[Concatenate[StateDatabase, P], T]:
    """Make a call again whose server has gone away, as when it restarts, unless it never answered this process."""

    @functools.wraps(call)
    def lasting(self: StateDatabase, /, *arguments: P.args, **named: P.kwargs) -> T:
        end = time.monotonic() + PATIENCE_SECONDS
        first = True
        while True:
            try:
                return call(self, *arguments, **named)
            except UnreachableError as error:
                if not self.answered or limits.ending() or time.monotonic() >= end:
                    raise
                if first:
                    LOG.warning("waiting for up to %.0f s: %s", PATIENCE_SECONDS, error)
            first = False
            time.sleep(_PAUSE_SECONDS)

    return lasting


class StateDatabase:
    """See the module. Every call may raise SourceError: the database does not answer, or refuses.

    A server that goes away is waited for, and asked again; what it did without a word of it is then done twice.

    Args:
        target: the database; a schema `backup_pipeline` is made in it.
    """

    def __init__(self, target: PostgresTarget) -> None:
        self.target = target
        self._connections = KeptConnections(target)
        self.answered = False

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._connections.connected() as connection, connection.transaction():
            # A worker that is cut off in the middle must not keep the others from the rows that it has locked.
            connection.execute(_FORSAKEN)
            if not self.answered:
                connection.execute(_TABLES)
            yield connection
        # Not before: of a transaction that fails they are gone, too.
        self.answered = True

    def check(self) -> None:
        """Write a document and remove it again: whether this role may use the database is known by that alone."""
        name = uuid.uuid4().hex
        self.write("/check", {name: b""})
        self.write("/check", {name: None})

    @_lasting
    def versions(self, scope: str) -> dict[str, int]:
        """Return the version of each document of a scope, by name."""
        with self._transaction() as connection:
            return dict(
                connection.execute("select name, version from backup_pipeline.documents where scope = %s", [scope])
            )

    @_lasting
    def scopes(self, beginning: str, name: str = "") -> list[str]:
        """Return the scopes with a beginning, of those that have a document of this name, or any."""
        with self._transaction() as connection:
            rows = connection.execute(
                "select distinct scope from backup_pipeline.documents where starts_with(scope, %s) "
                "and (%s = '' or name = %s) order by scope",
                [beginning, name, name],
            )
            return [str(row[0]) for row in rows]

    @_lasting
    def all_versions(self, beginning: str, without: str = "") -> dict[str, dict[str, int]]:
        """Return the versions of all documents whose scopes have a beginning, and not that text, by scope and name."""
        found: dict[str, dict[str, int]] = {}
        with self._transaction() as connection:
            rows = connection.execute(
                "select scope, name, version from backup_pipeline.documents "
                "where starts_with(scope, %s) and (%s = '' or strpos(scope, %s) = 0)",
                [beginning, without, without],
            )
            for scope, name, version in rows:
                found.setdefault(scope, {})[name] = version
        return found

    @_lasting
    def read(self, scope: str, names: Collection[str]) -> dict[str, tuple[int, bytes]]:
        """Return version and data of documents, by name."""
        with self._transaction() as connection:
            rows = connection.execute(
                "select name, version, data from backup_pipeline.documents where scope = %s and name = any(%s)",
                [scope, list(names)],
            )
            return {name: (version, bytes(data)) for name, version, data in rows}

    @_lasting
    def write(
        self,
        scope: str,
        changed: Mapping[str, bytes | None],
        *,
        held_in: str = "",
        held: Held | None = None,
    ) -> dict[str, int]:
        """Write documents, or remove those that are None, all or none; return the new versions.

        Args:
            scope: theirs.
            changed: data by name.
            held_in: scope of the locks.
            held: locks that this process must still have.

        Raises:
            LockError: it has lost one; nothing was changed.
        """
        versions: dict[str, int] = {}
        with self._transaction() as connection:
            for name, token in (held or {}).items():
                _require(connection, held_in, name, token)
            for name, data in sorted(changed.items()):
                if data is None:
                    connection.execute(
                        "delete from backup_pipeline.documents where scope = %s and name = %s", [scope, name]
                    )
                else:
                    row = connection.execute(_WRITE.format(data="excluded.data"), [scope, name, data]).fetchone()
                    versions[name] = row[0]
        return versions

    @_lasting
    def append(self, scope: str, name: str, data: bytes) -> None:
        """Add to the end of a document, which is made where it is missing."""
        with self._transaction() as connection:
            connection.execute(_WRITE.format(data="documents.data || excluded.data"), [scope, name, data])

    @_lasting
    def drop(self, scope: str) -> None:
        """Remove all documents of a scope."""
        with self._transaction() as connection:
            connection.execute("delete from backup_pipeline.documents where scope = %s", [scope])

    @_lasting
    def take(self, scope: str, name: str, holder: Holder) -> Holder | None:
        """Take a lock, if need be from a holder whose heartbeat stands still; return who has it, None for `holder`."""
        with self._transaction() as connection:
            connection.execute(_REMOVE_DEAD, [scope, name, name, name, FOREIGN_STALE_SECONDS])
            taken = connection.execute(
                "insert into backup_pipeline.locks (scope, name, token, holder) values (%s, %s, %s, %s) "
                "on conflict do nothing",
                [scope, name, holder.token, holder.model_dump_json()],
            )
            if taken.rowcount:
                return None
            row = connection.execute(
                "select holder from backup_pipeline.locks where scope = %s and name = %s", [scope, name]
            ).fetchone()
        found = Holder.model_validate_json(row[0]) if row else holder
        # It was taken by a call whose answer was lost.
        return None if row and found.token == holder.token else found

    @_lasting
    def beat(self, scope: str, held: Held) -> None:
        """Refresh locks of this process.

        Raises:
            LockError: it has lost one.
        """
        with self._transaction() as connection:
            for name, token in held.items():
                _require(connection, scope, name, token)
                connection.execute(
                    "update backup_pipeline.locks set beaten = clock_timestamp() where scope = %s and name = %s",
                    [scope, name],
                )

    @_lasting
    def release(self, scope: str, name: str, token: str) -> None:
        """Give a lock back; one that is another's by now stays."""
        with self._transaction() as connection:
            connection.execute(
                "delete from backup_pipeline.locks where scope = %s and name = %s and token = %s", [scope, name, token]
            )

    @_lasting
    def silent(self, scope: str, name: str) -> Holder | None:
        """Return who held a lock and does not refresh it any more; None while it is refreshed, or was given back."""
        with self._transaction() as connection:
            row = connection.execute(
                "select holder from backup_pipeline.locks where scope = %s and name = %s "
                "and beaten < clock_timestamp() - make_interval(secs => %s)",
                [scope, name, FOREIGN_STALE_SECONDS],
            ).fetchone()
        return Holder.model_validate_json(row[0]) if row else None

    @_lasting
    def sweep(self, scope: str, seconds: float) -> None:
        """Remove the locks of a scope that nobody has refreshed for so long."""
        with self._transaction() as connection:
            connection.execute(_REMOVE_DEAD, [scope, "", "", "", seconds])

    def holders(self, scope: str, prefix: str, ending: str) -> list[Holder]:
        """Return who holds the locks of these names; those whose heartbeats stand still are removed."""
        return list(self.named_holders(scope, prefix, ending).values())

    @_lasting
    def named_holders(self, scope: str, prefix: str, ending: str) -> dict[str, Holder]:
        """Return them as `holders` does, by the names of the locks."""
        with self._transaction() as connection:
            connection.execute(_REMOVE_DEAD, [scope, prefix, ending, ending, FOREIGN_STALE_SECONDS])
            rows = connection.execute(
                "select name, holder from backup_pipeline.locks "
                "where scope = %s and starts_with(name, %s) and right(name, length(%s)) = %s order by name",
                [scope, prefix, ending, ending],
            )
            return {str(name): Holder.model_validate_json(holder) for name, holder in rows}


def _require(connection: Any, scope: str, name: str, token: str) -> None:
    """Find a lock held, and keep it from being taken over until the transaction ends."""
    row = connection.execute(
        "select token, holder from backup_pipeline.locks where scope = %s and name = %s for update", [scope, name]
    ).fetchone()
    if row is None or row[0] != token:
        by = f"it was taken over by {Holder.model_validate_json(row[1]).describe()}" if row else "it was given up"
        raise LockError(
            f"This process has lost its lock: {by}.",
            where=f"{scope}: {name}",
            remedy=f"Nothing more was written. A process that stands still or reaches no network for more than "
            f"{FOREIGN_STALE_SECONDS:.0f} s loses its lock to others: run it again.",
        )
