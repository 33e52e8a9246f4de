"""Retention of copies: what each plan's policy for a vault keeps and lets go, with reasons; then marked and cleaned.

Decided as for sets (rules/retention): the last good and the last proven copy stay, and nothing goes while the newest
copy is bad. A copy that goes is marked first; `stores.vault.clean` removes it after its grace time. Copies of plans
that the settings have no more, and those that nothing is recorded of, stay.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from backup_pipeline.model.copy_records import CopyRecord, VaultRecord
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import ProofKind, ProofOutcome
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.copies.inspection import inspect_vault, locked_until
from backup_pipeline.operations.copies.upkeep import clean_vault
from backup_pipeline.operations.sites.copy_proofs import CopyProof, is_proven, known_copy_proofs
from backup_pipeline.operations.sites.copy_records import change_record
from backup_pipeline.operations.sites.vaults import open_access
from backup_pipeline.rules.retention import SetFacts, Verdict, decide
from backup_pipeline.settings.server_databases import sources_for_retention
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import PlanCopies
from backup_pipeline.stores.vault.catalog import GRACE, VaultCatalog
from backup_pipeline.stores.vault.clean import CleanResult, mark

LOG = logging.getLogger("vault")
_REST = timedelta(days=7)


@dataclass(frozen=True)
class CopiesVerdict:
    """What was decided on a plan's copies in a vault, and done.

    Attributes:
        verdict: the decision on every copy that is not marked yet, with reasons.
        copies: their records.
        marked: sets whose copies were marked for removal now; they go after the grace time.
        forbidden: sets whose copies would be marked, and until when the storage forbids to delete them.
    """

    vault: str
    plan: str
    verdict: Verdict
    copies: dict[SetId, CopyRecord]
    marked: tuple[SetId, ...] = ()
    forbidden: dict[SetId, datetime] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return it for `--json`."""
        return {
            "plan": self.plan,
            "refusal": self.verdict.refusal or None,
            "copies": [
                {
                    "set": one.set_id,
                    "copy": self.copies[one.set_id].copy_name,
                    "keep": one.keep,
                    "reasons": list(one.reasons),
                    "forbidden_until": self.forbidden[one.set_id].isoformat() if one.set_id in self.forbidden else None,
                }
                for one in self.verdict.decisions
            ],
            "marked": list(self.marked),
        }


@dataclass(frozen=True)
class VaultCleaning:
    """What retention decided for each plan with copies in a vault, and what cleaning removed."""

    vault: str
    plans: tuple[CopiesVerdict, ...]
    cleaned: CleanResult


def clean_copies(
    site: Site,
    vault: str,
    now: datetime,
    *,
    plans: Collection[str] | None = None,
    dry_run: bool = False,
    when_due: bool = False,
    progress: ProgressSink = no_progress,
) -> VaultCleaning:
    """Mark what the plans' policies let go in a vault, and remove what was marked long enough ago.

    Args:
        site: the site.
        vault: its name in the settings.
        now: the present moment.
        plans: only these plans' copies are marked; all by default.
        dry_run: decide, and touch nothing.
        when_due: remove only when a mark is old enough, or nothing was removed for a week: it reads every header.
        progress: receives the chunks that are removed.

    Raises:
        LockError: another cleaner works there.
        RefusedError: a copy cannot be read, so that it is not known which chunks it needs.
        BackupSystemError: the vault cannot be reached.
    """
    access = open_access(site, vault)
    catalog = access.catalog()
    record = inspect_vault(site, access, now, catalog=catalog)
    known = _Known(catalog, record, known_copy_proofs(site, vault))
    verdicts = [
        _retain(site, plan, entry, known, now, dry_run=dry_run)
        for plan, settings in site.settings.plans.items()
        for entry in settings.copies
        if entry.to == vault and (plans is None or plan in plans)
    ]
    if when_due and not _is_due(record, now):
        return VaultCleaning(vault, tuple(verdicts), CleanResult())
    cleaned = clean_vault(site, vault, progress=progress, dry_run=dry_run)
    if not dry_run:
        stored = sum(chunk.size for chunk in catalog.chunks().values())
        inspect_vault(site, access, now, catalog=catalog, stored_bytes=stored)
        change_record(site, vault, lambda current: current.model_copy(update={"cleaned_at": now}))
    return VaultCleaning(vault, tuple(verdicts), cleaned)


def _is_due(record: VaultRecord, now: datetime) -> bool:
    marks = [one.marked_at for copies in record.copies.values() for one in copies if one.marked_at is not None]
    rested = record.cleaned_at is not None and now - record.cleaned_at < _REST
    return not rested or any(now - mark >= GRACE for mark in marks)


@dataclass(frozen=True)
class _Known:
    """What is known of a vault when its copies are decided on."""

    catalog: VaultCatalog
    record: VaultRecord
    proofs: tuple[CopyProof, ...]


def _retain(site: Site, plan: str, entry: PlanCopies, known: _Known, now: datetime, *, dry_run: bool) -> CopiesVerdict:
    catalog, record = known.catalog, known.record
    copies = {one.set_id: one for one in record.of_plan(plan)}
    facts = [copy_facts(one, known.proofs) for one in copies.values()]
    zone, sources = ZoneInfo(site.settings.timezone), sources_for_retention(site, plan, now)
    verdict = decide(facts, entry.retention, now, zone, sources, protected=_protected(copies.values()))
    marked, forbidden = [], {}
    for decision in verdict.removed:
        copy = copies[decision.set_id]
        until = locked_until(catalog.place, copy.copy_name) if record.lock and record.lock.enabled else None
        if until is not None and until > now + GRACE:
            forbidden[decision.set_id] = until
            continue
        if dry_run:
            continue
        mark(catalog, [copy.copy_name], "; ".join(decision.reasons))
        LOG.info("copy of %s/%s in %s marked: %s", plan, decision.set_id, entry.to, "; ".join(decision.reasons))
        marked.append(decision.set_id)
    if marked:
        change_record(site, entry.to, lambda current: _with_marks(current, plan, marked, now))
    return CopiesVerdict(entry.to, plan, verdict, copies, tuple(marked), forbidden)


def _with_marks(record: VaultRecord, plan: str, sets: list[SetId], now: datetime) -> VaultRecord:
    copies = tuple(
        one.model_copy(update={"marked_at": now}) if one.set_id in sets else one for one in record.copies.get(plan, ())
    )
    return record.model_copy(update={"copies": {**record.copies, plan: copies}})


def copy_facts(copy: CopyRecord, proofs: Iterable[CopyProof]) -> SetFacts:
    """Return what retention needs to know of a copy.

    It is proven when it passed a drill read from the vault, verified when its stored bytes were checked and whole.
    """
    own = [one for one in proofs if one.copy_name == copy.copy_name and one.outcome is not ProofOutcome.NOT_HERE]
    drill = max((one for one in own if one.kind is ProofKind.DRILL), key=lambda one: one.finished_at, default=None)
    problem = copy.problem or copy.set_problem
    if drill is not None:
        failed = drill.outcome is ProofOutcome.FAILED
        problem = problem or (f"its drill from the vault failed on {drill.finished_at:%Y-%m-%d}" if failed else "")
    return SetFacts(
        set_id=copy.set_id,
        at=copy.at,
        purpose=copy.purpose,
        # What is not known is counted apart, so that it takes no place of a backup.
        partial=copy.partial or not copy.described,
        sources=copy.sources,
        verified=copy.checked_at is not None and not copy.problem,
        proven=is_proven(copy.copy_name, own),
        problem=problem,
        broken_data=copy.broken_data,
    )


def _protected(copies: Iterable[CopyRecord]) -> dict[SetId, str]:
    """Return what stays beside what the rules keep: what is not known, and the last set proven in its store."""
    reasons = {
        one.set_id: "what it holds is not recorded here (vault check --identity records it)"
        for one in copies
        if not one.described
    }
    proven = [one.set_id for one in copies if one.set_proven and not one.problem]
    if proven:
        reasons[max(proven)] = "the last copy whose set was proven in its store"
    return reasons
