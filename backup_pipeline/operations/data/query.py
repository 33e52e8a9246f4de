"""SQL over the Parquet exports of a sealed set, without restoring anything."""

from __future__ import annotations

import re
from pathlib import Path

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.table_files import TableFiles, sealed
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.settings.site import Site
from backup_pipeline.system.scratch_folders import scratch_folder
from backup_pipeline.tables.parquet_queries import QueryResult, ViewName
from backup_pipeline.tables.query_process import MEMORY_MB, TIMEOUT_SECONDS, ask_apart

_SCRATCH = "backup-pipeline-tables-"


def query_set(
    site: Site,
    plan_name: str,
    set_id: SetId,
    query: str,
    *,
    limit: int | None = None,
    memory_mb: int = MEMORY_MB,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> QueryResult:
    """Run a query over a set's table exports.

    Args:
        site: the site.
        plan_name: the plan, or `VAULT:PLAN`: then only the files of tables that the query names come down.
        set_id: a sealed set.
        query: SQL of DuckDB; tables are `source.schema.table`; `schema.table` means the first source's, or the only
            one's that has such a table.
        limit: rows to return at most.
        memory_mb: memory (MiB) that the query may take before it is spilled or refused.
        timeout_seconds: after that the query is ended.

    Raises:
        RefusedError: the set has no Parquet exports, or the query is empty, changes something, is not understood or
            goes beyond a limit.
        ToolError: DuckDB is not installed.
    """
    with reading(site, plan_name, set_id, "query") as store, scratch_folder(_SCRATCH) as folder:
        files = TableFiles(store, sealed(store, set_id), folder)
        if not files.paths:
            raise RefusedError(
                "The set has no table exports in Parquet.",
                where=f"{plan_name}/{set_id}",
                remedy="Add parquet to `tables: {formats: …}` of the source; the next set has them.",
            )
        return ask_apart(
            _needed(files, query), query, limit=limit, memory_mb=memory_mb, timeout_seconds=timeout_seconds
        )


def _needed(files: TableFiles, query: str) -> dict[ViewName, Path]:
    """Return the files that a query may read: all where they are at hand, else those of tables that it names.

    A query that names none asks what tables there are, and needs no rows.
    """
    if files.are_here:
        return {name: files.path(name) for name in files.paths}
    named = [name for name in files.paths if _names(query, name[2])]
    if named:
        return {name: files.path(name) for name in named}
    return {name: files.empty(name) for name in files.paths}


def _names(query: str, table: str) -> bool:
    return any(
        re.search(rf"(?<!\w){re.escape(written)}(?!\w)", query, re.IGNORECASE)
        for written in (table, table.replace('"', '""'))
    )
