"""The page of a set: what it holds by source, its checks, its proofs over time, its copies, and who made it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg
from starlette.responses import Response

from backup_pipeline.model.proof import Proof, ProofKind
from backup_pipeline.model.record import ArtefactRecord, CheckResult, facts_text
from backup_pipeline.operations.sites.stores import split_place
from backup_pipeline.operations.status.copies import copies_of
from backup_pipeline.operations.status.listing import ShownSet, show_set
from backup_pipeline.orchestration.activity import run_origin
from backup_pipeline.settings.site import Site
from backup_pipeline.web.front.context import Front
from backup_pipeline.web.front.copies import require_identity
from backup_pipeline.web.front.pages import PageRequest
from backup_pipeline.web.front.start import can_start

ARTEFACTS = 200
"""How many artefacts of a source a page lists; its files' page has the rest."""


@dataclass(frozen=True)
class SourceView:
    """What a set holds of one source.

    Attributes:
        name: the source.
        label: where it was captured from.
        facts: what the source says of itself, as one line.
        artefacts: the artefacts that are listed, those with failed checks first.
        more: how many are not listed.
        size: bytes of all of them.
        rows: rows of all table exports.
        passed: checks that held.
        failed: checks that did not, each with its artefact.
        failures: what of the source is missing in the set, and why.
    """

    name: str
    label: str
    facts: str
    artefacts: tuple[ArtefactRecord, ...]
    more: int
    size: int
    rows: int
    passed: int
    failed: tuple[tuple[ArtefactRecord, CheckResult], ...]
    failures: tuple[tuple[str, str, str], ...]


def set_page(asked: PageRequest) -> Response:
    """Return a set's page."""
    front, now = asked.front, asked.front.now()
    site = front.site()
    require_identity(asked, split_place(asked.place)[0])
    one = show_set(site, f"{asked.place}/{asked.params['set']}")
    known = one.known
    place = f"{one.vault}:{known.plan}" if one.vault else known.plan
    run_id = known.manifest.run_id if known.manifest else known.draft.root_run_id if known.draft else ""
    return asked.render(
        "set.html.jinja",
        one=one,
        place=place,
        can_start=front.workspace is not None and can_start(site, place),
        sources=list(sources_of(one)),
        proofs=sorted(known.proofs, key=lambda proof: proof.finished_at, reverse=True),
        findings=_findings,
        copies=list(_copies(site, one)),
        run_id=run_id,
        origin=_origin(front, run_id),
        now=now,
        zone=site.settings.timezone,
        drilled=ProofKind.DRILL,
    )


def sources_of(one: ShownSet) -> Iterable[SourceView]:
    """Yield what a set holds of each of its sources, in the order of its manifest."""
    known = one.known
    reported = known.manifest or known.draft
    names = list(reported.sources) if reported else []
    names += sorted({record.source for record in known.records} - set(names))
    for name in names:
        records = [record for record in known.records if record.source == name]
        failed = [(record, check) for record in records for check in record.checks if not check.passed]
        bad = {record.key for record, _ in failed}
        ordered = sorted(records, key=lambda record: (record.key not in bad, record.rows is not None, record.key))
        facts: dict[str, str] = {}
        for record in records:
            facts |= record.facts
        yield SourceView(
            name=name,
            label=records[0].source_label if records else "",
            facts=facts_text(facts),
            artefacts=tuple(ordered[:ARTEFACTS]),
            more=max(0, len(ordered) - ARTEFACTS),
            size=sum(record.size for record in records),
            rows=sum(record.rows or 0 for record in records),
            passed=sum(check.passed for record in records for check in record.checks),
            failed=tuple(failed),
            failures=tuple((".".join(f.key), f.what, f.remedy) for f in known.failures if f.key[:1] == (name,)),
        )


def _findings(proof: Proof) -> list[tuple[str, str, str]]:
    """Return what a proof found, lacked or skipped, at most twenty of each: which of these, its subject, and what."""
    groups = (("Found:", proof.findings), ("Not possible here:", proof.missing_here), ("Skipped:", proof.skipped))
    return [(kind, one.subject, one.problem) for kind, found in groups for one in found[:20]]


def _copies(site: Site, one: ShownSet) -> Iterable[tuple[str, str, bool]]:
    """Yield the vaults of the plan: name, what is known of this set's copy there, and whether there is one."""
    if one.vault or not site.plan(one.known.plan).copies or one.known.manifest is None:
        return
    for status in copies_of(site, one.known.plan, [one.known.set_id]):
        copy = next((each for each in status.copies if each.set_id == one.known.set_id), None)
        if copy is None:
            yield status.vault, "no copy", False
        else:
            until = f", cannot be deleted until {copy.locked_until:%Y-%m-%d}" if copy.locked_until else ""
            yield status.vault, f"{status.url}{until}", True


def _origin(front: Front, run_id: str) -> str:
    """Return who started the run that made a set, "" where Dagster's history does not know it any more."""
    instance: dg.DagsterInstance | None = front.instance
    return run_origin(instance, run_id) if instance is not None and run_id else ""
