"""Settings of a source of the kind `folder`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from backup_pipeline.settings.raw_values import FieldPath, FoundFaults, item_path, names_in
from backup_pipeline.settings.types import Names, SourceSettings


class FolderSource(SourceSettings):
    """A folder tree, such as storage buckets."""

    kind: Literal["folder"]
    path: Path
    """Root of the tree."""
    buckets: Names = ()
    """Folders below the root that must exist and are captured; all of the root when empty."""
    allow_empty: bool = False
    """Whether an empty root is right."""

    @classmethod
    def cross_field_faults(cls, source: Mapping[str, Any]) -> FoundFaults:
        """Yield the buckets that are not below the root."""
        for index, bucket in enumerate(names_in(source.get("buckets"))):
            if bucket.startswith("/") or ".." in Path(bucket).parts:
                yield (
                    item_path(("buckets",), source["buckets"], index),
                    "a bucket is a folder below path; it cannot leave it",
                )

    @classmethod
    def captured_trees(cls, source: Mapping[str, Any]) -> Iterator[tuple[FieldPath, str]]:
        """Yield the root, or its buckets."""
        if isinstance(source.get("path"), str):
            for bucket in names_in(source.get("buckets")) or [""]:
                yield ("path",), str(Path(source["path"]) / bucket)
