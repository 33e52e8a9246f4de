"""Building a new database from a dump, for drills, restores and upserts.

The live database is not touched here; swapping names is `swap`'s work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from backup_pipeline.postgres.load.input import Readable, plain_sql
from backup_pipeline.postgres.load.load import LoadOutcome, Skip, analyze_database, load_plain_dump
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


def rebuild_database(
    open_dump: OpenDump,
    target: PostgresTarget,
    *,
    written_by: int = 0,
    like: DatabaseProperties | None = None,
    encoding: str = "",
    locale: DatabaseLocale | None = None,
    comment: str = "",
    jobs: int = 0,
    careful: bool = False,
    skip: Skip | None = None,
    loading: LoadingRole | None = None,
    only_pg_dumps: bool = False,
    search_path: str = "",
    progress: ProgressSink = no_progress,
) -> Rebuilt:
    """Make the target's database, which must not exist, and load a dump into it; on failure it is dropped again.

    Args:
        open_dump: opens the dump (plain, gzip or custom), at its beginning.
        target: the new database.
        written_by: major of the pg_dump that wrote it; an older server or client is refused.
        like: the database whose encoding, collation, owner, grants and settings it takes over.
        encoding: the backup's, which the new database must have.
        locale: the backup's, taken where `like` is None and the server has it.
        comment: set as soon as the database is there; the caller removes it.
        jobs: connections.
        careful: one psql session instead.
        skip: returns which parts of the dump are skipped (never with `careful`).
        loading: the role that loads, where `target`'s own must not run what a dump brings along.
        only_pg_dumps: refuse a statement that pg_dump never writes, as `loading` does anyway.
        search_path: that the database's functions were written for; "" for the server's default.
        progress: receives the bytes loaded.

    Returns:
        The new database. `left_out` are lines that the restoring role was refused (see `rules.skipped_statements`).

    Raises:
        BackupSystemError: as psql, pg_restore or the server say; without data.
    """
    began = time.monotonic()
    facts = server_facts(target)
    left = SkippedStatements(facts.roles, superuser=facts.superuser and loading is None)
    client = choose_client(facts.major, safe_restore=True, at_least=written_by)
    create_database(target, like, encoding, locale)
    try:
        if locale is not None and locale.money:
            read_money_as(target, locale.money)
        if comment:
            comment_on_database(target, comment)
        if loading is not None:
            return _loaded_by(loading, open_dump, client, left, began, jobs, skip, search_path, progress)
        warnings: tuple[str, ...] = ()
        size = 0
        with open_dump() as file:
            by_lines = careful or skip is not None or only_pg_dumps or not facts.superuser
            archive = None if by_lines else archive_path(file)
            if archive is not None and archive_holds(archive, client, OWNED_BY_SUPERUSERS):
                archive = None  # pg_restore cannot leave a line out
            if archive is not None and not archive_tablespaces(archive, client) <= facts.tablespaces:
                archive = None
            if archive is not None:
                count = jobs or default_jobs()
                try:
                    warnings = run_archive(archive, target, client, jobs=count, settings=session_settings(count))
                    analyze_database(target, tables_of(target), jobs=count)
                except SourceError as error:
                    if not error.permanent:
                        raise
                    # What pg_restore is refused may go in another order or under another search_path.
                    archive = None
                    drop_copy(target)
                    create_database(target, like, encoding, locale)
                    if locale is not None and locale.money:
                        read_money_as(target, locale.money)
                    if comment:
                        comment_on_database(target, comment)
            if archive is None:
                with plain_sql(file, client) as reader:
                    if careful:
                        warnings = run_plain_dump(reader, target, client)
                    else:
                        loaded = load_plain_dump(
                            reader, target, jobs=jobs, skip=skip, tolerate=left.take,
                            assistant=Doorkeeper() if only_pg_dumps else None,
                            again=_again(open_dump, client), search_path=search_path, progress=progress,
                        )  # fmt: skip
                        size = loaded.data_bytes
                        left.lines += _broken(loaded)
            if archive is not None or careful:
                left.lines += _broken(LoadOutcome(not_valid=checks_that_do_not_hold(target, search_path)))
        settings = apply_properties(target, like) if like is not None else ()
    except BaseException:
        with suppress(BackupSystemError):
            drop_copy(target)
        raise
    return Rebuilt(target, time.monotonic() - began, size, warnings, tuple(left.lines), settings)


def _loaded_by(
    loading: LoadingRole,
    open_dump: OpenDump,
    client: PostgresClient,
    left: SkippedStatements,
    began: float,
    jobs: int,
    skip: Skip | None,
    search_path: str,
    progress: ProgressSink,
) -> Rebuilt:
    """Load a dump as a role without superuser rights; what needs them is run beside it, when it is recognised."""
    hand_over(loading)
    with open_dump() as file, plain_sql(file, client) as reader, Steward(loading, left.take) as steward:
        loaded = load_plain_dump(
            reader, loading.target, jobs=jobs, skip=skip, tolerate=left.take, assistant=steward,
            again=_again(open_dump, client), search_path=search_path, progress=progress,
        )  # fmt: skip
        size = loaded.data_bytes
        left.lines += _broken(loaded)
        seconds = time.monotonic() - began

        def at_rest() -> None:
            rest.extend(quiet_copy(loading.target, loading.superuser))
            provide_amcheck(loading.superuser, loading.name)

        rest: list[str] = []
        steward.finish(at_rest)
    kept = [Line(LineKind.SUPERUSERS_OWNER, f"{_bare(name)} to {role}") for name, role in steward.kept]
    return Rebuilt(loading.target, seconds, size, skipped_lines=(*left.lines, *kept), quieted=tuple(rest))


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
