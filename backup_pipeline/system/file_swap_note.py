"""The note beside a restored target: what was swapped, so that it can be undone or healed after a crash. No renames."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import StoreError
from backup_pipeline.model.base import Frozen
from backup_pipeline.system.files import sync_folder, translate_os_error, write_atomically

Identity = tuple[int, int]


class SwapState(StrEnum):
    """SWAPPING and UNDOING: between the note and the last rename. SWAPPED: done, can be undone."""

    SWAPPING = "swapping"
    SWAPPED = "swapped"
    UNDOING = "undoing"


class Part(Frozen):
    """One file or folder of a swap; all paths relative to the folder of the target.

    Attributes:
        target: where it goes.
        new: where it was built.
        kept: where what was there goes.
        aside: where the restored one goes when the swap is undone.
        old_id: device and inode of what was there; None when nothing was.
        new_id: device and inode of what was built.
        sidecars: endings of files beside the target that belong to what was there (`-wal`) and go with it.
    """

    target: str
    new: str
    kept: str
    aside: str = ""
    old_id: Identity | None
    new_id: Identity
    sidecars: tuple[str, ...] = ()


class Swap(Frozen):
    """One restore of a target: all its parts are swapped, or none."""

    at: datetime
    label: str = ""
    state: SwapState
    parts: tuple[Part, ...]


class SwapNote(Frozen):
    """What stands in the note: the swaps of a target that can be undone, newest last."""

    note_version: Literal[1] = 1
    swaps: tuple[Swap, ...] = ()


def note_path(target: Path) -> Path:
    """Return where the note of a target is."""
    return target.with_name(f".{target.name}.restore.json")


def read_note(target: Path) -> SwapNote:
    """Return the note of a target, an empty one when there is none; StoreError when it cannot be understood."""
    place = note_path(target)
    try:
        return SwapNote.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        return SwapNote()
    except OSError as error:
        raise translate_os_error(error, place) from error
    except PydanticError as error:
        raise StoreError(
            "The note of an earlier restore cannot be read.",
            where=str(place),
            remedy="Inspect what stands beside it (`.before-…`), put in place what is right, then delete the note.",
        ) from error


def write_note(target: Path, note: SwapNote) -> None:
    """Write the note, durable; an empty one is removed."""
    place = note_path(target)
    if note.swaps:
        write_atomically(place, note.model_dump_json(indent=1).encode() + b"\n")
        return
    place.unlink(missing_ok=True)
    sync_folder(place.parent)


def replace_last(target: Path, note: SwapNote, swap: Swap | None) -> SwapNote:
    """Write the note with its last swap replaced, or dropped where `swap` is None; return it."""
    changed = SwapNote(swaps=(*note.swaps[:-1], *([swap] if swap else [])))
    write_note(target, changed)
    return changed
