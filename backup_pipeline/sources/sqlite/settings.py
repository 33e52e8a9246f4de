"""Settings of a source of the kind `sqlite`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from backup_pipeline.settings.raw_values import FoundFaults, unqualified_patterns
from backup_pipeline.settings.types import Names, SourceSettings, TableSelection


class SqliteSource(SourceSettings):
    """A SQLite database file."""

    kind: Literal["sqlite"]
    path: Path
    """The database file."""
    tables: TableSelection = TableSelection(include=("main.*",))
    """Tables exported beside the copy; their schema is `main`."""
    master_tables: Names = ()
    """Tables of master data."""
    required_tables: Names = ()
    """Tables that must exist."""
    lost_keys: Literal["ERROR", "WARN"] = "ERROR"
    """When a table has lost its primary key since the last set: ERROR keeps the set from being sealed."""
    missing_tables: Literal["error", "warning"] = "error"
    """What a missing one of `required_tables` does: fails the source, or warns while the others are captured."""

    @classmethod
    def cross_field_faults(cls, source: Mapping[str, Any]) -> FoundFaults:
        """Yield the patterns of tables that name no schema."""
        return unqualified_patterns(source, "main")
