"""The pandera schema of `auftraege`, as text the way data.csv holds it, and its findings without any value.

What needs more than the one table (duplicates over folders, orphans) is not here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from backup_pipeline.sources.orders.format.order import COLUMNS, Level, TextRow

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

_ISO = r"^\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?$"
# ISO 3779: seventeen characters without I, O and Q.
_VIN = r"^[A-HJ-NPR-Z0-9]{17}$"
# District, letters, digits, and E or H for electric and historic cars; seasonal marks are not written.
_PLATE = r"^[A-ZÄÖÜ]{1,3}[- ][A-Z]{1,2}[- ]?[1-9][0-9]{0,3}[EH]?$"


class SchemaFinding(NamedTuple):
    """`row` is the position in the batch; `column` and `check` say what did not hold."""

    row: int
    column: str
    check: str
    level: Level


def _calendar_dates(series: pd.Series) -> pd.Series:
    import pandas as pd

    return pd.to_datetime(series, format="%Y-%m-%d", errors="coerce").notna() & (series.str.len() == 10)


def _instants(series: pd.Series) -> pd.Series:
    import pandas as pd

    real = pd.to_datetime(series.str.slice(0, 10), format="%Y-%m-%d", errors="coerce").notna()
    return series.str.match(_ISO) & real


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_texts(series: pd.Series) -> pd.Series:
    # Keywords repeat from order to order.
    return series.map({text: _is_json(text) for text in series.unique()}).astype(bool)


def _whole_numbers(series: pd.Series) -> pd.Series:
    return series.str.match(r"^-?\d{1,19}$")


@functools.cache
def auftraege_schema() -> pa.DataFrameSchema:
    """Return what must hold of every order."""
    import pandera.pandas as pa

    def text(*checks: pa.Check, nullable: bool = True, unique: bool = False) -> pa.Column:
        return pa.Column(str, checks=list(checks), nullable=nullable, unique=unique)

    iso = pa.Check(_instants, name="iso_time", error="is not an ISO 8601 time")
    return pa.DataFrameSchema(
        {
            "record_id": text(
                pa.Check(_whole_numbers, name="whole_number", error="is not a whole number"), nullable=False
            ),
            "auftrag_nr": text(
                pa.Check.str_matches(r"^[0-9]{6}$", name="six_digits", error="is not six digits"), nullable=False
            ),
            # Without a path the folder is the year and the number of the order.
            "file_path": text(),
            "datum": text(pa.Check(_calendar_dates, name="date", error="is not a date YYYY-MM-DD")),
            "keywords_json": text(pa.Check(_json_texts, name="json", error="is not JSON")),
            "data_complete": text(pa.Check.isin(["0", "1"], name="zero_or_one", error="is neither 0 nor 1")),
            "created_at": text(iso),
            "updated_at": text(iso),
        },
        name="auftraege",
    )


@functools.cache
def advice_schema() -> pa.DataFrameSchema:
    """Return what should hold: vehicle identification number and plate, where they are given."""
    import pandera.pandas as pa

    return pa.DataFrameSchema(
        {
            "vin": pa.Column(
                str, pa.Check.str_matches(f"(?:{_VIN})|^$", name="vin", error="is not a VIN"), nullable=True
            ),
            "kennzeichen": pa.Column(
                str, pa.Check.str_matches(f"(?:{_PLATE})|^$", name="plate", error="is not a plate"), nullable=True
            ),
        },
        name="auftraege_advice",
    )


@functools.cache
def _checked_columns() -> tuple[str, ...]:
    return (*auftraege_schema().columns, *advice_schema().columns)


def check_orders(rows: Sequence[TextRow]) -> Iterator[SchemaFinding]:
    """Yield what does not hold of these rows; column and check only, never a value.

    `unique record_id` is inspected over the whole archive, by the caller.
    """
    import pandas as pd
    from pandera.errors import SchemaErrors

    if not rows:
        return
    values = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    table = pd.DataFrame({name: pd.array(values[name], dtype="str") for name in _checked_columns()})
    levels: tuple[tuple[pa.DataFrameSchema, Level], ...] = (
        (auftraege_schema(), "error"),
        (advice_schema(), "warning"),
    )
    for schema, level in levels:
        try:
            schema.validate(table, lazy=True)
        except SchemaErrors as errors:
            cases = errors.failure_cases[["index", "column", "check"]].drop_duplicates()
            for index, column, check in cases.itertuples(index=False, name=None):
                what = "is missing" if check == "not_nullable" else str(check)
                yield SchemaFinding(int(index), str(column), what, level)


class SchemaBatch:
    """Orders that wait until there are enough of them to be held against the schema at once."""

    _ROWS = 10_000
    _BYTES = 8 << 20

    def __init__(self) -> None:
        self._rows: list[TextRow] = []
        self._paths: list[str] = []
        self._bytes = 0

    def add(self, path: str, row: TextRow, size: int) -> None:
        """Add the order in a folder; `size` of its file in bytes."""
        self._rows.append(row)
        self._paths.append(path)
        self._bytes += size

    @property
    def full(self) -> bool:
        """Whether it is time to check, so that memory stays flat."""
        return len(self._rows) >= self._ROWS or self._bytes >= self._BYTES

    def check(self) -> Iterator[tuple[str, SchemaFinding]]:
        """Yield path and finding of each that does not hold, and begin anew."""
        rows, paths = self._rows, self._paths
        self._rows, self._paths, self._bytes = [], [], 0
        for finding in check_orders(rows):
            yield paths[finding.row], finding
