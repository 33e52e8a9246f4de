"""What pg_dump cannot write, so no restore brings it back: reported as a limit with its remedy, not as damage. Pure.

From PostgreSQL's documentation of pg_dump and its source (versions 13 to 18):
- an invalid index (one whose CREATE INDEX CONCURRENTLY failed) is not dumped;
- the data type of an identity column's sequence is not dumped: it becomes the column's own;
- of an extension the dump holds a CREATE EXTENSION without version, so the server's default version is made;
- what a site attached to an extension's tables (indexes, constraints, triggers, rules, columns) is not dumped.
"""

from __future__ import annotations

import re

from backup_pipeline.model.catalog import ATTACHED, Catalog, SequenceState
from backup_pipeline.model.proof import Finding

_OWNED_IDENTITY = re.compile(r"\bowned by (.+) identity\Z")
_TYPE = re.compile(r"\A(?:smallint|integer|bigint) ")
_INVALID = re.compile(r", invalid\b")


def limits_of(catalog: Catalog) -> list[Finding]:
    """Return what of a database its dump will not bring back, as far as its catalog shows."""
    found = [_invalid(name) for name, text in sorted(catalog.objects.get("index", {}).items()) if _is_invalid(text)]
    types = {
        f"{_quoted(t.schema_name)}.{_quoted(t.name)}.{_quoted(c.name)}": c.type
        for t in catalog.tables
        for c in t.columns
    }
    for name, state in sorted(catalog.sequences.items()):
        column = _OWNED_IDENTITY.search(state.definition)
        kind = types.get(column[1]) if column else None
        if kind is not None and _TYPE.match(f"{kind} ") and not state.definition.startswith(f"{kind} "):
            found.append(_sequence_type(name, state, kind))
    return found


def without_limits(expected: Catalog, found: Catalog) -> tuple[Catalog, Catalog, list[Finding]]:
    """Return both catalogs without the differences that follow from limits of pg_dump, and those limits.

    Args:
        expected: the backup's.
        found: the restored database's.
    """
    notes: list[Finding] = []
    wanted = {kind: dict(texts) for kind, texts in expected.objects.items()}
    have = {kind: dict(texts) for kind, texts in found.objects.items()}
    for name, text in sorted(expected.objects.get("index", {}).items()):
        if _is_invalid(text) and name not in have.get("index", {}):
            del wanted["index"][name]
            for kind in ("other comment", "comment"):
                wanted.get(kind, {}).pop(f"index {name}", None)
            notes.append(_invalid(name))
    for name, version in expected.objects.get("extension", {}).items():
        other = have.get("extension", {}).get(name)
        if other is not None and other != version:
            wanted["extension"][name] = other
            notes.append(_version(name, version, other))
    if ATTACHED in found.kinds:
        here = have.pop(ATTACHED, {})
        notes += [_attached(name) for name in sorted(wanted.pop(ATTACHED, {})) if name not in here]
    sequences = dict(expected.sequences)
    for name, state in expected.sequences.items():
        other_state = found.sequences.get(name)
        if other_state is not None and _differ_in_type_only(state, other_state):
            sequences[name] = state.model_copy(update={"definition": other_state.definition})
            notes.append(_sequence_type(name, state, other_state.definition.partition(" ")[0]))
    return (
        expected.model_copy(update={"objects": wanted, "sequences": sequences}),
        found.model_copy(update={"objects": have}),
        notes,
    )


def _is_invalid(text: str) -> bool:
    # The index of a partitioned table is invalid until each partition has its own, and is dumped all the same.
    return bool(_INVALID.search(text)) and " ON ONLY " not in text


def _differ_in_type_only(one: SequenceState, other: SequenceState) -> bool:
    both = (one.definition, other.definition)
    return (
        both[0] != both[1]
        and all(_OWNED_IDENTITY.search(text) for text in both)
        and _TYPE.sub("", both[0]) == _TYPE.sub("", both[1])
    )


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def _invalid(name: str) -> Finding:
    return Finding(
        subject=f"index {name}",
        problem="is invalid where the backup was made (its CREATE INDEX CONCURRENTLY failed); pg_dump leaves it out",
        remedy="REINDEX INDEX CONCURRENTLY, or drop it.",
    )


def _version(name: str, version: str, other: str) -> Finding:
    return Finding(
        subject=f"extension {name}",
        problem=f"is of version {other} here, in the backup {version}; pg_dump does not write versions",
        remedy="Nothing, where this server offers no other (ALTER EXTENSION … UPDATE TO).",
    )


def _attached(name: str) -> Finding:
    return Finding(
        subject=name,
        problem="belongs to a table of an extension; pg_dump does not write what was attached to it, so it is lost",
        remedy="Keep its statement, and run it after a restore.",
    )


def _sequence_type(name: str, state: SequenceState, kind: str) -> Finding:
    return Finding(
        subject=f"sequence {name}",
        problem=f"is of type {state.definition.partition(' ')[0]} in the backup and becomes {kind}, the type of its "
        "identity column: pg_dump does not write it",
        remedy=f"ALTER SEQUENCE {name} AS {state.definition.partition(' ')[0]}, if that is wanted.",
    )
