"""Sites that stand for the systems this project replaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.tools.postgres.target import PostgresTarget
from backup_pipeline_tests.sites import GUSTAV, IDENTITIES, SHOP, TestSite, dsn, write_storage


@pytest.fixture
def gustav(tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> TestSite:
    """Supabase and Keycloak databases and two storage buckets, in the plan `nightly` whose store is `sets`."""
    supabase = database(template("shop", SHOP))
    keycloak = database(template("identities", IDENTITIES))
    site = TestSite(tmp_path)
    site.variables = {
        "DATABASE_URL": dsn(supabase),
        "KC_DB_URL": f"jdbc:postgresql://{keycloak.host}:{keycloak.port}/{keycloak.database}",
        "KC_DB_USERNAME": keycloak.user,
        "KC_DB_PASSWORD": keycloak.password,
    }
    write_storage(tmp_path / "storage")
    site.write(GUSTAV)
    return site
