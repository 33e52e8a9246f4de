"""The alert of a fleet's run: one for all of its members."""

from __future__ import annotations

from backup_pipeline.operations.alerts.send import AlertReport, FinishedRun, notify_run_finished
from backup_pipeline.operations.fleets.run import FleetOutcome
from backup_pipeline.settings.site import Site

_SHOWN = 5


def notify_fleet(site: Site, fleet: str, done: FleetOutcome, run_id: str = "") -> AlertReport:
    """Report a run of a fleet that has ended; never raises."""
    failed, postponed = done.of_state("failed"), done.of_state("postponed")
    reasons = [f"{one.plan}: {one.what}" for one in failed[:_SHOWN]]
    reasons += [f"and {len(failed) - _SHOWN} more failed"] if len(failed) > _SHOWN else []
    reasons += [f"{len(postponed)} members are postponed: the window closed before they began"] if postponed else []
    reasons += [f"{one.plan}: {one.what}" for one in done.drilled if one.exit_code][:_SHOWN]
    reasons += [f"{where}: {what}" for where, what in done.faults[:_SHOWN]]
    remedy = f"When the cause is removed: backup-pipeline backup {fleet} --unfinished"
    ended = FinishedRun(not reasons, run_id=run_id, reason="; ".join(reasons), remedy=remedy if reasons else "")
    return notify_run_finished(site, fleet, ended)
