"""A person's SQL over Parquet files, in a process of its own: `python -m backup_pipeline.tables.query_process`.

DuckDB's allowed folders permit writing as well as reading, so no folder is allowed: Arrow reads the named files, DuckDB
sees tables, and its access to files, extensions and settings is off before the first word of the query is parsed. The
process is limited by the system too, since a single value may take more than DuckDB's own limit of memory.

A pickled question comes on standard input, a pickled answer leaves on standard output. Not decided here: which files
belong to which table.
"""

# ruff: noqa: S608 - every name goes through quoted()
from __future__ import annotations

import contextlib
import importlib.util
import io
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backup_pipeline.errors import BackupSystemError, RefusedError, ToolError, ValidationError
from backup_pipeline.system.processes import last_lines, run
from backup_pipeline.system.scratch_folders import scratch_folder
from backup_pipeline.tables.parquet_queries import QueryResult, ViewName, quoted

MEMORY_MB = 1024
TIMEOUT_SECONDS = 300.0
_OWN_MEMORY_MB = 1024
"""What the program, Arrow's read-ahead and the answer may take beside DuckDB's own limit."""
_SPILL = "4GB"
_SHOWN = 10
_EXAMPLE = "Tables are named schema.table or source.schema.table; `show all tables` lists them."
_READING = ("SELECT", "EXPLAIN", "MULTI")  # MULTI: a PIVOT, which is a type and a query
_VALUES = {
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "time"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("decimal", "Decimal"),
    ("uuid", "UUID"),
    ("pytz", "_UTC"),
    ("pytz", "_p"),
    ("zoneinfo", "ZoneInfo"),
    ("backup_pipeline.tables.parquet_queries", "QueryResult"),
    ("backup_pipeline.errors", "_rebuild"),
    ("backup_pipeline.errors", "RefusedError"),
    ("backup_pipeline.errors", "ToolError"),
    ("backup_pipeline.errors", "ValidationError"),
}


@dataclass(frozen=True)
class Question:
    """What is asked; `spill` is a folder for what does not fit into `memory_mb` (MiB)."""

    files: dict[ViewName, str]
    query: str
    limit: int | None
    memory_mb: int
    spill: str


class _Values(pickle.Unpickler):
    """What comes back was made from foreign files: plain values and our own errors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _VALUES:
            raise pickle.UnpicklingError(f"{module}.{name} is no value")
        return super().find_class(module, name)


def ask_apart(
    files: Mapping[ViewName, Path],
    query: str,
    *,
    limit: int | None = None,
    memory_mb: int = MEMORY_MB,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> QueryResult:
    """Run one reading query over Parquet files and return up to `limit` rows.

    Args:
        files: queried as source.schema.table; as schema.table too in the first source, and where only one has it.
        query: one statement of DuckDB's SQL.
        limit: rows to return at most.
        memory_mb: memory (MiB) that DuckDB may take; what does not fit is spilled to a private temporary folder.
        timeout_seconds: after that the query is ended.

    Raises:
        RefusedError: empty, several statements, not a reading one, not understood, or beyond a limit.
        ValidationError: a file is no Parquet file; it is named.
        ToolError: DuckDB is not installed.
    """
    if importlib.util.find_spec("duckdb") is None:
        raise ToolError("DuckDB is not installed.", where="duckdb", remedy="pip install 'backup-pipeline[query]'")
    with scratch_folder("backup-pipeline-query-") as spill:
        question = Question(
            {name: str(path) for name, path in files.items()}, query, limit, memory_mb, str(spill / "spilled")
        )
        try:
            done = run(
                [sys.executable, "-m", "backup_pipeline.tables.query_process"],
                stdin=pickle.dumps(question),
                check=False,
                timeout=timeout_seconds,
            )
        except ToolError as error:
            if not isinstance(error.__cause__, subprocess.TimeoutExpired):
                raise
            raise RefusedError(
                f"The query had not ended after {timeout_seconds:g} seconds.",
                where="query",
                remedy="Ask for less, or give it longer: --timeout SECONDS.",
            ) from error
    try:
        reply = _Values(io.BytesIO(done.stdout)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError) as error:
        raise RefusedError(
            f"The query's process ended early: {last_lines(done.stderr)}.",
            where="query",
            remedy=f"It needs more than {memory_mb} MiB, most likely: ask for less, or --memory MIB.",
        ) from error
    if isinstance(reply, BackupSystemError):
        raise reply
    assert isinstance(reply, QueryResult)
    return reply


def _limit_memory(question: Question) -> None:
    """Let the system refuse what DuckDB does not count: a value of gigabytes that one function makes."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        most = (question.memory_mb + _OWN_MEMORY_MB) << 20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _tables(connection: Any, files: Mapping[ViewName, str]) -> None:
    import pyarrow as pa
    import pyarrow.dataset as ds

    known: set[str] = set()
    for number, ((database, schema, table), path) in enumerate(files.items()):
        try:
            data = ds.dataset(path, format="parquet")
        except (OSError, pa.ArrowException) as error:
            raise ValidationError(
                "The table export is missing or damaged.",
                where=path,
                remedy="backup-pipeline verify says what else is wrong with the set; take another one.",
            ) from error
        fields = [
            # DuckDB has no decimals of more than 38 digits.
            field.with_type(pa.float64()) if pa.types.is_decimal256(field.type) else field
            for field in data.schema
        ]
        data = data.replace_schema(pa.schema(fields))
        if database not in known:
            connection.execute(f"attach ':memory:' as {quoted(database)}")
            if not known:
                connection.execute(f"use {quoted(database)}")
            known.add(database)
        connection.register(f"__file_{number}", data)
        for place in _places(database, schema, table, files):
            connection.execute(f"create schema if not exists {quoted(place)}.{quoted(schema)}")
            view = f"{quoted(place)}.{quoted(schema)}.{quoted(table)}"
            connection.execute(f"create view {view} as select * from temp.main.__file_{number}")


def _places(database: str, schema: str, table: str, files: Mapping[ViewName, str]) -> list[str]:
    """Return the databases that show a table: its own source's, and the default one where no other source has it."""
    first = next(iter(files))[0]
    others = [name for name in files if name[1:] == (schema, table)]
    return [database] if database == first or len(others) > 1 else [database, first]


def _candidates(question: Question) -> str:
    """Return how the set's tables are called whose bare names stand in the query; "" when there is none."""
    named = [
        ".".join(quoted(part) if not re.fullmatch(r"[a-z_][a-z0-9_]*", part) else part for part in name)
        for name in question.files
        if re.search(rf"(?<!\w){re.escape(name[2])}(?!\w)", question.query, re.IGNORECASE)
    ]
    shown = ", ".join(named[:_SHOWN]) + (", …" if len(named) > _SHOWN else "")
    return f"This set has {shown}. " if named else ""


def _locked(connection: Any, question: Question) -> None:
    for setting, value in (
        ("memory_limit", f"{question.memory_mb}MiB"),
        ("temp_directory", question.spill),
        ("max_temp_directory_size", _SPILL),
        ("python_enable_replacements", False),
        ("autoinstall_known_extensions", False),
        ("autoload_known_extensions", False),
        ("allow_community_extensions", False),
        ("enable_external_access", False),
        ("lock_configuration", True),
    ):
        connection.execute(f"set {setting} = $value", {"value": value})


def _refused(what: str, remedy: str = _EXAMPLE) -> RefusedError:
    return RefusedError(what, where="query", remedy=remedy)


def _statement(connection: Any, query: str) -> Any:
    try:
        statements = connection.extract_statements(query)
    except TypeError as error:
        raise _refused("The query failed: it is not valid text (UTF-8).") from error
    if not statements:
        raise _refused("The query is empty.", f'Give one, as in "select count(*) from public.orders". {_EXAMPLE}')
    if len(statements) > 1:
        raise _refused(f"These are {len(statements)} statements.", "Give them one by one.")
    kind = statements[0].type.name
    if kind not in _READING:
        raise _refused(
            f"The query failed: {kind} is no reading statement, and a set is never changed.",
            "Use SELECT, WITH, FROM, VALUES, PIVOT, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN.",
        )
    return statements[0]


def answer(question: Question) -> QueryResult:
    """Answer in this process, without the limits of the system; errors as in `ask_apart`."""
    import duckdb

    try:
        with duckdb.connect(":memory:") as connection:
            _tables(connection, question.files)
            _locked(connection, question)
            result = connection.execute(_statement(connection, question.query))
            columns = tuple(column[0] for column in result.description or ())
            rows = result.fetchall() if question.limit is None else result.fetchmany(question.limit + 1)
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise _refused(
            f"The query needs more memory than its limit of {question.memory_mb} MiB.",
            "Ask for less (fewer columns, fewer groups), or give it more: --memory MIB.",
        ) from error
    except (duckdb.Error, UnicodeError) as error:
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        missing = isinstance(error, duckdb.CatalogException | duckdb.BinderException)
        raise _refused(f"The query failed: {what}", (_candidates(question) if missing else "") + _EXAMPLE) from error
    more = question.limit is not None and len(rows) > question.limit
    return QueryResult(columns, tuple(tuple(row) for row in rows[: question.limit]), more)


def main() -> None:
    """Answer the one question on standard input."""
    question = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
    _limit_memory(question)
    reply: QueryResult | BackupSystemError
    try:
        reply = answer(question)
    except BackupSystemError as error:
        reply = error
    sys.stdout.buffer.write(pickle.dumps(reply))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    # The pickled classes are those of the module as it is imported elsewhere, not of `__main__`.
    from backup_pipeline.tables.query_process import main as imported_main

    imported_main()
