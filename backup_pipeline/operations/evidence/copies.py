"""A plan's copies in vaults as evidence needs them: those at the end of a period, and proofs read from there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from backup_pipeline.model.copy_records import CopyRecord
from backup_pipeline.model.evidence import NOT_RECORDED, Event, EventKind
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.proof import ProofOutcome
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.evidence.history import History
from backup_pipeline.operations.status.copies import copies_of
from backup_pipeline.rules.evidence import Copies
from backup_pipeline.settings.site import Site


def proofs_of_copies(site: Site, plan: str, history: History) -> Iterator[tuple[SetId, Event]]:
    """Yield the set and the event of each verification and drill of a copy that is noted here."""
    for vault in copies_of(site, plan, []):
        sets = {one.copy_name: one.set_id for one in vault.record.copies.get(plan, ())}
        for proof in vault.drills:
            if (set_id := sets.get(proof.copy_name)) is None:
                continue
            run = history.around(f"{proof.kind.value}_from_{vault.vault}", proof.finished_at)
            yield (
                set_id,
                Event(
                    at=proof.finished_at,
                    kind=EventKind(proof.kind.value),
                    subject=f"{vault.vault}:{plan}/{set_id}",
                    outcome=proof.outcome.value,
                    good=proof.outcome is ProofOutcome.PASSED,
                    who=history.who(run.run_id) if run else NOT_RECORDED,
                    run_id=run.run_id if run else "",
                    detail=f"read from the vault {vault.vault}, where its figures are",
                ),
            )


def copies_at(site: Site, plan: str, end: datetime, *, past: bool) -> Copies:
    """Return the plan's copies that were there at the end of a period, as far as they are recorded.

    Args:
        site: the site.
        plan: the plan.
        end: the end.
        past: whether that was before now: what was removed since is not recorded any more.
    """
    from backup_pipeline.operations.sites.copy_proofs import is_proven

    held = [
        (vault, [one for one in vault.record.copies.get(plan, ()) if _was_there(one, end)])
        for vault in copies_of(site, plan, [])
    ]
    held = [(vault, copies) for vault, copies in held if copies]
    every = [one for _, copies in held for one in copies]
    whole = [one for one in every if one.purpose is Purpose.BACKUP and not one.partial]
    return Copies(
        vaults=len(held),
        copies=len(whole),
        others=len(every) - len(whole),
        off_site=any(vault.off_site and one in whole for vault, copies in held for one in copies),
        locked=any(one.locked_until is not None for one in every),
        proven=sum(
            is_proven(one.copy_name, [proof for proof in vault.drills if proof.finished_at < end])
            for vault, copies in held
            for one in copies
        ),
        past=past,
    )


def _was_there(copy: CopyRecord, end: datetime) -> bool:
    # A copy that was found in the vault is as old as its set at most.
    return (copy.copied_at or copy.at) < end and (copy.marked_at is None or copy.marked_at >= end)
