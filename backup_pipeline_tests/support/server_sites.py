"""A site whose one source stands for the databases of a server, as far as their names begin as this test's do."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.record import CheckResult
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.settings.site import Site
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
sources:
  server:
    kind: postgres
    dsn_env: SERVER_URL
    tables: {{include: []}}
    databases: {{include: ["{prefix}*"], exclude: {exclude}}}
plans:
  nightly: {{sources: [server]}}
"""
ROWS = "create table public.t (id int primary key, name text); insert into public.t select n, 'n' || n from {range} n"
_NUMBER = itertools.count(1)


@dataclass
class ServerSite:
    """The site, and the databases that were made for it."""

    site: TestSite
    server: PostgresTarget
    prefix: str
    roles: list[str] = field(default_factory=list)

    def create(self, name: str, *, owner: str = "", rows: int = 5) -> PostgresTarget:
        """Make a database whose name is the prefix and `name`, with a table of some rows."""
        full = self.prefix + name
        self.execute(f'create database "{full}" template template0' + (f' owner "{owner}"' if owner else ""))
        target = self.server.with_database(full)
        with connected(target) as connection:
            connection.execute(ROWS.format(range=f"generate_series(1, {rows})").encode())
        return target

    def role(self, name: str, login: str = "login") -> str:
        """Make a role whose name is the prefix and `name`; return its name."""
        self.execute(f'create role "{self.prefix}{name}" {login}')
        self.roles.append(self.prefix + name)
        return self.prefix + name

    def execute(self, sql: str) -> None:
        """Execute a statement in the server's maintenance database."""
        with connected(self.server) as connection:
            connection.execute(sql.encode())

    def drop(self, name: str) -> None:
        """Drop a database that was made here."""
        self.execute(f'drop database "{self.prefix}{name}" with (force)')

    def rows(self, name: str) -> int:
        """Return how many rows the table of a database has."""
        with connected(self.server.with_database(self.prefix + name)) as connection:
            row = connection.execute("select count(*) from public.t").fetchone()
        assert row is not None
        return int(row[0])

    def source(self, name: str) -> str:
        """Return the source of a database."""
        return self.site.site.databases["server"].source_of(self.prefix + name)

    def back_up(self, site: Site | None = None) -> tuple[Manifest | None, list[str]]:
        """Capture what a site has, without Dagster; return the manifest, and what went wrong."""
        site = site or self.site.site
        name = f"r{next(_NUMBER)}"
        run = BackupRun(site, "nightly", RunIdentity(name, name, datetime.now(UTC)))
        errors, manifest = [], None
        try:
            for source in site.plan("nightly").sources:
                try:
                    list(run.capture(source))
                except BackupSystemError as error:
                    errors.append(str(error))
            try:
                manifest = run.seal()
            except BackupSystemError as error:
                errors.append(str(error))
        finally:
            run.close()
        return manifest, errors


@contextmanager
def server_site(folder: Path, server: PostgresTarget, exclude: str = "[]") -> Iterator[ServerSite]:
    """Give such a site in a folder; its databases are dropped at the end."""
    prefix = f"d{os.getpid()}{next(_NUMBER)}_"
    site = TestSite(folder, {"SERVER_URL": dsn(server)})
    site.write(SETTINGS.format(prefix=prefix, exclude=exclude.replace("PREFIX", prefix)))
    made = ServerSite(site, server, prefix)
    try:
        yield made
    finally:
        with connected(server) as connection:
            names = [str(name) for (name,) in connection.execute("select datname from pg_database").fetchall()]
            for name in names:
                if name.startswith(prefix):
                    connection.execute(f'drop database if exists "{name}" with (force)'.encode())
            for role in made.roles:
                connection.execute(f'drop owned by "{role}"; drop role "{role}"'.encode())


def check_of(manifest: Manifest, name: str) -> CheckResult:
    """Return a check of the server's list in a set."""
    [record] = [record for record in manifest.artefacts if record.key == ("server", "databases")]
    return next(check for check in record.checks if check.name == name)
