"""What was found that can be backed up, with the names under which it will stand in backup.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backup_pipeline.model.source_names import plain_text

LONGEST_NAME = 50
# What YAML reads as a truth value or as nothing, and what names of sets mean.
_NOT_NAMES = frozenset("y n yes no on off true false null latest".split())


@dataclass(frozen=True, slots=True)
class FoundSource:
    """A thing to protect.

    Attributes:
        name: of the source.
        kind: postgres, sqlite, repository or folder.
        label: what it is, for people, without secrets.
        settings: its settings beside `kind`.
        variables: what its `.env` needs, values included.
    """

    name: str
    kind: str
    label: str
    settings: Mapping[str, object]
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass
class Discovery:
    """All that was found.

    Attributes:
        sources: what can be backed up.
        passed_over: what was found and is not taken, with the reason and what would take it.
    """

    sources: list[FoundSource] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)

    def add(self, wanted: str, kind: str, label: str, settings: Mapping[str, object], **variables: str) -> FoundSource:
        """Add a source under a name that no other has."""
        taken = {source.name for source in self.sources}
        name = free_name(wanted, taken)
        if any(one.settings.get("databases") and name.startswith(f"{one.name}_") for one in self.sources):
            # So the databases of a server are named.
            name = free_name(f"{kind}_{wanted}", taken)
        found = FoundSource(name, kind, label, settings, variables)
        self.sources.append(found)
        return found


def free_name(wanted: str, taken: set[str]) -> str:
    """Return a usable name of a source like `wanted` that is not taken: letters, digits, `_` and `-`."""
    name = plain_text(wanted).strip("_-").lower()[:LONGEST_NAME].rstrip("_-")
    if not name or not name[0].isalpha() or name in _NOT_NAMES:
        name = f"source_{name}".rstrip("_")
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def variable_of(name: str) -> str:
    """Return the name of the variable that holds a source's connection string."""
    return f"{name.upper().replace('-', '_')}_DATABASE_URL"
