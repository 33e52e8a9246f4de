"""Run configuration of restores and undos: the Launchpad's form."""

# Dagster reads the annotations when the classes are made: none may be postponed here.
from typing import Annotated

import dagster as dg
from pydantic import Field

from backup_pipeline.model.restore import (
    ConflictRule,
    RestoreMode,
    RestoreOptions,
    RestorePlan,
    RowComparison,
)
from backup_pipeline.orchestration.choices import any_case

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
    """What the Launchpad asks for. Without anything it only shows what a restore of everything would do."""

    confirm: str = Field(
        default="",
        description="For step `apply`: the name of the target (the database's name or the path), as the plan asks for "
        "it.",
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


def as_configured(options: RestoreOptions) -> dict[str, object]:
    """Return the values of the form that give these options; those that stand there by themselves are omitted."""
    found = options.model_dump(mode="json", exclude={"jobs", "careful", "allow_incomplete"}, exclude_defaults=True)
    return {name: value for name, value in found.items() if value is not None}


def applying(plan: RestorePlan, vault: str = "") -> dict[str, object]:
    """Return the values with which a plan that was read is applied; `confirm` is left for a person to type."""
    place: dict[str, object] = {"vault": vault} if vault else {}
    return {"step": "apply", "plan_id": plan.plan_id, "confirm": "", **place, **as_configured(plan.options)}


class UndoConfig(dg.Config):
    """What the Launchpad asks for."""

    source: str = Field(description="The source whose newest restore is taken back.")
    confirm: str = Field(description="Name of what is live now (the database's name or the path).")
