"""`restore`: a plan to read first, and its application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from backup_pipeline.cli.common import (
    ConfigOption,
    IdentityOption,
    JsonOption,
    config_argument,
    console,
    exit_with,
    load,
    print_json,
    shown_progress,
)
from backup_pipeline.cli.completion import SetArgument
from backup_pipeline.errors import ExitCode, RefusedError

if TYPE_CHECKING:
    from backup_pipeline.model.restore import RestoreOptions, RestorePlan, RestoreResult, RowComparison, TableChange


def restore(
    name: SetArgument,
    source: Annotated[str, typer.Argument(help="The source to restore.")],
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what would happen (the default).")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Do what the plan says.")] = False,
    plan_id: Annotated[str, typer.Option("--plan-id", help="The id that the plan printed.", show_default=False)] = "",
    confirm: Annotated[
        str, typer.Option("--confirm", help="The name of the database (or file) to restore.", show_default=False)
    ] = "",
    into: Annotated[
        str, typer.Option("--into", help="Restore into a new database (or path) of this name; swap nothing.")
    ] = "",
    upsert: Annotated[bool, typer.Option("--upsert", help="Bring rows back into the existing database.")] = False,
    tables: Annotated[
        list[str] | None, typer.Option("--tables", help="Upsert: only these tables (`schema.table`, * and ?).")
    ] = None,
    only: Annotated[str, typer.Option("--only", help="Upsert: only `master` or only `transaction` tables.")] = "",
    rows: Annotated[
        list[str] | None, typer.Option("--rows", help="Upsert: only these rows, as in 'public.orders: id in (1, 2)'.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Upsert: rows by one column, without SQL: 'public.orders: id in 7, 8'."),
    ] = None,
    files: Annotated[
        list[str] | None, typer.Option("--file", help="Of a folder: only this file, or all below this folder.")
    ] = None,
    on_conflict: Annotated[
        str, typer.Option("--on-conflict", help="Upsert: who wins where rows differ: backup, keep, newer.")
    ] = "backup",
    newer_column: Annotated[
        str, typer.Option("--newer-column", help="Upsert: the time column that `newer` compares.")
    ] = "updated_at",
    insert_absent: Annotated[
        bool, typer.Option("--insert-absent", help="Upsert: tables without primary key get the rows they lack.")
    ] = False,
    without_triggers: Annotated[
        bool, typer.Option("--without-triggers", help="Upsert: the tables' own triggers do not fire.")
    ] = False,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Upsert: skip tables that cannot take rows, with a warning.")
    ] = False,
    create_roles: Annotated[
        bool, typer.Option("--create-roles", help="Make missing roles, without login, instead of refusing.")
    ] = False,
    careful: Annotated[bool, typer.Option("--careful", help="Load through one psql session.")] = False,
    no_emergency: Annotated[
        bool,
        typer.Option("--skip-emergency-backup", help="Rebuild only: what is live is too damaged to be captured."),
    ] = False,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Restore from a set that was never sealed.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=0, max=64, help="Connections (0: by the cores).")] = 0,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore one source of a set. Without --apply a plan is shown and nothing is changed.

    A rebuild makes a new database beside the live one, compares it with the backup row by row, makes an emergency
    backup of what is live, and swaps the two names; the old database stays for `undo`. An upsert brings rows back into
    the live database in one transaction.

    Examples: `backup-pipeline restore nightly/latest supabase` ·
    `backup-pipeline restore nightly/latest supabase --apply --plan-id 4f1c… --confirm postgres` ·
    `backup-pipeline restore nightly/latest supabase --upsert --rows 'public.orders: id in (7, 8, 9)'`
    """
    if plan_only and apply:
        raise typer.BadParameter("give one of --plan and --apply", param_hint="--apply")
    site = load(config, identity=identity)
    from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore
    from backup_pipeline.operations.restore.shell import reported
    from backup_pipeline.operations.sites.embedded import embedded_server_up
    from backup_pipeline.operations.sites.stores import resolve_set

    plan_name, set_id = resolve_set(site, name)
    options = _options(
        mode="upsert" if upsert else "rebuild",
        into=into,
        tables=tuple(tables or ()),
        only=only or None,
        rows=tuple(rows or ()),
        where=_comparisons(where or []),
        files=tuple(files or ()),
        on_conflict=on_conflict,
        newer_column=newer_column,
        insert_absent=insert_absent,
        without_triggers=without_triggers,
        skip_refused=skip_refused,
        create_roles=create_roles,
        careful=careful,
        skip_emergency_backup=no_emergency,
        allow_incomplete=allow_incomplete,
        jobs=jobs,
    )
    if not upsert and (tables or only or rows or where or insert_absent or without_triggers or skip_refused):
        raise typer.BadParameter("tables and rows are named for an upsert only", param_hint="--upsert")
    if apply and not (plan_id and confirm):
        raise RefusedError(
            "Applying needs the id of the plan that was read, and the target's name.",
            where="--apply",
            remedy=f"backup-pipeline restore {plan_name}/{set_id} {source} shows both.",
        )
    with embedded_server_up(site), shown_progress(quiet=as_json) as progress:
        found: RestorePlan | RestoreResult
        if apply:
            confirmation = Confirmation(plan_id, confirm)
            with reported(site, plan_name, source, "apply", set_id):
                found = apply_restore(
                    site, plan_name, set_id, source, options, confirmation=confirmation, progress=progress
                )
        else:
            found = plan_restore(site, plan_name, set_id, source, options, progress=progress)
    _report(found, as_json=as_json)


def _comparisons(texts: list[str]) -> list[RowComparison]:
    from backup_pipeline.rules.row_comparisons import parse_comparison

    return [parse_comparison(text) for text in texts]


def _report(found: RestorePlan | RestoreResult, *, as_json: bool) -> None:
    from backup_pipeline.model.restore import RestorePlan

    if as_json:
        print_json(found.model_dump(mode="json"))
    elif isinstance(found, RestorePlan):
        _print_plan(found)
    else:
        _print_result(found)
    if isinstance(found, RestorePlan) and found.reasons_against:
        exit_with(ExitCode.REFUSED)


def _options(**values: Any) -> RestoreOptions:
    from pydantic import ValidationError

    from backup_pipeline.model.restore import RestoreOptions

    try:
        return RestoreOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise typer.BadParameter(str(first["msg"]), param_hint=option) from None


def _print_plan(plan: RestorePlan) -> None:
    from rich.markup import escape

    from backup_pipeline.rules.quantities import bytes_text

    out = console()
    out.print(f"[bold]Plan {plan.plan_id}[/]: {plan.options.mode} of {plan.source} from {plan.plan}/{plan.set_id}")
    out.print(f"  target   {escape(plan.target)}{'' if plan.exists else ' (does not exist)'}")
    if plan.server_version:
        out.print(f"  versions server {plan.server_version}, backup of {plan.backup_version}")
    if plan.bytes_needed is not None:
        free = f" of {bytes_text(plan.bytes_free)} free" if plan.bytes_free is not None else ""
        out.print(f"  disk     about {bytes_text(plan.bytes_needed)}{free}")
    if plan.seconds is not None:
        out.print(f"  time     about {plan.seconds:.0f} s")
    for name, missing in (("roles", plan.missing_roles), ("extensions", plan.missing_extensions)):
        if missing:
            out.print(f"  missing  {name}: {escape(', '.join(missing))}")
    _print_tables(plan.tables)
    for number, step in enumerate(plan.steps, 1):
        out.print(f"  {number}. {escape(step)}")
    for warning in plan.warnings:
        out.print(f"  [yellow]note[/] {escape(warning)}")
    for reason in plan.reasons_against:
        out.print(f"  [red]cannot be applied[/]: {escape(reason)}")
    if not plan.reasons_against:
        out.print("\nNothing was changed. To do this, repeat the command with:")
        out.print(f"  --apply --plan-id {plan.plan_id} --confirm {escape(plan.confirm)}", soft_wrap=True)


def _print_tables(tables: tuple[TableChange, ...]) -> None:
    from rich.markup import escape

    from backup_pipeline.cli.tables import new_table, print_table

    if not tables:
        return
    table = new_table("", "table", ">insert", ">update", ">kept", ">unchanged", ">only in target", "note")
    for change in tables:
        figures = (change.insert, change.update, change.kept, change.unchanged, change.only_in_target)
        reported = ("?" if figure is None else f"{figure:,}" for figure in figures)
        table.add_row(escape(change.table), *reported, escape(change.note))
    print_table(console(), table)


def _print_result(result: RestoreResult) -> None:
    from rich.markup import escape

    from backup_pipeline.rules.quantities import figure_text

    out = console()
    out.print(f"[bold green]restored[/] {result.source} from {result.plan}/{result.set_id}: {escape(result.target)}")
    _print_tables(result.tables)
    for name, value in result.numbers.items():
        out.print(f"  {figure_text(name, value)}")
    if result.emergency_set:
        out.print(f"  emergency set: {result.plan}/{result.emergency_set}")
    for warning in result.warnings:
        out.print(f"  [yellow]note[/] {escape(warning)}")
    if result.undo.kind == "none":
        out.print(f"  to take it back: {escape(result.undo.remedy)}")
    else:
        out.print(f"  to take it back: backup-pipeline undo {result.plan}/{result.source}{config_argument()}")
