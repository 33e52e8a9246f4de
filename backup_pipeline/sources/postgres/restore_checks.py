"""Checks before the restore of a database: what forbids it, and what a person should know.

Each is a small function over the same situation; the plan shows their results in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from backup_pipeline.artefacts.restorer import RestoreSource
from backup_pipeline.errors import ToolError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.restore import RestoreMode
from backup_pipeline.postgres.catalog.keycloak_schema import keycloak_state
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.load.rebuild import UNFINISHED
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.databases import DatabaseProperties, ServerFacts, obstacles_to_rename
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.skipped_statements import expected_refusals, reported
from backup_pipeline.sources.postgres import keycloak
from backup_pipeline.sources.postgres.recorded import written_by


@dataclass(frozen=True)
class Situation:
    """What the checks read.

    Attributes:
        selection: set, source and options.
        dump: the dump's record.
        expected: what was recorded in the dump's snapshot.
        target: the database.
        facts: of its server.
        properties: of the database; None when it does not exist.
        platform: it is a database that a Supabase platform made.
        fills: it is one without a project's tables: it is filled, not swapped.
    """

    selection: RestoreSource
    dump: ArtefactRecord
    expected: Expectation
    target: PostgresTarget
    facts: ServerFacts
    properties: DatabaseProperties | None
    platform: bool
    fills: bool


class Remark(NamedTuple):
    """A result: a reason against the restore, or a warning."""

    text: str
    forbids: bool


def _forbids(text: str) -> Remark:
    return Remark(text, True)


def _warns(text: str) -> Remark:
    return Remark(text, False)


Check = Callable[[Situation], Iterator[Remark]]


def judge(situation: Situation) -> tuple[list[str], list[str]]:
    """Return the reasons against a restore, and the warnings."""
    upsert = situation.selection.options.mode is RestoreMode.UPSERT
    checks = (*_OF_ALL, *(_OF_UPSERTS if upsert else _OF_REBUILDS))
    remarks = [remark for check in checks for remark in check(situation)]
    return [one.text for one in remarks if one.forbids], [one.text for one in remarks if not one.forbids]


def missing_roles(expected: Expectation, facts: ServerFacts) -> list[str]:
    """Return the roles that the dump names and the server has not got."""
    needed = {*(expected.roles.needed if expected.roles else ()), *(expected.catalog.roles if expected.catalog else ())}
    return sorted(needed - facts.roles)


def missing_extensions(expected: Expectation, facts: ServerFacts) -> list[str]:
    """Return the extensions that the dump needs and the server has not got."""
    return sorted((expected.roles.extension_names if expected.roles else frozenset()) - facts.extensions)


def _client(situation: Situation) -> Iterator[Remark]:
    try:
        choose_client(situation.facts.major, safe_restore=True, at_least=written_by(situation.dump))
    except ToolError as error:
        yield _forbids(error.what)


def _no_files(situation: Situation) -> Iterator[Remark]:
    if situation.selection.options.files:
        yield _forbids("this source is a database and has no files to select; select tables or rows instead")


def _the_set(situation: Situation) -> Iterator[Remark]:
    backup = situation.selection.backup
    if backup.manifest is None:
        yield _warns("the set was never sealed; what it holds is restored as far as it goes")
        return
    if not (backup.proven or backup.restored):
        yield _warns("this set has not been proven by a drill")
    if situation.dump.imported is not None:
        yield _warns("it was imported: what is restored is compared with its dump in numbers of rows, and no further")
    for text in backup.manifest.broken_data:
        yield _warns(f"its data was broken where it came from, and comes back so: {text}")


def _keycloak_version(situation: Situation) -> Iterator[Remark]:
    backup = keycloak.recorded(situation.dump.details)
    there = situation.properties is not None and not situation.selection.options.into
    live = keycloak_state(situation.target) if backup and there else None
    if warning := keycloak.version_warning(backup, live):
        yield _warns(warning)


def _database_exists(situation: Situation) -> Iterator[Remark]:
    if situation.properties is None:
        yield _forbids("the database does not exist; rebuild it")


def _platform_upsert(situation: Situation) -> Iterator[Remark]:
    if situation.platform:
        yield _warns(
            "Supabase: rows of auth and storage go into the platform's own tables; the rest of the platform's schemas "
            "is left alone"
        )


def _versions(situation: Situation) -> Iterator[Remark]:
    wrote, major = written_by(situation.dump), situation.facts.major
    if major < wrote:
        yield _forbids(f"the server is of version {major}, the dump was written by pg_dump {wrote}")


def _rights(situation: Situation) -> Iterator[Remark]:
    if not situation.facts.may_create_databases and not situation.fills:
        yield _forbids(f"role {situation.facts.user} may not create databases (use --upsert)")


def _roles(situation: Situation) -> Iterator[Remark]:
    facts, missing = situation.facts, missing_roles(situation.expected, situation.facts)
    if missing and not facts.superuser and not facts.may_create_roles:
        yield _warns(
            f"roles are missing and {facts.user} may not make them; their rights are skipped: {', '.join(missing)}"
        )
    elif missing and not situation.selection.options.create_roles:
        yield _forbids(f"roles are missing: {', '.join(missing)} (--create-roles makes them, without login)")


def _extensions(situation: Situation) -> Iterator[Remark]:
    if missing := missing_extensions(situation.expected, situation.facts):
        yield _forbids(f"extensions are not available on the server: {', '.join(missing)}")
    roles = situation.expected.roles
    if not situation.fills and roles and "pg_cron" in roles.extension_names:
        yield _forbids(
            "pg_cron can live in one database of a server only, so no copy can be built beside it (use --upsert)"
        )


def _refusals(situation: Situation) -> Iterator[Remark]:
    """What a role without superuser rights will be refused."""
    facts, expected = situation.facts, situation.expected
    if facts.superuser or expected.catalog is None:
        return
    made = missing_roles(expected, facts) if facts.may_create_roles else ()
    refused = reported(expected_refusals(expected.catalog, {*facts.may_become, *made}), facts.user)
    for text in refused:
        yield _warns(text)
    if refused and situation.selection.options.careful:
        yield _forbids("--careful runs the dump as it stands, and this role would be refused some of it")


def _filling(situation: Situation) -> Iterator[Remark]:
    if not situation.fills:
        return
    if situation.selection.options.careful:
        yield _forbids("--careful cannot fill a platform's database")
    yield _warns(
        "Supabase: the platform's own schemas are left as they are; rows of auth and storage go into its tables"
    )


def _new_database(situation: Situation) -> Iterator[Remark]:
    name, properties = situation.selection.options.into, situation.properties
    if situation.fills or not name or properties is None:
        return
    if properties.comment == UNFINISHED:
        yield _warns(f"database {name} is what a restore left that was killed: it is removed first")
    else:
        yield _forbids(f"database {name} exists already")


def _swap(situation: Situation) -> Iterator[Remark]:
    facts, properties, target = situation.facts, situation.properties, situation.target
    if situation.fills or situation.selection.options.into or properties is None:
        return
    if not facts.superuser and properties.owner != facts.user:
        yield _forbids(
            f"role {facts.user} does not own {target.database}, so it cannot be renamed (use --upsert, "
            "or --into for a new database)"
        )
    if situation.platform:
        yield _forbids(
            "a Supabase platform's database that holds tables of a project cannot be swapped (use --upsert, or --into)"
        )
    for text in obstacles_to_rename(target):
        yield Remark(text, "prepared" in text)
    yield _warns(
        "the application's connections are ended for the swap; what it writes after the emergency backup stays "
        "in the old database only"
    )


_OF_ALL: tuple[Check, ...] = (_no_files, _client, _the_set, _keycloak_version)
_OF_UPSERTS: tuple[Check, ...] = (_database_exists, _platform_upsert)
_OF_REBUILDS: tuple[Check, ...] = (
    _versions,
    _rights,
    _roles,
    _extensions,
    _refusals,
    _filling,
    _new_database,
    _swap,
)
