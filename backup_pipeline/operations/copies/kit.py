"""The kit: the page for the safe that a person needs on the worst day, as text and as HTML to print.

It holds the identity, which decrypts every copy: it is written to standard output or to a file 0600, never kept here.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backup_pipeline import __version__
from backup_pipeline.errors import RefusedError, SettingsError, StoreError
from backup_pipeline.operations.copies.recovery_credentials import recovery_variables
from backup_pipeline.operations.sites.copy_records import change_record
from backup_pipeline.operations.sites.keys import machine_keys
from backup_pipeline.operations.sites.vaults import ASKED, open_access, read_identity
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.vault.description import Description, opened_id_key, read_description
from backup_pipeline.stores.vault.encryption import Opener
from backup_pipeline.stores.vault.machine_keys import KitNote
from backup_pipeline.system.files import translate_os_error, write_atomically

_WIDTH = 78


@dataclass(frozen=True)
class Kit:
    """What stands on the page.

    Attributes:
        vault: its name in the settings.
        url: where it is.
        endpoint: address of the service; "" for the provider's own.
        description: what `vault.json` says.
        signers: public keys whose copies count: of vault.json, of this machine, of `signers` in the settings.
        identities: the lines AGE-SECRET-KEY-1…, each with a QR code; none for a vault without encryption.
        variables: of the environment, for the storage's credentials, as `vault recover` reads them.
        printed_at: when.
        commands: what each of the steps is, and the command.
    """

    vault: str
    url: str
    endpoint: str
    description: Description
    signers: tuple[str, ...]
    identities: tuple[str, ...]
    variables: tuple[str, ...]
    printed_at: datetime
    commands: tuple[tuple[str, str], ...]


def make_kit(site: Site, name: str, identity_file: Path | None) -> Kit:
    """Return the kit of a vault.

    Args:
        site: the site.
        name: the vault's.
        identity_file: file with the identity; only a vault without encryption needs none.

    Raises:
        SettingsError: no identity is named.
        RefusedError: it is not the vault's.
    """
    access = open_access(site, name, limits=ASKED)
    description = read_description(access.place, access.trusted())
    text, where = read_identity(identity_file, site)
    if description.encryption != "none" and not text:
        raise SettingsError(
            "A kit holds the identity, and none is named.",
            where=f"vault {name}",
            remedy="Run it where the identity is: backup-pipeline vault kit NAME --identity FILE.",
        )
    opener = Opener(text, description.encryption, where=where)
    opened_id_key(description, opener, where=where)
    if description.encryption != "none" and not set(opener.recipients) & set(description.recipients):
        raise RefusedError("This identity is not one of the vault's recipients.", where=where, remedy="Use another.")
    lines = [line.strip() for line in text.splitlines()]
    given = site.settings.vaults[name]
    endpoint = site.value(given.endpoint_env)
    signers = tuple(dict.fromkeys((description.signed_by[0], *access.trusted())))
    encrypted = description.encryption != "none"
    return Kit(
        vault=name,
        url=given.url,
        endpoint=endpoint,
        description=description,
        signers=signers,
        identities=tuple(line for line in lines if line and not line.startswith("#")),
        variables=recovery_variables(given.url),
        printed_at=datetime.now(UTC).replace(microsecond=0),
        commands=_commands(given.url, endpoint, given.region, signers, encrypted, sorted(site.settings.plans)),
    )


def _commands(
    url: str, endpoint: str, region: str, signers: Sequence[str], encrypted: bool, plans: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    options = [
        part for flag, value in (("--endpoint", endpoint), ("--region", region)) if value for part in (flag, value)
    ]
    identity = ["--identity", "identity.txt"] if encrypted else []
    keys = [part for key in signers for part in ("--signer", key)]
    recover = ["backup-pipeline", "vault", "recover", url, *options, *identity, *keys]
    plan = plans[0] if plans else "PLAN"
    return (
        ("Bring back the newest set of each plan, and the settings", shlex.join([*recover, "--to", "recovered"])),
        (
            "Read recovered/backup.yaml, then check the set",
            f"backup-pipeline verify {plan}/latest --config recovered/backup.yaml",
        ),
        (
            "Restore it: this shows the plan first and asks",
            f"backup-pipeline restore {plan}/latest --config recovered/backup.yaml",
        ),
    )


def note_printed(site: Site, kit: Kit) -> None:
    """Remember on this machine that the kit was printed, for `status`."""
    recipients = Opener("\n".join(kit.identities), kit.description.encryption).recipients
    vault = kit.description.vault
    machine_keys(site).note_kit(vault, KitNote(kit.printed_at, recipients))
    # Of a vault that is the only store of its plans nothing else may be recorded; `status` knows the kit by the id.
    change_record(site, kit.vault, lambda known: known if known.vault else known.model_copy(update={"vault": vault}))


def kit_as_text(kit: Kit) -> str:
    """Return the page as text, with QR codes of block characters."""
    rule = "=" * _WIDTH
    parts = [f"{rule}\nKIT OF THE VAULT {kit.vault}: keep this page in a safe\n{rule}\n"]
    parts.append("\n".join(f"{label + ':':<12} {value}" for label, value in kit_facts(kit)) + "\n")
    for identity in kit.identities:
        parts.append(f"Identity (decrypts every copy; whoever has it reads everything):\n\n  {identity}\n")
        drawn = io.StringIO()
        _qr(identity).terminal(drawn, compact=True, border=2)
        parts.append(drawn.getvalue())
    parts.append(f"On a new machine{_preparation(kit)}:\n")
    parts += [f"{number}. {what}:\n   {command}\n" for number, (what, command) in enumerate(kit.commands, 1)]
    parts.append(f"{_without(kit)}\n")
    return "\n".join(parts)


def kit_as_html(kit: Kit) -> str:
    """Return the page as HTML without any reference to elsewhere."""
    import jinja2

    template = jinja2.Environment(
        loader=jinja2.PackageLoader("backup_pipeline.operations.copies"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("kit.html.jinja")
    codes = [(identity, _qr(identity).svg_data_uri(scale=4, border=2)) for identity in kit.identities]
    return template.render(
        kit=kit, facts=kit_facts(kit), codes=codes, preparation=_preparation(kit), without=_without(kit)
    )


def write_kit(path: Path, page: str) -> None:
    """Write the page 0600, never over a file.

    Raises:
        RefusedError: the file exists.
        StoreError: it cannot be written.
    """
    if path.exists():
        raise RefusedError("The file exists.", where=str(path), remedy="Name another; a kit is not replaced.")
    try:
        write_atomically(path, page.encode())
    except OSError as error:
        raise translate_os_error(error, path) from error


def kit_facts(kit: Kit) -> list[tuple[str, str]]:
    """Return what the page says of the vault, with a label each."""
    known = kit.description
    facts = [
        ("Printed", f"{kit.printed_at:%Y-%m-%d %H:%M} UTC, backup-pipeline {__version__}"),
        ("Where", kit.url),
        ("Service", kit.endpoint),
        ("Vault", f"{known.vault}, made {known.created_at:%Y-%m-%d}"),
        ("Encrypted", f"to {', '.join(known.recipients)}" if known.recipients else "not at all"),
        ("Signed by", ", ".join(kit.signers)),
    ]
    return [(label, value) for label, value in facts if value]


def _preparation(kit: Kit) -> str:
    steps = []
    if kit.identities:
        steps.append("write the identity into identity.txt")
    if kit.variables:
        steps.append(f"set {', '.join(kit.variables)} to the storage's credentials, which are not on this page")
    return f" ({'; '.join(steps)})" if steps else ""


def _without(kit: Kit) -> str:
    return (
        "Without this program: copy the whole bucket or folder to a disk and read RECOVERY.md in it; recover.py beside "
        f"it needs Python, the program age{', the identity' if kit.identities else ''} and "
        f"{' '.join(f'--signer {key}' for key in kit.signers)}."
    )


def _qr(text: str) -> Any:
    try:
        import segno
    except ModuleNotFoundError as error:
        raise StoreError(
            "The library for QR codes is not installed.",
            where="segno",
            remedy="Install it with: pip install 'backup-pipeline[vault]'",
        ) from error
    return segno.make_qr(text, error="m")
