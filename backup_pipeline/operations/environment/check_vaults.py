"""Checks of the vaults of the settings: credentials, reach, clock, lock, recipients, keys, kit. Writes no object."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backup_pipeline.errors import BackupSystemError, SettingsError
from backup_pipeline.model.record import Severity
from backup_pipeline.operations.environment.check_servers import clock_fault
from backup_pipeline.rules.environment import EnvironmentFault, Form, Need
from backup_pipeline.settings.site import IDENTITY_VARIABLE, Site
from backup_pipeline.settings.types import Vault
from backup_pipeline.system.threads import ContextThreadPool

if TYPE_CHECKING:
    from backup_pipeline.stores.objects.contract import ObjectPlace


def vault_needs(site: Site) -> list[Need]:
    """Return the variables that the vaults of the settings name."""
    needs = []
    for name, vault in site.settings.vaults.items():
        needs += [Need((variable,), f"vault {name}") for variable in vault.credentials_env.values()]
        if vault.endpoint_env:
            needs.append(Need((vault.endpoint_env,), f"vault {name}", Form.URL))
    return needs


def vault_faults(site: Site) -> list[EnvironmentFault]:
    """Return what is wrong with the vaults of the settings; each is asked, all at once and for some seconds at most."""
    vaults = site.settings.vaults
    if not vaults:
        return []
    with ContextThreadPool(max_workers=8) as pool:
        found = [fault for faults in pool.map(lambda name: list(_judged(site, name)), vaults) for fault in faults]
    return [*found, *_identity_faults(site)]


def _judged(site: Site, name: str) -> Iterator[EnvironmentFault]:
    """Yield what is wrong with one vault, from what stands in its way first."""
    from backup_pipeline.operations.sites.vaults import open_access
    from backup_pipeline.stores.objects.options import TimeLimits
    from backup_pipeline.stores.vault.description import read_description, require_recipients

    settings, where = site.settings.vaults[name], f"vaults.{name}"
    if not settings.recipients and settings.encryption != "none":
        yield EnvironmentFault(
            where,
            "it has no recipients, and nothing is copied in plain text unasked",
            f"backup-pipeline vault init {name} --new-identity FILE makes a key pair; write its recipient there.",
        )
    try:
        access = open_access(site, name, limits=TimeLimits(connect=5, read=10, total=15))
    except SettingsError:
        return  # a variable that is not set is reported with the other variables
    except BackupSystemError as error:
        yield EnvironmentFault(where, error.what, error.remedy)
        return
    try:
        known = read_description(access.place, access.trusted())
        if settings.recipients or settings.encryption == "none":
            require_recipients(known, settings.recipients, settings.encryption, where=where)
        before = datetime.now(UTC)
        theirs = access.place.server_time()
        if theirs is not None:
            ahead = (theirs - before).total_seconds()
            # Most report the time in whole seconds.
            if fault := clock_fault(f"{where} ({access.place.label})", ahead if abs(ahead) > 1 else 0.0):
                yield fault
        if access.keys.id_key(known.vault) is None and _is_written(site, name):
            yield EnvironmentFault(
                where,
                "this machine has not joined the vault, and cannot copy into it",
                f"backup-pipeline vault init {name} --identity FILE, once; the identity is not kept.",
            )
        if _is_written(site, name):
            yield from _unwritable(where, access.place)
        bucket = access.place.bucket_lock()
        yield from _lock(where, settings, bucket.enabled, bucket.detail)
        if settings.encryption != "none" and access.keys.kit(known.vault) is None:
            yield EnvironmentFault(
                where,
                "no kit was printed: whoever loses the identity can read no copy, ever",
                f"backup-pipeline vault kit {name} --identity FILE prints the page for the safe.",
                Severity.WARN,
            )
    except BackupSystemError as error:
        yield EnvironmentFault(where, error.what, error.remedy)
    finally:
        access.place.close()


def _unwritable(where: str, place: ObjectPlace) -> Iterator[EnvironmentFault]:
    """Yield that the place takes nothing from these credentials; asked by what would write nothing if it did."""
    from backup_pipeline.stores.objects.errors import PlaceRefusedError
    from backup_pipeline.stores.vault.names import DESCRIPTION

    if not place.conditional_create:
        return
    try:
        # The name is taken: storage that lets these credentials write refuses for that reason alone.
        place.create(DESCRIPTION, place.get(DESCRIPTION))
    except PlaceRefusedError as error:
        yield EnvironmentFault(where, f"nothing can be written there: {error.what}", error.remedy)


def _lock(where: str, settings: Vault, enabled: bool, detail: str) -> Iterator[EnvironmentFault]:
    if settings.lock_days and not enabled:
        yield EnvironmentFault(
            where,
            f"lock_days is {settings.lock_days}, and its storage locks nothing: {detail}",
            "Use a bucket with Object Lock, or remove lock_days: nothing protects these copies from deletion.",
        )
    elif not enabled:
        yield EnvironmentFault(
            where,
            f"whoever has its credentials can delete every copy: {detail}",
            "A second vault in a bucket with Object Lock cannot be emptied from this machine.",
            Severity.WARN,
        )


def _is_written(site: Site, vault: str) -> bool:
    own = any(site.vault_of(plan) == vault for plan in site.settings.plans)
    return own or any(entry.to == vault for plan in site.settings.plans.values() for entry in plan.copies)


def _identity_faults(site: Site) -> Iterator[EnvironmentFault]:
    """Yield what is wrong with the identity here: missing where drills need it, present where copies are written."""
    from backup_pipeline.operations.sites.vaults import read_identity

    drilled = [
        f"{entry.to}:{name}" for name, plan in site.settings.plans.items() for entry in plan.copies if entry.drill
    ]
    try:
        text, _ = read_identity(None, site)
    except BackupSystemError as error:
        yield EnvironmentFault(IDENTITY_VARIABLE, f"{error.where}: {error.what}", error.remedy)
        return
    if drilled and not text:
        yield EnvironmentFault(
            IDENTITY_VARIABLE,
            f"not set, and drills of {', '.join(drilled)} are asked for, which need it",
            "Drill on a machine that has the identity, or name its file here; then whoever has this machine reads all.",
        )
    elif text and any(_is_written(site, name) for name in site.settings.vaults):
        yield EnvironmentFault(
            IDENTITY_VARIABLE,
            "the identity is on the machine that writes the copies: whoever takes it over reads every copy",
            "Better drill on another machine (docs/vaults.md).",
            Severity.WARN,
        )
