"""The command `backup-pipeline`: gathers the commands, each from its own file. Dagster is not imported here."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import re
import sys
from collections.abc import Callable
from functools import partial

# Looking for pydantic's plugins reads the metadata of every installed package: a tenth of what `list` takes.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from backup_pipeline import __version__
from backup_pipeline.cli.common import interrupts_heard, run_app
from backup_pipeline.errors import ExitCode

# Each command or group with its panel in `--help` and its place in this package. Modules import nothing heavy at their
# top; a command is one noun or verb.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("Begin", "init.init"),
    "demo": ("Begin", "demo.demo"),
    "up": ("Begin", "up.up"),
    "backup": ("Back up", "backup.backup"),
    "import": ("Back up", "import_sets.import_sets"),
    "list": ("Inspect", "list_sets.list_sets"),
    "show": ("Inspect", "show_set.show"),
    "find": ("Inspect", "find.find"),
    "verify": ("Prove", "verify.verify"),
    "drill": ("Prove", "drill.drill"),
    "restore": ("Restore", "restore.restore"),
    "undo": ("Restore", "undo.undo"),
    "query": ("Query", "query.query"),
    "diff": ("Query", "diff.diff"),
    "orders": ("Order archive", "orders.group"),
    "cleanup": ("Keep in order", "cleanup.clean_up"),
    "status": ("Inspect", "status.status"),
    "vault": ("Keep in order", "vault.group"),
    "env": ("Keep in order", "env.group"),
    "schedule": ("Keep in order", "schedule.group"),
    "incidents": ("Inspect", "incidents.group"),
    "alerts": ("Keep in order", "alerts.group"),
    "evidence": ("Keep in order", "evidence.group"),
}
# Objects made between two garbage collections. Starting makes several hundred thousand that all stay: searching
# garbage among them as often as Python does of itself takes a tenth of the time of `list`.
_OBJECTS_BETWEEN_COLLECTIONS = 100_000
# The interpreter's own code where what was said could not be written.
_OUTPUT_LOST = 120


_PLAIN = {
    "str": "text",
    "int": "number",
    "float": "number",
    "int range": "number",
    "float range": "number",
    "Path": "path",
}


def _plain_types(options: list[Any]) -> list[Any]:
    """Return options whose help names no types of Python: `<text>`, and a switch takes no value (`--apply <bool>`)."""
    for option in options:
        if getattr(option, "is_flag", False) and option.metavar is None:
            option.metavar = ""
        elif not isinstance(shown := getattr(option, "display_type", None), partial | None):
            option.display_type = partial(_plain_type, shown)
    return options


def _plain_type(shown: Callable[[Any], str], ctx: Any) -> str:
    """Return what `shown` would; values that may be given several times are `<text>…`."""
    several, name = re.fullmatch(r"<?(list\[)?(.*?)\]?>?", shown(ctx)).groups()  # type: ignore[union-attr]
    return f"<{_PLAIN.get(name, name)}>{'…' if several else ''}"


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain_types(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain_types(super().get_params(ctx))


def _plain_switches(app: typer.Typer) -> None:
    for command in app.registered_commands:
        command.cls = _Command
    for group in app.registered_groups:
        group.cls = _Group
        if group.typer_instance:
            _plain_switches(group.typer_instance)


def build_app(only: str | None = None) -> typer.Typer:
    """Return the command line with every command registered, or only one: working out the others takes time."""
    app = typer.Typer(
        name="backup-pipeline",
        cls=_Group,
        help="Backups that are sealed, checked and proven; restores that never destroy.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_show_locals=False,
    )
    app.callback()(_every_command)
    for name in [only] if only else COMMANDS:
        panel, place = COMMANDS[name]
        module, _, attribute = place.partition(".")
        found = getattr(importlib.import_module(f"backup_pipeline.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(found)
    _plain_switches(app)
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
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    code = int(ExitCode.FAILED)
    # Registered first, so called last: after what every library does at an exit.
    atexit.register(lambda: _leave(code))
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        with interrupts_heard():
            code = run_app(build_app(first if first in COMMANDS else None))
    except SystemExit as end:
        # As `--install-completion` and `| head` end.
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    sys.exit(code)


def _leave(code: int) -> None:
    """End the process without taking the interpreter apart.

    A thread of Arrow's that lets go of its last file in that moment would abort the process, after all work was done
    and reported: exit code 134 for a good backup.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            code = code or _OUTPUT_LOST
    os._exit(code)
