"""Building a new database from a dump, for drills, restores and upserts.

The live database is not touched here; swapping names is `swap`'s work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import BackupSystemError, SourceError
from backup_pipeline.model.catalog import DatabaseLocale
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.postgres.load.archive import archive_holds, archive_path, archive_tablespaces, run_archive
from backup_pipeline.postgres.load.check import (
    drop_subscriptions,
    provide_amcheck,
    quiet_copy,
    tables_of,
)
from backup_pipeline.postgres.load.input import Observed, Readable, plain_sql
from backup_pipeline.postgres.load.load import (
    Assistant,
    LoadHooks,
    LoadOutcome,
    Skip,
    analyze_database,
    load_plain_dump,
)
from backup_pipeline.postgres.load.loading_role import Doorkeeper, LoadingRole, Steward, hand_over
from backup_pipeline.postgres.load.pool import default_jobs, session_settings
from backup_pipeline.postgres.load.psql import run_plain_dump
from backup_pipeline.postgres.load.refused import OpenAgain, checks_that_do_not_hold
from backup_pipeline.postgres.server.clients import PostgresClient, choose_client
from backup_pipeline.postgres.server.databases import (
    DatabaseProperties,
    apply_properties,
    comment_on_database,
    create_database,
    drop_database,
    read_money_as,
    server_facts,
)
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.skipped_statements import OWNED_BY_SUPERUSERS, Line, LineKind, SkippedStatements

# Connections from which each of them reading the archive for itself, as pg_restore has it, is worth more than sharing
# out the rows of a large table, which it cannot.
_WORTH_PG_RESTORE = 5
OpenDump = Callable[[], BinaryIO]
# Comment of a database that is not whole yet, for those who find it after its process was killed.
UNFINISHED = "backup-pipeline restores into this database: it is not whole"


@dataclass(frozen=True)
class Rebuilt:
    """A database that was made from a dump, and what that took."""

    target: PostgresTarget
    seconds: float
    data_bytes: int
    warnings: tuple[str, ...] = ()
    skipped_lines: tuple[Line, ...] = ()
    skipped_settings: tuple[str, ...] = ()
    quieted: tuple[str, ...] = ()


@dataclass(frozen=True)
class DumpOrigin:
    """What is known of the database that a dump is of.

    Attributes:
        written_by: major of the pg_dump that wrote it; an older server or client is refused.
        encoding: which the new database must have; "" for the server's.
        locale: taken where no other database's properties are taken over and the server has it.
        search_path: that its functions were written for; "" for the server's default.
    """

    written_by: int = 0
    encoding: str = ""
    locale: DatabaseLocale | None = None
    search_path: str = ""


@dataclass(frozen=True)
class LoadOptions:
    """How a dump is loaded.

    Attributes:
        jobs: connections; by the cores when 0.
        careful: one psql session instead.
        skip: returns which parts of the dump are skipped (never with `careful`).
        loading: the role that loads, where the target's own must not run what a dump brings along.
        only_pg_dumps: refuse a statement that pg_dump never writes, as `loading` does anyway.
        observe: receives the dump's text as it is read; a second reading, for tables that were refused, is not.
    """

    jobs: int = 0
    careful: bool = False
    skip: Skip | None = None
    loading: LoadingRole | None = None
    only_pg_dumps: bool = False
    observe: Callable[[bytes], object] | None = None


def rebuild_database(
    open_dump: OpenDump,
    target: PostgresTarget,
    origin: DumpOrigin = DumpOrigin(),
    options: LoadOptions = LoadOptions(),
    *,
    like: DatabaseProperties | None = None,
    comment: str = "",
    progress: ProgressSink = no_progress,
) -> Rebuilt:
    """Make the target's database, which must not exist, and load a dump into it; on failure it is dropped again.

    Args:
        open_dump: opens the dump (plain, gzip or custom), at its beginning.
        target: the new database.
        origin: what is known of the database that the dump is of.
        options: how it is loaded.
        like: the database whose encoding, collation, owner, grants and settings it takes over.
        comment: set as soon as the database is there; the caller removes it.
        progress: receives the bytes loaded.

    Returns:
        The new database. `skipped_lines` are lines that the restoring role was refused (see
        `rules.skipped_statements`).

    Raises:
        BackupSystemError: as psql, pg_restore or the server say; without data.
    """
    rebuild = _Rebuild(open_dump, target, origin, options, like, comment, progress)
    rebuild.create()
    try:
        return rebuild.load_as_role(options.loading) if options.loading is not None else rebuild.load()
    except BaseException:
        with suppress(BackupSystemError):
            drop_copy(target)
        raise


class _Rebuild:
    def __init__(
        self,
        open_dump: OpenDump,
        target: PostgresTarget,
        origin: DumpOrigin,
        options: LoadOptions,
        like: DatabaseProperties | None,
        comment: str,
        progress: ProgressSink,
    ) -> None:
        self._began = time.monotonic()
        self._open_dump, self._target, self._origin, self._options = open_dump, target, origin, options
        self._like, self._comment, self._progress = like, comment, progress
        self._facts = server_facts(target)
        self._skipped = SkippedStatements(
            self._facts.roles, superuser=self._facts.superuser and options.loading is None
        )
        self._client = choose_client(self._facts.major, safe_restore=True, at_least=origin.written_by)

    def create(self) -> None:
        """Make the empty database; one that could not be finished is dropped."""
        locale = self._origin.locale
        create_database(self._target, self._like, self._origin.encoding, locale)
        try:
            if locale is not None and locale.money:
                read_money_as(self._target, locale.money)
            if self._comment:
                comment_on_database(self._target, self._comment)
        except BaseException:
            with suppress(BackupSystemError):
                drop_copy(self._target)
            raise

    def load(self) -> Rebuilt:
        """Load the dump as the target's own role: by statements, or by pg_restore where that is faster and able."""
        size = 0
        with self._open_dump() as file:
            archive = self._restorable_archive(file)
            warnings = self._run_archive(archive) if archive is not None else None
            by_client = warnings is not None or self._options.careful
            if warnings is None and self._options.careful:
                with plain_sql(file, self._client) as reader:
                    warnings = run_plain_dump(reader, self._target, self._client)
            elif warnings is None:
                assistant = Doorkeeper() if self._options.only_pg_dumps else None
                with plain_sql(file, self._client) as reader:
                    size = self._load_plain(reader, self._target, assistant)
        if by_client:
            broken = checks_that_do_not_hold(self._target, self._origin.search_path)
            self._skipped.lines += _broken(LoadOutcome(not_valid=broken))
        settings = apply_properties(self._target, self._like) if self._like is not None else ()
        return Rebuilt(self._target, self._seconds(), size, warnings or (), tuple(self._skipped.lines), settings)

    def load_as_role(self, loading: LoadingRole) -> Rebuilt:
        """Load the dump as a role without superuser rights; what needs them is run beside it, when it is recognised."""
        hand_over(loading)
        quieted: list[str] = []

        def at_rest() -> None:
            quieted.extend(quiet_copy(loading.target, loading.superuser))
            provide_amcheck(loading.superuser, loading.name)

        with (
            self._open_dump() as file,
            plain_sql(file, self._client) as reader,
            Steward(loading, self._skipped.take) as steward,
        ):
            size = self._load_plain(reader, loading.target, steward)
            seconds = self._seconds()
            steward.finish(at_rest)
        kept = [Line(LineKind.SUPERUSERS_OWNER, f"{_bare(name)} to {role}") for name, role in steward.kept]
        lines = (*self._skipped.lines, *kept)
        return Rebuilt(loading.target, seconds, size, skipped_lines=lines, quieted=tuple(quieted))

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _restorable_archive(self, file: BinaryIO) -> Path | None:
        """Return the archive's path where pg_restore is to load it, and can as this role; None where lines are read."""
        options = self._options
        if options.careful or options.skip is not None or options.only_pg_dumps or not self._facts.superuser:
            return None
        if (options.jobs or default_jobs()) < _WORTH_PG_RESTORE:
            return None
        archive = archive_path(file)
        if archive is None or archive_holds(archive, self._client, OWNED_BY_SUPERUSERS):
            return None  # pg_restore cannot skip a line
        return archive if archive_tablespaces(archive, self._client) <= self._facts.tablespaces else None

    def _run_archive(self, archive: Path) -> tuple[str, ...] | None:
        """Load by pg_restore and return its warnings; None, with a new empty database, where it was refused something.

        What pg_restore is refused may go in another order or under another search_path.
        """
        count = self._options.jobs or default_jobs()
        try:
            warnings = run_archive(archive, self._target, self._client, jobs=count, settings=session_settings(count))
            analyze_database(self._target, tables_of(self._target), jobs=count)
        except SourceError as error:
            if not error.permanent:
                raise
            drop_copy(self._target)
            self.create()
            return None
        return warnings

    def _load_plain(self, reader: Readable, target: PostgresTarget, assistant: Assistant | None) -> int:
        hooks = LoadHooks(self._options.skip, self._skipped.take, assistant, _again(self._open_dump, self._client))
        observe = self._options.observe
        loaded = load_plain_dump(
            reader if observe is None else Observed(reader, observe),
            target,
            hooks,
            jobs=self._options.jobs,
            search_path=self._origin.search_path,
            progress=self._progress,
        )
        self._skipped.lines += _broken(loaded)
        return loaded.data_bytes


def _again(open_dump: OpenDump, client: PostgresClient) -> OpenAgain:
    """Return how the dump is read once more, for tables that were refused before others were in."""

    @contextmanager
    def again() -> Iterator[Readable]:
        with open_dump() as file, plain_sql(file, client) as reader:
            yield reader

    return again


def _broken(loaded: LoadOutcome) -> list[Line]:
    return [
        Line(kind, name)
        for kind, names in (
            (LineKind.NOT_VALID, loaded.not_valid),
            (LineKind.BROKEN_KEY, loaded.not_made),
            (LineKind.NULLABLE, loaded.nullable),
        )
        for name in names
    ]


def _bare(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def drop_copy(target: PostgresTarget) -> None:
    """Drop a database that was made here, with its subscriptions, which would keep it from being dropped."""
    drop_subscriptions(target)
    drop_database(target)
