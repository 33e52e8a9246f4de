"""The backup and the drill of one member of a fleet: captured, sealed, copied and cleaned up as its plan says.

A process takes one member after the other: `python -m backup_pipeline.operations.fleets.member BACKUP_YAML` reads
from standard input `backup PLAN` or `drill PLAN`, one a line, and answers each with a line of JSON. It ends when its
input does. Which member is next is not decided here.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from uuid import uuid4

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import BackupSystemError, ExitCode
from backup_pipeline.model.fleet_run import MemberOutcome
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.proof import ProofOutcome
from backup_pipeline.model.record import left_undone
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.operations.copies.copying import copy_into, missing_copies
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.retention.cleanup import cleanup
from backup_pipeline.operations.sites.stores import resolve_set
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.system.process_end import run_and_leave

LOG = logging.getLogger("backup")


def back_up_member(site: Site, plan: str, run_id: str) -> MemberOutcome:
    """Back up one member; what goes wrong is in the outcome, never raised."""
    began = time.monotonic()
    try:
        manifest = _sealed(site, plan, run_id)
    except BackupSystemError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        return _outcome(plan, began, state="failed", what=what, remedy=error.remedy, exit_code=int(error.exit_code))
    except Exception as error:
        LOG.exception("unexpected")
        what = f"Unexpected {type(error).__name__}."
        return _outcome(plan, began, state="failed", what=what, exit_code=int(ExitCode.FAILED))
    problems, code = _afterwards(site, plan), ExitCode.OK
    if undone := left_undone(manifest.artefacts):
        problems, code = [*undone, *problems], ExitCode.CHECKS
    elif manifest.broken_data:
        problems, code = [*manifest.broken_data, *problems], ExitCode.BROKEN_DATA
    elif problems:
        code = ExitCode.NOT_COPIED
    return _outcome(
        plan,
        began,
        state="sealed",
        set_id=manifest.set_id,
        size=manifest.size,
        what="; ".join(problems),
        exit_code=int(code),
    )


def drill_member(site: Site, plan: str, run_id: str) -> MemberOutcome:
    """Drill the newest set of a member; what is wrong with it is in the outcome, never raised."""
    began = time.monotonic()
    try:
        _, set_id = resolve_set(site, plan)
        proof = drill_set(site, plan, set_id, run_id=run_id)
    except BackupSystemError as error:
        return _outcome(plan, began, state="failed", what=f"drill: {error.what}", exit_code=int(error.exit_code))
    except Exception as error:
        LOG.exception("unexpected")
        what = f"drill: unexpected {type(error).__name__}."
        return _outcome(plan, began, state="failed", what=what, exit_code=int(ExitCode.FAILED))
    if proof.outcome is ProofOutcome.PASSED:
        return _outcome(plan, began, state="sealed", set_id=set_id, proven_at=proof.finished_at)
    found = next(iter((*proof.findings, *proof.missing_here)), None)
    what = f"drill {proof.outcome.value}" + (f": {found.subject}: {found.problem}" if found else "")
    code = ExitCode.NOT_DRILLABLE if proof.outcome is ProofOutcome.NOT_HERE else ExitCode.CHECKS
    return _outcome(plan, began, state="failed", set_id=set_id, what=what, exit_code=int(code))


def _sealed(site: Site, plan: str, run_id: str) -> Manifest:
    identity = RunIdentity(run_id or f"fleet-{uuid4().hex}", f"fleet-{uuid4().hex}", utc_now())
    run = BackupRun(site, plan, identity)
    try:
        for source in site.plan(plan).sources:
            for _ in run.capture(source):
                pass
        return run.seal()
    finally:
        run.close()


def _afterwards(site: Site, plan: str) -> list[str]:
    """Copy the sets that the plan's vaults lack, and remove what retention lets go; return what was not done."""
    problems = []
    for entry in site.plan(plan).copies:
        try:
            for set_id in missing_copies(site, plan, entry.to):
                copy_into(site, entry.to, plan, set_id)
        except BackupSystemError as error:
            problems.append(f"no copy in {entry.to}: {error.what}")
    try:
        cleanup(site, plan, now=utc_now())
    except BackupSystemError as error:
        problems.append(f"nothing was cleaned up: {error.what}")
    return problems


def _outcome(plan: str, began: float, **values: object) -> MemberOutcome:
    return MemberOutcome.model_validate(
        {"plan": plan, "at": utc_now(), "seconds": round(time.monotonic() - began, 3), **values}
    )


def main() -> None:
    """Answer one plan after the other, until the input ends."""
    site, run_id = load_site(Path(sys.argv[1])), sys.argv[2] if sys.argv[2:] else ""
    for line in sys.stdin:
        task, _, plan = line.strip().partition(" ")
        outcome = (drill_member if task == "drill" else back_up_member)(site, plan, run_id)
        sys.stdout.write(outcome.model_dump_json() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    run_and_leave(main)
