"""The Parquet exports of sealed sets, with real paths: where they are, or brought down from a vault one by one."""

from __future__ import annotations

import shutil
from pathlib import Path

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.record import ArtefactKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.contract import Store
from backup_pipeline.system.files import translate_os_error
from backup_pipeline.tables.parquet import write_empty_like
from backup_pipeline.tables.parquet_queries import ViewName


def sealed(store: Store, set_id: SetId) -> BackupSet:
    """Return a set; RefusedError when it is not sealed."""
    known = store.read(set_id)
    if known.manifest is None:
        raise RefusedError(f"The set is {known.state}.", where=f"{known.plan}/{set_id}", remedy="Choose a sealed set.")
    return known


def export_paths(known: BackupSet) -> dict[ViewName, str]:
    """Return (source, schema, table) → path in the set of every table export in Parquet."""
    return {
        (record.key[0], record.key[1], record.key[2]): file.path
        for record in known.records
        if record.kind is ArtefactKind.TABLE_EXPORT and len(record.key) == 3
        for file in record.files
        if file.path.endswith(".parquet")
    }


class TableFiles:
    """Table exports of one set.

    Args:
        store: where the set is.
        known: the set.
        folder: scratch space for files that have no path of their own.
    """

    def __init__(self, store: Store, known: BackupSet, folder: Path) -> None:
        self._store = store
        self._set_id = known.set_id
        self._folder = folder
        self.paths = export_paths(known)

    @property
    def are_here(self) -> bool:
        """Whether they have paths of their own: none has to be brought down."""
        return self._store.path_of(self._set_id) is not None

    def path(self, name: ViewName) -> Path:
        """Return the path of one table's file, brought down now where it has none.

        Raises:
            ValidationError: its copy is damaged.
            StoreError: it cannot be read, or there is no room for it.
        """
        given = self._store.path_of(self._set_id, self.paths[name])
        if given is not None:
            return given
        target = self._target(name, "rows")
        if not target.exists():
            part = target.with_suffix(".part")
            try:
                with self._store.open(self._set_id, self.paths[name]) as source, part.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                part.rename(target)
            except OSError as error:
                raise translate_os_error(error, target) from error
        return target

    def empty(self, name: ViewName) -> Path:
        """Return the path of a file without rows that has the table's columns; little comes down for it."""
        target = self._target(name, "columns")
        if not target.exists():
            with self._store.open(self._set_id, self.paths[name]) as source:
                write_empty_like(source, target)
        return target

    def _target(self, name: ViewName, content: str) -> Path:
        # Tables' names may hold anything: a file is named by its number.
        return self._folder / f"{self._set_id}-{list(self.paths).index(name)}-{content}.parquet"
