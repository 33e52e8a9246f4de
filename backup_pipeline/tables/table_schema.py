"""Pandera schemas of table exports: derived from the catalog, refined by a site's own. Pure; no files.

Frames are backed by Arrow, so that a check of types and nulls costs no conversion. What comes out holds column, check
and count, never values. pandas and pandera take long to load, and most tables need neither (see `holds`): they are
imported by those functions that do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.record import CheckResult, Severity

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pandera

CHECK_NAME = "pandera_schema"
_SHOWN = 100
_NAMED = 3
Failures = Counter[tuple[str, str]]


def derived_schema(fields: Sequence[pa.Field]) -> pandera.DataFrameSchema:
    """Return what the catalog promises: these columns in this order, their types, and which are never null."""
    import pandas as pd
    import pandera.pandas as pandera

    return pandera.DataFrameSchema(
        {field.name: pandera.Column(pd.ArrowDtype(field.type), nullable=field.nullable) for field in fields},
        strict=True,
        ordered=True,
    )


def holds(fields: Sequence[pa.Field], piece: pa.Table) -> bool:
    """Return whether a piece keeps all that `derived_schema` asks: these columns, these types, no null where none is.

    Arrow has counted the nulls already; pandera would read every value.
    """
    return len(fields) == piece.num_columns and all(
        field.name == found.name and field.type == found.type and (field.nullable or not column.null_count)
        for field, found, column in zip(fields, piece.schema, piece.columns, strict=True)
    )


def refined(schema: pandera.DataFrameSchema, own: pandera.DataFrameSchema | None) -> list[pandera.DataFrameSchema]:
    """Return the schemas to hold a table against: the derived one, and the site's own where there is one.

    They stay two: the derived one inspects Arrow's types as they are, the site's may ask for pandas' (`coerce`). A
    site's column with a type of its own is coerced, because the frames hold Arrow types.
    """
    if own is None:
        return [schema]
    import pandera.pandas as pandera

    wanted = {name: column if column.dtype is None else _coercing(column) for name, column in own.columns.items()}
    return [schema, pandera.DataFrameSchema(wanted, checks=own.checks, unique=own.unique, name=own.name)]


def _coercing(column: pandera.Column) -> pandera.Column:
    import pandera.pandas as pandera

    return pandera.Column(
        column.dtype,
        checks=column.checks,
        nullable=column.nullable,
        unique=column.unique,
        coerce=True,
        required=column.required,
        name=column.name,
        regex=column.regex,
    )


def suited(own: pandera.DataFrameSchema, fields: Sequence[pa.Field]) -> pandera.DataFrameSchema:
    """Return a schema whose checks of text are only made of columns that hold text.

    A date that is kept as one is a date by its type; there is nothing to match.
    """
    import pandera.pandas as pandera

    text = {field.name for field in fields if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)}
    columns = {
        name: column
        if name in text
        else column.update_checks([check for check in column.checks if not str(check.name).startswith("str_")])
        for name, column in own.columns.items()
    }
    return pandera.DataFrameSchema(columns, checks=own.checks, unique=own.unique, name=own.name)


def failures_of(schema: pandera.DataFrameSchema, frame: pd.DataFrame) -> Failures:
    """Return (column, check) → how many values fail, for one piece of a table."""
    from pandera.errors import SchemaError, SchemaErrors

    found: Failures = Counter()
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        named = zip(cases["column"].tolist(), cases["schema_context"].tolist(), cases["check"].tolist(), strict=True)
        for column, context, check in named:
            found[str(column) if context == "Column" and column is not None else "", str(check)] += 1
    except SchemaError as error:
        found["", f"{type(error).__name__}"] += 1
    return found


def schema_check(
    failures: Mapping[tuple[str, str], int],
    *,
    rows: int,
    columns: int,
    not_inspected: Sequence[str] = (),
    severity: Severity = Severity.ERROR,
) -> CheckResult:
    """Return the check's outcome.

    Args:
        failures: (column, check) → how many values fail.
        rows: rows that were validated.
        columns: columns of the table.
        not_validated: what could not be validated in bounded memory, as text.
        severity: what a failure means.
    """
    reported = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    table: tuple[dict[str, JsonValue], ...] = tuple(
        {"column": column, "check": check, "failures": count} for (column, check), count in reported[:_SHOWN]
    )
    total = sum(failures.values())
    named = ", ".join(f"{column} {check}".strip() for (column, check), _ in reported[:_NAMED])
    more = f" and {len(reported) - _NAMED} more" if len(reported) > _NAMED else ""
    summary = f"{rows} rows and {columns} columns hold"
    if total:
        summary = f"{total} values in {len(reported)} checks fail: {named}{more}"
    return CheckResult(
        name=CHECK_NAME,
        passed=not total,
        severity=severity,
        summary="; ".join([summary, *not_inspected]),
        table=table,
        numbers={"rows": rows, "failures": total},
    )
