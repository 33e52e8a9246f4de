"""What a command of the settings did, which was run before or after a capture."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime

from backup_pipeline.model.base import Frozen


class CommandRecord(Frozen):
    """One command that was run, with the end of its output; values of secret variables are masked in both.

    Attributes:
        when: before or after the capture.
        command: program and arguments.
        exit_code: its own; None where it did not start or was ended at its time limit.
        output: the end of what it wrote, standard output first.
        started_at: when it began.
        finished_at: when it ended.
    """

    when: Literal["before", "after"]
    command: tuple[str, ...]
    exit_code: int | None
    output: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
