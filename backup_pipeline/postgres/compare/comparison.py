"""Comparing a restored database with what was recorded in the dump's snapshot: every row, every object.

The same function serves drills and restores. Nothing is restored or decided here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backup_pipeline.model.catalog import Catalog, RolesDocument
from backup_pipeline.model.progress import ProgressSink, no_progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import Fingerprint
from backup_pipeline.postgres.load.check import (
    catalog_of,
    fingerprint_in_order,
    fingerprints_of,
    large_objects_of,
    row_counts_of,
    servers_own_functions,
    user_mappings_of,
)
from backup_pipeline.postgres.load.loading_role import LoadingRole
from backup_pipeline.postgres.load.rebuild import DumpOrigin
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.catalog_difference import differences, not_comparable, printed_otherwise
from backup_pipeline.rules.dump_limits import without_limits
from backup_pipeline.rules.locale_difference import locale_difference
from backup_pipeline.rules.skipped_statements import Line, LineKind, reported, without_skipped
from backup_pipeline.rules.verification import fingerprint_findings

TableName = tuple[str, str]
# Subject of the notes about lines that the restoring role was refused.
_PATH = "search_path="
REFUSED = "what this role may not do"


@dataclass(frozen=True)
class Expectation:
    """What a database must hold, as recorded with its dump. None or empty where an older set did not record it.

    Attributes:
        catalog: its objects.
        roles: its roles and settings.
        fingerprints: of its tables.
        large_objects: of all its large objects.
        written_by: major of the pg_dump that wrote the dump; 0 where unknown.
        skipped_schemas: schemas that a restore skips on purpose.
        rows: of the tables of an imported dump, which has no fingerprints.
    """

    catalog: Catalog | None = None
    roles: RolesDocument | None = None
    fingerprints: Mapping[TableName, Fingerprint] = field(default_factory=dict)
    large_objects: Fingerprint | None = None
    written_by: int = 0
    skipped_schemas: tuple[str, ...] = ()
    rows: Mapping[TableName, int] = field(default_factory=dict)

    @property
    def origin(self) -> DumpOrigin:
        """What is known of the database that the dump is of."""
        encoding, locale = (self.catalog.encoding, self.catalog.locale) if self.catalog is not None else ("", None)
        return DumpOrigin(self.written_by, encoding, locale, self.search_path)

    @property
    def search_path(self) -> str:
        """The search_path that its functions were written for, as `alter database … set` had it; "" for the default."""
        settings = self.roles.database_settings if self.roles is not None else ()
        return next((text.removeprefix(_PATH) for text in settings if text.startswith(_PATH)), "")


@dataclass(frozen=True)
class Comparison:
    """The outcome: differences, what could not be compared, and the amount that was compared."""

    findings: tuple[Finding, ...]
    skipped: tuple[Finding, ...]
    tables: int
    rows: int
    seconds: float


def compare_database(
    target: PostgresTarget,
    expected: Expectation,
    *,
    skipped_lines: Sequence[Line] = (),
    reparse: Callable[[], Catalog | None] | None = None,
    jobs: int = 2,
    loading: LoadingRole | None = None,
    progress: ProgressSink = no_progress,
) -> Comparison:
    """Compare a database with what its backup recorded.

    Args:
        target: the restored database.
        expected: what it must hold.
        skipped_lines: lines that the restoring role was refused; what follows from them is reported as skipped.
        reparse: reads the dump's definitions on this server (`reparsed_by`); called when texts differ.
        jobs: connections.
        loading: the role that loaded a drill's copy: what it may not see is asked for as the superuser.
        progress: receives the number of tables compared.
    """
    began = time.monotonic()
    findings: list[Finding] = []
    skipped: list[Finding] = []
    wanted = {n: mark for n, mark in expected.fingerprints.items() if n[0] not in expected.skipped_schemas}
    algorithms = {name: mark.algorithm for name, mark in wanted.items()}
    found = fingerprints_of(target, algorithms, jobs=jobs, search_path=expected.search_path, progress=progress)
    if expected.catalog is not None:
        found |= _in_recorded_order(target, expected.catalog, wanted, found)
    findings += fingerprint_findings(wanted, found)
    large, unread = _large_object_differences(target, expected)
    findings += large
    skipped += unread
    if expected.catalog is None:
        skipped.append(Finding(subject="catalog", problem="the set recorded none, so objects were not compared"))
    else:
        objects, not_compared = _object_differences(
            target, expected.catalog, expected.skipped_schemas, skipped_lines, reparse, loading
        )
        findings += objects
        skipped += not_compared
    counted = row_counts_of(target, [name for name in expected.rows if name[0] not in expected.skipped_schemas])
    findings += _row_differences(expected.rows, counted)
    if not wanted:
        note = f"; {len(counted)} were counted" if counted else ""
        skipped.append(Finding(subject="tables", problem=f"the set recorded no fingerprints{note}"))
    # A partition's rows are its parent's too: they are counted once.
    tables = expected.catalog.tables if expected.catalog is not None else ()
    again = {(t.schema_name, t.name) for t in tables if t.leaf_of in found}
    rows = sum(mark.rows for name, mark in found.items() if isinstance(mark, Fingerprint) and name not in again)
    rows += sum(count for count in counted.values() if isinstance(count, int))
    tables_compared = len(found) + len(counted)
    return Comparison(tuple(findings), tuple(skipped), tables_compared, rows, time.monotonic() - began)


def _row_differences(wanted: Mapping[TableName, int], counted: Mapping[TableName, int | str]) -> Iterator[Finding]:
    for name, count in counted.items():
        if count != wanted[name]:
            problem = f"{count} rows, the dump has {wanted[name]}" if isinstance(count, int) else count
            yield Finding(subject=f"table {'.'.join(name)}", problem=problem)


def _large_object_differences(target: PostgresTarget, expected: Expectation) -> tuple[list[Finding], list[Finding]]:
    """Return the differences of large objects, and what could not be compared."""
    recorded = expected.large_objects
    if recorded is None:
        return [], []
    blobs = large_objects_of(target)
    if blobs is None:
        return [], [Finding(subject="large objects", problem="this role may not read pg_largeobject")]
    if (blobs.value, blobs.rows) == (recorded.value, recorded.rows):
        return [], []
    problem = f"{blobs.rows} with other content than the {recorded.rows} in the backup"
    return [Finding(subject="large objects", problem=problem)], []


def _object_differences(
    target: PostgresTarget,
    catalog: Catalog,
    skipped_schemas: Collection[str],
    skipped_lines: Sequence[Line],
    reparse: Callable[[], Catalog | None] | None,
    loading: LoadingRole | None,
) -> tuple[list[Finding], list[Finding]]:
    """Return the differences of objects, and what could not be compared."""
    skipped: list[Finding] = []
    wanted, objects = catalog, catalog_of(target)
    if loading is not None:
        wanted, objects = _as_recorded(wanted, objects, loading)
    if skipped_lines:
        user = loading.name if loading else server_facts(target).user
        for who, lines in _by_holder(skipped_lines, user, loading):
            wanted, objects = without_skipped(wanted, objects, lines, who)
        texts = [_named(text, loading) if loading else text for text in reported(skipped_lines, user)]
        skipped += [Finding(subject=REFUSED, problem=text) for text in texts]
    wanted, objects, limits = without_limits(wanted, objects)
    skipped += [*limits, *locale_difference(wanted, objects)]
    reparsed = reparse() if reparse is not None and printed_otherwise(wanted, objects) else None
    if reparsed is None:
        skipped += not_comparable(wanted, objects, ignore_schemas=skipped_schemas)
    return differences(wanted, objects, ignore_schemas=skipped_schemas, reparsed=reparsed), skipped


def _by_holder(lines: Sequence[Line], user: str, loading: LoadingRole | None) -> Iterator[tuple[str, Sequence[Line]]]:
    """Yield the lines that were skipped with the role that has what each is about."""
    if loading is None:
        yield user, lines
        return
    yield user, [line for line in lines if line.kind is not LineKind.SUPERUSERS_OWNER]
    kept = [line for line in lines if line.kind is LineKind.SUPERUSERS_OWNER]
    if kept:
        yield loading.superuser.user, kept


def _as_recorded(expected: Catalog, found: Catalog, loading: LoadingRole) -> tuple[Catalog, Catalog]:
    """Return the catalogs with what only a superuser sees, and with the recorded roles in the places of stand-ins."""
    objects = {kind: dict(texts) for kind, texts in found.objects.items()}
    wanted = {kind: dict(texts) for kind, texts in expected.objects.items()}
    if mappings := user_mappings_of(loading.superuser):
        objects.setdefault("definition", {}).update(mappings)
    for name in servers_own_functions(loading.target):
        for kind in ("owner", "grant"):
            if name in wanted.get(kind, {}) and name in objects.get(kind, {}):
                objects[kind][name] = wanted[kind][name]
    if loading.stand_ins:
        for kind in ("owner", "other owner", "grant", "other grant", "default privilege"):
            objects[kind] = {
                _named(name, loading, quoted=True): "\n".join(sorted(_named(text, loading).split("\n")))
                for name, text in objects.get(kind, {}).items()
            }
        for side in (wanted, objects):
            # Their owners and rights are one digest.
            side.get("other grant", {}).pop("large objects", None)
    return expected.model_copy(update={"objects": wanted}), found.model_copy(update={"objects": objects})


def _named(text: str, loading: LoadingRole, *, quoted: bool = False) -> str:
    for role, stand_in in loading.stand_ins.items():
        name = role if not quoted or re.fullmatch(r"[a-z_][a-z0-9_]*", role) else '"' + role.replace('"', '""') + '"'
        text = re.sub(rf"{stand_in}(?![0-9])", lambda _, name=name: name, text)  # type: ignore[misc]
    return text


def _in_recorded_order(
    target: PostgresTarget,
    catalog: Catalog,
    wanted: Mapping[TableName, Fingerprint],
    found: Mapping[TableName, Fingerprint | str],
) -> dict[TableName, Fingerprint | str]:
    """Read again ordinary tables with as many rows but another fingerprint, with the backup's order of columns."""
    again: dict[TableName, Fingerprint | str] = {}
    for name, mark in found.items():
        table = catalog.table(*name)
        expected = wanted[name]
        if isinstance(mark, str) or table is None or table.kind != "table" or not table.columns:
            continue
        if mark.rows == expected.rows and mark.value != expected.value:
            again[name] = fingerprint_in_order(target, name, expected.algorithm, [c.name for c in table.columns])
    return again
