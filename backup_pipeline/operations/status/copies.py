"""The copies of a plan's sets in vaults, as last recorded: where, how old, proven, locked, how large. Asks no vault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backup_pipeline.model.copy_records import CopyRecord, VaultRecord
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.proof import ProofKind, ProofOutcome
from backup_pipeline.model.set_id import SetId, set_time
from backup_pipeline.operations.sites.copy_records import device_of, missing_in, vault_record
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.rules.quantities import bytes_text
from backup_pipeline.rules.three_two_one import Condition, Holding, three_two_one_one_zero
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import PlanCopies, Vault

if TYPE_CHECKING:
    from backup_pipeline.operations.sites.copy_proofs import CopyProof
    from backup_pipeline.stores.vault.machine_keys import KitNote

COPY_GRACE = timedelta(hours=6)
"""How long after its beginning a set may lack its copy before that is a warning; a failure is one at once."""
COPY_OVERDUE = timedelta(days=3)
"""How old the newest copied set may be, while newer ones wait, before that is an error."""
KNOWLEDGE_OLD = timedelta(days=35)
"""How old what is known of a vault, or its last check, may be where the plan asks for checks."""
_GROWTH_DAYS = 30
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class CopySign:
    """One thing that is not as it should be with a plan's copies: subject, severity, what, remedy (as status.signs)."""

    subject: str
    severity: str
    what: str
    remedy: str


@dataclass(frozen=True)
class CopiesStatus:
    """A plan's copies in one vault.

    Attributes:
        vault: its name.
        url: where it is.
        record: what is recorded of the vault.
        copies: the plan's copies that are not marked for removal, oldest first.
        missing: sealed sets since the newest copy that have none, oldest first.
        off_site: whether it is in another building.
        drills: results of drills from the vault, oldest first, with the copies' names.
        kit: when a kit was printed and for which public keys; None where none was.
    """

    plan: str
    vault: str
    url: str
    record: VaultRecord
    copies: tuple[CopyRecord, ...]
    missing: tuple[SetId, ...]
    off_site: bool
    drills: tuple[CopyProof, ...] = ()
    kit: KitNote | None = None

    @property
    def proven(self) -> tuple[SetId, CopyProof] | None:
        """The newest copy that passed a drill read from the vault, and that drill; None where none did."""
        from backup_pipeline.operations.sites.copy_proofs import is_proven

        passed = {one.copy_name: one for one in self.drills if one.outcome is ProofOutcome.PASSED}
        for copy in reversed(self.copies):
            if copy.copy_name in passed and is_proven(copy.copy_name, self.drills):
                return copy.set_id, passed[copy.copy_name]
        return None

    @property
    def restored(self) -> str:
        """How much that drill restored and in which time, as text; "" where that is not known here."""
        drill = self.proven[1] if self.proven else None
        if drill is None or drill.restore_seconds is None or drill.restored_bytes is None:
            return ""
        return f"{bytes_text(drill.restored_bytes)} restored in {drill.restore_seconds:,.1f} s"

    @property
    def newest(self) -> CopyRecord | None:
        """The copy of the newest whole backup; of an emergency or partial set only where there is no other."""
        whole = [one for one in self.copies if one.purpose is Purpose.BACKUP and not one.partial]
        return next(reversed(whole or self.copies), None)

    @property
    def growth(self) -> int | None:
        """Bytes that the vault has grown by in 30 days, from the sizes recorded; None with less than a day of them."""
        sizes = self.record.sizes
        if not sizes:
            return None
        begin = sizes[-1].at - timedelta(days=_GROWTH_DAYS)
        first = next(one for one in sizes if one.at >= begin)
        days = (sizes[-1].at - first.at) / timedelta(days=1)
        return round((sizes[-1].size - first.size) * _GROWTH_DAYS / days) if days >= 1 else None

    @property
    def locked(self) -> tuple[CopyRecord, ...]:
        """The copies that the storage was said to protect, marked ones among them."""
        return tuple(one for one in self.record.copies.get(self.plan, ()) if one.locked_until is not None)

    def lock_text(self, now: datetime) -> str:
        """Return what the storage forbids to delete, as text."""
        held = [one.locked_until for one in self.locked if one.locked_until and one.locked_until > now]
        if held:
            return f"{len(held)} of {len(self.copies)} copies cannot be deleted, the last until {max(held):%Y-%m-%d}."
        detail = self.record.lock.detail if self.record.lock else "not known yet"
        return f"nothing is forbidden to delete: {detail}"

    def as_dict(self, now: datetime) -> dict[str, object]:
        """Return it for `--json`."""
        newest, failure, check = self.newest, self.record.failures.get(self.plan), self.record.checks.get(self.plan)
        lock = self.record.lock
        return {
            "vault": self.vault,
            "url": self.url,
            "off_site": self.off_site,
            "copies": len(self.copies),
            "newest": newest.set_id if newest else None,
            "newest_age_seconds": int((now - newest.at).total_seconds()) if newest else None,
            "missing": list(self.missing),
            "stored_bytes": self.record.stored_bytes,
            "growth_bytes_per_30_days": self.growth,
            "checked_at": check.at.isoformat() if check else None,
            "findings": list(check.findings) if check else [],
            "lock": lock.model_dump() if lock else None,
            "locked_copies": [
                {"set": one.set_id, "until": one.locked_until.isoformat()}
                for one in self.locked
                if one.locked_until and one.locked_until > now
            ],
            "marked_for_removal": [
                one.set_id for one in self.record.copies.get(self.plan, ()) if one.marked_at is not None
            ],
            "proven_from_vault": self.proven[0] if self.proven else None,
            "proven_from_vault_at": self.proven[1].finished_at.isoformat() if self.proven else None,
            "proven_from_vault_seconds": self.proven[1].restore_seconds if self.proven else None,
            "proven_from_vault_bytes": self.proven[1].restored_bytes if self.proven else None,
            "kit_printed_at": self.kit.printed_at.isoformat() if self.kit else None,
            "last_failure": failure.model_dump(mode="json") if failure else None,
            "known_as_of": self.record.inspected_at.isoformat() if self.record.inspected_at else None,
        }


def copies_of(site: Site, plan: str, sealed: Sequence[SetId]) -> list[CopiesStatus]:
    """Return the plan's copies by vault, in the order of the settings.

    Args:
        site: the site.
        plan: the plan.
        sealed: its sealed sets, oldest first.
    """
    if not site.plan(plan).copies:
        return []
    # The libraries of vaults load only where there is one.
    from backup_pipeline.operations.sites.copy_proofs import known_copy_proofs
    from backup_pipeline.operations.sites.keys import machine_keys

    found = []
    for entry in site.plan(plan).copies:
        record = vault_record(site, entry.to)
        missing = missing_in(record, plan, sealed)
        settings = site.settings.vaults[entry.to]
        found.append(
            CopiesStatus(
                plan,
                entry.to,
                settings.url,
                record,
                record.of_plan(plan),
                missing,
                is_off_site(site, settings),
                known_copy_proofs(site, entry.to),
                machine_keys(site).kit(record.vault),
            )
        )
    return found


def is_off_site(site: Site, vault: Vault) -> bool:
    """Return whether a vault is in another building: as its settings say, else by its address."""
    if vault.off_site is not None:
        return vault.off_site
    parts = urlsplit(vault.url)
    if parts.scheme == "file":
        return False
    address = site.value(vault.endpoint_env) if vault.endpoint_env else ""
    host = urlsplit(address).hostname if address else parts.hostname
    return host not in _LOCAL_HOSTS


def copy_signs(site: Site, plan: str, sealed: Sequence[SetId], now: datetime) -> Iterator[CopySign]:
    """Yield what is not as it should be with the plan's copies."""
    vault = site.vault_of(plan)
    if vault and sealed:
        from backup_pipeline.operations.sites.keys import machine_keys

        known = vault_record(site, vault).vault
        yield from _kit(vault, machine_keys(site).kit(known) if known else None, site.settings.vaults[vault])
    entries = {entry.to: entry for entry in site.plan(plan).copies}
    for status in copies_of(site, plan, sealed):
        yield from _not_copied(status, now)
        yield from _checked(status, entries[status.vault], now)
        yield from _lock(status, site.settings.vaults[status.vault])
        if status.copies:
            yield from _kit(status.vault, status.kit, site.settings.vaults[status.vault])
        yield from _drilled(status, entries[status.vault], now)


def _not_copied(status: CopiesStatus, now: datetime) -> Iterator[CopySign]:
    if not status.missing:
        return
    failure = status.record.failures.get(status.plan)
    if failure is None and now - set_time(status.missing[0]) < COPY_GRACE:
        return
    newest = status.newest
    old = now - (newest.at if newest else set_time(status.missing[0])) > COPY_OVERDUE
    since = f"The newest that has one is {newest.set_id}." if newest else "No set has one."
    why = f" The last try, on {failure.at:%Y-%m-%d %H:%M} UTC: {failure.what}" if failure else ""
    remedy = failure.remedy + " " if failure and failure.remedy else ""
    yield CopySign(
        f"copy:{status.vault}",
        "error" if old else "warning",
        f"Set {status.missing[-1]} has no copy in {status.vault}. {since}{why}",
        f"{remedy}`backup-pipeline vault copy {status.vault} {status.plan}/{status.missing[-1]}` copies it now.",
    )


def _checked(status: CopiesStatus, entry: PlanCopies, now: datetime) -> Iterator[CopySign]:
    check = status.record.checks.get(status.plan)
    if check is not None and check.findings:
        more = f" and {len(check.findings) - 1} more" if len(check.findings) > 1 else ""
        yield CopySign(
            f"check:{status.vault}",
            "error",
            f"Copies in {status.vault} are not whole (checked {check.at:%Y-%m-%d}): {check.findings[0]}{more}",
            f"`backup-pipeline vault check {status.vault}` names them all; copy the sets again while they are here.",
        )
    begin = check.at if check else min((one.copied_at or one.at for one in status.copies), default=now)
    if entry.check and now - begin > KNOWLEDGE_OLD:
        yield CopySign(
            f"check_due:{status.vault}",
            "warning",
            f"The copies in {status.vault} were not checked for {(now - begin).days} days.",
            f"The plan asks for it at {entry.check}: is the daemon running, or the schedule installed? "
            f"`backup-pipeline vault check {status.vault}` does it now.",
        )


def _lock(status: CopiesStatus, settings: Vault) -> Iterator[CopySign]:
    lock = status.record.lock
    if settings.lock_days and lock is not None and not lock.enabled:
        yield CopySign(
            f"lock:{status.vault}",
            "warning",
            f"lock_days is {settings.lock_days}, and the storage of {status.vault} locks nothing: {lock.detail}",
            "Use a bucket with Object Lock, or remove lock_days: nothing protects these copies from deletion.",
        )


def _kit(vault: str, kit: KitNote | None, settings: Vault) -> Iterator[CopySign]:
    if settings.encryption == "none":
        return
    remedy = f"`backup-pipeline vault kit {vault} --identity FILE` prints the page for the safe, with the secret key."
    if kit is None:
        what = f"No kit of {vault} was printed: whoever loses its identity can read no copy, ever."
        yield CopySign(f"kit:{vault}", "warning", what, remedy)
    elif not set(kit.recipients) & set(settings.recipients):
        what = f"The kit of {vault} of {kit.printed_at:%Y-%m-%d} opens no new copy: other recipients now."
        yield CopySign(f"kit:{vault}", "warning", what, remedy)


def _drilled(status: CopiesStatus, entry: PlanCopies, now: datetime) -> Iterator[CopySign]:
    """Yield what drills from the vault found, or that none was made: a key never used may be the wrong one."""
    own = {one.copy_name: one for one in status.copies}
    drilled = [one for one in status.drills if one.copy_name in own and one.outcome is not ProofOutcome.NOT_HERE]
    last = max((one for one in drilled if one.kind is ProofKind.DRILL), key=lambda one: one.finished_at, default=None)
    name = f"{status.vault}:{status.plan}"
    remedy = (
        f"`backup-pipeline drill {name}/latest --identity FILE`, on a machine that may hold the vault's secret key."
    )
    if last is not None and last.outcome is ProofOutcome.FAILED:
        yield CopySign(
            f"not_proven:{status.vault}",
            "error",
            f"The drill of {own[last.copy_name].set_id} from {status.vault} failed on {last.finished_at:%Y-%m-%d}.",
            f"`backup-pipeline show {name}/{own[last.copy_name].set_id}` lists the findings.",
        )
    elif last is None and status.copies:
        what = f"No set was drilled from {status.vault}: nobody knows that what lies there can be restored."
        yield CopySign(f"drill:{status.vault}", "warning", what, remedy)
    elif last is not None and entry.drill and now - last.finished_at > KNOWLEDGE_OLD:
        what = f"The last drill from {status.vault} is {(now - last.finished_at).days} days old."
        yield CopySign(f"drill:{status.vault}", "warning", f"{what} The plan asks for it at {entry.drill}.", remedy)


def answers_of(
    site: Site,
    plan: str,
    copies: Sequence[CopiesStatus],
    newest: SetId | None,
    *,
    proven: str,
    errors: Sequence[str],
    now: datetime,
) -> tuple[Condition, ...]:
    """Return how far the plan fulfils 3-2-1-1-0.

    Args:
        site: the site.
        plan: the plan.
        copies: its copies by vault.
        newest: its newest good set; None when there is none.
        proven: when and from where a set was last proven, as text; "" where none is.
        errors: what is known to be wrong with its sets and copies.
        now: the present moment.
    """
    holdings = []
    vault = site.vault_of(plan)
    if newest is not None and vault:
        settings = site.settings.vaults[vault]
        medium = vault_record(site, vault).medium or settings.url
        holdings.append(Holding(f"the store in {vault}", medium, is_off_site(site, settings)))
    elif newest is not None:
        folder = open_store(site, plan).folder
        try:
            medium = device_of(folder.stat().st_dev)
        except OSError:
            medium = f"folder {folder}"
        holdings.append(Holding("the store", medium))
    for status in copies:
        copy = status.newest
        if copy is None or copy.problem or len(status.missing) > 1:
            continue
        until = copy.locked_until
        locked = f"until {until:%Y-%m-%d}" if until and until > now else ""
        holdings.append(Holding(status.vault, status.record.medium or status.url, status.off_site, locked))
    return three_two_one_one_zero(holdings, proven=proven, errors=errors, plan=plan)
