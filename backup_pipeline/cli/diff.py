"""`diff`: what changed between two sets, or since a set."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from backup_pipeline.cli.common import (
    ConfigOption,
    IdentityOption,
    JsonOption,
    console,
    load,
    print_json,
    shown_progress,
)
from backup_pipeline.cli.completion import SET_NAMES, complete_set

LIVE = "live"


def diff(
    older: Annotated[
        str,
        typer.Argument(
            metavar="SET1",
            help=f"The older set: {SET_NAMES}",
            autocompletion=complete_set,
        ),
    ],
    newer: Annotated[str, typer.Argument(metavar="SET2", help="The newer set, or `live` for the database as it is.")],
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="Only schema.table; its rows' keys too.")
    ] = None,
    source: Annotated[str, typer.Option("--source", help="The source to compare with, for `live`.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Keys to show.")] = 20,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show rows added, removed and changed per table, between two sets or between a set and the live database.

    Examples: `backup-pipeline diff nightly/2026-11-20T020000Z nightly/latest public.orders` ·
    `backup-pipeline diff nightly/latest live --source supabase`
    """
    site = load(config, identity=identity)
    from backup_pipeline.operations.data import diff as comparing
    from backup_pipeline.operations.sites.embedded import embedded_server_up
    from backup_pipeline.operations.sites.stores import resolve_set
    from backup_pipeline.tables.parquet_queries import QueryResult

    first = resolve_set(site, older)
    keys = QueryResult((), ())
    if newer == LIVE:
        if not source:
            raise typer.BadParameter("name the source to compare with", param_hint="--source")
        with embedded_server_up(site), shown_progress(quiet=as_json) as progress:
            found = comparing.diff_live(site, *first, source, table=table or "", progress=progress)
    else:
        second = resolve_set(site, newer)
        found = comparing.diff_sets(site, first, second, table=table or "")
        if table:
            keys = comparing.differing_keys(site, first, second, table, limit=limit)
    if as_json:
        rows = [dict(zip(keys.columns, row, strict=True)) for row in keys.rows]
        print_json({"tables": [asdict(item) for item in found], "rows": rows, "more": keys.more})
        return
    from rich.markup import escape

    from backup_pipeline.cli.tables import new_table, print_table

    out = console()
    shown = new_table("", "table", ">added", ">removed", ">changed", ">unchanged", "note")
    for item in found:
        figures = (item.added, item.removed, item.changed, item.unchanged)
        reported = ("?" if figure is None else f"{figure:,}" for figure in figures)
        shown.add_row(escape(f"{item.source}.{item.table}"), *reported, escape(item.note))
    print_table(out, shown)
    if not any(item.differs for item in found):
        out.print("no difference")
    if keys.rows:
        listed = new_table("", *(escape(column) for column in keys.columns))
        for row in keys.rows:
            listed.add_row(*(escape(str(value)) for value in row))
        print_table(out, listed)
