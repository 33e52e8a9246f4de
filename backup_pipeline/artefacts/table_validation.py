"""Validation of an exported table against its schema, piece by piece in bounded memory.

The schema is the catalog's (columns, types, nulls, unique keys, foreign keys inside the set), refined by the site's or
the project's own. Foreign keys are counted by the server inside the snapshot: only there are both tables at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.table_keys import UniqueKey
from backup_pipeline.artefacts.table_schemas import own_schema
from backup_pipeline.model.catalog import CatalogTable
from backup_pipeline.model.record import CheckResult
from backup_pipeline.rules.table_schema import Failures, derived_schema, failures_of, refined, schema_check


class TableValidation:
    """Takes the pieces of a table; `result()` says what does not hold: column, check and count, never values."""

    def __init__(self, context: CaptureContext, table: CatalogTable, fields: Sequence[pa.Field], rows: int) -> None:
        names = [field.name for field in fields]
        own = own_schema(context.schemas, context.source, table.schema_name, table.name, names)
        self._schemas = refined(derived_schema(fields), own) if fields else []
        self._keys = [UniqueKey(key.columns, rows) for key in table.keys]
        self._failures: Failures = Counter()
        self._rows = 0
        self._uncounted = 0
        self._columns = len(names)

    def add(self, piece: pa.Table) -> None:
        """Take a piece."""
        self._rows += piece.num_rows
        if self._schemas:
            frame = piece.to_pandas(types_mapper=pd.ArrowDtype)
            for schema in self._schemas:
                self._failures += failures_of(schema, frame)
        for key in self._keys:
            key.add(piece)

    def add_orphans(self, columns: Sequence[str], to: str, count: int | None) -> None:
        """Take how many rows refer to a row of `to` that is not there; None when that could not be counted."""
        if count is None:
            self._uncounted += 1
        elif count:
            self._failures[", ".join(columns), f"foreign key to {to}"] += count

    def result(self) -> CheckResult:
        """Return the check's outcome."""
        left = self._uncounted
        for key in self._keys:
            duplicates = key.duplicates()
            if duplicates is None:
                left += 1
            elif duplicates:
                self._failures[", ".join(key.columns), "unique key"] += duplicates
        noted = [f"{left} keys left to the server's constraint"] if left else []
        return schema_check(self._failures, rows=self._rows, columns=self._columns, not_looked_at=noted)
