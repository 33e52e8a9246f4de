"""`undo`: takes the newest restore of a source back, or removes on purpose what restores have kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import ConfigOption, JsonOption, config_argument, console, load, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from backup_pipeline.model.restore import RestoreResult


def undo(
    name: Annotated[str, typer.Argument(metavar="PLAN/SOURCE", help="Plan and source of the restore.")],
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this it is only shown.")] = False,
    confirm: Annotated[str, typer.Option("--confirm", help="The name of what is live.", show_default=False)] = "",
    drop_kept: Annotated[
        bool, typer.Option("--drop-kept", help="Remove the databases that restores have kept instead; no way back.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take the newest restore of a source back: what was live before is live again, what was restored is kept aside.

    Examples: `backup-pipeline undo nightly/supabase` ·
    `backup-pipeline undo nightly/supabase --apply --confirm postgres`
    """
    plan_name, slash, source = name.partition("/")
    if not slash:
        raise typer.BadParameter("write it as PLAN/SOURCE", param_hint="PLAN/SOURCE")
    site = load(config)
    site.plan(plan_name)
    from backup_pipeline.operations.restore import undo as undoing
    from backup_pipeline.operations.restore.shell import reported
    from backup_pipeline.operations.sites.embedded import embedded_server_up

    out = console()
    with embedded_server_up(site):
        if drop_kept:
            names = undoing.drop_kept(site, plan_name, source, confirm=confirm)
            if as_json:
                print_json({"dropped": list(names)})
            else:
                out.print(f"dropped: {', '.join(names) or 'nothing'}", markup=False)
            return
        if not apply:
            result = undoing.plan_undo(site, plan_name, source)
        else:
            with reported(site, plan_name, source, "undo"):
                result = undoing.undo_restore(site, plan_name, source, confirm=confirm)
    if as_json:
        print_json({"undone": apply, "restore": result.model_dump(mode="json")})
    elif apply:
        _print_undone(out, result)
    else:
        before = (
            f"the rows that it wrote into {result.undo.live} get their values from the set made just before "
            f"({result.emergency_set}), those that it added go, and rows that were written again since stay as they are"
            if result.undo.kind == "rows"
            else f"{result.undo.kept} becomes {result.undo.live} again, what is live now is put aside"
            if result.undo.kept
            else f"nothing was live before it, so {result.undo.live} is put aside and nothing is live"
        )
        out.print(
            f"The restore {result.restore_id} of {result.target} (set {result.set_id}) would be taken back: {before}.",
            markup=False,
        )
        out.print(
            f"Nothing was changed. To do it: backup-pipeline undo {name} --apply --confirm {result.undo.live}"
            f"{config_argument()}",
            markup=False,
        )


def _print_undone(out: Console, result: RestoreResult) -> None:
    from rich.markup import escape

    if result.undo.kind != "rows":
        out.print(f"[bold green]undone[/]: {escape(result.undo.live)} is what it was before {result.restore_id}")
        return
    numbers = result.numbers
    out.print(
        f"[bold green]undone[/]: of the rows that {result.restore_id} wrote into {escape(result.undo.live)}, "
        f"{numbers['rows_put_back']:,} have their values from before again, {numbers['rows_removed']:,} are gone again"
    )
    for warning in result.warnings:
        out.print(f"  [yellow]note[/] {escape(warning)}")
