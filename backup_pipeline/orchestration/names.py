"""Names in Dagster: asset keys, groups, jobs, partitions and tags of a plan. No definition is made here."""

from __future__ import annotations

import hashlib
import re

import dagster as dg

# As workspace.yaml (and docker/workspace.yaml) name the code location.
LOCATION_NAME = "backup-pipeline"
# As Dagster calls the repository of a code location that has one Definitions object.
REPOSITORY_NAME = "__repository__"

PLAN_TAG = "backup_pipeline/plan"
# All plans of a run over assets of several; the first of them has the tag above.
PLANS_TAG = "backup_pipeline/plans"
OPERATION_TAG = "backup_pipeline/operation"
STARTED_BY_TAG = "backup_pipeline/started_by"
SET_TAG = "backup_pipeline/set"
# Of restores and undos: the source, and whether the run plans, applies or undoes.
SOURCE_TAG = "backup_pipeline/source"
STEP_TAG = "backup_pipeline/step"
# Of those that were started from our own pages: the run whose plan or restore it goes on from.
PLAN_RUN_TAG = "backup_pipeline/plan_run"
# Of a restore that was done, and of one that was taken back: the undo's run.
RESTORE_TAG = "backup_pipeline/restore"
UNDONE_TAG = "backup_pipeline/undone_by"
SET_IDENTITY_TAG = "backup_pipeline/set_started"

_ODD = re.compile(r"[^A-Za-z0-9_]")


def key_part(text: str) -> str:
    """Return `text` as Dagster allows it in a key; odd names get a short digest so that no two meet."""
    plain = _ODD.sub("_", text)
    if plain == text and len(text) <= 100:
        return text
    return f"{plain[:100]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def artefact_key(plan: str, key: tuple[str, ...]) -> dg.AssetKey:
    """Return the asset key of an artefact: the plan, the source's own name, and the rest of its key in the set."""
    return dg.AssetKey([plan, key[0], *(key_part(part) for part in key[1:])])


def source_key(plan: str, source: str) -> dg.AssetKey:
    """Return the key of the asset that says a source was captured whole."""
    return dg.AssetKey([plan, source])


def capture_step(plan: str, source: str) -> str:
    """Return the key of the step that captures a source."""
    return f"{plan}__{key_part(source)}"


def manifest_key(plan: str) -> dg.AssetKey:
    """Return the key of the plan's manifest."""
    return dg.AssetKey([plan, "manifest"])


def stage_key(plan: str, stage: str) -> dg.AssetKey:
    """Return the key of what happens to sealed sets: retention, verification, drill, …."""
    return dg.AssetKey([plan, stage])


def backup_job(plan: str) -> str:
    """Return the name of the plan's backup job."""
    return f"{plan}_backup"


RESTORED = "restored"


def restored_key(plan: str, source: str) -> dg.AssetKey:
    """Return the key of a source's rebuilt database (folder, file)."""
    return dg.AssetKey([plan, source, RESTORED])


def fleet_restored_key(fleet: str) -> dg.AssetKey:
    """Return the key under which restores of a fleet's members are kept, a partition each."""
    return dg.AssetKey([fleet, RESTORED])


def restore_job_name(plan: str) -> str:
    """Return the name of the job that restores sources of a plan."""
    return f"{plan}_restore"


def undo_job_name(plan: str) -> str:
    """Return the name of the job that takes a restore of a plan back."""
    return f"{plan}_undo"


def restore_op(plan: str, source: str) -> str:
    """Return the name of the op that restores a source: no two ops of a site may have the same."""
    return f"{plan}__restore_{key_part(source)}"


def member_restore_op(fleet: str) -> str:
    """Return the name of the op that restores any member of a fleet."""
    return f"{fleet}__restore"


def undo_op(plan: str) -> str:
    """Return the name of the op that takes back a restore of a plan, or of any member of a fleet."""
    return f"{plan}__undo"


def sets_group(plan: str) -> str:
    """Return the group of what happens to sealed sets; the plan's own group holds what a backup run makes."""
    return f"{plan}_sets"


def sets_partitions(plan: str) -> dg.DynamicPartitionsDefinition:
    """Return the partitions of everything that happens to sealed sets: one per set."""
    return dg.DynamicPartitionsDefinition(name=f"{plan}_sets")


COPY, CHECK = "copy_in_", "check_in_"
COPY_VERIFICATION, COPY_DRILL = "verification_from_", "drill_from_"
STAGES_OF_COPIES = (COPY, CHECK, COPY_VERIFICATION, COPY_DRILL)
"""How the stages of copies begin; the vault's name follows."""


def copies_subject(plan: str, vault: str) -> str:
    """Return what runs over a plan's copies are counted as (PLAN_TAG): a long copy must keep no backup waiting."""
    return f"{vault}:{plan}"
