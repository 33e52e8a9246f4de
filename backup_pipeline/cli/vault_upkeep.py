"""`vault clean`, `kit`, `recipients`, `reencrypt`: keeping a vault in order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from backup_pipeline.cli.common import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    console,
    exit_with,
    load,
    print_json,
    shown_progress,
)
from backup_pipeline.errors import ExitCode
from backup_pipeline.rules.quantities import bytes_text

VaultArgument = Annotated[str, typer.Argument(metavar="VAULT", help="The vault's name in backup.yaml.")]
IdentityOption = Annotated[
    Path | None, typer.Option("--identity", metavar="FILE", help="File with the identity (AGE-SECRET-KEY-1…).")
]


def clean(
    vault: VaultArgument, config: ConfigOption = None, dry_run: DryRunOption = False, as_json: JsonOption = False
) -> None:
    """Mark the copies that retention lets go, and remove those marked 72 hours ago or earlier, with their chunks.

    Every copy of the plans with `copies` in this vault is listed with the reason for which it stays or goes. The last
    good and the last proven copy stay; nothing goes while the newest is bad (8). What the storage forbids to delete
    stays, and is named with the end of its lock. Two cleaners never work at once (4).
    """
    from datetime import UTC, datetime

    from backup_pipeline.cli.copies_report import cleaning_document, print_cleaning
    from backup_pipeline.operations.copies.retention import clean_copies

    site = load(config)
    with shown_progress(quiet=as_json) as progress:
        result = clean_copies(site, vault, datetime.now(UTC), dry_run=dry_run, progress=progress)
    if as_json:
        print_json({"dry_run": dry_run, **cleaning_document(result)})
    else:
        print_cleaning(result, dry_run=dry_run)
    if any(one.verdict.held for one in result.plans):
        exit_with(ExitCode.REFUSED)


def kit(
    vault: VaultArgument,
    identity: IdentityOption = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page to print to FILE (0600).")] = None,
    config: ConfigOption = None,
) -> None:
    """Print the page for the safe: what, where, the identity as text and QR code, the three commands.

    Run it where the identity is. Whoever reads the page reads every copy: print it, then remove the file.

    Examples: `backup-pipeline vault kit offsite --identity /media/stick/identity.txt --html kit.html`
    """
    from backup_pipeline.operations.copies.kit import kit_as_html, kit_as_text, make_kit, note_printed, write_kit

    site = load(config)
    made = make_kit(site, vault, identity)
    if html is None:
        sys.stdout.write(kit_as_text(made))
    else:
        write_kit(html, kit_as_html(made))
        console().print(f"Print {html}, put it into a safe, and remove the file.", markup=False)
    note_printed(site, made)


def keys(
    vault: VaultArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the keys are written to (0600).")],
    config: ConfigOption = None,
) -> None:
    """Write what this machine needs to write to a vault into FILE, for workers whose own folders do not last.

    Give it to them as the variable that `keys_env` of the vault names, or a file that `<that>_FILE` names. It decrypts
    nothing; whoever has it can add copies that count as this site's.
    """
    from backup_pipeline.operations.copies.vaults import write_keys

    write_keys(load(config), vault, file)
    console().print(f"The keys of this machine for {vault} are in {file}.", markup=False)


def recipients(
    vault: VaultArgument,
    change: Annotated[bool, typer.Option("--change", help="Encrypt to those of the settings from now on.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show to whom the vault is encrypted; with `--change`, take the recipients of the settings for new copies.

    Copies that are there stay as they are until `vault reencrypt` is run where an identity is that reads them.
    """
    from backup_pipeline.operations.copies.upkeep import recipients_of, take_recipients

    site = load(config)
    if change:
        take_recipients(site, vault)
    found = recipients_of(site, vault)
    if as_json:
        print_json(vars(found))
        return
    out = console()
    for one in found.vault:
        out.print(one if one in found.settings else f"{one} (not in the settings)", markup=False)
    for one in found.settings:
        if one not in found.vault:
            out.print(f"{one} (only in the settings: `vault recipients {vault} --change`)", markup=False)
    if found.earlier_copies:
        out.print(
            f"{found.earlier_copies} copies are encrypted to earlier recipients; `vault reencrypt {vault} --identity "
            "FILE` changes that.",
            markup=False,
        )


def reencrypt(
    vault: VaultArgument, identity: IdentityOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Encrypt the copies of earlier recipients to the present ones; run it where an identity is that reads them.

    What was encrypted to earlier recipients is removed by `vault clean`, 72 hours after it was written and when its
    lock has ended; until then the earlier identities read it. Exit code 6: some copies could not be encrypted anew.
    """
    from backup_pipeline.operations.copies.upkeep import reencrypt_vault

    site = load(config)
    with shown_progress(quiet=as_json) as progress:
        result = reencrypt_vault(site, vault, identity, progress)
    if as_json:
        print_json(vars(result))
    else:
        out = console()
        for name, why in result.failed.items():
            out.print(f"copy {name} stays as it is: {why}", markup=False)
        sent = bytes_text(result.sent_bytes)
        out.print(
            f"{len(result.done)} copies encrypted anew ({sent} sent), {len(result.present)} were already.", markup=False
        )
    if result.failed:
        exit_with(ExitCode.CHECKS)
