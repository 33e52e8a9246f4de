"""SQL over the Parquet exports of a sealed set, without restoring anything."""

from __future__ import annotations

from pathlib import Path

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.record import ArtefactKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.retention.in_use import in_use
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.tables.parquet_queries import Answer, ViewName
from backup_pipeline.tables.query_process import MEMORY_MB, TIMEOUT_SECONDS, ask_apart


def query_set(
    site: Site,
    plan_name: str,
    set_id: SetId,
    query: str,
    *,
    limit: int | None = None,
    memory_mb: int = MEMORY_MB,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Answer:
    """Run a query over a set's table exports.

    Args:
        site: the site.
        plan_name: the plan.
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
    store = open_store(site, plan_name)
    with in_use(store, set_id, "query"):
        files = _files(store, set_id)
        return ask_apart(files, query, limit=limit, memory_mb=memory_mb, timeout_seconds=timeout_seconds)


def _files(store: LocalStore, set_id: SetId) -> dict[ViewName, Path]:
    files = parquet_files(store, sealed(store, set_id))
    if not files:
        raise RefusedError(
            "The set has no table exports in Parquet.",
            where=f"{store.plan}/{set_id}",
            remedy="Add parquet to `tables: {formats: …}` of the source; the next set has them.",
        )
    return files


def sealed(store: LocalStore, set_id: SetId) -> BackupSet:
    """Return a set; RefusedError when it is not sealed."""
    known = store.read(set_id)
    if known.manifest is None:
        raise RefusedError(f"The set is {known.state}.", where=f"{known.plan}/{set_id}", remedy="Choose a sealed set.")
    return known


def parquet_files(store: LocalStore, known: BackupSet) -> dict[ViewName, Path]:
    """Return (source, schema, table) → Parquet file of every table export of a set."""
    found: dict[ViewName, Path] = {}
    for record in known.records:
        if record.kind is not ArtefactKind.TABLE_EXPORT or len(record.key) != 3:
            continue
        for file in record.files:
            if file.path.endswith(".parquet"):
                found[record.key[0], record.key[1], record.key[2]] = store.path_of(known.set_id, file.path)
    return found
