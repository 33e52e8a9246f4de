"""Databases that are healthy, with what real ones have: each is backed up, proven and restored as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backup_pipeline.operations.restore import plan_restore
from backup_pipeline.restore.drill_database import drill_database
from backup_pipeline.tools.postgres.databases import drop_database
from backup_pipeline.tools.postgres.embedded import EmbeddedServer
from backup_pipeline.tools.postgres.target import PostgresTarget
from backup_pipeline_tests.postgres.restoring import dump_of, expectation_of, opened, run, sealed_set
from backup_pipeline_tests.sites import TestSite, dsn

SETTINGS = """
store: backups
sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}
plans: {nightly: {sources: [shop]}}
"""
Database = Callable[[str], PostgresTarget]


def site_of(folder: Path, target: PostgresTarget) -> TestSite:
    site = TestSite(folder)
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS)
    return site


def test_an_extension_whose_name_sql_quotes_is_found_on_the_server_that_has_it(
    installed_database: Database, installed_server: EmbeddedServer, tmp_path: Path
) -> None:
    target = installed_database('create extension "uuid-ossp"; create table t (id uuid default uuid_generate_v4())')
    outcome = drill_database(opened(dump_of(target)), expectation_of(target), installed_server.target())
    assert outcome.findings == []
    site = site_of(tmp_path, target)
    plan = plan_restore(site.site, "nightly", sealed_set(site.site, "nightly"), "shop")
    assert (plan.missing_extensions, plan.reasons_against) == ((), ())


def test_a_platform_is_recognised_by_the_database_and_not_by_roles_of_its_server(
    installed_database: Database, installed_server: EmbeddedServer, tmp_path: Path
) -> None:
    run(installed_server.target(), "create role supabase_admin; create role supabase_auth_admin")
    try:
        target = installed_database("create schema auth; create table auth.users (id int primary key)")
        site = site_of(tmp_path, target)
        set_id = sealed_set(site.site, "nightly")
        plan = plan_restore(site.site, "nightly", set_id, "shop")
        assert plan.reasons_against == ()
        run(target, "alter schema auth owner to supabase_admin")
        assert "a Supabase platform's database" in str(plan_restore(site.site, "nightly", set_id, "shop"))
        drop_database(target)
    finally:
        run(installed_server.target(), "drop role supabase_admin, supabase_auth_admin")
