"""What a vault holds for the worst day: the text and the program that bring its copies back without this project."""

from __future__ import annotations

import re
from pathlib import Path

from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.objects.errors import ObjectLockedError, ObjectNotFoundError, PlaceRefusedError
from backup_pipeline.stores.vault.names import RECOVERY_PROGRAM, RECOVERY_TEXT

_HERE = Path(__file__).parent
_READS = re.compile(rb"^_LATEST_COPY = (\d{1,6})$", re.MULTILINE)
_LARGEST = 1 << 20


def write_recovery(place: ObjectPlace) -> None:
    """Put this release's text and program into the vault."""
    for name in (RECOVERY_TEXT, RECOVERY_PROGRAM):
        place.put(name, (_HERE / name).read_bytes())


def make_recovery_read(place: ObjectPlace, version: int) -> bool:
    """Make sure that the vault's own program reads copies of a version; False where it cannot be replaced.

    A program of a later release stays.
    """
    if _reads(place) >= version:
        return True
    try:
        write_recovery(place)
    except (ObjectLockedError, PlaceRefusedError):
        return False
    return True


def _reads(place: ObjectPlace) -> int:
    try:
        found = _READS.search(place.get_range(RECOVERY_PROGRAM, 0, _LARGEST))
    except ObjectNotFoundError:
        return 0
    return int(found[1]) if found else 1
