"""What a restored database lacks, has too much of, or has otherwise than the catalog of its backup. Pure.

Rows are compared by fingerprints, elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from backup_pipeline.model.catalog import COLUMN_OPTIONS, LATER_KINDS, Catalog, SequenceState, essence
from backup_pipeline.model.proof import Finding

_READABLE = frozenset(
    {
        "table",
        "column",
        "constraint",
        "index",
        "extension",
        "enum",
        "domain",
        "composite type",
        "range type",
        "owner",
        "grant",
        "default privilege",
        "other owner",
        "other grant",
    }
)

# Stored as trees and written out by the server.
_QUERIES = frozenset({"view", "materialized view", "rule"})
# Of these at least a part is: an expression, a condition, a body that is no string.
_PRINTED = _QUERIES | {
    "function",
    "default",
    "constraint",
    "domain",
    "index",
    "trigger",
    "policy",
    "statistics",
    "published",
    "table",
    "definition",
    COLUMN_OPTIONS,
}
_PARTITION_KEY = re.compile(r"\bby (?:RANGE|LIST|HASH) \(.*\)(?=, inherits |\Z)", re.DOTALL)


def differences(
    expected: Catalog,
    found: Catalog,
    *,
    ignore_kinds: Collection[str] = (),
    ignore_schemas: Collection[str] = (),
    extra_allowed: bool = False,
    reparsed: Catalog | None = None,
) -> list[Finding]:
    """Return everything in which `found` is not what `expected` says, by kind and name.

    Args:
        expected: the catalog that was read in the dump's snapshot.
        found: the restored database's.
        ignore_kinds: kinds (keys of `Catalog.objects`, or "sequence") that cannot agree here, such as "owner" after a
            restore without owners.
        ignore_schemas: schemas that a platform owns.
        extra_allowed: whether objects that the backup does not know are right.
        reparsed: the catalog of the dump's own definitions, read by the server that `found` is on: how it prints them.
    """
    # What an older release did not record says nothing.
    ignored_kinds = {*ignore_kinds, *(set(LATER_KINDS) - (set(expected.kinds) & set(found.kinds)))}
    expected, found = _without_owners_of_extensions_types(expected), _without_owners_of_extensions_types(found)
    expected, found = _without_mixed_options(expected), _without_mixed_options(found)
    result: list[Finding] = []
    if expected.encoding and found.encoding and expected.encoding != found.encoding:
        result.append(Finding(subject="encoding", problem=f"is {found.encoding}, in the backup {expected.encoding}"))
    for kind in sorted(set(expected.objects) | set(found.objects)):
        if kind in ignored_kinds:
            continue
        result += _objects(kind, expected, found, tuple(ignore_schemas), extra_allowed, reparsed)
    if "sequence" not in ignored_kinds:
        result += _sequences(expected, found, tuple(ignore_schemas), extra_allowed)
    return result


def _without_owners_of_extensions_types(catalog: Catalog) -> Catalog:
    """Return the catalog without the owners of extensions' composite types, which an older release recorded."""
    types, owners = catalog.objects.get("composite type", {}), catalog.objects.get("owner", {})
    prefix = "composite type "
    kept = {n: who for n, who in owners.items() if not n.startswith(prefix) or n.removeprefix(prefix) in types}
    if len(kept) == len(owners):
        return catalog
    return catalog.model_copy(update={"objects": {**catalog.objects, "owner": kept}})


def _without_mixed_options(catalog: Catalog) -> Catalog:
    """Return the catalog of an older release without the options of columns.

    It recorded the server's own marks (15.20's `pg_attver=<number>`) among them, as digests: they cannot be compared.
    """
    recorded = catalog.objects.get("definition", {})
    if COLUMN_OPTIONS in catalog.kinds or not recorded:
        return catalog
    kept = {name: text for name, text in recorded.items() if not name.startswith("column ")}
    return catalog.model_copy(update={"objects": {**catalog.objects, "definition": kept}})


def _objects(
    kind: str,
    expected: Catalog,
    found: Catalog,
    schemas: tuple[str, ...],
    extra_allowed: bool,
    reparsed: Catalog | None,
) -> Iterator[Finding]:
    wanted, have = expected.objects.get(kind, {}), found.objects.get(kind, {})
    if kind in ("grant", "default privilege") and expected.server_major != found.server_major:
        wanted, have = _without_new_rights(wanted), _without_new_rights(have)
    for name in sorted(set(wanted) | set(have)):
        if _in_schema(name, schemas):
            continue
        subject = f"{kind} {name}"
        if name not in have:
            yield Finding(subject=subject, problem="is missing after the restore")
        elif name not in wanted:
            if not extra_allowed:
                yield Finding(subject=subject, problem="is not in the backup")
        elif essence(wanted[name]) == essence(have[name]) or _as_reparsed(kind, name, wanted[name], have, reparsed):
            continue
        elif reparsed is not None or not _written_otherwise(kind, expected, found):
            yield Finding(subject=subject, problem=_changed(kind, wanted[name], have[name]))


def _written_otherwise(kind: str, expected: Catalog, found: Catalog) -> bool:
    """Whether two texts of this kind say nothing by being different: each major version writes queries in its own way
    (16 omits the table's name where 15 wrote it before every column)."""
    return kind in _QUERIES and expected.server_major != found.server_major


def printed_otherwise(expected: Catalog, found: Catalog) -> bool:
    """Return whether some definition differs only perhaps: the server may print what the dump says in another way."""
    return any(
        essence(text) != essence(found.objects[kind][name])
        for kind in _PRINTED & set(expected.objects) & set(found.objects)
        for name, text in expected.objects[kind].items()
        if name in found.objects[kind]
    )


def _as_reparsed(kind: str, name: str, wanted: str, have: dict[str, str], reparsed: Catalog | None) -> bool:
    """Whether an object is what this server makes of the dump's own text, whatever the backup's server printed."""
    if reparsed is None or kind not in _PRINTED:
        return False
    if kind == "table" and _PARTITION_KEY.sub("", wanted) != _PARTITION_KEY.sub("", have[name]):
        return False
    return reparsed.objects.get(kind, {}).get(name) == have[name]


def not_comparable(expected: Catalog, found: Catalog, *, ignore_schemas: Collection[str] = ()) -> list[Finding]:
    """Return what `differences` could not judge: queries that the other major version writes in another way."""
    names = [
        f"{kind} {name}"
        for kind in sorted(_QUERIES)
        if _written_otherwise(kind, expected, found)
        for name, text in expected.objects.get(kind, {}).items()
        if name in found.objects.get(kind, {})
        and not _in_schema(name, tuple(ignore_schemas))
        and essence(text) != essence(found.objects[kind][name])
    ]
    if not names:
        return []
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return [
        Finding(
            subject="definitions of queries",
            problem=f"{len(names)} are there but could not be compared, because PostgreSQL {found.server_major} writes "
            f"them otherwise than {expected.server_major}: {shown}",
            remedy=f"Compare on a server of version {expected.server_major} (DRILL_DATABASE_URL) to be sure.",
        )
    ]


def _without_new_rights(grants: dict[str, str]) -> dict[str, str]:
    """Skip MAINTAIN, which version 17 added to what an owner has by default."""
    return {name: re.sub(r"\bMAINTAIN\*?,?", "", text) for name, text in grants.items()}


def _changed(kind: str, wanted: str, have: str) -> str:
    if kind in _READABLE:
        return f"is {_line(have)!r}, in the backup {_line(wanted)!r}"
    return "has another definition than in the backup"


def _line(text: str) -> str:
    return "; ".join(text.splitlines())


def _in_schema(name: str, schemas: tuple[str, ...]) -> bool:
    """Whether an identity (`schema.name`, `table schema.name`, `schema`) lies in one of the schemas."""
    bare = re.sub(r"\A(?:[a-z-]+ )+", "", name)
    return any(bare == s or bare.startswith(f"{s}.") or name == f"schema {s}" for s in schemas)


def _sequences(expected: Catalog, found: Catalog, schemas: tuple[str, ...], extra_allowed: bool) -> Iterator[Finding]:
    for name in sorted(set(expected.sequences) | set(found.sequences)):
        if _in_schema(name, schemas):
            continue
        subject = f"sequence {name}"
        wanted, have = expected.sequences.get(name), found.sequences.get(name)
        if have is None:
            yield Finding(subject=subject, problem="is missing after the restore")
        elif wanted is None:
            if not extra_allowed:
                yield Finding(subject=subject, problem="is not in the backup")
        else:
            if wanted.definition != have.definition:
                yield Finding(subject=subject, problem=f"is {have.definition!r}, in the backup {wanted.definition!r}")
            if _behind(wanted, have):
                yield Finding(
                    subject=subject,
                    problem=f"stands at {have.last_value}, in the backup at {wanted.last_value}: "
                    "it would hand out numbers that are taken",
                    remedy="setval() it to the larger value.",
                )


def _behind(wanted: SequenceState, have: SequenceState) -> bool:
    """Sequences are not transactional: further than in the backup is right, behind it is not."""
    if wanted.last_value is None or have.last_value is None:
        return False
    sign = 1 if wanted.increment > 0 else -1
    return sign * have.last_value < sign * wanted.last_value or (
        have.last_value == wanted.last_value and wanted.is_called and not have.is_called
    )
