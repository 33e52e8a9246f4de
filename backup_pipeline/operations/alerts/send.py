"""Delivery of alerts: each incident is reported once when it opens and once when it is over.

The shell, the runs and Dagster's sensors all call these functions; the incident's key makes sure that the same problem
is reported once. Nothing here ever fails a backup: what cannot be sent is logged and tried again later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import SettingsError
from backup_pipeline.model.incident import Incident, IncidentKind, IncidentState, Notice, Observation
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.operations.alerts.observe import (
    observe_check,
    observe_copies,
    observe_site,
    run_link,
)
from backup_pipeline.operations.status.incident_state import change_state, read_state
from backup_pipeline.redaction import scrub, secrets_in
from backup_pipeline.rules.acknowledgements import end_acknowledgements
from backup_pipeline.rules.clock_ahead import observed_by_now, without_times_ahead
from backup_pipeline.rules.incidents import (
    Message,
    claim,
    compose,
    incident_key,
    observe,
    settle,
    unreported,
)
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.variables import secret_variables
from backup_pipeline.system.heartbeat import Signal, ping
from backup_pipeline.system.notifications import Delivery, deliver

LOG = logging.getLogger("alerts")
BACKUP = "backup"
_WAYS_BACK = ("restore", "undo")


@dataclass(frozen=True, slots=True)
class AlertReport:
    """What a call did: how many incidents were reported, in what message, and what became of it at each address."""

    reported: int = 0
    deliveries: tuple[Delivery, ...] = ()
    title: str = ""

    def __str__(self) -> str:
        """Return as a sentence what was sent, where to, and what was not taken; no address, for that is a secret."""
        if not self.reported:
            return "Nothing new to report."
        took = [delivery.service for delivery in self.deliveries if delivery.delivered]
        refused = [f"{each.service} ({each.problem})" for each in self.deliveries if not each.delivered]
        texts = [f"Alert “{self.title}” was sent to {', '.join(took)}."] if took else []
        if refused:
            texts.append(f"Alert “{self.title}” was not taken by {', '.join(refused)}; it is tried again.")
        return " ".join(texts)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that has ended.

    Attributes:
        succeeded: whether it did.
        run_id: Dagster's id of the run, for the link.
        work: what the run did: "backup", "verification", "drill", "restore", or a job's name.
        set_id: the set it worked on.
        artefact: the artefact that failed.
        reason: why it failed: an error of the family's text, never a foreign one's.
        remedy: what to do.
        records: artefacts of the run, whose failed checks are incidents too.
        partial: whether the run captured fewer sources than the plan has; its success ends no incident of the plan.
    """

    succeeded: bool
    run_id: str = ""
    work: str = BACKUP
    set_id: str = ""
    artefact: str = ""
    reason: str = ""
    remedy: str = ""
    records: Iterable[ArtefactRecord] = ()
    partial: bool = False


def notify_run_finished(site: Site, plan: str, run: FinishedRun, at: datetime | None = None) -> AlertReport:
    """Report a run that has ended, and the checks of its artefacts; never raises.

    Args:
        site: the site.
        plan: the plan, "" for work that belongs to none.
        run: the run.
        at: when it ended; now by default.
    """
    at = at or utc_now()
    observations = [
        observe_check(site, plan, record.key, check, at=at, set_id=str(record.set_id), run_id=run.run_id)
        for record in run.records
        for check in record.checks
    ]
    key = incident_key(IncidentKind.RUN_FAILED, plan, run.work)
    if not run.succeeded:
        incident = Incident(
            key=key,
            kind=IncidentKind.RUN_FAILED,
            plan=plan,
            set_id=run.set_id,
            artefact=run.artefact,
            what=f"The {run.work} failed." if plan else f"The run of {run.work} failed.",
            reason=run.reason,
            remedy=run.remedy or "Read the run's log; when the cause is removed, run it again.",
            link=run_link(site, run.run_id),
            opened_at=at,
        )
        observations.append(Observation(key, at, incident))
    elif not run.partial:
        observations += [
            Observation(incident_key(IncidentKind.RUN_FAILED, plan, work), at) for work in _ended(run.work)
        ]
        if run.work == BACKUP and plan:
            observations.append(Observation(incident_key(IncidentKind.OVERDUE, plan), at))
    return report(site, observations, at)


def _ended(work: str) -> list[str]:
    """Return the works whose failure is over when one succeeded: of a restore and its undo, both."""
    done, of, source = work.partition(" of ")
    return [f"{each} of {source}" for each in _WAYS_BACK] if of and done in _WAYS_BACK else [work]


def notify_copies(site: Site, plan: str, at: datetime | None = None) -> AlertReport:
    """Report what a copy or check that has just ended changed of what is known of a plan's copies; never raises."""
    at = at or utc_now()
    try:
        observed = tuple(observe_copies(site, plan, read_state(site), at))
    except Exception as error:
        LOG.error("the copies could not be inspected: %s", type(error).__name__, exc_info=True)
        return AlertReport()
    return report(site, observed, at)


def evaluate_incidents(site: Site, now: datetime | None = None) -> AlertReport:
    """Inspect every plan's store (overdue, failed checks, damage, drills, disk) and report what changed; never raises.

    Called by a sensor every few minutes, and by `backup-pipeline alerts check` where no daemon runs.
    """
    now = now or utc_now()
    before = without_times_ahead(read_state(site), now)
    try:
        known = {name: before.known_since.get(name, now) for name in (*site.single_plans, *site.settings.fleets)}
        observations = observe_site(site, before, known, now)
    except Exception as error:
        LOG.error("the stores could not be inspected: %s", type(error).__name__, exc_info=True)
        return report(site, (), now)
    return report(site, observations, now, known_since=known)


def report(
    site: Site,
    observations: Iterable[Observation],
    now: datetime,
    *,
    known_since: dict[str, datetime] | None = None,
) -> AlertReport:
    """Remember what was observed and send what is new, together with what could not be sent before; never raises."""
    observed = tuple(observations)

    def change(state: IncidentState) -> tuple[IncidentState, tuple[Notice, ...]]:
        found = observed
        if known_since is not None:
            # Only here `now` is the present; a run is reported as of its end, which may be long ago.
            found = observed_by_now(observed, now)
            state = without_times_ahead(state, now)
            state = state.model_copy(update={"known_since": known_since, "inspected_at": now})
        current_state = end_acknowledgements(observe(state, found), now)
        # Without an address nobody is notified; what is open then is reported as soon as there is one.
        return claim(current_state, now) if addresses(site) else (unreported(current_state), ())

    try:
        taken = change_state(site, change)
        if not taken:
            return AlertReport()
        message = compose(taken, site=site_name(site))
        deliveries = _send(site, message)
        delivered = any(delivery.delivered for delivery in deliveries)
        change_state(site, lambda state: (settle(state, taken, delivered=delivered), None))
    except Exception as error:
        LOG.error("the alert could not be sent: %s", type(error).__name__, exc_info=True)
        return AlertReport()
    return AlertReport(len(taken), deliveries, scrub(message.title, hidden_texts(site)))


def send_test(site: Site) -> tuple[Delivery, ...]:
    """Send one message that says it is a test.

    Raises:
        SettingsError: no address is set.
    """
    if not addresses(site):
        names = ", ".join(site.settings.alerts.urls_env)
        raise SettingsError(
            f"No address for alerts: {names} is not set." if names else "No variable for addresses is named.",
            where=f"{site.file} alerts.urls_env",
            remedy="Set it to one or more Apprise URLs, as in ntfys://my-topic (docs/alerts.md).",
        )
    return _send(
        site, Message(f"[{site_name(site)}] test", "This is a test of the alerts. Nothing is wrong.", bad=False)
    )


def addresses(site: Site) -> tuple[str, ...]:
    """Return the Apprise URLs of the site's environment. They are secrets."""
    return tuple(part for name in site.settings.alerts.urls_env for part in site.value(name).split())


def site_name(site: Site) -> str:
    """Return the site's name for subject lines: its folder's."""
    return site.folder.resolve().name or "backup"


def hidden_texts(site: Site) -> tuple[str, ...]:
    """Return the texts that no message may hold: the secrets of the site's environment."""
    return secrets_in(site.environment, secret_variables=secret_variables(site.settings))


def _send(site: Site, message: Message) -> tuple[Delivery, ...]:
    hidden = hidden_texts(site)
    deliveries = deliver(
        addresses(site), title=scrub(message.title, hidden), body=scrub(message.body, hidden), bad=message.bad
    )
    result = []
    for delivery in deliveries:
        safe = Delivery(delivery.service, scrub(delivery.problem, hidden))
        if not safe.delivered:
            LOG.error("the alert was not taken by %s: %s", safe.service, safe.problem)
        result.append(safe)
    return tuple(result)


def ping_start(site: Site, plan: str, run_id: str = "") -> str:
    """Signal the plan's dead-man's-switch that a run begins; return "" or why that failed. Never raises."""
    return _ping(site, plan, Signal.START, "", run_id)


def ping_success(site: Site, plan: str, body: str = "", run_id: str = "") -> str:
    """Signal the plan's dead-man's-switch that a set was sealed."""
    return _ping(site, plan, Signal.SUCCESS, body, run_id)


def ping_fail(site: Site, plan: str, body: str = "", run_id: str = "") -> str:
    """Signal the plan's dead-man's-switch that a run failed, and why."""
    return _ping(site, plan, Signal.FAIL, body, run_id)


def _ping(site: Site, plan: str, signal: Signal, body: str, run_id: str) -> str:
    url = site.value(site.plan(plan).ping_env)
    if not url:
        return ""
    problem = ping(url, signal, body=scrub(body, hidden_texts(site)), run_id=run_id)
    if problem:
        LOG.error("the dead-man's-switch of %s (%s) was not reached: %s", plan, site.plan(plan).ping_env, problem)
    return problem
