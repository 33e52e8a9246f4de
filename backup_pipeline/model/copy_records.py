"""What a site has recorded of its copies in one vault, so that status and alerts answer without asking the vault."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, Field

from backup_pipeline.model.base import Frozen
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.set_id import SetId, set_time


class CopyRecord(Frozen):
    """One copy of a set.

    Attributes:
        set_id: the set.
        copy_name: its object's name in the vault.
        described: whether the fields from `purpose` to `broken_data` are known; a copy that another installation made,
            and whose set is not in the store any more, is only known by its name.
        purpose, partial, sources, broken_data: as in the set's manifest.
        size: bytes of the set.
        sent_bytes: bytes that were sent for it; 0 for a copy that was found there.
        copied_at: when it was made from here; None for a copy that was found there.
        set_proven: whether the set had passed a drill where it was made, when that was last read.
        set_problem: what spoke against the set itself then.
        locked_until: until when the storage forbids to delete it; None where it does not, or did not say.
        marked_at: since when it is marked for removal.
        checked_at: when its stored bytes were last read.
        problem: what that check found, "" for nothing.
    """

    set_id: SetId
    copy_name: str
    described: bool = True
    purpose: Purpose = Purpose.BACKUP
    partial: bool = False
    sources: tuple[str, ...] = ()
    broken_data: bool = False
    size: int = 0
    sent_bytes: int = 0
    copied_at: AwareDatetime | None = None
    set_proven: bool = False
    set_problem: str = ""
    locked_until: AwareDatetime | None = None
    marked_at: AwareDatetime | None = None
    checked_at: AwareDatetime | None = None
    problem: str = ""

    @property
    def at(self) -> datetime:
        """When its set was begun."""
        return set_time(self.set_id)


class CopyFailure(Frozen):
    """The last copying of a plan's sets that failed; gone as soon as one succeeds.

    Attributes:
        set_id: the first set that could not be copied since the last success.
        attempts: how many failed in a row.
    """

    at: AwareDatetime
    set_id: SetId
    what: str
    where: str = ""
    remedy: str = ""
    attempts: int = 1


class CheckRecord(Frozen):
    """The last check of a plan's copies as they are stored: how many, how much was read, what was found."""

    at: AwareDatetime
    copies: int
    read_bytes: int
    findings: tuple[str, ...] = ()


class LockRecord(Frozen):
    """What the storage promises for every new object (see stores.objects.contract.BucketLock)."""

    supported: bool
    enabled: bool
    default_days: int | None = None
    mode: str | None = None
    detail: str = ""


class SizeRecord(Frozen):
    """The bytes of all chunks in the vault at one moment."""

    at: AwareDatetime
    size: int


class VaultRecord(Frozen):
    """All that is recorded of one vault.

    Attributes:
        vault: the vault's id; a vault that was made anew under the same name begins a new record.
        inspected_at: when the vault itself was last asked.
        medium: what it is stored on, equal for places that are lost together ("device 2049", "s3 bucket").
        copies: by plan, oldest first.
        others: copies of plans that these settings do not have.
        failures: by plan.
        checks: by plan.
        lock: what its storage promised then; None when not known.
        sizes: bytes of all chunks over time, oldest first.
        cleaned_at: when chunks that no copy needs were last searched for.
    """

    record_version: Literal[1] = 1
    vault: str = ""
    inspected_at: AwareDatetime | None = None
    medium: str = ""
    copies: dict[str, tuple[CopyRecord, ...]] = Field(default_factory=dict)
    others: int = 0
    failures: dict[str, CopyFailure] = Field(default_factory=dict)
    checks: dict[str, CheckRecord] = Field(default_factory=dict)
    lock: LockRecord | None = None
    sizes: tuple[SizeRecord, ...] = ()
    cleaned_at: AwareDatetime | None = None

    def of_plan(self, plan: str) -> tuple[CopyRecord, ...]:
        """Return the copies of a plan that are not marked for removal, oldest first."""
        return tuple(one for one in self.copies.get(plan, ()) if one.marked_at is None)

    def copy_of(self, plan: str, set_id: SetId) -> CopyRecord | None:
        """Return the copy of a set, marked or not."""
        return next((one for one in self.copies.get(plan, ()) if one.set_id == set_id), None)

    @property
    def stored_bytes(self) -> int | None:
        """Bytes of all chunks when they were last counted."""
        return self.sizes[-1].size if self.sizes else None
