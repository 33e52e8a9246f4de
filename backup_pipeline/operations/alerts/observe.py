"""Observation of incidents in the stores: overdue backups, failed checks, damage, failed drills, disks that fill.

Reads only. Whether something is reported stands in `rules/incidents.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from backup_pipeline.errors import BackupSystemError, SetNotFoundError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.incident import Incident, IncidentKind, IncidentState, Observation
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import CheckResult
from backup_pipeline.model.record import Severity as CheckSeverity
from backup_pipeline.operations.sites.fleet_record import read_record
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.copies import copy_signs
from backup_pipeline.operations.status.disks import Disk, disks_of
from backup_pipeline.operations.status.present_files import as_text, files_not_there
from backup_pipeline.operations.status.set_summaries import SetSummary, newest_sets, set_summaries
from backup_pipeline.operations.status.signs import is_future, signs_of
from backup_pipeline.rules.clock_ahead import is_ahead
from backup_pipeline.rules.incidents import incident_key
from backup_pipeline.rules.overdue import overdue
from backup_pipeline.rules.retention import SetFacts, Verdict, decide
from backup_pipeline.rules.trend import SizedSet
from backup_pipeline.settings.server_databases import sources_for_retention
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.claims import writing
from backup_pipeline.stores.contract import PlanStore

# A run that has just ended wrote one of the newest sets.
_RUNS_SETS = 120
_DISK_FULL_WITHIN = timedelta(days=7)
# Once reported, it is over only when there is clearly more time, so that a forecast near the limit does not flap.
_DISK_FINE_BEYOND = timedelta(days=10)
_DISK_NEARLY_FULL_DAYS = 1
_FINDINGS_SHOWN = 3


def observe_site(
    site: Site, state: IncidentState, known_since: Mapping[str, datetime], now: datetime
) -> tuple[Observation, ...]:
    """Return what all plans' stores say at `now`; `known_since` gives when each plan was first inspected."""
    found: list[Observation] = []
    sized: dict[str, list[SizedSet]] = {}
    for plan in site.single_plans:
        key = incident_key(IncidentKind.STORE_UNREADABLE, plan)
        try:
            store = open_store(site, plan)
            sets = set_summaries(store, running=writing(store) is not None)
        except BackupSystemError as error:
            found.append(Observation(key, now, _unreadable(key, plan, error, now)))
            continue
        found.append(Observation(key, now))
        found += _observe_plan(site, plan, store, sets, state, known_since[plan], now)
        sized[plan] = [SizedSet(one.facts, one.size) for one in sets]
    found += [_overdue_fleet(site, fleet, known_since[fleet], now) for fleet in site.settings.fleets]
    found += _observe_disks(site, sized, state, now)
    found += _gone_plans(site, state, now)
    return tuple(found)


def observe_check(
    site: Site,
    plan: str,
    artefact: Sequence[str],
    check: CheckResult,
    *,
    at: datetime,
    set_id: str = "",
    run_id: str = "",
) -> Observation:
    """Return what a check's result says; WARN and ERROR are incidents alike, whether the run was green or not."""
    name = ".".join(artefact)
    key = incident_key(IncidentKind.CHECK_FAILED, plan, name, check.name)
    if check.passed:
        return Observation(key, at)
    return Observation(
        key,
        at,
        Incident(
            key=key,
            kind=IncidentKind.CHECK_FAILED,
            plan=plan,
            set_id=set_id,
            artefact=name,
            what=f"Check {check.name} of {name} failed ({check.severity}).",
            reason=check.summary,
            remedy=f"backup-pipeline show {plan}/{set_id} lists the checks." if set_id else "Read the run's checks.",
            link=run_link(site, run_id),
            opened_at=at,
            severity="error" if check.severity is CheckSeverity.ERROR else "warning",
        ),
    )


def run_link(site: Site, run_id: str) -> str:
    """Return the address of a run in the UI, "" when either is unknown."""
    base = site.value(site.settings.alerts.ui_url_env)
    return f"{base.rstrip('/')}/runs/{run_id}" if base and run_id else ""


def _unreadable(key: str, plan: str, error: BackupSystemError, now: datetime) -> Incident:
    return Incident(
        key=key,
        kind=IncidentKind.STORE_UNREADABLE,
        plan=plan,
        artefact=error.where,
        what="The store cannot be read.",
        reason=error.what,
        remedy=error.remedy,
        opened_at=now,
    )


def _observe_plan(
    site: Site,
    plan: str,
    store: PlanStore,
    sets: list[SetSummary],
    state: IncidentState,
    known_since: datetime,
    now: datetime,
) -> Iterator[Observation]:
    whole = [one for one in sets if one.whole]
    # One whose time has not come would never be overdue.
    newest = next((one.facts for one in whole if not is_future(one.facts.set_id, now)), None)
    yield _overdue(site, plan, newest, known_since, now)
    if newest is not None:
        # Retention may remove a set while this reads.
        with contextlib.suppress(SetNotFoundError):
            yield from _checks(site, plan, store.read(newest.set_id), state)
    yield from _drill(plan, sets, now)
    yield from _not_drilled(plan, sets, now)
    yield _damage(plan, sets, now, *_newest_files(store, newest))
    yield from _not_there(site, plan, store, sets, newest, state, now)
    yield from observe_copies(site, plan, state, now)
    facts = [one.facts for one in sets]
    yield _retention(
        plan,
        decide(
            facts,
            site.plan(plan).retention,
            now,
            ZoneInfo(site.settings.timezone),
            sources_for_retention(site, plan, now),
        ),
        now,
    )


def _not_there(
    site: Site,
    plan: str,
    store: PlanStore,
    sets: Sequence[SetSummary],
    newest: SetFacts | None,
    state: IncidentState,
    now: datetime,
) -> Iterator[Observation]:
    """Yield what lasts until somebody acts though no set says it (`status.signs`), and the end of what is over."""
    manifest = None
    with contextlib.suppress(SetNotFoundError):
        manifest = store.read(newest.set_id).manifest if newest else None
    verified = [one.verification.finished_at for one in sets if one.verification]
    drilled = [one.drill.finished_at for one in sets if one.drill and one.drill.passed]
    verified, drilled = ([at for at in times if not is_ahead(at, now)] for times in (verified, drilled))
    signs = signs_of(
        site,
        plan,
        [one.facts for one in sets],
        manifest,
        now,
        verified_at=max(verified, default=None),
        drilled_at=max(drilled, default=None),
    )
    found = set()
    for sign in signs:
        if not sign.lasting:
            continue
        key = incident_key(IncidentKind.NOT_THERE, plan, sign.subject)
        found.add(key)
        incident = Incident(
            key=key,
            kind=IncidentKind.NOT_THERE,
            plan=plan,
            set_id=str(newest.set_id) if newest else "",
            artefact=sign.subject.partition(":")[2],
            what=sign.what,
            remedy=sign.remedy,
            opened_at=now,
            severity=sign.severity,
        )
        yield Observation(key, now, incident)
    for incident in state.open:
        if incident.kind is IncidentKind.NOT_THERE and incident.plan == plan and incident.key not in found:
            yield Observation(incident.key, now)


def observe_copies(site: Site, plan: str, state: IncidentState, now: datetime) -> Iterator[Observation]:
    """Yield what is recorded as wrong with a plan's copies, and the end of what is over. No vault is asked."""
    found = set()
    sealed = open_store(site, plan).sealed_ids() if site.plan(plan).copies else ()
    for sign in copy_signs(site, plan, sealed, now):
        key = incident_key(IncidentKind.COPIES, plan, sign.subject)
        found.add(key)
        vault = sign.subject.partition(":")[2]
        incident = Incident(
            key=key,
            kind=IncidentKind.COPIES,
            plan=plan,
            artefact=f"copies in {vault}",
            what=sign.what,
            remedy=sign.remedy,
            opened_at=now,
            severity=sign.severity,
        )
        yield Observation(key, now, incident)
    for incident in state.open:
        if incident.kind is IncidentKind.COPIES and incident.plan == plan and incident.key not in found:
            yield Observation(incident.key, now)


def _observe_disks(
    site: Site, sized: Mapping[str, list[SizedSet]], state: IncidentState, now: datetime
) -> Iterator[Observation]:
    """Yield what is to be said of each disk: of the first plan on it, and the end of what was said of the others."""
    for disk in disks_of(site, sized, now, horizon=_DISK_FINE_BEYOND + timedelta(days=1)):
        yield _disk(site, disk, state, now)
        for plan in disk.plans[1:]:
            yield Observation(incident_key(IncidentKind.DISK_FILLING, plan), now)


def _retention(plan: str, verdict: Verdict, now: datetime) -> Observation:
    """A refusal counts only where a set would otherwise have been removed."""
    key = incident_key(IncidentKind.RETENTION_REFUSED, plan)
    held = [one for one in verdict.kept if verdict.refusal and any(verdict.refusal in why for why in one.reasons)]
    return Observation(key, now, retention_incident(plan, verdict.refusal, "", now) if held else None)


def retention_incident(plan: str, refused: str, remedy: str, now: datetime) -> Incident:
    """Return the incident of a retention that removed nothing, and why."""
    return Incident(
        key=incident_key(IncidentKind.RETENTION_REFUSED, plan),
        kind=IncidentKind.RETENTION_REFUSED,
        plan=plan,
        what="Retention refused to remove old sets.",
        reason=refused,
        remedy=remedy or f"backup-pipeline cleanup {plan} --dry-run shows the reason for every set.",
        opened_at=now,
        severity="warning",
    )


def _disk(site: Site, disk: Disk, state: IncidentState, now: datetime) -> Observation:
    plan, full = disk.plans[0], disk.full_at
    key = incident_key(IncidentKind.DISK_FILLING, plan)
    reported = any(incident.key == key for incident in state.open)
    if full is None or full - now > (_DISK_FINE_BEYOND if reported else _DISK_FULL_WITHIN):
        return Observation(key, now)
    shared = f" The stores of {', '.join(disk.plans)} share it." if disk.plans[1:] else ""
    days = max(0, (full - now).days)
    incident = Incident(
        key=key,
        kind=IncidentKind.DISK_FILLING,
        plan=plan,
        artefact=open_store(site, plan).label,
        what=f"The store's disk will be full in {days} days.",
        reason=f"From the growth of past sets and retention, about {full:%Y-%m-%d}.{shared}",
        remedy="Free space, give the store a larger disk, or keep fewer sets.",
        opened_at=now,
        severity="error" if days <= _DISK_NEARLY_FULL_DAYS else "warning",
    )
    return Observation(key, now, incident)


def _overdue(site: Site, plan: str, newest: SetFacts | None, known_since: datetime, now: datetime) -> Observation:
    settings = site.plan(plan)
    begun = (newest.at, str(newest.set_id)) if newest else (None, "")
    return _late(site, plan, settings.schedule, settings.overdue_after, begun, known_since, now)


def _overdue_fleet(site: Site, fleet: str, known_since: datetime, now: datetime) -> Observation:
    """Return whether the run of a fleet is missing; what of its members failed, the run reports."""
    settings = site.settings.fleets[fleet]
    begun = (read_record(site, fleet).began, "")
    return _late(site, fleet, settings.schedule, settings.plan.overdue_after, begun, known_since, now)


def _late(
    site: Site,
    name: str,
    schedule: str | None,
    overdue_after: timedelta | None,
    begun: tuple[datetime | None, str],
    known_since: datetime,
    now: datetime,
) -> Observation:
    key = incident_key(IncidentKind.OVERDUE, name)
    late = overdue(
        schedule=schedule,
        timezone=site.settings.timezone,
        overdue_after=overdue_after,
        newest=begun[0],
        known_since=known_since,
        now=now,
    )
    if late is None:
        return Observation(key, now)
    incident = Incident(
        key=key,
        kind=IncidentKind.OVERDUE,
        plan=name,
        set_id=begun[1],
        what="The backup is overdue.",
        reason=late.reason,
        remedy=f"Is the daemon running? Read the last runs' logs, or run: backup-pipeline backup {name}",
        opened_at=now,
    )
    return Observation(key, now, incident)


def _checks(site: Site, plan: str, newest: BackupSet, state: IncidentState) -> Iterator[Observation]:
    """Yield the newest set's failed checks, and the end of those that hold again or are no longer made."""
    if newest.manifest is None:
        return
    manifest = newest.manifest
    yield Observation(incident_key(IncidentKind.RUN_FAILED, plan, "backup"), manifest.sealed_at)
    failing: set[str] = set()
    for record in manifest.artefacts:
        for check in record.checks:
            if not check.passed:
                observed = observe_check(
                    site,
                    plan,
                    record.key,
                    check,
                    at=manifest.sealed_at,
                    set_id=str(newest.set_id),
                    run_id=manifest.run_id,
                )
                failing.add(observed.key)
                yield observed
    for incident in state.open:
        ours = incident.plan == plan and incident.artefact.split(".")[0] in manifest.sources
        if incident.kind is IncidentKind.CHECK_FAILED and ours and incident.key not in failing:
            yield Observation(incident.key, manifest.sealed_at)


def _drill(plan: str, sets: Sequence[SetSummary], now: datetime) -> Iterator[Observation]:
    key = incident_key(IncidentKind.NOT_PROVEN, plan)
    # One that passed in a time to come says nothing against those that failed since.
    drills = [
        one.drill for one in sets if one.drill and not (one.drill.passed and is_ahead(one.drill.finished_at, now))
    ]
    last = max(drills, key=lambda proof: proof.finished_at, default=None)
    if last is None:
        return
    if last.passed:
        yield Observation(key, last.finished_at)
        return
    incident = Incident(
        key=key,
        kind=IncidentKind.NOT_PROVEN,
        plan=plan,
        set_id=str(last.set_id),
        what="The drill did not prove the set: it was restored and is not equal.",
        reason=_findings(last.findings),
        remedy=f"backup-pipeline show {plan}/{last.set_id} lists the findings; make a new backup and drill it.",
        opened_at=last.finished_at,
        extent=len(last.findings),
    )
    yield Observation(key, last.finished_at, incident)


def _not_drilled(plan: str, sets: Sequence[SetSummary], now: datetime) -> Iterator[Observation]:
    """A drill that this machine cannot carry out proves nothing for weeks: somebody must know, and know what to do."""
    key = incident_key(IncidentKind.NOT_DRILLABLE, plan)
    tried = [one.not_drilled_here for one in sets if one.not_drilled_here]
    last = max(tried, key=lambda proof: proof.finished_at, default=None)
    carried_out = max((one.drill.finished_at for one in sets if one.drill), default=None)
    if last is None or (carried_out and carried_out > last.finished_at):
        yield Observation(key, now)
        return
    incident = Incident(
        key=key,
        kind=IncidentKind.NOT_DRILLABLE,
        plan=plan,
        set_id=str(last.set_id),
        what="The set could not be drilled here. Nothing speaks against it; it is not proven either.",
        reason=_findings(last.missing_here),
        remedy=next(
            (one.remedy for one in last.missing_here if one.remedy), "backup-pipeline show lists what is missing."
        ),
        opened_at=last.finished_at,
        severity="warning",
    )
    yield Observation(key, last.finished_at, incident)


def _newest_files(store: PlanStore, newest: SetFacts | None) -> tuple[str, str]:
    """Return the newest good set and what of its files is not there, ("", "") when all are."""
    if newest is not None:
        with contextlib.suppress(SetNotFoundError):
            if wrong := files_not_there(store, store.read(newest.set_id)):
                return str(newest.set_id), as_text(wrong)
    return "", ""


def _damage(plan: str, sets: Sequence[SetSummary], now: datetime, set_id: str, missing: str) -> Observation:
    key = incident_key(IncidentKind.DAMAGED, plan)
    if missing:
        incident = Incident(
            key=key,
            kind=IncidentKind.DAMAGED,
            plan=plan,
            set_id=set_id,
            what="The newest set is not whole any more.",
            reason=missing,
            remedy=f"Make a good set: backup-pipeline backup {plan}. Then inspect the disk.",
            opened_at=now,
        )
        return Observation(key, now, incident)
    bad = [one.verification for one in sets if one.verification and not one.verification.passed]
    if not bad:
        return Observation(key, now)
    newest = max(bad, key=lambda proof: proof.finished_at)
    more = f" ({len(bad)} sets in all)" if len(bad) > 1 else ""
    incident = Incident(
        key=key,
        kind=IncidentKind.DAMAGED,
        plan=plan,
        set_id=str(newest.set_id),
        what=f"A set is damaged{more}.",
        reason=_findings(newest.findings),
        remedy="Check the disk, make a new backup at once, and restore from another set.",
        opened_at=newest.finished_at,
        extent=len(bad),
    )
    return Observation(key, now, incident)


def _findings(found: Sequence[Finding]) -> str:
    shown = "; ".join(f"{finding.subject}: {finding.problem}" for finding in found[:_FINDINGS_SHOWN])
    more = len(found) - _FINDINGS_SHOWN
    return shown + (f"; and {more} more" if more > 0 else "")


def _gone_plans(site: Site, state: IncidentState, now: datetime) -> Iterator[Observation]:
    """Yield the end of incidents of plans that the settings no longer have."""
    for incident in state.open:
        if incident.plan and incident.plan not in {*site.settings.plans, *site.settings.fleets}:
            yield Observation(incident.key, now)


def set_of_run(site: Site, plan: str, root_run_id: str) -> BackupSet | None:
    """Return the set that a run (or what it re-executes) wrote, among the newest ones; None when there is none."""
    for known in islice(newest_sets(open_store(site, plan)), _RUNS_SETS):
        if known.draft is not None and known.draft.root_run_id == root_run_id:
            return known
    return None
