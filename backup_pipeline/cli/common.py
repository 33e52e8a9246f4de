"""Shared parts of commands: the site, text or JSON output, progress, errors with their exit codes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backup_pipeline.cli.formatting import visible
from backup_pipeline.errors import BackupSystemError, ExitCode
from backup_pipeline.redaction import redacting_hook

if TYPE_CHECKING:
    from rich.console import Console

    from backup_pipeline.model.progress import ProgressSink
    from backup_pipeline.settings.site import Site

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="backup.yaml or its folder (default: BACKUP_PIPELINE_CONFIG, ./backup.yaml)."),
]
ElsewhereOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="FOLDER", help="Read FOLDER instead, where `backup --store` wrote to."),
]
IdentityOption = Annotated[
    Path | None,
    typer.Option(
        "--identity", metavar="FILE", help="For sets in a vault: file with the identity (or VAULT_IDENTITY_FILE)."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts instead of text.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done and change nothing.")]


_INTERRUPTED_IN_DAGSTER = "DagsterExecutionInterruptedError"
# Typer carries a copy of click of its own in some releases, so the base class is asked for rather than imported.
_UsageProblem: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def load(config: Path | None, elsewhere: Path | None = None, identity: Path | None = None) -> Site:
    """Return the site of a command; SettingsError with every fault of its file.

    Args:
        config: backup.yaml or its folder.
        elsewhere: folder of the stores instead of those of the settings.
        identity: file with the identity that sets in a vault are read with.
    """
    from backup_pipeline.settings.loader import load_site

    _given[:] = [config] if config else []
    site = load_site(config)
    if site.settings.state_env:
        from backup_pipeline.operations.sites.shared_knowledge import with_shared_knowledge

        site = with_shared_knowledge(site)
    if identity is not None:
        from backup_pipeline.operations.sites.vaults import with_identity

        site = with_identity(site, identity)
    if elsewhere is None:
        return site
    from backup_pipeline.operations.sites.stores import site_at

    return site_at(site, elsewhere)


_given: list[Path] = []


def config_argument() -> str:
    """Return ` --config …` as a next step must have it: what was given to this command, "" when nothing was."""
    import shlex

    return f" --config {shlex.quote(str(_given[-1]))}" if _given else ""


def console(*, stderr: bool = False) -> Console:
    """Return the terminal to print to: plain where it is no terminal."""
    from backup_pipeline.cli.terminal import Terminal

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    # No terminal: tables are as wide as they need to be, so that no cell is cut.
    return Terminal(
        stderr=stderr, highlight=False, emoji=False, soft_wrap=not terminal, width=None if terminal else 240
    )


def heading(text: str) -> None:
    """Head what follows on standard error: a rule in a terminal, one plain line elsewhere."""
    out = console(stderr=True)
    if out.is_terminal:
        out.rule(text, align="left")
    else:
        out.print(f"== {text}", markup=False)


def print_json(document: Any) -> None:
    """Print one JSON document to standard output; values of the model are written as their JSON form."""

    def plain(value: Any) -> Any:
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        return str(value)

    sys.stdout.write(visible(json.dumps(document, indent=2, default=plain, ensure_ascii=False)) + "\n")


def exit_with(code: ExitCode) -> None:
    """End the command with this exit code."""
    raise typer.Exit(int(code))


def run_app(app: Callable[..., Any], arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors of the family are reported once, on standard error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        outcome = app(args=arguments, standalone_mode=False)
    except BackupSystemError as error:
        _report(error, as_json="--json" in arguments)
        # Clean-up after a signal may fail in its turn; the command ended because of the signal.
        return _interrupted() if _signalled() else int(error.exit_code)
    except KeyboardInterrupt:
        return _interrupted()
    except typer.Abort:
        sys.stderr.write("Aborted.\n")
        return int(ExitCode.INTERRUPTED)
    except _UsageProblem as error:
        error.show()  # type: ignore[attr-defined]
        return int(ExitCode.USAGE)
    except BaseException as error:
        # Dagster has an exception of its own for an interrupt, and it is not imported here.
        if type(error).__name__ == _INTERRUPTED_IN_DAGSTER:
            return _interrupted()
        # A fault of the program, whose traceback may repeat what a server said.
        sys.excepthook = redacting_hook(sys.excepthook)
        raise
    if outcome == int(ExitCode.INTERRUPTED):
        # What Typer makes of Ctrl-C, without a message.
        return _interrupted()
    return outcome if isinstance(outcome, int) else 0


def _signalled() -> bool:
    from backup_pipeline.system.limits import received_signal

    return received_signal() != 0


def _interrupted() -> int:
    """Say in one line that the command was stopped, and return the code of the signal that stopped it."""
    from backup_pipeline.system.limits import received_signal

    terminated = received_signal() == signal.SIGTERM
    sys.stderr.write("Terminated.\n" if terminated else "Interrupted.\n")
    return int(ExitCode.TERMINATED if terminated else ExitCode.INTERRUPTED)


@contextmanager
def interrupts_heard() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, with everything that it began cleaned up."""
    from backup_pipeline.system.limits import watching_signals

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with watching_signals():
        yield


def _report(error: BackupSystemError, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": error.as_dict()})
    out = console(stderr=True)
    where = f"{error.where}: " if error.where else ""
    out.print(f"[bold red]error[/] {_escape(where + error.what)}")
    if error.remedy:
        same = f" (with{config_argument()}, as here)" if _given and "backup-pipeline " in error.remedy else ""
        out.print(f"[bold]remedy[/] {_escape(error.remedy + same)}")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextmanager
def shown_progress(*, quiet: bool = False) -> Iterator[ProgressSink]:
    """Give a sink that draws progress bars on a terminal's standard error, and nothing elsewhere."""
    from backup_pipeline.model.progress import no_progress

    if quiet or not sys.stderr.isatty():
        yield no_progress
        return
    from backup_pipeline.cli.progress_bars import progress_bars

    with progress_bars(console(stderr=True)) as show:
        yield show
