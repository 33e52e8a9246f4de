"""Store ownership: two sites that share a store under one plan name must not remove each other's sets.

A site's identity is a random text in `.site-id` beside its backup.yaml, made when it first writes to a store; the store
remembers it in `.site.json`. A store without one is adopted by the site that writes next, unless that site has used it
and it is empty now: then its disk is not mounted, and a set would lie under the mount point, out of sight. A site
that cannot keep an identity (a read-only folder, a container without BACKUP_PIPELINE_STATE, whose folders may be new
each time) is not asked for it. Reading is never refused.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
from pathlib import Path

from pydantic import BaseModel

from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import PlanStore
from backup_pipeline.system.files import read_ordinary, write_atomically
from backup_pipeline.system.former_files import private_folder

ID_NAME = ".site-id"
MARK_NAME = ".site.json"
MEMORY_FOLDER = ".backup-pipeline"
# A folder that outlives the site's own, as a volume does in containers.
STATE_VARIABLE = "BACKUP_PIPELINE_STATE"
_ID = re.compile(r"[0-9a-f]{32}")
_IN_A_CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))


class _Mark(BaseModel):
    site: str
    file: str = ""
    host: str = ""


def claim_store(site: Site, store: PlanStore) -> None:
    """Remember that a plan's store is this site's; called under the plan's lock.

    Raises:
        RefusedError: it is another site's.
        StoreError: the store cannot be written.
    """
    own = _identity(site)
    place = store.folder / MARK_NAME
    mark = _read(place)
    if mark is not None and own and mark.site != own:
        raise RefusedError(
            f"This store belongs to another site ({mark.file} on {mark.host}), and a clean-up by one would remove the "
            "other's sets.",
            where=f"{store.plan} in {store.label}",
            remedy="Give each site a `store` or a plan name of its own. Is it this site, moved or on a new machine? "
            f"Then remove {place}: the next backup writes it anew.",
        )
    used = _used_stores(site)
    if mark is None and own:
        if str(store.folder) in used and not store.ids():
            raise RefusedError(
                "This site has kept sets here, and there is none now, nor the mark of the store.",
                where=f"{store.plan} in {store.label}",
                remedy="Is its disk mounted? Mount it, then run this again. Was it emptied on purpose? Then remove "
                f"{_memory(site)}: the next backup begins it anew.",
            )
        mark = _Mark(site=own, file=str(site.file), host=socket.gethostname())
        write_atomically(place, mark.model_dump_json(indent=1).encode() + b"\n", mode=store.file_mode)
    if own and str(store.folder) not in used:
        _remember(site, [*used, str(store.folder)])


def _read(place: Path) -> _Mark | None:
    """Return whose a store is; None where nobody has said so, or where it cannot be read any more."""
    try:
        return _Mark.model_validate_json(read_ordinary(place))
    except (OSError, ValueError):
        return None


def _kept_in(site: Site) -> Path | None:
    """Return the folder that BACKUP_PIPELINE_STATE names; None where it is not set."""
    named = site.environment.get(STATE_VARIABLE, "").strip()
    return Path(named) if named else None


def state_folder(site: Site) -> Path:
    """Return the private folder of what a site remembers; it may not be there yet."""
    return (_kept_in(site) or site.folder) / MEMORY_FOLDER


def _memory(site: Site) -> Path:
    return state_folder(site) / "stores.json"


def _used_stores(site: Site) -> list[str]:
    """Return the folders in which this site has kept sets; nothing where it cannot remember them."""
    try:
        found = json.loads(read_ordinary(_memory(site)))
    except (OSError, ValueError):
        return []
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _remember(site: Site, stores: list[str]) -> None:
    with contextlib.suppress(OSError, StoreError):
        private_folder(_memory(site).parent)
        write_atomically(_memory(site), json.dumps(stores, indent=1).encode() + b"\n")


def _identity(site: Site) -> str:
    """Return the site's identity, made when it has none; "" where it cannot keep one."""
    state = _kept_in(site)
    place = (state or site.file.parent) / ID_NAME
    with contextlib.suppress(OSError, ValueError):
        found = read_ordinary(place).decode("ascii").strip()
        if _ID.fullmatch(found):
            return found
    if state is None and any(path.exists() for path in _IN_A_CONTAINER):
        return ""
    made = secrets.token_hex(16)
    try:
        write_atomically(place, f"{made}\n".encode())
    except (OSError, StoreError):
        return ""
    return made
