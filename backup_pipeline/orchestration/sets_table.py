"""The sets of a plan as its manifest shows them in Dagster: date, kind, verified, proven, copies, and links."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import dagster as dg

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.manifest import Manifest, Purpose
from backup_pipeline.model.proof import Proof
from backup_pipeline.operations.sites.copy_records import vault_record
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.set_summaries import SetSummary, set_summaries
from backup_pipeline.orchestration.metadata import table_of
from backup_pipeline.orchestration.restore_assets import restorable
from backup_pipeline.orchestration.ui_links import page_link, run_page, start_restore_link
from backup_pipeline.rules.quantities import bytes_text
from backup_pipeline.settings.site import Site

SETS, SETS_LINKS, START_RESTORE = "sets", "pages and runs of sets", "start a restore"
_LISTED = 100
_LINKED = 25
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def sets_metadata(site: Site, plan: str) -> dict[str, Any]:
    """Return the plan's sets, newest first, as a table, and the addresses of the newest ones' pages and runs.

    A store that cannot be read now gives nothing: that is reported elsewhere, and what was sealed is sealed.
    """
    with suppress(BackupSystemError):
        sets = set_summaries(open_store(site, plan), running=False)
        if sets:
            links = "\n".join(f"- {_links(site, plan, one)}" for one in sets[:_LINKED])
            rows = table_of(_rows(site, plan, sets), at_most=_LISTED)
            return {SETS: rows, SETS_LINKS: dg.MetadataValue.md(links)}
    return {}


def sets_digest(site: Site, plan: str, sets: Sequence[SetSummary]) -> str:
    """Return what changes when the table of a plan's sets does."""
    return hashlib.sha256(json.dumps(_rows(site, plan, sets)).encode()).hexdigest()


def start_restore(site: Site, sealed: Manifest, partition: str) -> dict[str, Any]:
    """Return a link for each source of a sealed set, which opens a launchpad; launched as it is, that makes a plan."""
    # One entry each: the UI folds longer texts away.
    return {
        f"{START_RESTORE}: {name}": dg.MetadataValue.md(
            f"[from this set, after reading its plan]({start_restore_link(site, sealed.plan, name, partition)})"
        )
        for name in restorable(site, sealed.plan)
        if name in sealed.sources
    }


def _rows(site: Site, plan: str, sets: Sequence[SetSummary]) -> list[dict[str, Any]]:
    records = {entry.to: vault_record(site, entry.to) for entry in site.plan(plan).copies}
    return [
        {
            "date": f"{one.facts.at:%Y-%m-%d %H:%M} UTC",
            "set": str(one.facts.set_id),
            "kind": _kind(one),
            "size": bytes_text(one.size),
            "verified": _outcome(one.verification),
            "proven": _outcome(one.drill) if one.not_drilled_here is None else "could not be drilled here",
            "copies": ", ".join(v for v, known in records.items() if known.copy_of(plan, one.facts.set_id)) or "none",
        }
        for one in sets
    ]


def _kind(one: SetSummary) -> str:
    facts = one.facts
    if facts.state is not SetState.COMPLETE:
        return facts.state.value
    if facts.purpose is Purpose.EMERGENCY:
        return "emergency, made before a restore"
    return f"part of the plan: {', '.join(facts.sources)}" if facts.partial else facts.purpose.value


def _outcome(proof: Proof | None) -> str:
    if proof is None:
        return "not yet"
    return f"{'yes' if proof.passed else 'failed'}, {proof.finished_at:%Y-%m-%d}"


def _links(site: Site, plan: str, one: SetSummary) -> str:
    set_id = str(one.facts.set_id)
    links = [f"[{set_id}]({page_link(site, plan, set_id)})"]
    if one.facts.state is SetState.COMPLETE:
        links.append(f"[restore]({page_link(site, 'restore', plan, set_id)})")
    runs = {"backup": one.run_id}
    runs |= {name: proof.run_id for name, proof in (("verification", one.verification), ("drill", one.drill)) if proof}
    links += [f"[{name}]({run_page(site, run_id)})" for name, run_id in runs.items() if _RUN_ID.fullmatch(run_id)]
    return " · ".join(links)
