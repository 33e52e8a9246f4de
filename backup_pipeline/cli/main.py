"""The command `backup-pipeline`: gathers the commands, each from its own file. Dagster is not imported here."""

from __future__ import annotations

import importlib
import os
import sys

# Looking for pydantic's plugins reads the metadata of every installed package: a tenth of what `list` takes.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from typing import Annotated

import typer

from backup_pipeline import __version__
from backup_pipeline.cli.common import run_app

# Each module has `register(app)`, imports nothing heavy at its top, and is one noun or verb of the command line.
COMMAND_MODULES: tuple[str, ...] = (
    "demo",
    "up",
    "backup",
    "list_sets",
    "show_set",
    "verify",
    "drill",
    "restore",
    "undo",
    "query",
    "diff",
    "orders",
    "cleanup",
    "status",
    "env",
    "alerts",
)


def build_app() -> typer.Typer:
    """Return the command line with every command registered."""
    app = typer.Typer(
        name="backup-pipeline",
        help="Backups that are sealed, checked and proven; restores that never destroy.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_show_locals=False,
    )
    app.callback()(_every_command)
    for name in COMMAND_MODULES:
        importlib.import_module(f"backup_pipeline.cli.{name}").register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"backup-pipeline {__version__}\n")
        raise typer.Exit


def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_app(build_app()))
