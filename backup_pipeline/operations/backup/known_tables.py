"""Which tables a source had when it was last captured, so that definitions can be built without asking a database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.operations.sites.known_files import keep_known
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.settings.server_databases import KNOWN_FOLDER
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of
from backup_pipeline.system.files import read_ordinary
from backup_pipeline.system.threads import ContextThreadPool

_ASKED_AT_ONCE = 4

TableKey = tuple[str, ...]


def remember_tables(
    store: Path, source: str, keys: Iterable[TableKey], *, file_mode: int = 0o600, folder_mode: int = 0o700
) -> None:
    """Keep the table keys (source, schema, table) among `keys`, for the next time definitions are built.

    A store that does not exist yet is made, with `folder_mode`; the file gets `file_mode`.

    Raises:
        StoreError: the store cannot be written.
    """
    tables = sorted(key for key in keys if len(key) == 3)
    data = json.dumps([list(key) for key in tables], ensure_ascii=False).encode()
    keep_known(store, f"{source}.json", data, file_mode=file_mode, folder_mode=folder_mode)


def known_tables(store: Path, source: str) -> tuple[TableKey, ...]:
    """Return the table keys remembered of a source; empty when nothing is."""
    try:
        found = json.loads(read_ordinary(store / KNOWN_FOLDER / f"{source}.json"))
        return tuple(tuple(str(part) for part in key) for key in found)
    except (OSError, ValueError, TypeError, RecursionError):
        return ()


def refresh_known_tables(site: Site, plan_name: str, sources: Iterable[str]) -> list[str]:
    """Ask the databases of some sources for their tables and remember them; return those that did not answer.

    Best effort: definitions are built all the same, and a capture exports every table that is there.
    """
    store = site.store_folder(plan_name)
    modes = {"file_mode": int(site.settings.file_mode, 8), "folder_mode": int(site.settings.folder_mode, 8)}

    def refresh(name: str) -> bool:
        kind, source = kind_of(site, name)
        try:
            if (found := kind.discover_tables(source)) is not None:
                remember_tables(store, name, [(name, each.schema, each.name) for each in found], **modes)
        except (BackupSystemError, OSError):
            return False
        return True

    names = list(sources)
    # They wait for servers: a few at once, for each of those may be far away.
    with ContextThreadPool(_ASKED_AT_ONCE, thread_name_prefix="tables") as pool:
        silent = [name for name, answered in zip(names, pool.map(refresh, names), strict=True) if not answered]
    open_store(site, plan_name).share()
    return silent
