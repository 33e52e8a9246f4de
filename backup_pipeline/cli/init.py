"""`init`: the settings of a first site from what is there, its first backup, and the proof of it."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backup_pipeline.cli.common import DryRunOption, JsonOption, console, load, print_json, shown_progress
from backup_pipeline.cli.tables import new_table, print_table
from backup_pipeline.errors import ExitCode, RefusedError, SettingsError

if TYPE_CHECKING:
    from backup_pipeline.operations.first_site.found import Discovery
    from backup_pipeline.settings.site import Site

_NOTHING = (
    "Name what is to be backed up: --dsn FILE (a file with a connection string, - for standard input), --dsn-env NAME, "
    "or --add PATH (a SQLite file, a git repository, a folder). backup-pipeline demo shows a whole site."
)
_SHOWN = 8


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new site, made where it is missing.")] = Path(),
    dsn: Annotated[
        list[str] | None,
        typer.Option("--dsn", metavar="FILE", help="File with a connection string; - for standard input. Repeatable."),
    ] = None,
    dsn_env: Annotated[
        list[str] | None,
        typer.Option("--dsn-env", metavar="NAME", help="Variable (also of .env) with a connection string. Repeatable."),
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option("--add", metavar="PATH", help="A SQLite file, a git repository or a folder. Repeatable."),
    ] = None,
    all_databases: Annotated[
        bool, typer.Option("--all-databases", help="All databases of a named server, not only the one named.")
    ] = False,
    backup: Annotated[
        bool, typer.Option("--backup/--no-backup", help="Make the first backup and prove it, or only write the files.")
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Begin: find what is here, write backup.yaml, its schema and `.env`, make the first backup and prove it.

    Found are databases whose connection strings stand in `.env`, or those of the servers of this machine, SQLite files,
    git repositories, and folders such as `uploads`. Connection strings go into `.env` (mode 0600) and nowhere else;
    none is given as an argument. Nothing is overwritten: where backup.yaml exists, as after an interrupted `init`, it
    stays, and what is still missing is done, the first backup or its proof.

    Examples: `backup-pipeline init` · `backup-pipeline init --dsn dsn.txt` ·
    `backup-pipeline init site --dsn-env DATABASE_URL --yes --json`
    """
    from backup_pipeline.settings.loader import DEFAULT_NAME

    folder = folder.absolute()
    document: dict[str, Any] = {"site": str(folder), "dry_run": dry_run}
    if not os.path.lexists(folder / DEFAULT_NAME):
        findings = _found(folder, dsn or [], dsn_env or [], add or [], all_databases=all_databases)
        if not as_json:
            _print_findings(findings)
        _confirm(folder, yes=yes or dry_run, as_json=as_json)
        document |= _write(folder, findings, dry_run=dry_run, as_json=as_json)
    elif not as_json:
        console().print(f"{folder / DEFAULT_NAME} exists and stays as it is.", markup=False, soft_wrap=True)
        _print_not_added(folder, add or [])
    code = 0
    if not dry_run and backup:
        code = _begin(load(folder), document, as_json=as_json)
    if as_json:
        print_json({**document, "exit_code": code})
    elif not dry_run:
        _print_next(folder, _only_in_this_shell(folder))
    raise typer.Exit(code)


def _found(folder: Path, dsn: list[str], dsn_env: list[str], add: list[Path], *, all_databases: bool) -> Discovery:
    from backup_pipeline.operations.first_site.discover import Named, discover

    named = Named([_read_dsn(one) for one in dsn], dsn_env, add, all_databases)
    findings = discover(folder, named, os.environ)
    if not findings.sources:
        skipped = "; ".join(f"{what} {why}" for what, why in findings.passed_over[:_SHOWN])
        raise SettingsError(
            "Nothing that can be backed up was found here" + (f" ({skipped})." if skipped else "."),
            where=str(folder),
            remedy=_NOTHING,
        )
    return findings


def _read_dsn(place: str) -> str:
    """Return the connection string of a file or of standard input; its first line that is not empty."""
    if "://" in place or "=" in place:
        # Arguments are skipped by every user of the machine, and kept by shells.
        raise SettingsError(
            "A connection string is not given as an argument, where every user of this machine can read it.",
            where="--dsn",
            remedy="Put it into a file and name that, or give it on standard input: --dsn - (then paste it, Enter).",
        )
    try:
        if place == "-" and sys.stdin.isatty():
            text = str(typer.prompt("Connection string", hide_input=True))
        else:
            text = sys.stdin.read() if place == "-" else Path(place).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"Cannot be read: {why}.", where=f"--dsn {place}", remedy="Name a file with it.") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SettingsError("There is no connection string in it.", where=f"--dsn {place}", remedy="Name another file.")
    return lines[0]


def _print_findings(findings: Discovery) -> None:
    from rich.markup import escape

    out = console()
    table = new_table("", "source", "what was found", wrapping="what was found")
    for source in findings.sources:
        table.add_row(escape(source.name), escape(source.label))
    print_table(out, table)
    for what, why in findings.passed_over[:_SHOWN]:
        out.print(f"[dim]not taken: {escape(what)}: {escape(why)}[/]")
    if len(findings.passed_over) > _SHOWN:
        out.print(f"[dim]and {len(findings.passed_over) - _SHOWN} more: --dry-run --json lists them[/]")


def _print_not_added(folder: Path, add: list[Path]) -> None:
    """Name what was to be added to settings that stay as they are, with the lines that add it."""
    from backup_pipeline.operations.first_site.discover import not_yet_sources

    for source in not_yet_sources(load(folder), add):
        lines = json.dumps({"kind": source.kind, **source.settings})
        out = console()
        out.print(f"{source.label} is no source yet. Write below `sources:`, and its name into a plan:", style="yellow")
        out.print(f"  {source.name}: {lines}", markup=False, soft_wrap=True)


def _confirm(folder: Path, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise RefusedError(
            "Nobody can be asked here.", where=f"init {folder}", remedy="Add --yes, or --dry-run to see what is found."
        )
    typer.confirm("Write backup.yaml for these, back them up now and prove it?", default=True, abort=True)


def _write(folder: Path, findings: Discovery, *, dry_run: bool, as_json: bool) -> dict[str, Any]:
    from backup_pipeline.operations.environment.check_machine import readable_by_others
    from backup_pipeline.operations.first_site.discover import timezone_here
    from backup_pipeline.operations.first_site.write import write_site
    from backup_pipeline.settings.loader import ENV_NAME
    from backup_pipeline.system.files import make_folders

    if not dry_run and not folder.is_dir():
        make_folders(folder, 0o700)
    zone = timezone_here(os.environ)
    written = write_site(folder, findings.sources, zone, datetime.now(UTC), dry_run=dry_run)
    if not as_json:
        for file in written.files:
            console().print(f"{file} {'would be ' if dry_run else ''}written", markup=False, soft_wrap=True)
    env = folder / ENV_NAME
    warnings = [f"{env} is readable by others: chmod 600 {env}"] if readable_by_others(env) else []
    if not as_json:
        for warning in warnings:
            console().print(warning, style="yellow", markup=False, soft_wrap=True)
    return {
        "sources": [{"name": s.name, "kind": s.kind, "label": s.label, **s.settings} for s in findings.sources],
        "not_taken": [{"what": what, "why": why} for what, why in findings.passed_over],
        "written": [str(file) for file in written.files],
        "former": str(written.former) if written.former else None,
        "warnings": warnings,
    }


def _begin(site: Site, document: dict[str, Any], *, as_json: bool) -> int:
    """Make the first backup of every plan that has none, and prove the newest where none is proven; the exit code."""
    from backup_pipeline.cli.backup import run_plan
    from backup_pipeline.operations.sites.embedded import embedded_server_up
    from backup_pipeline.operations.sites.stores import is_whole_backup, open_store

    document["backups"], document["proofs"] = [], []
    with embedded_server_up(site):
        for plan in site.settings.plans:
            whole = [known for known in open_store(site, plan).sets() if is_whole_backup(known)]
            if not whole:
                done = run_plan(site, plan, as_json=as_json)
                document["backups"].append(done)
                if done["exit_code"]:
                    return int(done["exit_code"])
            if not any(known.proven for known in whole) and (code := _prove(site, plan, document, as_json=as_json)):
                return code
    return 0


def _prove(site: Site, plan: str, document: dict[str, Any], *, as_json: bool) -> int:
    from backup_pipeline.cli.verify import as_document, print_proof
    from backup_pipeline.model.proof import ProofOutcome
    from backup_pipeline.operations.proof.drill import drill_set
    from backup_pipeline.operations.sites.stores import resolve_set

    _, set_id = resolve_set(site, f"{plan}/latest")
    with shown_progress(quiet=as_json) as progress:
        proof = drill_set(site, plan, set_id, progress=progress)
    document["proofs"].append(as_document(proof))
    if not as_json:
        print_proof(proof)
    if proof.passed:
        return 0
    return int(ExitCode.NOT_DRILLABLE if proof.outcome is ProofOutcome.NOT_HERE else ExitCode.CHECKS)


def _only_in_this_shell(folder: Path) -> list[str]:
    """Return the variables that are set here and not in `.env`: cron and systemd will not have them."""
    from backup_pipeline.settings.loader import ENV_NAME
    from backup_pipeline.settings.variables import named_variables, read_env_file

    in_file = read_env_file(folder / ENV_NAME)
    return [name for name in named_variables(load(folder).settings) if name in os.environ and name not in in_file]


def _print_next(folder: Path, only_here: list[str]) -> None:
    import shlex

    same = "" if folder == Path.cwd() else f" --config {shlex.quote(str(folder))}"
    out = console()
    out.print("\nNext:")
    for command, why in (
        (f"backup-pipeline status{same}", "are we safe?"),
        (f"backup-pipeline schedule install{same}", "every night by itself"),
        (f"backup-pipeline up{same}", "the page in the browser"),
    ):
        out.print(f"  {command}   [dim]{why}[/]", soft_wrap=True)
    if only_here:
        out.print(f"[yellow]{', '.join(only_here)}[/] is set in this shell only: a schedule needs it in .env, too.")
    if (folder / ".git").exists():
        out.print("[dim]This folder is a git repository: have .env and backups/ in its .gitignore.[/]")
