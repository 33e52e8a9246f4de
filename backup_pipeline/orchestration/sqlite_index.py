"""Rows of Dagster's index of assets and checks in SQLite, written for many events together.

Dagster's own writes each event's with statements that are built anew for it, and learns from an error that a row is
there already; for a backup of many small sources that was a tenth of the whole. What is stored is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from dagster import DagsterEventType, EventLogEntry
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as _Status
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetKeyTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from sqlalchemy import Connection, bindparam
from sqlalchemy.dialects.sqlite import Insert, insert

_NUMBERED = SqlEventLogStorageTable.insert().returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
_PLANNED = AssetCheckExecutionsTable.insert()
_CHECKS = AssetCheckExecutionsTable.c
_EVALUATED = (
    AssetCheckExecutionsTable.update()
    .where(
        _CHECKS.asset_key == bindparam("of_asset"),
        _CHECKS.check_name == bindparam("of_check"),
        _CHECKS.run_id == bindparam("of_run"),
        _CHECKS.partition.is_(None),
    )
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "execution_status",
                "evaluation_event",
                "evaluation_event_timestamp",
                "evaluation_event_storage_id",
                "materialization_event_storage_id",
            )
        }
    )
)


class Indexed(NamedTuple):
    """An event, its row in the table of events, and the number of that row."""

    event: EventLogEntry
    row: Mapping[str, Any]
    number: int


def index_events(
    storage: SqlEventLogStorage, connection: Connection, rows: Sequence[tuple[EventLogEntry, dict[str, Any]]]
) -> None:
    """Write events, in their order, and what the index says of their assets and checks.

    Args:
        storage: whose tables they are.
        connection: to its index, within a transaction.
        rows: events, each with its row in the table of events.
    """
    numbers = connection.execute(_NUMBERED, [row for _, row in rows]).scalars().all()
    indexed = [Indexed(event, row, number) for (event, row), number in zip(rows, numbers, strict=True)]
    assets = [one for one in indexed if one.event.dagster_event_type in ASSET_EVENTS]
    if assets:
        storage._store_asset_event_tags(connection, [one.event for one in assets], [one.number for one in assets])
        for _, several in groupby(assets, lambda one: one.event.dagster_event_type):
            _index_assets(storage, connection, list(several))
    checks = [one for one in indexed if one.event.dagster_event_type in ASSET_CHECK_EVENTS]
    for kind, several in groupby(checks, lambda one: one.event.dagster_event_type):
        if kind is DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
            _index_planned(storage, connection, list(several))
        else:
            for one in several:
                _index_evaluation(storage, connection, one)


def _index_assets(storage: SqlEventLogStorage, connection: Connection, several: Sequence[Indexed]) -> None:
    """Make or change the rows of assets, by events of one kind: they have the same columns."""
    found = [
        (one.event.dagster_event.asset_key.to_string(), storage._get_asset_entry_values(one.event, one.number, True))
        for one in several
        if one.event.dagster_event is not None and one.event.dagster_event.asset_key is not None
    ]
    values = [{"asset_key": key, **columns} for key, columns in found if columns]
    if values:
        connection.execute(_made_or_changed(tuple(name for name in values[0] if name != "asset_key")), values)


@cache
def _made_or_changed(columns: tuple[str, ...]) -> Insert:
    statement = insert(AssetKeyTable)
    changed = {name: statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=["asset_key"], set_=changed)


def _index_planned(storage: SqlEventLogStorage, connection: Connection, several: Sequence[Indexed]) -> None:
    values = []
    for one in several:
        assert one.event.dagster_event is not None
        planned: Any = one.event.dagster_event.event_specific_data
        if planned.partitions_subset is not None:
            storage._store_asset_check_evaluation_planned(one.event, one.number)
            continue
        values.append(
            {
                "asset_key": planned.asset_key.to_string(),
                "check_name": planned.check_name,
                "run_id": one.event.run_id,
                "execution_status": _Status.PLANNED.value,
                "evaluation_event": one.row["event"],
                "evaluation_event_timestamp": one.row["timestamp"],
                "evaluation_event_storage_id": one.number,
            }
        )
    if values:
        connection.execute(_PLANNED, values)


def _index_evaluation(storage: SqlEventLogStorage, connection: Connection, one: Indexed) -> None:
    assert one.event.dagster_event is not None
    evaluation: Any = one.event.dagster_event.event_specific_data
    if evaluation.partition is None and one.event.run_id:
        target = evaluation.target_materialization_data
        values = {
            "of_asset": evaluation.asset_key.to_string(),
            "of_check": evaluation.check_name,
            "of_run": one.event.run_id,
            "new_execution_status": (_Status.SUCCEEDED if evaluation.passed else _Status.FAILED).value,
            "new_evaluation_event": one.row["event"],
            "new_evaluation_event_timestamp": one.row["timestamp"],
            "new_evaluation_event_storage_id": one.number,
            "new_materialization_event_storage_id": target.storage_id if target else None,
        }
        if connection.execute(_EVALUATED, values).rowcount == 1:
            return
    # Not planned, of a partition, of no run: rare.
    storage.store_asset_check_event(one.event, one.number)
