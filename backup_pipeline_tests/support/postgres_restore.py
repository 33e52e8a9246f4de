"""What the restore tests share: the nasty schema, dumps by the real pg_dump, and what a backup would have recorded."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.load.check import (
    catalog_and_roles_of,
    fingerprints_of,
    large_objects_of,
    tables_of,
)
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.settings.site import Site
from backup_pipeline.system import processes

NASTY = (Path(__file__).parent / "sql" / "nasty_schema.sql").read_text()


def dump_of(target: PostgresTarget, *arguments: str) -> bytes:
    """Return what pg_dump writes of a database."""
    client = choose_client(server_facts(target).major)
    command = [client.program("pg_dump"), *arguments, *target.program_arguments()]
    return processes.run(command, env=target.program_environment()).stdout


def opened(data: bytes) -> Callable[[], BinaryIO]:
    """Return a function that opens these bytes as a file."""
    return lambda: io.BytesIO(data)


def lines_of(dump: bytes) -> list[str]:
    """Return a dump's lines without pg_dump's two random ones."""
    return [line for line in dump.decode().split("\n") if not line.startswith(("\\restrict ", "\\unrestrict "))]


def expectation_of(target: PostgresTarget) -> Expectation:
    """Return what a backup records of a database beside its dump."""
    catalog, roles = catalog_and_roles_of(target)
    marks = fingerprints_of(target, dict.fromkeys(tables_of(target), ""))
    assert not [mark for mark in marks.values() if isinstance(mark, str)]
    return Expectation(catalog, roles, marks, large_objects_of(target))  # type: ignore[arg-type]


def run(target: PostgresTarget, script: str) -> None:
    """Run statements in one transaction."""
    with connected(target, pinned=False) as connection:
        connection.execute(script.encode())


def ask(target: PostgresTarget, query: str) -> list[tuple[object, ...]]:
    """Return a query's rows."""
    with connected(target, pinned=False) as connection:
        return connection.execute(query.encode()).fetchall()


def sealed_set(site: Site, plan: str, purpose: Purpose = Purpose.BACKUP) -> SetId:
    """Run a plan without Dagster and return its sealed set."""
    moment = datetime.now(UTC)
    identity = RunIdentity(f"test-{uuid4().hex}", f"test-{uuid4().hex}", moment, purpose)
    run = BackupRun(site, plan, identity)
    try:
        for source in site.plan(plan).sources:
            for _ in run.capture(source):
                pass
        return run.seal().set_id
    finally:
        run.close()
