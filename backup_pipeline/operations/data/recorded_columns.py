"""Columns of tables that a set holds in a dump alone, as the catalog beside the dump has them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from backup_pipeline.artefacts.types import recorded_columns
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.record import ColumnRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.set_contents import SourceContents
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.settings.site import Site

_Columns = Mapping[tuple[str, str], tuple[ColumnRecord, ...]]
_KNOWN: OrderedDict[tuple[str, SetId, str, str], _Columns] = OrderedDict()
_LOCK = threading.Lock()
_KEPT = 8


def with_columns(site: Site, place: str, set_id: SetId, contents: SourceContents) -> SourceContents:
    """Return what a set holds of a source with the columns of every table of which the set recorded them.

    The last ones are kept in memory, since a sealed set does not change. A catalog that cannot be read says nothing
    here: that is found by a verification, and keeps nobody from restoring.
    """
    if all(table.columns for table in contents.tables):
        return contents
    key = (str(site.file), set_id, contents.source, contents.records[0].name)
    with _LOCK:
        known = _KNOWN.get(key)
    if known is None:
        try:
            with reading(site, place, set_id, "browse") as store:
                known = recorded_columns(lambda path: store.open(set_id, path), contents.records)
        except BackupSystemError:
            return contents
        with _LOCK:
            _KNOWN[key] = known
            while len(_KNOWN) > _KEPT:
                _KNOWN.popitem(last=False)
    tables = (
        table if table.columns else replace(table, columns=known.get((table.schema, table.table), ()))
        for table in contents.tables
    )
    return replace(contents, tables=tuple(tables))
