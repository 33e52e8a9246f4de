"""The asset checks of captured artefacts: their names as the records have them, and what each looks at.

What a check does stands with the artefact (`artefacts`, `rules`); a check of a record that is not named here is shown
as an event.
"""

from collections.abc import Mapping

from backup_pipeline.model.record import ArtefactKind

TABLES_KNOWN = "tables_all_known"
TABLES_KNOWN_DESCRIPTION = "Every exported table was known when the definitions were loaded, and is still there."

# Figures of columns are compared in the Parquet file; JSON lines and CSV are counted.
COMPARED_IN_PARQUET = "content_matches_snapshot"

_NOT_COLLAPSED = {
    "size_not_collapsed": "The size has not fallen, against the last sealed set, by more than the settings allow.",
}
_KEYS_KEPT = {
    "primary_keys_kept": "No table has lost its primary key since the last sealed set (`lost_keys` in the settings).",
}
_NO_DRIFT = {
    "no_schema_drift": "The schema is as in the last sealed set; what was added, changed or removed is in the table.",
}

CHECKS: Mapping[ArtefactKind, Mapping[str, str]] = {
    ArtefactKind.POSTGRES_DUMP: {
        "dump_complete": "The dump has its header, its end marker and every expected table; its stream is whole.",
        "no_foreign_tables": "No selected table is a foreign table, whose rows are on another server and not in the "
        "set.",
        "nothing_beyond_pg_dump": "The database holds nothing that pg_dump cannot write (invalid indexes, versions of "
        "extensions, what was attached to an extension's tables).",
        "restorable_as_written": "No check, generated column, index or materialized view depends on the database's "
        "own search_path, and no view reads itself.",
        **_NOT_COLLAPSED,
        **_NO_DRIFT,
        **_KEYS_KEPT,
    },
    ArtefactKind.POSTGRES_ROLES: {},
    ArtefactKind.TABLE_EXPORT: {
        "pandera_schema": "Columns, types, nulls, unique keys and foreign keys are as the catalog and the site's own "
        "schemas say. Failures are named by column, check and count, never by value.",
        COMPARED_IN_PARQUET: "Row count and every column's figures in the written file equal the snapshot's.",
        "row_count_not_collapsed": "The number of rows has not fallen, against the last sealed set, by more than the "
        "settings allow.",
        **_NO_DRIFT,
    },
    ArtefactKind.SQLITE_COPY: {
        "integrity_check": "SQLite's own integrity_check of the copy.",
        "foreign_key_check": "SQLite's own foreign_key_check of the copy.",
        **_NOT_COLLAPSED,
        **_NO_DRIFT,
        **_KEYS_KEPT,
    },
    ArtefactKind.FOLDER_TARBALL: {
        "tarball_complete": "The written archive was read again: every file is there with its size and SHA-256.",
        "folder_stable": "No file changed while it was read.",
        "folder_only_files": "Nothing but files and folders was met; links, sockets and devices are not captured.",
        **_NOT_COLLAPSED,
    },
    ArtefactKind.REPOSITORY_ARCHIVE: {
        "archive_complete": "The ZIP was read again and equals the tree of HEAD.",
        "everything_committed": "Nothing in the work tree differs from HEAD: what is not committed is not captured.",
        "no_secrets_tracked": "Git tracks no `.env` file.",
        "no_submodules": "There are no submodules, whose content would not be captured.",
        "no_lfs_pointers": "There are no Git LFS pointers, whose content would not be captured.",
        "history_complete": "The clone is not shallow.",
        "head_exists": "HEAD is at a commit.",
        "one_worktree": "No other worktree shares this repository, whose uncommitted work would not be captured.",
        "all_refs_readable": "Git can read every reference.",
    },
    ArtefactKind.ORDER_PAIRS: {
        "pairs_written": "Every order of the database has data.csv and meta.json in its folder; those written now were "
        "read again.",
        "pairs_beside_their_files": "The pairs lie where the orders' own files do; it fails where not one does.",
    },
    ArtefactKind.REPOSITORY_BUNDLE: {
        "bundle_verified": "`git bundle verify` and every object behind every branch, tag and stash.",
    },
}

# By format: what is checked beside the above when tables are exported in it.
EXPORTED_AS: Mapping[str, Mapping[str, str]] = {
    "jsonl": {"json_lines_match_snapshot": "There are as many JSON lines as rows in the snapshot."},
    "json": {"json_rows_match_snapshot": "There are as many objects in the JSON array as rows in the snapshot."},
    "csv": {"csv_rows_match_snapshot": "There are as many rows in the CSV file as in the snapshot."},
}
