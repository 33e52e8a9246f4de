"""Older versions of data.csv brought up to the present one, a step at a time. Nothing is read or written here.

To release version 2.0: set `SCHEMA_VERSION` to it, and add `"1.0": Step("2.0", to_2_0)` here, where `to_2_0` takes the
fields of 1.0 by column name and returns those of 2.0. Earlier steps are never changed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.orders.format.order import COLUMNS, SCHEMA_VERSION, TextRow

Fields = dict[str, str | None]


class Step(NamedTuple):
    """One migration: the version it leads to, and how."""

    to: str
    migrate: Callable[[Fields], Fields]


STEPS: Mapping[str, Step] = {}


def migrate(
    version: str,
    header: tuple[str, ...],
    record: TextRow,
    *,
    steps: Mapping[str, Step] = STEPS,
    current: str = SCHEMA_VERSION,
    columns: tuple[str, ...] = COLUMNS,
) -> TextRow:
    """Return a record of any known version as the present version's columns.

    Args:
        version: what meta.json says.
        header: names of the record's columns.
        record: its values as text, None for NULL.
        steps: the chain, by the version that a step starts from.
        current: the version to arrive at.
        columns: its columns, in order.

    Raises:
        ValidationError: the version is not known (it is named), or columns are missing or not known.
    """
    if version == current and header == columns:
        return record
    fields: Fields = dict(zip(header, record, strict=True))
    visited = {version}
    while version != current:
        step = steps.get(version)
        if step is None or step.to in visited:
            known = ", ".join(sorted({*steps, current}))
            raise ValidationError(
                f"schema version {version!r} is not known (known: {known}).",
                remedy="Use the release of backup-pipeline that wrote this folder, or a newer one.",
            )
        fields = step.migrate(fields)
        version = step.to
        visited.add(version)
    if missing := [name for name in columns if name not in fields]:
        raise ValidationError(f"data.csv lacks the columns {', '.join(missing)}.")
    if extra := [name for name in fields if name not in columns]:
        raise ValidationError(f"data.csv has columns that version {current} does not know: {', '.join(extra)}.")
    return tuple(fields[name] for name in columns)
