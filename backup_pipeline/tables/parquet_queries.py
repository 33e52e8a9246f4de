"""SQL of ours over Parquet files with DuckDB (optional extra `query`), in memory, reading nothing but the named folder.

Which files belong to which table is reported by the caller. No set and no manifest is known here. What a person asks is
`tables.query_process`'s work: DuckDB's allowed folders permit writing too.
"""

# ruff: noqa: S608 - every name goes through quoted(), every path is a literal of ours
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backup_pipeline.errors import RefusedError, ToolError, ValidationError

# (database, schema, table): the database is the source's name.
ViewName = tuple[str, str, str]


@dataclass(frozen=True)
class QueryResult:
    """The rows of a query, as Python values, with the columns' names; `more` when rows were left off."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool = False


def quoted(name: str) -> str:
    """Return an identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def parquet_views(files: Mapping[ViewName, Path], folders: Sequence[Path]) -> Iterator[Any]:
    """Open a DuckDB connection with a view for each table; it reaches `folders` and nothing else.

    The first source is the default one, so that `schema.table` means its table.

    Raises:
        ToolError: DuckDB is not installed. ValidationError: a file is no Parquet file; it is named.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ToolError(
            "DuckDB is not installed.", where="duckdb", remedy="pip install 'backup-pipeline[query]'"
        ) from error
    with duckdb.connect(":memory:") as connection:
        for number, database in enumerate(dict.fromkeys(name[0] for name in files)):
            connection.execute(f"attach ':memory:' as {quoted(database)}")
            for schema in dict.fromkeys(name[1] for name in files if name[0] == database):
                connection.execute(f"create schema if not exists {quoted(database)}.{quoted(schema)}")
            if number == 0:
                connection.execute(f"use {quoted(database)}")
        for (database, schema, table), path in files.items():
            literal = "'" + str(path).replace("'", "''") + "'"
            view = f"{quoted(database)}.{quoted(schema)}.{quoted(table)}"
            try:
                connection.execute(f"create view {view} as select * from read_parquet({literal})")
            except duckdb.Error as error:
                raise ValidationError(
                    "The table export is missing or damaged.",
                    where=str(path),
                    remedy="backup-pipeline verify says what else is wrong with the set; take another one.",
                ) from error
        connection.execute("set allowed_directories = $folders", {"folders": [str(folder) for folder in folders]})
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        yield connection


def ask(connection: Any, query: str, limit: int | None = None) -> QueryResult:
    """Run one query of ours and return up to `limit` rows; RefusedError with DuckDB's reason when it fails."""
    import duckdb

    try:
        result = connection.execute(query)
        columns = tuple(column[0] for column in result.description or ())
        rows = result.fetchall() if limit is None else result.fetchmany(limit + 1)
    except duckdb.Error as error:
        raise RefusedError(
            f"The query failed: {str(error).strip().splitlines()[0]}",
            where="query",
            remedy="Tables are named schema.table or source.schema.table; `show all tables` lists them.",
        ) from error
    more = limit is not None and len(rows) > limit
    return QueryResult(columns, tuple(tuple(row) for row in rows[:limit]), more)
