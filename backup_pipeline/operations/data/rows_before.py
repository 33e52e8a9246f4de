"""Older sets of which a table had more rows: where to search for rows that were deleted before a backup."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from backup_pipeline.errors import SetNotFoundError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.set_contents import set_contents
from backup_pipeline.operations.sites.stores import open_sets, split_place
from backup_pipeline.settings.site import Site

_READ, _READ_IN_A_VAULT = 60, 10
_GIVEN = 3


@dataclass(frozen=True)
class MoreRows:
    """A set, and by how many rows its tables were longer, by name."""

    set_id: SetId
    tables: Mapping[str, int]

    @property
    def sentence(self) -> str:
        """`5 more rows in public.invoice, 23 in public.invoice_line`, of four tables at most."""
        found = sorted(self.tables.items(), key=lambda one: (-one[1], one[0]))
        texts = [f"{count:,} in {table}" for table, count in found[:4]]
        texts += [f"more in {len(found) - 4} other tables"] if len(found) > 4 else []
        return ", ".join([texts[0].replace(" in", " more in", 1), *texts[1:]])


def sets_with_more_rows(
    site: Site, place: str, set_id: SetId, source: str, tables: Collection[str]
) -> tuple[MoreRows, ...]:
    """Return the newest sets before one in which tables had more rows than in it, by their recorded counts.

    Sets with the same counts as a newer one that is given are not given. Rows that were deleted while others were added
    do not show.

    Args:
        site: the site.
        place: `PLAN` or `VAULT:PLAN`.
        set_id: the set that they are compared with.
        source: its source.
        tables: `schema.table` each.
    """
    store = open_sets(site, place)
    known = _rows(store.read(set_id), source)
    older = [one for one in store.sealed_ids() if one < set_id][::-1]
    found: list[MoreRows] = []
    for one in older[: _READ_IN_A_VAULT if split_place(place)[0] else _READ]:
        with contextlib.suppress(SetNotFoundError):  # retention removes it
            rows = _rows(store.read(one), source)
            more = {
                table: rows[table] - known.get(table, 0) for table in tables if rows.get(table, 0) > known.get(table, 0)
            }
            if more and not any(each.tables == more for each in found):
                found.append(MoreRows(one, more))
        if len(found) == _GIVEN:
            break
    return tuple(found)


def _rows(known: BackupSet, source: str) -> dict[str, int]:
    contents = set_contents(known) if known.state is SetState.COMPLETE else ()
    return {table.name: table.rows or 0 for each in contents if each.source == source for table in each.tables}
