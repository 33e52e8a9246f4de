"""The machine's own PostgreSQL: what the embedded one lacks is there."""

from __future__ import annotations

from collections.abc import Callable

from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import ask


def test_the_installed_server_has_contrib(installed_database: Callable[[str], PostgresTarget]) -> None:
    target = installed_database('create extension "uuid-ossp"; create table t (id uuid default uuid_generate_v4())')
    assert ask(target, "select count(*) from pg_extension where extname = 'uuid-ossp'") == [(1,)]
