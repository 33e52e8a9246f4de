"""Removing the sets that retention lets go: one plan, under its lock, each set re-read right before it goes.

What is kept and why is rules/retention's decision; how a set is removed (manifest first) is the store's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from backup_pipeline.errors import BackupSystemError, SetNotFoundError
from backup_pipeline.model.indexed_set import KnownSet
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.retention.in_use import readers_of, to_be_removed
from backup_pipeline.operations.sites.run_log import RUN_LOG_NAME
from backup_pipeline.operations.sites.stores import open_store, plan_lock
from backup_pipeline.operations.status.present_files import as_text, files_not_there
from backup_pipeline.rules.retention import SetFacts, Verdict, decide, facts_of
from backup_pipeline.settings.server_databases import sources_for_retention
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.claims import writing
from backup_pipeline.stores.contract import PlanStore
from backup_pipeline.system.files import append_line

LOG = logging.getLogger("cleanup")


@dataclass(frozen=True)
class CleanupResult:
    """What was decided and done.

    Attributes:
        plan: the plan.
        verdict: the decision on every set, with reasons; `verdict.refusal` when nothing may be removed.
        sizes: bytes of each set.
        removed: sets that are gone.
        failed: sets that could not be removed, with the reason; the next clean-up tries again.
        spared: sets that were to go, but changed before their turn, with the reason.
        freed: bytes of the removed sets.
        dry_run: whether nothing was touched.
    """

    plan: str
    verdict: Verdict
    sizes: dict[SetId, int]
    removed: tuple[SetId, ...] = ()
    failed: tuple[tuple[SetId, str], ...] = ()
    spared: tuple[tuple[SetId, str], ...] = ()
    freed: int = 0
    dry_run: bool = False

    @property
    def refused(self) -> bool:
        """Whether sets that the policy lets go were held back."""
        return bool(self.verdict.held)

    @property
    def counts(self) -> dict[str, int]:
        """Figures to plot: sets kept, removed and failed, bytes freed."""
        return {
            "kept": len(self.verdict.kept),
            "removed": len(self.removed),
            "failed": len(self.failed),
            "freed_bytes": self.freed,
        }


def cleanup(
    site: Site,
    plan: str,
    *,
    now: datetime,
    dry_run: bool = False,
    locked: bool = False,
    wait_seconds: float | None = None,
    progress: ProgressSink = no_progress,
) -> CleanupResult:
    """Remove the sets of a plan that its retention lets go.

    Args:
        site: the site.
        plan: the plan's name.
        now: the present moment.
        dry_run: decide and touch nothing (no lock is taken).
        locked: the caller holds the plan's lock.
        wait_seconds: how long to wait for the lock; the plan's own time by default.
        progress: receives after each set, in sets.

    Raises:
        LockError: somebody else works on this store.
        StoreError: the store cannot be read.
    """
    store = open_store(site, plan)
    if dry_run:
        running = writing(store) is not None
        facts, sizes = _read(store, store.listed_sets(), running=running)
        return CleanupResult(plan, _decide(site, plan, facts.values(), now), sizes, dry_run=True)
    with contextlib.ExitStack() as stack:
        if not locked:
            stack.enter_context(plan_lock(site, store, f"clean-up of {plan}", wait_seconds))
        # What is removed is decided by the sets themselves, never by the index beside them.
        facts, sizes = _read(store, store.sets(), running=False)
        return _apply(site, plan, store, facts, sizes, now, progress)


def _read(
    store: PlanStore, sets: Iterable[KnownSet], *, running: bool
) -> tuple[dict[SetId, SetFacts], dict[SetId, int]]:
    facts, sizes = {}, {}
    for known in sets:
        facts[known.set_id] = _facts(store, known, running=running)
        sizes[known.set_id] = known.size
    return facts, sizes


def _facts(store: PlanStore, known: KnownSet, *, running: bool = False) -> SetFacts:
    # A set whose files are gone must not be the last proven one, for which others are let go.
    missing = as_text(files_not_there(store, known))
    return facts_of(known, running=running, in_use=readers_of(store, known.set_id), missing=missing)


def _decide(site: Site, plan: str, facts: Iterable[SetFacts], now: datetime) -> Verdict:
    settings = site.plan(plan)
    sources = sources_for_retention(site, plan, now)
    return decide(tuple(facts), settings.retention, now, ZoneInfo(site.settings.timezone), sources)


def _apply(
    site: Site,
    plan: str,
    store: PlanStore,
    facts: dict[SetId, SetFacts],
    sizes: dict[SetId, int],
    now: datetime,
    progress: ProgressSink,
) -> CleanupResult:
    verdict = _decide(site, plan, facts.values(), now)
    removed: list[SetId] = []
    failed: list[tuple[SetId, str]] = []
    spared: list[tuple[SetId, str]] = []
    if verdict.refusal:
        LOG.warning("%s: nothing is removed: %s", plan, verdict.refusal)
    wanted, current = verdict.removed, verdict
    for number, decision in enumerate(wanted, 1):
        set_id = decision.set_id
        store.coordination.require()
        try:
            if _check_again(store, facts, current, set_id):
                current = _decide(site, plan, facts.values(), now)
            if reason := next(("; ".join(d.reasons) for d in current.kept if d.set_id == set_id), ""):
                spared.append((set_id, reason))
                LOG.warning("%s/%s stays: %s", plan, set_id, reason)
                continue
            with to_be_removed(store, set_id) as readers:
                if readers:
                    spared.append((set_id, readers))
                    LOG.warning("%s/%s stays: %s", plan, set_id, readers)
                    continue
                store.remove(set_id)
        except SetNotFoundError:
            continue  # somebody was quicker
        except BackupSystemError as error:
            failed.append((set_id, str(error)))
            LOG.error("%s/%s could not be removed: %s", plan, set_id, error)
            continue
        facts.pop(set_id)
        removed.append(set_id)
        LOG.info("removed %s/%s: %s", plan, set_id, "; ".join(decision.reasons))
        _note(store, f"{plan}/{set_id} removed, {sizes[set_id]} bytes: {'; '.join(decision.reasons)}", now)
        progress(Progress(f"clean-up of {plan}", number, len(wanted), "sets", finished=number == len(wanted)))
    store.share()
    return CleanupResult(
        plan, verdict, sizes, tuple(removed), tuple(failed), tuple(spared), sum(sizes[one] for one in removed)
    )


def _check_again(store: PlanStore, facts: dict[SetId, SetFacts], verdict: Verdict, set_id: SetId) -> bool:
    """Bring `facts` up to date right before a set goes; return whether anything that matters has changed.

    Verifications and drills add proofs without the plan's lock: the set itself, and the sets that stand for it (the
    newest and the last good ones), are read once more.
    """
    standing = {d.set_id for d in verdict.kept if any(reason.startswith("the last ") for reason in d.reasons)}
    fresh = {one: _facts(store, store.read(one)) for one in {*standing, verdict.decisions[0].set_id, set_id}}
    changed = any(facts[one] != known for one, known in fresh.items())
    facts.update(fresh)
    return changed


def _note(store: PlanStore, text: str, now: datetime) -> None:
    """Append a line to the log beside the sets: what was removed must be known when it is gone."""
    line = f"{now:%Y-%m-%d %H:%M:%S} - cleanup - INFO - {text}\n"
    try:
        append_line(store.folder / RUN_LOG_NAME, line, mode=store.file_mode)
    except OSError as error:
        LOG.error("the line could not be written: %s", error.strerror)
