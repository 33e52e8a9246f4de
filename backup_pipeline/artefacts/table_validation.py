"""Validation of an exported table against its schema, piece by piece in bounded memory.

The schema is the catalog's (columns, types, nulls, unique keys, foreign keys inside the set), refined by the site's or
the project's own. Foreign keys are counted by the server inside the snapshot: only there are both tables at hand. So
are keys whose equality the exported values do not show. Unique indexes over expressions or some of the rows are not
inspected: their definitions would have to be run, which may call functions of the site's own with the backup's rights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.catalog import CatalogTable
from backup_pipeline.model.record import CheckResult, Severity
from backup_pipeline.tables.keys import Pieces, UniqueKeys, can_be_counted
from backup_pipeline.tables.schemas import own_schema, shipped_schema
from backup_pipeline.tables.table_schema import Failures, derived_schema, failures_of, holds, refined, schema_check

if TYPE_CHECKING:
    import pandera.pandas as pandera

_UNIQUE = "unique key"
_NAMED = 5


class TableValidation:
    """Takes the pieces of a table; `result()` says what does not hold: column, check and count, never values.

    Args:
        context: of the capture.
        table: from the catalog.
        fields: columns as they are exported.
        rows: of the table.
        passed: whether the same rows have passed the same schemas; no piece is taken, and the schemas are not loaded.
    """

    def __init__(
        self,
        context: CaptureContext,
        table: CatalogTable,
        fields: Sequence[pa.Field],
        rows: int,
        *,
        passed: bool = False,
    ) -> None:
        names = [field.name for field in fields]
        own = None
        if not passed:
            own = own_schema(context.schemas, context.source, table.schema_name, table.name, names)
        self._fields = list(fields)
        self._own = own
        self._schemas: list[pandera.DataFrameSchema] = []
        # What the project expects of a table of that name is an opinion: it is reported and keeps no set from its seal.
        self._expected = shipped_schema(table.name, fields) if fields and own is None and not passed else None
        self._odd: Failures = Counter()
        exported = pa.schema(list(fields))
        self._keys = [key for key in table.keys if key.equality == "value" and can_be_counted(key, exported)]
        self._unique = UniqueKeys(self._keys, rows)
        self._failures: Failures = Counter()
        self._rows = 0
        self._not_inspected = [f"unique index {name}" for name in table.other_unique]
        self._not_inspected += [
            f"key ({', '.join(key.columns)})"
            for key in table.keys
            if key not in self._keys and key.equality != "server"
        ]
        self._columns = len(names)

    def add(self, piece: pa.Table) -> None:
        """Take a piece."""
        self._rows += piece.num_rows
        # A piece that keeps the catalog's promises by Arrow's own figures needs no frame to be held against them.
        schemas = self._schemas_for(piece)
        if schemas or self._expected is not None:
            import pandas as pd

            frame = piece.to_pandas(types_mapper=pd.ArrowDtype)
            for schema in schemas:
                self._failures += failures_of(schema, frame)
            if self._expected is not None:
                self._odd += failures_of(self._expected, frame)
        self._unique.add(piece)

    def _schemas_for(self, piece: pa.Table) -> list[pandera.DataFrameSchema]:
        kept = holds(self._fields, piece)
        if not self._schemas and self._fields and (self._own is not None or not kept):
            self._schemas = refined(derived_schema(self._fields), self._own)
        return self._schemas[1:] if kept else self._schemas

    def add_orphans(self, columns: Sequence[str], to: str, count: int | None) -> None:
        """Take how many rows refer to a row of `to` that is not there; None when that could not be counted."""
        self._count(columns, f"foreign key to {to}", count)

    def add_duplicates(self, columns: Sequence[str], count: int | None) -> None:
        """Take how many rows repeat a key by the server's equality; None when it could not say."""
        self._count(columns, _UNIQUE, count)

    def _count(self, columns: Sequence[str], check: str, count: int | None) -> None:
        names = ", ".join(columns)
        if count is None:
            self._not_inspected.append(f"{check} ({names})")
        elif count:
            self._failures[names, check] += count

    def unchanged(self, rows: int) -> CheckResult:
        """Return the outcome for rows that passed before, and are the same: what the server has counted is new."""
        self._rows, self._keys = rows, []
        return self.result(lambda _: iter(()))

    def result(self, read: Pieces) -> CheckResult:
        """Return the check's outcome.

        Args:
            read: returns the pieces again, with the named columns only.
        """
        for key, count in zip(self._keys, self._unique.duplicates(read) if self._keys else (), strict=True):
            self._count(key.columns, _UNIQUE, count)
        left = self._not_inspected
        reported = ", ".join(left[:_NAMED]) + (f" and {len(left) - _NAMED} more" if len(left) > _NAMED else "")
        noted = [f"left to the server: {reported}"] if left else []
        return schema_check(
            self._failures + self._odd,
            rows=self._rows,
            columns=self._columns,
            not_inspected=noted,
            severity=Severity.ERROR if self._failures or not self._odd else Severity.WARN,
        )
