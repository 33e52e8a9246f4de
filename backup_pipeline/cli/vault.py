"""`vault init`, `copy`, `list`, `check`, `fetch`, `recover`: copies of sets off the machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import ConfigOption, JsonOption, console, exit_with, load, print_json, shown_progress
from backup_pipeline.cli.vault_upkeep import IdentityOption, VaultArgument, clean, keys, kit, recipients, reencrypt
from backup_pipeline.errors import ExitCode

if TYPE_CHECKING:
    from backup_pipeline.stores.vault.catalog import DamagedCopy

group = typer.Typer(help="Encrypted copies of sets off the machine.", no_args_is_help=True)


@group.command()
def init(
    vault: VaultArgument,
    new_identity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make a key pair too; the identity is written to FILE (0600).")
    ] = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a vault. With `--identity`, let this machine write to one that is there."""
    from backup_pipeline.operations.copies.vaults import join_vault, make_vault

    site = load(config)
    recipient = ""
    if identity is not None:
        made = join_vault(site, vault, identity)
        given = site.settings.vaults[vault].signers
        for earlier in (key for key in made.signed_by[1:] if key not in given):
            typer.echo(
                f"Copies of before, which {earlier} has signed, do not count here until backup.yaml names that key: "
                f'vaults.{vault}.signers: ["{earlier}"]. Compare it with the one on your kit first.',
                err=True,
            )
    else:
        made, recipient = make_vault(site, vault, new_identity)
    if as_json:
        print_json({"vault": made.vault, "recipients": made.recipients, "signed_by": made.signed_by})
        return
    out = console()
    out.print(f"Vault {vault} ({made.vault}), encrypted to {', '.join(made.recipients) or 'nobody'}.", markup=False)
    out.print(f"Copies are signed by {made.signed_by[0]}: keep that key with the identity.", markup=False)
    if recipient:
        out.print(f"Write into backup.yaml: vaults.{vault}.recipients: [{recipient}]", markup=False)
        out.print(f"Move {new_identity} to a safe place now: without it no copy can be read.", markup=False)


@group.command()
def copy(
    vault: VaultArgument,
    set_name: Annotated[str, typer.Argument(metavar="SET", help="PLAN/SET, or PLAN for its latest.")] = "latest",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a sealed set into a vault; what is there already is not sent again."""
    from backup_pipeline.operations.alerts.send import notify_copies
    from backup_pipeline.operations.copies.copying import copy_into
    from backup_pipeline.operations.sites.stores import resolve_set

    site = load(config)
    plan, set_id = resolve_set(site, set_name)
    name = f"{plan}/{set_id}"
    with shown_progress(quiet=as_json) as progress:
        done = copy_into(site, vault, plan, set_id, progress=progress)
    notify_copies(site, plan)
    if as_json:
        print_json({"set": name, **vars(done)})
    elif done.already_there:
        console().print(f"{name} is in {vault} already.", markup=False)
    else:
        sent = f"{done.sent_bytes / 1e6:,.1f} MB of {done.size / 1e6:,.1f} MB sent"
        console().print(f"{name} copied into {vault}: {sent}.", markup=False)


@group.command("list")
def list_copies(
    vault: VaultArgument, identity: IdentityOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List the copies; with the identity, of which sets they are."""
    from backup_pipeline.operations.sites.vaults import ASKED, open_access, open_reader, read_identity

    site = load(config)
    rows = []
    if read_identity(identity, site)[0] or site.settings.vaults.get(vault, None) is None:
        reader = open_reader(site, vault, identity, limits=ASKED)
        copies, bad = reader.catalog.copies()
        for found in copies:
            content = reader.content(found)
            rows.append({"copy": found.name, "set": f"{content.plan}/{content.set_id}", "size": content.size})
    else:
        stored, bad = open_access(site, vault, limits=ASKED).catalog().copies()
        rows = [{"copy": found.name, "set": "", "size": found.header.stored_size} for found in stored]
    if as_json:
        print_json({"copies": rows, "bad": {one.name: one.error.what for one in bad}})
        return
    for row in rows:
        console().print(f"{row['copy']}  {row['set']}  {int(str(row['size'])):,} bytes", markup=False)
    for one in bad:
        console().print(f"! {one.name}  {one.error.what} {one.error.remedy}", markup=False)


@group.command()
def check(
    vault: VaultArgument, identity: IdentityOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Check every copy and chunk as stored; with the identity, decrypt them and compare with the manifests (6: bad).

    The storage is asked for the lock of every object, and for what somebody deleted or replaced below its lock.
    """
    from backup_pipeline.operations.alerts.send import notify_copies
    from backup_pipeline.operations.copies.checking import record_check, record_contents
    from backup_pipeline.operations.sites.vaults import open_access, open_reader, read_identity
    from backup_pipeline.stores.vault.check import check_content, check_stored
    from backup_pipeline.stores.vault.check_locks import check_locks

    site = load(config)
    with shown_progress(quiet=as_json) as progress:
        catalog = open_access(site, vault).catalog()
        result = check_stored(catalog, progress=progress)
        reader = None
        if read_identity(identity, site)[0]:
            reader = open_reader(site, vault, identity)
            check_content(reader.catalog, reader.catalog.copies()[0], reader.opener, reader.id_key, result, progress)
        check_locks(catalog, site.settings.vaults[vault].lock_days, result)
    record_check(site, vault, result, datetime.now(UTC))
    if reader is not None:
        record_contents(site, vault, reader)
    for plan in site.settings.plans:
        notify_copies(site, plan)
    if as_json:
        print_json({**vars(result), "bad_copies": sorted(result.bad_copies)})
    else:
        for finding in result.findings:
            console().print(f"{finding.subject}: {finding.problem}", markup=False)
        bad = f"{len(result.bad_copies)} bad" if result.bad_copies else "all whole"
        console().print(f"Locks: {result.lock} {result.locks} objects were asked for theirs.", markup=False)
        console().print(f"{result.copies} copies, {result.chunks} chunks: {bad}.", markup=False)
    if result.findings:
        exit_with(ExitCode.CHECKS)


@group.command()
def fetch(
    vault: VaultArgument,
    set_name: Annotated[str, typer.Argument(metavar="SET", help="PLAN/SET, or PLAN for its latest.")],
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a set back into the local store, equal to the byte; it has to be proven anew."""
    from backup_pipeline.operations.copies.vaults import find_copy
    from backup_pipeline.operations.sites.stores import open_store, plan_lock
    from backup_pipeline.operations.sites.vaults import open_reader
    from backup_pipeline.system.locks import hold_lock

    site = load(config)
    reader = open_reader(site, vault, identity)
    found, content = find_copy(reader, set_name)
    store = open_store(site, content.plan)
    store.prepare()
    # One fetch at a time; the plan's own lock only for the moment in which the set appears, so that no backup waits.
    own = hold_lock(store.folder / ".fetch.lock", purpose=f"fetch of {content.plan}/{content.set_id}", wait_seconds=0)
    with own, shown_progress(quiet=as_json) as progress:
        folder = reader.reader(found).fetch(
            store.folder,
            progress,
            modes=(store.file_mode, store.folder_mode),
            publishing=plan_lock(site, content.plan, f"fetch from {vault}"),
        )
    if as_json:
        print_json({"set": f"{content.plan}/{content.set_id}", "folder": str(folder)})
    else:
        console().print(f"{content.plan}/{content.set_id} is in {folder}.", markup=False)


@group.command()
def recover(
    url: Annotated[str, typer.Argument(help="The vault's URL.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where sets and backup.yaml are written.")],
    identity: IdentityOption = None,
    set_name: Annotated[str | None, typer.Option("--set", metavar="SET", help="Only this set.")] = None,
    endpoint: Annotated[str, typer.Option(metavar="ADDRESS", help="Address of an S3-compatible service.")] = "",
    region: Annotated[str, typer.Option(help="Region of an S3 bucket.")] = "",
    signer: Annotated[
        list[str] | None, typer.Option(help="The site's public key from the kit (ed25519:…); one for each key on it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """On a bare machine, without settings: bring back the newest set of each plan and backup.yaml.

    The storage's credentials are read from the variables of its provider: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY;
    AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN; GOOGLE_APPLICATION_CREDENTIALS;
    SFTP_PASSWORD, where no key in ~/.ssh lets in.
    """
    from backup_pipeline.operations.copies.vaults import VaultAddress
    from backup_pipeline.operations.copies.vaults import recover as bring_back

    def warn(bad: DamagedCopy) -> None:
        typer.echo(f"not brought back: {bad.error.where}: {bad.error.what} {bad.error.remedy}", err=True)

    signers = tuple(key for key in signer or () if key)
    folders = bring_back(VaultAddress(url, endpoint, region), identity, to, set_name, signers, on_bad=warn)
    if not signers:
        typer.echo(
            "Without --signer nobody knows who wrote this vault: read backup.yaml, above all its run_before and "
            "run_after, before you use it.",
            err=True,
        )
    if as_json:
        print_json({"folders": [str(folder) for folder in folders]})
    for folder in folders if not as_json else ():
        console().print(f"{folder}", markup=False)


for command in (clean, kit, keys, recipients, reencrypt):
    group.command()(command)
