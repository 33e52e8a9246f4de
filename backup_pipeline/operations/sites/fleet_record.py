"""What is remembered of a fleet in the folder of its members' stores: its members, and what became of each of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from backup_pipeline.model.fleet_run import FleetRecord
from backup_pipeline.settings.fleet_members import (
    MEMBERS_NAME,
    after_reading,
    fleet_folder,
    known_members,
    read_members,
)
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import make_folders, read_ordinary, write_atomically
from backup_pipeline.system.former_files import keep_damaged

RECORD_NAME = "last_run.json"
LOCK_NAME = ".fleet.lock"


def folder_of(site: Site, fleet: str) -> Path:
    """Return the folder of a fleet's stores."""
    return fleet_folder(site.settings.store, fleet)


def lock_name(fleet: str) -> str:
    """Return the name of the lock by which one worker of those that share no disk has the fleet to itself."""
    return f"fleet {fleet}"


def read_record(site: Site, fleet: str) -> FleetRecord:
    """Return what became of the members; an empty record where there is none that can be read."""
    try:
        return FleetRecord.model_validate_json(read_ordinary(folder_of(site, fleet) / RECORD_NAME))
    except (OSError, ValueError):
        return FleetRecord()


def keep_record(site: Site, fleet: str, record: FleetRecord) -> None:
    """Write it.

    Raises:
        StoreError: the folder cannot be written.
    """
    keep_damaged(folder_of(site, fleet) / RECORD_NAME, FleetRecord.model_validate_json, datetime.now(UTC))
    _keep(site, fleet, RECORD_NAME, record.model_dump_json(indent=1).encode() + b"\n")


def keep_members(site: Site, fleet: str, now: datetime) -> None:
    """Remember a fleet's members, so that one that leaves its list can still be restored.

    Raises:
        StoreError: the folder cannot be written.
    """
    keep_damaged(folder_of(site, fleet) / MEMBERS_NAME, read_members, now)
    known = known_members(folder_of(site, fleet))
    members = after_reading(site.fleets[fleet], known, now)
    document = {"members": [one.model_dump(mode="json") for one in members]}
    _keep(site, fleet, MEMBERS_NAME, json.dumps(document, indent=1).encode() + b"\n")


def _keep(site: Site, fleet: str, name: str, data: bytes) -> None:
    folder = folder_of(site, fleet)
    make_folders(folder, int(site.settings.folder_mode, 8))
    write_atomically(folder / name, data, mode=int(site.settings.file_mode, 8))
