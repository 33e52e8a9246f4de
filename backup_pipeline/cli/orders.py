"""`orders export`, `orders verify`, `orders restore`, `orders undo`: a workshop's archive from the shell."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backup_pipeline.cli.common import (
    DryRunOption,
    JsonOption,
    console,
    exit_with,
    print_json,
    shown_progress,
)
from backup_pipeline.cli.formatting import visible
from backup_pipeline.errors import BackupSystemError, ExitCode, SettingsError

if TYPE_CHECKING:
    from backup_pipeline.sources.orders.format.order import Findings
    from backup_pipeline.sources.orders.source import OrdersPlace

PlanOption = Annotated[str | None, typer.Option("--plan", help="Plan whose orders are meant.")]
SourceOption = Annotated[str | None, typer.Option("--source", help="Source of kind orders, where there are several.")]
DatabaseOption = Annotated[
    Path | None, typer.Option("--db", help="SQLite file with the table auftraege, instead of backup.yaml's.")
]
DsnOption = Annotated[
    str | None, typer.Option("--dsn-env", help="Variable with the connection string of a PostgreSQL database.")
]
OrdersConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="backup.yaml or its folder, or an .archiv_config.json (default: BACKUP_PIPELINE_CONFIG, else what of them "
        "is in this folder).",
    ),
]
ArchiveOption = Annotated[
    Path | None, typer.Option("--archive", help="Folder of the archive, instead of backup.yaml's.")
]
WaitOption = Annotated[
    float | None, typer.Option("--wait", help="Seconds to wait for another process (default: the source's, 30).")
]
YearOption = Annotated[
    list[str] | None,
    typer.Option(
        "--year", help="Only orders of this year, `unknown` for those without one; may be given several times."
    ),
]
_SHOWN = 50


group = typer.Typer(help="A workshop's order archive: every folder carries its own backup.", no_args_is_help=True)


def _place(
    config: Path | None, plan: str | None, source: str | None, db: Path | None, dsn: str | None, archive: Path | None
) -> OrdersPlace:
    import os

    from backup_pipeline.sources.orders.source import place_named

    value = os.environ.get(dsn, "").strip() if dsn else ""
    return place_named(config, plan=plan, source=source, database=db, archive=archive, dsn_env=dsn, dsn=value)


def _years(years: list[str] | None) -> frozenset[str] | None:
    if not years:
        return None
    for year in years:
        if year != "unknown" and not (year.isdigit() and len(year) == 4):
            raise SettingsError(f"{year!r} is not a year.", where="--year", remedy="Write four digits, as in 2024.")
    return frozenset(years)


def _log_to_stderr() -> None:
    """Send log lines to standard error in the form that users of the archive know."""
    import sys

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return visible(super().format(record))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines("%(asctime)s - %(name)s - %(levelname)s - %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("orders")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _show(findings: Findings) -> None:
    if not findings.kept:
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("level", "kind", "path", "reason", box=None, header_style="bold")
    for finding in sorted(findings.kept, key=lambda f: (f.level, f.kind, f.path))[:_SHOWN]:
        colour = "red" if finding.level == "error" else "yellow"
        table.add_row(f"[{colour}]{finding.level}[/]", finding.kind, escape(finding.path), escape(finding.reason))
    out = console()
    out.print(table)
    more = findings.errors + findings.warnings - min(len(findings.kept), _SHOWN)
    if more:
        out.print(f"… and {more} more; --json lists them.")


def _report(result: Any, *, as_json: bool, where: str) -> None:
    if as_json:
        print_json({"archive": where, **result.as_dict()})
        return
    _show(result.findings)
    for note in getattr(result, "notes", ()):
        console().print(note, markup=False)
    console().print(result.summary(), markup=False)


@group.command()
def export(
    config: OrdersConfigOption = None,
    plan: PlanOption = None,
    source: SourceOption = None,
    year: YearOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Write every order, changed or not.")] = False,
    sync: Annotated[
        bool,
        typer.Option("--sync/--no-sync", help="Wait for the disk; without it a power cut can lose the last files."),
    ] = True,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    db: DatabaseOption = None,
    dsn_env: DsnOption = None,
    archive: ArchiveOption = None,
    wait: WaitOption = None,
) -> None:
    """Write the database's orders into their folders: data.csv and meta.json, only what changed.

    `backup-pipeline orders export --db werkstatt.db --archive Archiv --year 2024` needs no backup.yaml.
    """
    from backup_pipeline.sources.orders.export import ExportOptions, export_orders
    from backup_pipeline.sources.orders.source import open_orders, orders_log

    _log_to_stderr()
    place = _place(config, plan, source, db, dsn_env, archive)
    options = ExportOptions(
        years=_years(year),
        rewrite=everything,
        durable=sync,
        dry_run=dry_run,
        lock_wait_seconds=place.lock_wait_seconds if wait is None else wait,
    )
    with orders_log(place) as log, open_orders(place) as snapshot, shown_progress(quiet=as_json) as progress:
        result = export_orders(snapshot, place.archive, options, progress=progress, log=log)
    _report(result, as_json=as_json, where=str(place.archive))
    if not result.ok:
        exit_with(ExitCode.STORE if result.stopped else ExitCode.FAILED)


@group.command()
def verify(
    config: OrdersConfigOption = None,
    plan: PlanOption = None,
    source: SourceOption = None,
    year: YearOption = None,
    without_database: Annotated[
        bool, typer.Option("--without-database", help="Read the archive alone, even if a database is named.")
    ] = False,
    as_json: JsonOption = False,
    db: DatabaseOption = None,
    dsn_env: DsnOption = None,
    archive: ArchiveOption = None,
    wait: WaitOption = None,
) -> None:
    """Read every order's folder and say what is wrong with it, and what is missing.

    Ends with exit code 6 when there is an error; warnings alone end with 0.
    """
    from contextlib import nullcontext

    from backup_pipeline.sources.orders.source import log_findings, open_orders, orders_log
    from backup_pipeline.sources.orders.verify import VerifyOptions, verify_orders

    _log_to_stderr()
    place = _place(config, plan, source, db, dsn_env, archive)
    options = VerifyOptions(years=_years(year), lock_wait_seconds=place.lock_wait_seconds if wait is None else wait)
    absent = isinstance(place.database, Path) and not place.database.exists()
    # Nobody named this database: it is where an archive usually has one.
    assumed = archive is not None and db is None and absent
    rows = nullcontext() if without_database or place.database is None or assumed else open_orders(place)
    with rows as snapshot, shown_progress(quiet=as_json) as progress, orders_log(place) as log:
        result = verify_orders(place.archive, snapshot, options, progress=progress)
        log_findings(log, result)
    if assumed and not without_database:
        logging.getLogger("orders.verify").info("%s is not there; nothing is compared with it", place.database)
    _report(result, as_json=as_json, where=str(place.archive))
    if not result.ok:
        exit_with(ExitCode.CHECKS)


@group.command()
def restore(
    config: OrdersConfigOption = None,
    plan: PlanOption = None,
    source: SourceOption = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Go on without folders that are damaged or missing, and say so.")
    ] = False,
    skip_deleted: Annotated[
        bool, typer.Option("--skip-deleted", help="Skip orders whose row was deleted before the last export.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    db: DatabaseOption = None,
    dsn_env: DsnOption = None,
    archive: ArchiveOption = None,
    wait: WaitOption = None,
) -> None:
    """Rebuild the table auftraege from the folders beside the old database and swap it in; `orders undo` swaps back."""
    from backup_pipeline.sources.orders.restore import ArchiveIncompleteError, OrdersRestoreOptions, restore_orders
    from backup_pipeline.sources.orders.source import log_findings, orders_log, time_limit

    _log_to_stderr()
    place = _place(config, plan, source, db, dsn_env, archive)
    options = OrdersRestoreOptions(
        skip_invalid=skip_invalid,
        skip_deleted=skip_deleted,
        dry_run=dry_run,
        lock_wait_seconds=place.lock_wait_seconds if wait is None else wait,
    )
    target = place.need_database()
    logging.getLogger("orders.restore").info("from %s into %s", place.archive, place.label)
    try:
        with shown_progress(quiet=as_json) as progress, orders_log(place) as log:
            try:
                with time_limit(place, "The restore of the orders"):
                    result = restore_orders(place.archive, target, options, progress=progress)
            except ArchiveIncompleteError as error:
                log_findings(log, error.result)
                raise
            log_findings(log, result)
    except ArchiveIncompleteError as error:
        if as_json:
            print_json({"archive": str(place.archive), **error.result.as_dict(), "error": error.as_dict()})
            _only_on_stderr(error)
            exit_with(error.exit_code)
        _show(error.result.findings)
        raise
    _report(result, as_json=as_json, where=str(place.archive))


def _only_on_stderr(error: BackupSystemError) -> None:
    import sys

    sys.stderr.write(visible(f"{error}\n"))


@group.command()
def undo(
    config: OrdersConfigOption = None,
    plan: PlanOption = None,
    source: SourceOption = None,
    as_json: JsonOption = False,
    db: DatabaseOption = None,
    dsn_env: DsnOption = None,
    archive: ArchiveOption = None,
) -> None:
    """Take back the newest restore: the old database stands in its place again, the restored one is kept."""
    from backup_pipeline.sources.orders.restore import undo_restore
    from backup_pipeline.sources.orders.source import time_limit

    if db is not None and archive is None:
        # The archive has no part in an undo.
        archive = db.parent
    place = _place(config, plan, source, db, dsn_env, archive)
    with time_limit(place, "Taking the restore back"):
        reported = undo_restore(place.need_database(), lock_wait_seconds=place.lock_wait_seconds)
    if as_json:
        print_json({"undone": True, "told": reported})
    else:
        console().print(reported, markup=False)
