"""Restore options, restore plan and restore result. No I/O."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field, model_validator

from backup_pipeline.model.base import Frozen
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.set_id import SetId


class RestoreMode(StrEnum):
    """`rebuild`: a new database (folder, file) beside the live one, compared, swapped in. `upsert`: rows only."""

    REBUILD = "rebuild"
    UPSERT = "upsert"


class ConflictRule(StrEnum):
    """Which side wins where a row is in both and differs.

    `backup`: the backup's. `keep`: the target's. `newer`: the one whose time column is later; the target's where the
    table has no such column.
    """

    BACKUP = "backup"
    KEEP = "keep"
    NEWER = "newer"


Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "contains", "is null", "is not null"]
"""How a column is compared; `contains` means its text, upper and lower case apart."""
_VALUES = {"in": (1, 1000), "is null": (0, 0), "is not null": (0, 0)}


class RowComparison(Frozen):
    """A condition on rows: one column compared with values. No SQL: names and values are quoted where it is used.

    Attributes:
        table: `schema.table`.
        column: a column of the table.
        operator: how.
        values: written as the column's type reads them; `in` takes up to a thousand, `is null` and `is not null` none,
            every other operator one.
    """

    table: str = Field(min_length=3, max_length=200)
    column: str = Field(min_length=1, max_length=100)
    operator: Operator = "="
    values: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> RowComparison:
        least, most = _VALUES.get(self.operator, (1, 1))
        if not least <= len(self.values) <= most:
            raise ValueError(f"{self.operator} takes {least if least == most else f'{least} to {most}'} values")
        schema, _, table = self.table.partition(".")
        if not schema or not table:
            raise ValueError("the table is named as schema.table")
        if any("\0" in text for text in (self.table, self.column, *self.values)):
            raise ValueError("a name or value holds a zero byte")
        return self

    def __str__(self) -> str:
        values = ", ".join(self.values)
        return f"{self.table}: {self.column} {self.operator}{f' {values}' if values else ''}"


class RestoreOptions(Frozen):
    """How a source is restored. Defaults are the safe way.

    Attributes:
        mode: rebuild or upsert.
        into: restore into a new database (or folder, file) of this name and swap nothing.
        tables: upsert only these (`schema.table`, with `*` and `?`); all when empty.
        only: upsert only master or only transaction tables, as the settings name them.
        rows: upsert only rows that match, as in `public.orders: id in (1, 2)`; names its table too.
        where: the same as comparisons, which hold no SQL; several of one table must all be true.
        files: of a folder only these files, by their paths in it; a folder's path means all files below it. They are
            put into the living folder, where what they replace is kept, or with `into` into a new one.
        on_conflict: who wins where rows differ.
        newer_column: the time column that `newer` compares.
        insert_absent: upsert tables without primary key too, by inserting rows that the target has not got.
        skip_refused: upsert the other tables where some cannot take rows (no key, rewrite rules, other columns).
        without_triggers: switch the tables' own triggers off for the transaction of an upsert.
        create_roles: make missing roles (without login) instead of refusing.
        jobs: connections for loading and comparing; from the number of cores when 0.
        careful: load through one psql session instead of several connections.
        skip_emergency_backup: for a live database that is too damaged to be captured; rebuild only, where the old
            database is kept in any case.
        allow_incomplete: restore from a set that was never sealed, as far as it goes.
    """

    mode: RestoreMode = RestoreMode.REBUILD
    into: str = ""
    tables: tuple[str, ...] = ()
    only: Literal["master", "transaction"] | None = None
    rows: tuple[str, ...] = ()
    where: tuple[RowComparison, ...] = ()
    files: tuple[str, ...] = ()
    on_conflict: ConflictRule = ConflictRule.BACKUP
    newer_column: str = "updated_at"
    insert_absent: bool = False
    without_triggers: bool = False
    skip_refused: bool = False
    create_roles: bool = False
    jobs: int = Field(default=0, ge=0, le=64)
    careful: bool = False
    skip_emergency_backup: bool = False
    allow_incomplete: bool = False


class TableChange(Frozen):
    """What happens (or happened) to one table.

    Attributes:
        backup: rows in the backup (after `rows` conditions).
        target: rows in the target before.
        insert: rows that only the backup has.
        update: rows that are replaced by the backup's.
        unchanged: rows equal in both.
        only_in_target: rows that only the target has; an upsert leaves them, after a rebuild they are in the old
            database.
        conflicts: rows in both that differ: changed since the backup.
        kept: of the conflicts, those that the target keeps.
        note: triggers that fire, row level security, why rows could not be counted.
    """

    table: str
    backup: int = 0
    target: int = 0
    insert: int | None = 0
    update: int | None = 0
    unchanged: int | None = 0
    only_in_target: int | None = 0
    conflicts: int | None = 0
    kept: int = 0
    note: str = ""


class RestorePlan(Frozen):
    """What a restore would do. `plan_id` is a digest of the set, the options and the target as they were read.

    Attributes:
        target: where, without secrets.
        confirm: what must be given to apply: the database's name (or the path).
        exists: whether there is something live at the target.
        bytes_needed: space that the rebuilt copy and the emergency set will take.
        bytes_free: free space, where it can be read.
        seconds: estimated time.
        steps: what will be done, in order.
        reasons_against: why it cannot be applied as things are; empty when it can.
        warnings: what a person should know.
    """

    plan_id: str
    set_id: SetId
    plan: str
    source: str
    options: RestoreOptions
    target: str
    confirm: str
    exists: bool
    server_version: str = ""
    backup_version: str = ""
    bytes_needed: int | None = None
    bytes_free: int | None = None
    seconds: float | None = None
    missing_roles: tuple[str, ...] = ()
    missing_extensions: tuple[str, ...] = ()
    tables: tuple[TableChange, ...] = ()
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    reasons_against: tuple[str, ...] = ()


class Undo(Frozen):
    """How to take a restore back: the names (databases or paths) of what is live and of what was kept.

    Attributes:
        kind: `rows` puts back, one by one, what an upsert wrote into the database `live`.
        begun: an undo has begun; written before it, so that one that was killed is recognised. The name that what had
            been restored gets (of a database), else "yes".
        transaction: in which an upsert wrote its rows, as `SERVER/NUMBER`; "" where it is not known.
    """

    kind: Literal["database", "path", "rows", "none"] = "none"
    live: str = ""
    kept: str = ""
    remedy: str = ""
    begun: str = ""
    transaction: str = ""


class RestoreResult(Frozen):
    """What a restore did; stored as JSON beside the sets, so that `undo` finds it.

    Attributes:
        kind: the name of its restorer ("postgres", "files", or another package's).
        restored: the name of the database (or the path) that holds what was restored.
        emergency_set: the sealed set of what was live before.
        findings: differences from the backup that were found; a restore with any is not swapped in.
        numbers: seconds and rows.
        vault: the vault that the set was read from; "" for the plan's own store.
        swapping: written before the names are swapped; still so when the process was killed then. Whether it happened
            is asked of the target.
    """

    result_version: Literal[1] = 1
    restore_id: str
    plan_id: str
    set_id: SetId
    plan: str
    source: str
    kind: str
    options: RestoreOptions
    target: str
    restored: str
    emergency_set: str = ""
    started_at: datetime
    finished_at: datetime
    tables: tuple[TableChange, ...] = ()
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    numbers: dict[str, float | int] = Field(default_factory=dict)
    undo: Undo = Undo()
    undone_at: datetime | None = None
    vault: str = ""
    swapping: bool = False


class RestoreFailure(Frozen):
    """A restore, or the undo of one, that failed or was refused in the shell, where no history of runs records it.

    Attributes:
        set_id: the set that was to be restored; "" for an undo.
        vault: the vault that the set was read from; "" for the plan's own store.
        who: who asked for it, as `shell (anna)`.
        reason: why, without secrets or rows.
    """

    failure_version: Literal[1] = 1
    step: Literal["apply", "undo"]
    plan: str
    source: str
    set_id: str = ""
    vault: str = ""
    who: str
    began: datetime
    ended: datetime
    reason: str
