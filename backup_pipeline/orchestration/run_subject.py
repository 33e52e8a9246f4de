"""The subject of a run: plan, work and requester, derived from its job, its selection and Dagster's tags.

The webserver and the daemon, which tag runs, may have no backup.yaml: nothing here needs the site.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal

import dagster as dg

from backup_pipeline.orchestration.names import (
    OPERATION_TAG,
    PLAN_TAG,
    PLANS_TAG,
    RESTORED,
    SOURCE_TAG,
    STAGES_OF_COPIES,
    STARTED_BY_TAG,
    STEP_TAG,
    copies_subject,
)

ASSET_JOB = "__ASSET_JOB"
BACKUP, CAPTURE, RESTORE, UNDO = "backup", "capture", "restore", "undo"
# By the last part of an asset's key; every other asset is a captured artefact.
_OPERATIONS = {
    "manifest": BACKUP,
    "retention": "retention",
    "verification": "verification",
    "drill": "drill",
    "reexport": "reexport",
    "restored": RESTORE,
    "order_folders": "orders_export",
    "order_verification": "orders_verification",
    "restored_orders": "orders_restore",
}
_ASKED_BY = {
    "dagster/backfill": "backfill",
    "dagster/schedule_name": "schedule",
    "dagster/sensor_name": "sensor",
    "dagster/auto_materialize": "automation",
}


def plan_of(selection: Iterable[dg.AssetKey], tags: Mapping[str, str]) -> str:
    """Return the plan that a run works for: as tagged, else that of its assets, the first of several; "" for none."""
    return tags.get(PLAN_TAG) or min((key.path[0] for key in selection), default="")


def plans_of(run: dg.DagsterRun) -> tuple[str, ...]:
    """Return every plan that a run works for, as it is tagged."""
    several = run.tags.get(PLANS_TAG, "")
    return tuple(several.split(_BETWEEN)) if several else tuple(filter(None, [run.tags.get(PLAN_TAG, "")]))


_BETWEEN = ", "


def operation_of(job_name: str, selection: Iterable[dg.AssetKey], plan: str) -> str:
    """Return what a run does: `backup`, `capture`, `verification`, `drill`, `restore`, … or the job's name.

    A run that was started on the page of an asset or a group has no job of ours; what it does follows from its assets.
    """
    if job_name != ASSET_JOB:
        return job_name.removeprefix(f"{plan}_") if plan else job_name
    found = {_operation_of_key(key) for key in selection}
    if BACKUP in found:
        # The set is sealed by this run; that it is cleaned up afterwards is part of it.
        return BACKUP
    return ", ".join(sorted(found)) or "materialisation"


def source_of(run: dg.DagsterRun) -> str:
    """Return the source that a restore or an undo is about; "" for other runs and for those about several."""
    if named := run.tags.get(SOURCE_TAG):
        return named
    ops = configured_ops(run)
    applied = {name: config for name, config in ops.items() if step_of(config) == "apply"}
    found = {str(config["source"]) for config in ops.values() if config.get("source")}
    selected = [key.path[1] for key in run.asset_selection or () if len(key.path) == 3 and key.path[-1] == RESTORED]
    if not found and len(selected) == 1:
        return selected[0]
    begin = f"{run.job_name.removesuffix('_restore')}__restore_"
    found |= {name.removeprefix(begin) for name in applied or ops if name.startswith(begin)}
    return found.pop() if len(found) == 1 else ""


def configured_ops(run: dg.DagsterRun) -> dict[str, Mapping[str, Any]]:
    """Return what the launchpad's form held of each op."""
    ops: Any = dict(run.run_config or {}).get("ops")
    if not isinstance(ops, Mapping):
        return {}
    given = {str(name): op.get("config") for name, op in ops.items() if isinstance(op, Mapping)}
    return {name: config if isinstance(config, Mapping) else {} for name, config in given.items()}


def step_of(config: Mapping[str, Any]) -> str:
    """Return the step that a restore's form asks for: `plan` or `apply`."""
    return "apply" if str(config.get("step", "plan")).lower() == "apply" else "plan"


def restore_step(run: dg.DagsterRun) -> Literal["plan", "apply", "undo"]:
    """Return what a restore's or an undo's run does: `plan`, `apply` or `undo`."""
    if run.job_name.endswith("_undo"):
        return "undo"
    return "apply" if "apply" in map(step_of, configured_ops(run).values()) else "plan"


def _operation_of_key(key: dg.AssetKey) -> str:
    path = key.path
    if _vault_of(key):
        return path[-1]
    # A table may have any of these names: it stands deeper.
    known = len(path) == 2 or (len(path) == 3 and path[-1] in ("restored", *_ORDERS))
    return _OPERATIONS.get(path[-1], CAPTURE) if known else CAPTURE


def _vault_of(key: dg.AssetKey) -> str:
    """Return the vault whose copies an asset is about, "" for any other asset."""
    stage = key.path[-1] if len(key.path) == 2 else ""
    return next((stage.removeprefix(begin) for begin in STAGES_OF_COPIES if stage.startswith(begin)), "")


_ORDERS = tuple(name for name in _OPERATIONS if "order" in name)


def asked_by(tags: Mapping[str, str]) -> str:
    """Return who asked for a run that Dagster's own processes start: a schedule, a sensor, a backfill, or the UI."""
    for tag, origin in _ASKED_BY.items():
        if tag in tags:
            return f"{origin} {tags[tag]}" if origin in ("schedule", "sensor") else origin
    return "ui"


def asked_in_shell() -> str:
    """Return who runs this process: `shell, user@host`."""
    user = ""
    with suppress(Exception):
        user = getpass.getuser()
    return f"shell, {user or os.getuid()}@{socket.gethostname()}"


def missing_tags(run: dg.DagsterRun, asked: str = "") -> dict[str, str]:
    """Return the tags that a run lacks to be found: its plan, what it does, and who asked for it."""
    selection = run.asset_selection or frozenset()
    checks = frozenset(check.asset_key for check in run.asset_check_selection or ())
    keys = selection or checks
    plan = plan_of(keys, run.tags)
    vaults = {_vault_of(key) for key in keys}
    counted = copies_subject(plan, vaults.pop()) if len(vaults) == 1 and vaults != {""} else plan
    plans = sorted({key.path[0] for key in keys})
    wanted = {
        PLAN_TAG: counted,
        PLANS_TAG: _BETWEEN.join(plans) if len(plans) > 1 and PLAN_TAG not in run.tags else "",
        OPERATION_TAG: operation_of(run.job_name, selection, plan) if selection or not checks else "check",
        STARTED_BY_TAG: asked or asked_by(run.tags),
    }
    if wanted[OPERATION_TAG] in (RESTORE, UNDO):
        wanted |= {SOURCE_TAG: source_of(run), STEP_TAG: restore_step(run)}
    return {name: value for name, value in wanted.items() if value and name not in run.tags}
