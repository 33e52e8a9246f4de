"""Completion record of a captured source: which artefacts it gave."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime

from backup_pipeline.model.base import Frozen
from backup_pipeline.model.command_record import CommandRecord


class SourceDone(Frozen):
    """Written when a source's capture has ended well; the manifest is not sealed without one for every source.

    Attributes:
        source: the source's name.
        keys: keys of all artefacts that the capture gave; each must have its record.
        started_at: when its capture began.
        finished_at: when its capture ended.
        commands: what the settings' commands before and after it did.
        generation: of the claim under which it was captured, where several processes write to one set; 0 for none.
    """

    done_version: Literal[1] = 1
    source: str
    keys: tuple[tuple[str, ...], ...]
    started_at: AwareDatetime
    finished_at: AwareDatetime
    commands: tuple[CommandRecord, ...] = ()
    generation: int = 0
