"""`query`: SQL over the table exports of a set."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backup_pipeline.cli.common import ConfigOption, IdentityOption, JsonOption, console, load, print_json
from backup_pipeline.cli.completion import SetArgument


def query(
    name: SetArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A query; tables are schema.table.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows to show.")] = 100,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds after which it is ended.")] = 300,
    memory: Annotated[int, typer.Option("--memory", min=64, help="Memory for the query (MiB).")] = 1024,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Query a set without restoring it: SQL (DuckDB's) over its Parquet exports.

    Example: `backup-pipeline query nightly/latest "select state, count(*) from public.orders group by state"`
    """
    site = load(config, identity=identity)
    from backup_pipeline.operations.data.query import query_set
    from backup_pipeline.operations.sites.stores import resolve_set

    plan, set_id = resolve_set(site, name)
    answer = query_set(site, plan, set_id, sql, limit=limit, memory_mb=memory, timeout_seconds=timeout)
    if as_json:
        rows: list[dict[str, Any]] = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        print_json({"set": f"{plan}/{set_id}", "columns": answer.columns, "rows": rows, "more": answer.more})
        return
    from rich.markup import escape

    from backup_pipeline.cli.tables import new_table, print_table

    out = console()
    table = new_table("", *(escape(column) for column in answer.columns))
    for row in answer.rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    print_table(out, table)
    if answer.more:
        out.print(f"[dim]more than {limit} rows; --limit shows more[/]")
