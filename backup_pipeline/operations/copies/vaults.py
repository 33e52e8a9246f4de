"""What is done with a site's vaults: opened as the settings say, made, joined, copied to, listed, fetched from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from backup_pipeline.errors import RefusedError, SetNotFoundError, SettingsError
from backup_pipeline.operations.copies.recovery_credentials import recovery_credentials, recovery_variables
from backup_pipeline.operations.sites.vaults import ASKED, open_access, read_identity
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.vault.catalog import DamagedCopy
from backup_pipeline.stores.vault.copy_content import CopyContent
from backup_pipeline.stores.vault.copy_object import StoredCopy
from backup_pipeline.stores.vault.description import Description, read_description
from backup_pipeline.stores.vault.encryption import Opener, new_identity
from backup_pipeline.stores.vault.signing import is_public_key
from backup_pipeline.stores.vault.vault import VaultReader, initialise, join, refuse_second_vault
from backup_pipeline.system.files import translate_os_error, write_atomically


def make_vault(site: Site, name: str, new_identity_file: Path | None) -> tuple[Description, str]:
    """Make a vault; with a file, an identity too, written there with mode 0600. Returns its new recipient, or "".

    Raises:
        RefusedError: there is a vault, there are no recipients, or the file exists.
    """
    recipient = ""
    access = open_access(site, name, limits=ASKED)
    if new_identity_file is not None:
        refuse_second_vault(access)
        identity, recipient = new_identity()
        try:
            descriptor = os.open(new_identity_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise RefusedError(
                "The file exists.",
                where=str(new_identity_file),
                remedy="Name another: an identity is not replaced. To use this one, list its public key (age1…) "
                "in `recipients` and run without --new-identity.",
            ) from error
        except OSError as error:
            raise translate_os_error(error, new_identity_file) from error
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"# public key: {recipient}\n{identity}\n")
            file.flush()
            os.fsync(file.fileno())
        access = open_access(site, name, more_recipients=(recipient,), limits=ASKED)
    return initialise(access), recipient


def write_keys(site: Site, name: str, file: Path) -> None:
    """Write the keys with which this machine writes to a vault into a file of mode 0600, for other workers of the site.

    Raises:
        RefusedError: this machine has not joined the vault.
        StoreError: the vault does not answer, or the file cannot be written.
    """
    access = open_access(site, name, limits=ASKED)
    write_atomically(file, access.keys.as_text(access.catalog().description.vault).encode() + b"\n")


def join_vault(site: Site, name: str, identity_file: Path) -> Description:
    """Let this machine write to a vault that is there; the identity is used once and not kept."""
    access = open_access(site, name, limits=ASKED)
    text, where = read_identity(identity_file)
    known = read_description(access.place, access.trusted() if access.signers else ())
    return join(access, Opener(text, known.encryption, where=where))


def find_copy(reader: VaultReader, set_name: str) -> tuple[StoredCopy, CopyContent]:
    """Return the copy that `PLAN/SET` or `PLAN/latest` means.

    Raises:
        SetNotFoundError: there is none.
    """
    plan, _, wanted = set_name.partition("/")
    for copy in reversed(reader.catalog.copies()[0]):
        content = reader.content(copy)
        if content.plan == plan and wanted in (content.set_id, "latest"):
            return copy, content
    raise SetNotFoundError(
        "The vault has no such copy.", where=set_name, remedy="backup-pipeline vault list NAME --identity FILE."
    )


class VaultAddress(NamedTuple):
    """Where a vault is: its URL; for S3-compatible services also the service's address and the bucket's region."""

    url: str
    endpoint: str = ""
    region: str = ""


def recover(
    address: VaultAddress,
    identity_file: Path | None,
    target: Path,
    set_name: str | None,
    signers: Sequence[str] = (),
    *,
    on_bad: Callable[[DamagedCopy], None] = lambda _: None,
) -> list[Path]:
    """Bring sets back without any settings: the newest copy of each plan, or one; `backup.yaml` beside them.

    Raises:
        StoreError: the vault cannot be read, or a file is in the way.
    """
    for key in signers:
        if not is_public_key(key):
            raise SettingsError(f"{key[:60]!r} is not a public key.", where="--signer", remedy="Copy it from the kit.")
    text, where = read_identity(identity_file)
    reader = VaultReader(_bare_place(*address), text, signers, where=where, joined_later=True)
    good, damaged = reader.catalog.copies()
    for bad in damaged:
        on_bad(bad)
    if damaged and not good:
        raise damaged[-1].error
    newest: dict[str, StoredCopy] = {}
    if set_name:
        copy, content = find_copy(reader, set_name)
        newest[content.plan] = copy
    else:
        for copy in reader.catalog.copies()[0]:
            newest[reader.content(copy).plan] = copy
    if not newest:
        raise SetNotFoundError("The vault holds no copy.", where=address.url, remedy="Is it the right URL?")
    done = []
    for plan, copy in newest.items():
        content = reader.content(copy)
        folder = target / "backups" / plan
        there = folder / content.set_id
        # A set appears whole or not at all: what an earlier try brought back needs no other.
        done.append(there if there.exists() else reader.reader(copy).fetch(folder))
        settings = target / "backup.yaml"
        if content.settings and not settings.exists():
            try:
                write_atomically(settings, content.settings.encode())
            except OSError as error:
                raise translate_os_error(error, settings) from error
    return done


def _bare_place(url: str, endpoint: str, region: str) -> ObjectPlace:
    """Open a place by the variables that its provider's own programs read."""
    environment = {**os.environ, "--endpoint": endpoint}
    names = recovery_credentials(url)
    given = {part: name for part, name in names.items() if environment.get(name) or name in recovery_variables(url)}
    if url.startswith("az://") and "sas" in given and not environment.get(names["key"]):
        del given["key"]
    options = PlaceOptions(
        credentials_env=given, endpoint_env="--endpoint" if endpoint else "", region=region, environment=environment
    )
    return open_place(url, options)
