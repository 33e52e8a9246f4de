"""Restore in the UI: `<plan>_restore` with the set picked from the partitions, and `<plan>_undo`.

Three steps, as in the shell: a run with `step: plan` shows what would happen and a plan id; a run with `step: apply`,
that id and the target's name does it; `<plan>_undo` takes it back. Never retried automatically.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import dagster as dg
from pydantic import Field

from backup_pipeline.errors import BackupSystemError, ChangedPlanError
from backup_pipeline.model.progress import Progress, ProgressSink
from backup_pipeline.model.restore import (
    ConflictRule,
    RestoreMode,
    RestoreOptions,
    RestorePlan,
    RestoreResult,
    RowComparison,
    TableChange,
)
from backup_pipeline.orchestration.choices import any_case
from backup_pipeline.orchestration.metadata import failure_of, table_of
from backup_pipeline.orchestration.names import PLAN_TAG, SET_TAG, manifest_key, sets_group, sets_partitions
from backup_pipeline.orchestration.run_observer import current_observer
from backup_pipeline.orchestration.selected_partition import selected_set
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of

RESTORED = "restored"
# The whole plan and the whole result, which our pages read.
PLAN_AS_READ, RESULT_AS_KEPT = "plan", "result"
# A restore that failed is inspected by a person, never tried again by a machine.
_NEVER_AGAIN = {"dagster/max_retries": "0"}


Step = Annotated[str, any_case("plan", "apply")]
Mode = Annotated[str, any_case("rebuild", "upsert")]
Only = Annotated[str, any_case("all", "master", "transaction")]
OnConflict = Annotated[str, any_case("backup", "keep", "newer")]


class ComparisonConfig(dg.Config):
    """A condition on rows: one column of a table compared with values. No SQL."""

    table: str = Field(description="schema.table")
    column: str = Field(description="A column of the table.")
    operator: str = Field(default="=", description="=, !=, <, <=, >, >=, in, contains, is null or is not null.")
    values: list[str] = Field(default=[], description="One value; several for `in`, none for `is null`.")


class RestoreConfig(dg.Config):
    """What the Launchpad asks for."""

    source: str = Field(description="The source to restore, as named in backup.yaml.")
    confirm: str = Field(
        description="Name of the target (the database's name or the path), as the plan asks for it. "
        "For step `plan` write anything, such as `-`."
    )
    vault: str = Field(
        default="", description="The vault whose copy of the set is restored; nothing for the plan's own store."
    )
    step: Step = Field(default="plan", description="plan: only show what would happen. apply: do it.")
    plan_id: str = Field(default="", description="For step `apply`: the id that the plan's run printed.")
    mode: Mode = Field(
        default="rebuild",
        description="rebuild: a new database beside the live one, compared, then swapped in by rename; the old one "
        "stays for undo. upsert: insert and update rows in the live database in one transaction.",
    )
    into: str = Field(default="", description="Restore under this name and swap nothing.")
    # A default, not a factory: the Launchpad shows it then, as a line to fill in.
    tables: list[str] = Field(default=[], description="Upsert only these tables (schema.table, * and ?).")
    only: Only = Field(
        default="all", description="all, master or transaction: upsert only master or only transaction tables."
    )
    rows: list[str] = Field(default=[], description="Upsert only these rows: `public.orders: id in (1, 2)`.")
    where: list[ComparisonConfig] = Field(
        default=[], description="Upsert only rows whose columns compare so; several of one table must all be true."
    )
    files: list[str] = Field(
        default=[],
        description="Of a folder only these files (a folder's path: all below it), into the living folder; what they "
        "replace is kept for undo.",
    )
    on_conflict: OnConflict = Field(default="backup", description="Who wins where rows differ: backup, keep or newer.")
    newer_column: str = Field(default="updated_at", description="The time column that `newer` compares.")
    insert_absent: bool = Field(
        default=False, description="Upsert tables without primary key by inserting what is absent."
    )
    skip_refused: bool = Field(default=False, description="Upsert: skip tables that cannot take rows, with a warning.")
    without_triggers: bool = Field(
        default=False, description="Upsert: the tables' own triggers do not fire (for Supabase's auth.users, say)."
    )
    create_roles: bool = Field(default=False, description="Make missing roles (without login) instead of refusing.")
    skip_emergency_backup: bool = Field(
        default=False, description="Rebuild only: what is live is too damaged to be captured first."
    )

    def options(self) -> RestoreOptions:
        """Return the options that the operation takes."""
        return RestoreOptions(
            mode=RestoreMode(self.mode),
            into=self.into,
            tables=tuple(self.tables),
            only=None if self.only == "all" else self.only,
            rows=tuple(self.rows),
            where=tuple(RowComparison.model_validate(one.model_dump()) for one in self.where),
            files=tuple(self.files),
            on_conflict=ConflictRule(self.on_conflict),
            newer_column=self.newer_column,
            insert_absent=self.insert_absent,
            without_triggers=self.without_triggers,
            skip_refused=self.skip_refused,
            skip_emergency_backup=self.skip_emergency_backup,
            create_roles=self.create_roles,
        )


class UndoConfig(dg.Config):
    """What the Launchpad asks for."""

    source: str = Field(description="The source whose newest restore is taken back.")
    confirm: str = Field(description="Name of what is live now (the database's name or the path).")


def restored_key(plan: str, source: str) -> dg.AssetKey:
    """Return the key of a source's rebuilt database (folder, file)."""
    return dg.AssetKey([plan, source, RESTORED])


def _restorable(site: Site, plan: str) -> list[str]:
    """Return the sources of a plan that this job restores; order archives have their own, a server its databases."""
    names = site.plan(plan).sources
    return [name for name in names if kind_of(site, name)[0].restored_with_its_plan and not site.is_server(name)]


def plan_metadata(plan: RestorePlan) -> dict[str, Any]:
    """Return what the UI shows of a restore's plan: counts and names, no values."""
    metadata: dict[str, Any] = {
        "plan_id": plan.plan_id,
        "target": plan.target,
        "confirm": plan.confirm,
        "exists": plan.exists,
        "can_be_applied": not plan.reasons_against,
        "steps": table_of([{"nr": n, "step": step} for n, step in enumerate(plan.steps, 1)]),
    }
    numbers = {"bytes_needed": plan.bytes_needed, "bytes_free": plan.bytes_free, "estimated_seconds": plan.seconds}
    metadata.update({name: number for name, number in numbers.items() if number is not None})
    for name, texts in (
        ("reasons_against", plan.reasons_against),
        ("warnings", plan.warnings),
        ("missing_roles", plan.missing_roles),
        ("missing_extensions", plan.missing_extensions),
    ):
        if texts:
            metadata[name] = table_of([{name: text} for text in texts])
    if plan.tables:
        metadata["tables"] = table_of([_table_row(table) for table in plan.tables])
    return metadata


def _table_row(table: TableChange) -> dict[str, Any]:
    return {
        "table": table.table,
        "backup": table.backup,
        "target": table.target,
        "insert": table.insert,
        "update": table.update,
        "unchanged": table.unchanged,
        "only in target": table.only_in_target,
        "changed since": table.conflicts,
        "note": table.note,
    }


def result_metadata(result: RestoreResult) -> dict[str, Any]:
    """Return what the UI shows of a restore that was done."""
    metadata: dict[str, Any] = {
        "set": result.set_id,
        "target": result.target,
        "restored": result.restored,
        "kept_for_undo": result.undo.kept,
        "emergency_set": result.emergency_set,
        "seconds": round((result.finished_at - result.started_at).total_seconds(), 3),
        **result.numbers,
        RESULT_AS_KEPT: dg.MetadataValue.json(result.model_dump(mode="json")),
    }
    if result.tables:
        metadata["tables"] = table_of([_table_row(table) for table in result.tables])
    if result.warnings:
        metadata["warnings"] = table_of([{"warning": text} for text in result.warnings])
    return metadata


PROGRESS = "progress: "
_SECONDS_BETWEEN = 2.0


def _reported_progress(context: dg.AssetExecutionContext) -> ProgressSink:
    """Return a sink that passes progress on, and writes it to the run's log every other second, for our pages."""
    observer, last = current_observer().progress, [0.0]

    def sink(event: Progress) -> None:
        observer(event)
        if time.monotonic() - last[0] >= _SECONDS_BETWEEN:
            last[0] = time.monotonic()
            total = f" of {event.total}" if event.total else ""
            context.log.info(f"{PROGRESS}{event.name}: {event.done}{total} {event.unit}")

    return sink


def _report_plan(context: dg.AssetExecutionContext, found: RestorePlan) -> None:
    context.log.info(f"To apply it, run again with step: apply, plan_id: {found.plan_id}, confirm: {found.confirm}")
    key = restored_key(found.plan, found.source)
    context.log_event(
        dg.AssetObservation(
            key,
            partition=found.set_id,
            metadata=plan_metadata(found) | {PLAN_AS_READ: dg.MetadataValue.json(found.model_dump(mode="json"))},
        )
    )


def _restored_spec(site: Site, plan: str, name: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        restored_key(plan, name),
        deps=[manifest_key(plan)],
        group_name=sets_group(plan),
        kinds={site.source(name).kind_name},
        description=f"Source `{name}` rebuilt from a set beside what is live, compared, and swapped in.",
        partitions_def=sets_partitions(plan),
        skippable=True,
        code_version="1",
    )


def restore_asset(site: Site, plan: str) -> dg.AssetsDefinition | None:
    """Return the restored sources of a plan, partitioned by set; None for a plan that has none of its own."""
    names = _restorable(site, plan)
    if not names:
        return None

    class PlanRestoreConfig(RestoreConfig):
        """What the Launchpad asks for, with the names that this plan has."""

        source: str = Field(description=f"The source to restore, as named in backup.yaml: {', '.join(names)}.")

    @dg.multi_asset(
        name=f"{plan}__{RESTORED}",
        specs=[_restored_spec(site, plan, name) for name in names],
        can_subset=True,
        op_tags={PLAN_TAG: plan},
    )
    def restored(context: dg.AssetExecutionContext, config: PlanRestoreConfig) -> Iterator[Any]:
        from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore

        set_id = selected_set(context, plan)
        place = f"{config.vault}:{plan}" if config.vault else plan
        context.instance.add_run_tags(context.run_id, {SET_TAG: f"{place}/{set_id}"})
        progress = _reported_progress(context)
        try:
            if config.step == "plan":
                found = plan_restore(site, place, set_id, config.source, config.options(), progress=progress)
                _report_plan(context, found)
                return
            result = apply_restore(
                site,
                place,
                set_id,
                config.source,
                config.options(),
                confirmation=Confirmation(config.plan_id, config.confirm, context.run_id),
                progress=progress,
            )
        except ChangedPlanError as error:
            # The person who asked reads the new plan at once; nothing is changed by making it.
            with suppress(BackupSystemError):
                _report_plan(
                    context, plan_restore(site, place, set_id, config.source, config.options(), progress=progress)
                )
            raise failure_of(error) from None
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        key = restored_key(plan, config.source)
        if key in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=key, metadata=result_metadata(result))
        else:
            context.log_event(dg.AssetMaterialization(key, partition=set_id, metadata=result_metadata(result)))

    return restored


def restore_job(site: Site, plan: str) -> dg.Definitions:
    """Return the job `<plan>_restore`: pick the set as the partition, fill in the Launchpad's form."""
    job = dg.define_asset_job(
        f"{plan}_restore",
        selection=dg.AssetSelection.assets(*(restored_key(plan, name) for name in _restorable(site, plan))),
        partitions_def=sets_partitions(plan),
        tags={PLAN_TAG: plan, **_NEVER_AGAIN},
        description=f"Restore one source of a set of plan {plan}: first `step: plan`, then `step: apply`.",
    )
    return dg.Definitions(jobs=[job])


def undo_job(site: Site, plan: str) -> dg.JobDefinition:
    """Return the job `<plan>_undo`, which takes the newest restore of a source back."""

    @dg.op(name=f"{plan}__undo", tags={PLAN_TAG: plan})
    def undo(context: dg.OpExecutionContext, config: UndoConfig) -> None:
        from backup_pipeline.operations.restore.undo import undo_restore

        try:
            result = undo_restore(site, plan, config.source, confirm=config.confirm)
        except Exception as error:  # noqa: BLE001 - at this edge everything becomes a Failure
            raise failure_of(error) from None
        context.log.info(f"{config.source}: what was live before {result.started_at:%Y-%m-%d %H:%M} UTC is live again.")

    @dg.job(
        name=f"{plan}_undo",
        tags={PLAN_TAG: plan, **_NEVER_AGAIN},
        description=f"Take back the newest restore of a source of plan {plan}.",
    )
    def job() -> None:
        undo()

    return job
