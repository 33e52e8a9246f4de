"""Checking what the storage itself promises: locks that hold as long as asked, and what was hidden above them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from backup_pipeline.model.proof import Finding
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.objects.errors import ObjectNotFoundError, PlaceRefusedError
from backup_pipeline.stores.vault.catalog import Clock, VaultCatalog, utc_now, vault_time
from backup_pipeline.stores.vault.check import VaultCheckResult
from backup_pipeline.stores.vault.locks import hidden_objects
from backup_pipeline.stores.vault.names import (
    CHUNKS,
    COPIES,
    DESCRIPTION,
    RECOVERY_PROGRAM,
    RECOVERY_TEXT,
    chunk_object,
)
from backup_pipeline.system.threads import ContextThreadPool

_WORKERS = 8
# Services drop fractions of seconds.
_TOLERANCE = timedelta(seconds=2)
_WHO = "Find out who deletes or overwrites there and change the credentials; the locked version is what is read."


def check_locks(catalog: VaultCatalog, lock_days: int, result: VaultCheckResult, clock: Clock = utc_now) -> None:
    """Ask the storage for the locks of all copies and chunks, and add what does not hold to the findings.

    One request per object whose copy says that it is locked now. Nothing is believed that the settings say.

    Args:
        catalog: the vault.
        lock_days: what the settings ask for; 0 for what the storage does by itself.
        result: where findings go, and in one sentence what the storage says.
        clock: this machine's; the place's own counts where it says.
    """
    place = catalog.place
    bucket = place.bucket_lock()
    result.lock = bucket.detail
    if lock_days and not bucket.enabled:
        result.findings.append(
            Finding(
                subject=place.label,
                problem=f"The settings say lock_days: {lock_days}, and nothing here is locked. {bucket.detail}",
                remedy="Make a bucket with Object Lock and a new vault in it, or remove lock_days.",
            )
        )
    if not bucket.enabled:
        return
    if bucket.default_days is not None and not bucket.extendable and lock_days > bucket.default_days:
        result.findings.append(
            Finding(
                subject=place.label,
                problem=f"The settings say lock_days: {lock_days}, the storage locks for {bucket.default_days} days.",
                remedy="Give the bucket a retention policy of that many days at least.",
            )
        )
    if lock_days and bucket.default_days is None and not bucket.extendable:
        _check_newest(catalog, lock_days, result)
    _check_ends(place, dict(_expected(catalog, vault_time(place, clock), bucket.extendable)), result)
    _find_hidden(catalog, result)


def _check_newest(catalog: VaultCatalog, lock_days: int, result: VaultCheckResult) -> None:
    """Where the storage does not say for how long it locks, ask for the newest copy's own lock, if it says that."""
    for copy in catalog.copies()[0][-1:]:
        needed = copy.header.created_at + timedelta(days=lock_days)
        state = catalog.place.lock_state(COPIES + copy.name)
        if state.supported and (state.until is None or state.until < needed - _TOLERANCE):
            how = f"until {state.until:%Y-%m-%d} only" if state.until else "not at all"
            result.findings.append(
                Finding(
                    subject=f"{catalog.place.label}/{COPIES}{copy.name}",
                    problem=f"The settings say lock_days: {lock_days}, and the newest copy is locked {how}.",
                    remedy="Give the container a default immutability policy of that many days at least.",
                )
            )


def _expected(catalog: VaultCatalog, now: datetime, extendable: bool) -> Iterator[tuple[str, datetime]]:
    """Yield every object that is to be locked now, and until when; ends that come later in the order are later."""
    copies = [copy for copy in catalog.copies()[0] if copy.header.locked_until and copy.header.locked_until > now]
    for copy in sorted(copies, key=lambda copy: copy.header.locked_until or now):
        until = copy.header.locked_until or now
        # What is older than the copy has the lock of its own time where that cannot be made longer.
        for name in (DESCRIPTION, RECOVERY_TEXT, RECOVERY_PROGRAM) if extendable else ():
            yield name, until
        yield COPIES + copy.name, until
        for chunk in copy.header.needed:
            yield chunk_object(chunk.name), until


def _check_ends(place: ObjectPlace, expected: dict[str, datetime], result: VaultCheckResult) -> None:
    def problem_of(name: str) -> str:
        try:
            state = place.lock_state(name)
        except ObjectNotFoundError:
            return ""  # Missing or hidden: found as that.
        until = state.until
        if not state.supported:
            return ""  # Not reported object by object.
        if until is None:
            return f"It is not locked, and should be until {expected[name]:%Y-%m-%d}."
        if until < expected[name] - _TOLERANCE:
            return f"It is locked until {until:%Y-%m-%d}, and should be until {expected[name]:%Y-%m-%d}."
        return ""

    with ContextThreadPool(_WORKERS, "vault-locks") as pool:
        for name, problem in zip(expected, pool.map(problem_of, expected), strict=True):
            result.locks += 1
            if problem:
                result.findings.append(
                    Finding(
                        subject=f"{place.label}/{name}",
                        problem=problem,
                        remedy="Does lock_mode let these credentials lock? A new copy locks again what it needs.",
                    )
                )


def _find_hidden(catalog: VaultCatalog, result: VaultCheckResult) -> None:
    """Find what was deleted or replaced below its lock: chunks are never written over, copies never deleted so."""
    place = catalog.place
    names = {COPIES + copy.name for copy in catalog.copies()[0] if copy.hidden}
    try:
        names |= set(hidden_objects(place, CHUNKS, replaced=True))
        names |= set(hidden_objects(place, COPIES, replaced=False))
        if catalog.description.signature.encode() not in _shown(place, DESCRIPTION):
            names.add(DESCRIPTION)
    except PlaceRefusedError as error:
        result.findings.append(
            Finding(
                subject=place.label,
                problem=f"What is hidden below other versions is not known: {error.what}",
                remedy="Give the credentials the right to list versions (s3:ListBucketVersions).",
            )
        )
    for name in sorted(names):
        result.hidden.append(name)
        result.findings.append(
            Finding(
                subject=f"{place.label}/{name}",
                problem="Somebody deleted or replaced it; the storage keeps the version below.",
                remedy=_WHO,
            )
        )


def _shown(place: ObjectPlace, name: str) -> bytes:
    try:
        return place.get(name)
    except ObjectNotFoundError:
        return b""
