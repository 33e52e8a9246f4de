"""The types of artefacts: what each is, what checks it, what inspects, drills and restores it.

A sealed set is read long after its source left backup.yaml, so what is done with an artefact follows from its own type,
as its record says it. Functions are named as `module:function` and imported when the first artefact of the type is met:
a set of folders loads no pyarrow. Other packages bring theirs with their kinds of sources (see `settings.kinds`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import BinaryIO, cast

from backup_pipeline.errors import BackupSystemError, RefusedError
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import DATABASES_CAPTURED, ArtefactKind, ArtefactRecord, ColumnRecord
from backup_pipeline.settings.kinds import external_kinds, load_kind

OpenFile = Callable[[str], BinaryIO]
"""Opens a file of a set by its path."""
Inspection = Callable[[OpenFile, ArtefactRecord], Iterator[Finding]]


@dataclass(frozen=True)
class RestoredFiles:
    """What a restore of files did.

    Attributes:
        target: what was restored.
        kept: where what was there is; empty where nothing was.
        files: number of files that were restored.
        bytes: their size.
        notes: what a person should know: files that had changed while they were captured, links not restored.
    """

    target: Path
    kept: tuple[Path, ...]
    files: int
    bytes: int
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class FilesRestore:
    """A restore of files: from what, and where to.

    Attributes:
        open_file: opens a file of the set.
        record: the artefact that is brought back.
        records: all of its source.
        target: the folder or file; what is there is kept beside it.
        now: names what is kept.
        progress: takes events.
        only: the paths of the only files to bring back; all when empty.
    """

    open_file: OpenFile
    record: ArtefactRecord
    records: Sequence[ArtefactRecord]
    target: Path
    now: datetime
    progress: ProgressSink = no_progress
    only: frozenset[str] = frozenset()


Restore = Callable[[FilesRestore], RestoredFiles]
PrimaryKey = Callable[[OpenFile, ArtefactRecord, str, str], tuple[str, ...]]
Columns = Mapping[tuple[str, str], tuple[ColumnRecord, ...]]
"""The columns of tables, by schema and name."""


@dataclass(frozen=True)
class ArtefactType:
    """One type of artefact.

    Attributes:
        labels: shown at its asset in the UI.
        description: of its asset.
        checks: the names of its checks, as its records have them, and what each says.
        inspect: reads a sealed artefact's files and yields what is wrong with their structure or content; sizes and
            digests are compared before.
        restore: brings it back from its files, compared with its record; "" where it is no file of the source's own.
        drill: the same into an empty place, without keeping what was there.
        contents: gives what lies in its files, as a tree that is browsed (`artefacts.contents.Contents`).
        restore_some: brings back only some of its files; "" where it comes back as a whole.
        rank: of several of one source a restore brings back the one with the lowest.
        restorer: the class that restores, undoes and drills its source as a whole (`artefacts.restorer.Restorer`), as a
            database; "" for files, for which `restore` and `drill` are called.
        is_database: whether a set that holds no row of its source is suspicious.
        primary_key: gives the columns of a table's primary key as the set recorded them, for differences row by row.
        columns: gives the columns of every table as the set recorded them beside the artefact.
        scratch_factor: bytes that a drill takes in the scratch area for each byte of its files.
        sent_whole: whether its files lie on this machine until they are whole and were read again, where a vault is the
            only store; others are sent as they are written.
        unpacked_first: whether its content lies there unpacked besides.
    """

    labels: frozenset[str]
    description: str
    checks: Mapping[str, str]
    inspect: str
    restore: str = ""
    drill: str = ""
    contents: str = ""
    restore_some: str = ""
    rank: int = 0
    restorer: str = ""
    is_database: bool = False
    primary_key: str = ""
    columns: str = ""
    scratch_factor: int = 4
    sent_whole: bool = False
    unpacked_first: bool = False


_NOT_COLLAPSED = {
    "size_not_collapsed": "The size has not fallen, against the last sealed set, by more than the settings allow.",
}
_KEYS_KEPT = {
    "primary_keys_kept": "No table has lost its primary key since the last sealed set (`lost_keys` in the settings).",
}
_NO_DRIFT = {
    "no_schema_drift": "The schema is as in the last sealed set; what was added, changed or removed is in the table.",
}

# Figures of columns are compared in the Parquet file; JSON lines and CSV are counted.
COMPARED_IN_PARQUET = "content_matches_snapshot"

BUILT_IN: Mapping[str, ArtefactType] = {
    ArtefactKind.POSTGRES_DUMP: ArtefactType(
        labels=frozenset({"postgres", "gzip"}),
        description="pg_dump of the whole database, from the run's one snapshot.",
        checks={
            "dump_complete": "The dump has its header, its end marker and every expected table; its stream is whole.",
            "no_foreign_tables": "No selected table is a foreign table, whose rows are on another server and not in "
            "the set.",
            "nothing_beyond_pg_dump": "The database holds nothing that pg_dump cannot write (invalid indexes, "
            "versions of extensions, what was attached to an extension's tables).",
            "restorable_as_written": "No check, generated column, index or materialized view depends on the "
            "database's own search_path, and no view reads itself.",
            **_NOT_COLLAPSED,
            **_NO_DRIFT,
            **_KEYS_KEPT,
        },
        inspect="backup_pipeline.sources.postgres.inspect:inspect_dump",
        restorer="backup_pipeline.sources.postgres.restore:PostgresRestorer",
        is_database=True,
        primary_key="backup_pipeline.sources.postgres.recorded:primary_key",
        columns="backup_pipeline.sources.postgres.recorded:columns",
    ),
    ArtefactKind.POSTGRES_ROLES: ArtefactType(
        labels=frozenset({"postgres", "json"}),
        description="Roles, memberships, grants and extensions, without passwords.",
        checks={},
        inspect="backup_pipeline.sources.postgres.inspect:inspect_roles",
    ),
    ArtefactKind.POSTGRES_DATABASES: ArtefactType(
        labels=frozenset({"postgres", "json"}),
        description="The server's databases, which of them are captured and why the others are not, and its roles "
        "without passwords.",
        checks={
            DATABASES_CAPTURED: "Every database that the settings select is in the set, and every name or pattern of "
            "theirs means one.",
            "databases_as_before": "The server has the databases of the last sealed set; new ones and those that are "
            "gone are named.",
        },
        inspect="backup_pipeline.sources.postgres.server_list:inspect_list",
        scratch_factor=0,
    ),
    ArtefactKind.TABLE_EXPORT: ArtefactType(
        labels=frozenset({"table", "parquet"}),
        description="The table as Parquet with exact types, from the same snapshot as the dump.",
        checks={
            "pandera_schema": "Columns, types, nulls, unique keys and foreign keys are as the catalog and the site's "
            "own schemas say. Failures are named by column, check and count, never by value.",
            COMPARED_IN_PARQUET: "Row count and every column's figures in the written file equal the snapshot's.",
            "row_count_not_collapsed": "The number of rows has not fallen, against the last sealed set, by more than "
            "the settings allow.",
            **_NO_DRIFT,
        },
        inspect="backup_pipeline.sources.postgres.table_export:inspect_table_export",
        scratch_factor=0,
    ),
    ArtefactKind.SQLITE_COPY: ArtefactType(
        labels=frozenset({"sqlite", "gzip"}),
        description="A consistent copy of the SQLite file, compressed.",
        checks={
            "integrity_check": "SQLite's own integrity_check of the copy.",
            "foreign_key_check": "SQLite's own foreign_key_check of the copy.",
            **_NOT_COLLAPSED,
            **_NO_DRIFT,
            **_KEYS_KEPT,
        },
        inspect="backup_pipeline.artefacts.sqlite_copy:inspect_sqlite",
        restore="backup_pipeline.artefacts.sqlite_restore:restore",
        drill="backup_pipeline.artefacts.sqlite_restore:restore",
        rank=3,
        is_database=True,
        sent_whole=True,
        unpacked_first=True,
    ),
    ArtefactKind.FOLDER_TARBALL: ArtefactType(
        labels=frozenset({"folder", "gzip"}),
        description="Every file of the tree with size, time and SHA-256.",
        checks={
            "tarball_complete": "The written archive was read again: every file is there with its size and SHA-256.",
            "folder_stable": "No file changed while it was read.",
            "folder_only_files": "Nothing but files and folders was met; links, sockets and devices are not captured.",
            **_NOT_COLLAPSED,
        },
        inspect="backup_pipeline.sources.folder.capture:inspect_folder",
        restore="backup_pipeline.artefacts.tree_restore:restore",
        drill="backup_pipeline.artefacts.tree_restore:drill",
        contents="backup_pipeline.artefacts.tree_contents:TarballContents",
        restore_some="backup_pipeline.artefacts.tree_restore:restore_some",
        rank=4,
    ),
    ArtefactKind.REPOSITORY_ARCHIVE: ArtefactType(
        labels=frozenset({"git", "zip"}),
        description="The files of HEAD as a ZIP.",
        checks={
            "archive_complete": "The ZIP was read again and equals the tree of HEAD.",
            "everything_committed": "Nothing in the work tree differs from HEAD: what is not committed is not "
            "captured.",
            "no_secrets_tracked": "Git tracks no `.env` file.",
            "no_submodules": "There are no submodules, whose content would not be captured.",
            "no_lfs_pointers": "There are no Git LFS pointers, whose content would not be captured.",
            "history_complete": "The clone is not shallow.",
            "head_exists": "HEAD is at a commit.",
            "one_worktree": "No other worktree shares this repository, whose uncommitted work would not be captured.",
            "all_refs_readable": "Git can read every reference.",
        },
        inspect="backup_pipeline.sources.repository.capture:inspect_repository",
        restore="backup_pipeline.sources.repository.restore:restore",
        drill="backup_pipeline.sources.repository.restore:drill",
        contents="backup_pipeline.artefacts.tree_contents:ZipContents",
        rank=2,
        sent_whole=True,
    ),
    ArtefactKind.REPOSITORY_BUNDLE: ArtefactType(
        labels=frozenset({"git"}),
        description="All branches and tags with their whole history.",
        checks={
            "bundle_verified": "`git bundle verify` and every object behind every branch, tag and stash.",
        },
        inspect="backup_pipeline.sources.repository.capture:inspect_repository",
        restore="backup_pipeline.sources.repository.restore:restore",
        drill="backup_pipeline.sources.repository.restore:drill",
        contents="backup_pipeline.sources.repository.bundle_contents:BundleContents",
        rank=1,
        sent_whole=True,
    ),
    ArtefactKind.ORDER_PAIRS: ArtefactType(
        labels=frozenset({"csv", "json"}),
        description="data.csv and meta.json in every order's folder, beside the order's own file.",
        checks={
            "pairs_written": "Every order of the database has data.csv and meta.json in its folder; those written now "
            "were read again.",
            "pairs_beside_their_files": "The pairs lie where the orders' own files do; it fails where not one does.",
        },
        inspect="backup_pipeline.sources.orders.account:inspect_account",
    ),
}


@cache
def artefact_types() -> Mapping[str, ArtefactType]:
    """Return all types by name; a built-in one is never replaced."""
    found: dict[str, ArtefactType] = {}
    for name in external_kinds():
        found.update(load_kind(name).artefact_types)
    return {**BUILT_IN, **{name: brought for name, brought in found.items() if name not in BUILT_IN}}


def artefact_type(kind: str) -> ArtefactType:
    """Return a type by its name.

    Raises:
        RefusedError: nothing that is installed brings it.
    """
    try:
        return artefact_types()[kind]
    except KeyError:
        raise RefusedError(
            f"Nothing here knows artefacts of type {kind}.",
            where="the set's manifest",
            remedy="Install the package that brings this kind of source.",
        ) from None


def _function(name: str) -> object:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def inspect(open_file: OpenFile, record: ArtefactRecord) -> list[Finding]:
    """Return what is wrong with an artefact's files; an error while reading them is a finding too."""
    found: list[Finding] = []
    subject = record.files[0].path if record.files else record.name
    try:
        inspection = cast(Inspection, _function(artefact_type(record.kind).inspect))
        found.extend(inspection(open_file, record))
    except BackupSystemError as error:
        found.append(Finding(subject=subject, problem=error.what, remedy=error.remedy))
    except Exception as error:  # noqa: BLE001 - a damaged file may make any library fail in any way
        found.append(Finding(subject=subject, problem=f"cannot be read ({type(error).__name__}); it is damaged"))
    return found


def restorable(records: Sequence[ArtefactRecord]) -> ArtefactRecord | None:
    """Return the artefact of one source that a restore of its files brings back; None where it has none."""
    known = [record for record in records if record.files and artefact_type(record.kind).restore]
    return min(known, key=lambda record: artefact_type(record.kind).rank, default=None)


def restore_files(restore: FilesRestore) -> RestoredFiles:
    """Bring an artefact's files back; nothing is changed when anything is wrong.

    Raises:
        ValidationError: the set is not what was captured.
        RefusedError, LockError: the target is in use, or there is no room.
    """
    known = artefact_type(restore.record.kind)
    return cast(Restore, _function(known.restore_some if restore.only else known.restore))(restore)


def drill_files(restore: FilesRestore) -> RestoredFiles | None:
    """Bring an artefact's files into an empty place; None where the type has no files of its own."""
    name = artefact_type(restore.record.kind).drill
    return cast(Restore, _function(name))(restore) if name else None


def recorded_columns(open_file: OpenFile, records: Sequence[ArtefactRecord]) -> Columns:
    """Return the columns of a source's tables as its artefacts have them; empty where none says."""
    for record in records:
        if (known := artefact_types().get(record.kind)) and (name := known.columns):
            return cast("Callable[[OpenFile, ArtefactRecord], Columns]", _function(name))(open_file, record)
    return {}


def primary_key(open_file: OpenFile, records: Sequence[ArtefactRecord], schema: str, table: str) -> tuple[str, ...]:
    """Return the columns of a table's primary key as a source's artefacts have it; empty where none says."""
    for record in records:
        if (known := artefact_types().get(record.kind)) and (name := known.primary_key):
            return cast(PrimaryKey, _function(name))(open_file, record, schema, table)
    return ()
