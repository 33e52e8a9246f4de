"""The outcome of drilling what a set holds of one source; the drill of the set adds them up into its proof."""

from __future__ import annotations

from dataclasses import dataclass, field

from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.proof import Finding


@dataclass
class DrillOutcome:
    """What a drill of one source found. `numbers` are seconds and amounts, to be added up over sources.

    `missing_here` is what this machine or the scratch server lacks; where there is something in it, nothing was
    restored.
    """

    findings: list[Finding] = field(default_factory=list)
    missing_here: list[Finding] = field(default_factory=list)
    skipped: list[Finding] = field(default_factory=list)
    numbers: dict[str, float | int] = field(default_factory=dict)
    details: dict[str, JsonValue] = field(default_factory=dict)

    def add(self, other: DrillOutcome) -> None:
        """Take in what was found of the same source elsewhere."""
        self.findings += other.findings
        self.missing_here += other.missing_here
        self.skipped += other.skipped
        self.numbers |= other.numbers
        self.details |= other.details
