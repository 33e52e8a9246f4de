"""`show`: everything that is known of one set."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backup_pipeline.cli.common import (
    ConfigOption,
    ElsewhereOption,
    IdentityOption,
    JsonOption,
    console,
    load,
    print_json,
)
from backup_pipeline.cli.completion import SetArgument
from backup_pipeline.cli.formatting import age_text
from backup_pipeline.cli.paragraphs import print_hanging
from backup_pipeline.cli.tables import new_table, print_table
from backup_pipeline.rules.quantities import bytes_text, figure_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from backup_pipeline.model.command_record import CommandRecord
    from backup_pipeline.model.proof import Proof
    from backup_pipeline.model.record import ArtefactRecord, CheckResult
    from backup_pipeline.operations.status.listing import ShownSet
    from backup_pipeline.settings.site import Site


_ROWS_SHOWN = 20


def show(
    name: SetArgument,
    store: ElsewhereOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one set: per artefact its size, rows, time, checks and SHA-256; then what failed, and the proofs.

    Of a copy in a vault (`VAULT:PLAN/SET`) that needs the identity; without it, what stands in plain is shown.
    """
    from backup_pipeline.operations.status.listing import artefact_dict, show_set

    site = load(config, store, identity)
    if _only_in_plain(site, name):
        _show_plain(site, name, as_json=as_json)
        return
    found = show_set(site, name)
    now = datetime.now(UTC)
    if as_json:
        print_json(
            {
                **found.as_dict(now),
                "artefacts": [artefact_dict(record) for record in found.known.records],
                "commands": [each.model_dump(mode="json") for each in found.known.manifest.commands]
                if found.known.manifest
                else [],
                "proofs": [proof.model_dump(mode="json") for proof in found.known.proofs],
            }
        )
        return
    _print(found, now)


def _only_in_plain(site: Site, name: str) -> bool:
    vault, colon, _ = name.partition(":")
    if not colon or vault not in site.settings.vaults:
        return False
    from backup_pipeline.operations.status.vault_listing import has_identity

    return not has_identity(site, vault)


def _show_plain(site: Site, name: str, *, as_json: bool) -> None:
    from backup_pipeline.operations.sites.stores import open_store
    from backup_pipeline.operations.status.vault_listing import find_plain

    found = find_plain(site, name)
    if as_json:
        print_json({**asdict(found), "encrypted": True})
        return
    out = console()
    copied = f", copied {age_text(datetime.now(UTC) - found.copied_at)} ago" if found.copied_at else ""
    out.print(f"{name}: copy {found.copy} of set {found.set_id}{copied}", markup=False)
    out.print(
        f"{bytes_text(found.stored_size)} in the vault, "
        f"{'proven by a drill from there' if found.proven else 'no drill from the vault has passed'}",
        markup=False,
    )
    out.print(
        "Its artefacts, rows and checks are encrypted: --identity FILE, or VAULT_IDENTITY_FILE, shows them.",
        markup=False,
    )
    plan = found.plan
    if plan in site.settings.plans and found.set_id in open_store(site, plan).sealed_ids():
        out.print(f"This machine knows the set too: backup-pipeline show {plan}/{found.set_id}", markup=False)


def _print(found: ShownSet, now: datetime) -> None:
    out = console()
    _print_head(out, found, now)
    _print_artefacts(out, found.known.records)
    for record in found.known.records:
        for check in record.checks:
            if not check.passed:
                _print_check(out, record.name, check)
    for command in found.known.manifest.commands if found.known.manifest else ():
        _print_command(out, command)
    _print_faults(out, found)
    for proof in found.known.proofs:
        _print_proof(out, proof)


def _print_head(out: Console, found: ShownSet, now: datetime) -> None:
    from rich.markup import escape

    from backup_pipeline.model.record import facts_text

    known, manifest = found.known, found.known.manifest
    out.print(f"[bold]{found.name}[/]  {found.state}{', partial' if found.partial else ''}")
    out.print(f"  started {known.started_at:%Y-%m-%d %H:%M:%S} UTC, {age_text(now - known.started_at)} ago")
    if manifest:
        seconds = (manifest.sealed_at - manifest.started_at).total_seconds()
        # An imported set began long before there was this program.
        after = "imported" if any(record.imported for record in known.records) else f"after {seconds:.0f} s"
        out.print(f"  sealed  {manifest.sealed_at:%Y-%m-%d %H:%M:%S} UTC, {after}")
        if manifest.environment:
            out.print(f"  from    {escape(manifest.environment)}")
        out.print(f"  run     {manifest.run_id or '–'}, backup-pipeline {manifest.pipeline_version}")
    out.print(f"  {bytes_text(known.size)}, {found.rows:,} rows, {len(known.records)} artefacts")
    for source, facts in known.facts.items():
        print_hanging(out, f"  {escape(source)}: ", escape(facts_text(facts)))
    _print_origin(out, known.records)
    out.print("")


def _print_origin(out: Console, records: Sequence[ArtefactRecord]) -> None:
    """Say of an imported set where it comes from, and what nobody knows of it."""
    from rich.markup import escape

    for record in records:
        if (origin := record.imported) is None or "path" not in origin or "form" not in origin:
            continue
        zone = origin.get("time_zone_assumed")
        time = f"{origin.get('time')} by the {origin.get('time_from')}" + (f", read as {zone}" if zone else "")
        out.print(f"  {record.source}: [yellow]imported[/] from {escape(str(origin['path']))}", soft_wrap=True)
        print_hanging(out, "    ", f"{escape(str(origin['form']))}, made {escape(time)}")
        unknown = origin.get("unknown")
        for each in unknown if isinstance(unknown, list) else ():
            print_hanging(out, "    [dim]not known:[/] ", f"[dim]{escape(str(each))}[/]")


def _print_artefacts(out: Console, records: Sequence[ArtefactRecord]) -> None:
    from rich.markup import escape

    table = new_table("", "artefact", ">size", ">rows", ">time", "checks", "sha-256", wrapping="artefact")
    for record in records:
        table.add_row(
            escape(record.name),
            bytes_text(record.size),
            f"{record.rows:,}" if record.rows is not None else "",
            f"{(record.finished_at - record.started_at).total_seconds():.1f} s",
            _checks(record),
            f"[dim]{record.files[0].sha256[:12]}[/]" if record.files else "",
        )
    print_table(out, table, expendable=("sha-256", "time", "checks", "rows"))


def _print_check(out: Console, artefact: str, check: CheckResult) -> None:
    from rich.markup import escape

    style = "red" if check.severity.value == "ERROR" else "yellow"
    text = f"{artefact}: {check.name}: {check.summary}"
    print_hanging(out, f"[{style}]{check.severity.value.lower()}[/] ", escape(text))
    for row in check.table[:_ROWS_SHOWN]:
        cells = ", ".join(f"{name} {value}" for name, value in row.items() if value not in ("", None))
        print_hanging(out, "        ", f"[dim]{escape(cells)}[/]")
    if len(check.table) > _ROWS_SHOWN:
        out.print(f"        [dim]… and {len(check.table) - _ROWS_SHOWN} more: show --json[/]")


def _print_command(out: Console, command: CommandRecord) -> None:
    outcome = "ended at its limit" if command.exit_code is None else f"exit code {command.exit_code}"
    seconds = (command.finished_at - command.started_at).total_seconds()
    out.print(f"{command.when}: {' '.join(command.command)}: {outcome}, {seconds:.1f} s", markup=False)
    for line in command.output.splitlines()[-5:]:
        out.print(f"  {line}", markup=False)


def _print_faults(out: Console, found: ShownSet) -> None:
    from rich.markup import escape

    for failure in found.known.failures:
        print_hanging(out, "[red]missing[/] ", f"{escape('.'.join(failure.key))}: {escape(failure.what)}")
        if failure.remedy:
            print_hanging(out, "        [dim]→[/] ", f"[dim]{escape(failure.remedy)}[/]")
    if found.missing:
        print_hanging(out, "[red]damaged[/] ", f"not whole any more: {escape(found.missing)}")
    if found.known.problem:
        print_hanging(out, "[red]damaged[/] ", escape(found.known.problem))


def _print_proof(out: Console, proof: Proof) -> None:
    from rich.markup import escape

    style = {"passed": "green", "failed": "red"}.get(proof.outcome.value, "yellow")
    what = f"[{style}]{proof.outcome.value}[/]"
    numbers = ", ".join(figure_text(name, value) for name, value in proof.numbers.items())
    out.print(f"{proof.kind.value} {what} {proof.finished_at:%Y-%m-%d %H:%M} UTC")
    print_hanging(out, "  ", f"[dim]{escape(numbers)}[/]")
    for finding in proof.findings:
        print_hanging(out, "  ", f"{escape(finding.subject)}: {escape(finding.problem)}")
    for missing in proof.missing_here:
        print_hanging(out, "  ", f"{escape(missing.subject)}: {escape(missing.problem)}")
        print_hanging(out, "    [dim]→[/] ", f"[dim]{escape(missing.remedy)}[/]")


def _checks(record: ArtefactRecord) -> str:
    failed = sum(not check.passed for check in record.checks)
    return f"{len(record.checks) - failed} passed" + (f", [red]{failed} failed[/]" if failed else "")
