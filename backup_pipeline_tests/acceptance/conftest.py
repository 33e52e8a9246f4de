"""One running UI for the tests that ask it: to start its processes takes as long as what they do with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.demo.files import write_workshop
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.image import built_image
from backup_pipeline_tests.support.postgres_restore import sealed_set
from backup_pipeline_tests.support.running_ui import Ui, ui_of
from backup_pipeline_tests.support.sites import GUSTAV, IDENTITIES, SHOP, TestSite, dsn, gustav_variables, write_storage

ORDERS = 80
# A plan for each test, whose sources no other has.
SETTINGS = (
    GUSTAV.replace(
        "plans:",
        """\
  shop: {kind: postgres, dsn_env: SHOP_URL}
  buckets: {kind: folder, path: storage, buckets: [materials, submissions], after: [shop]}
  werkstatt: {kind: orders, database: werkstatt.db, archive: Archiv, first_year: 2019}
plans:""",
    )
    + """\
  live: {sources: [shop, buckets]}
  workshop: {sources: [werkstatt], schedule: "0 2 * * *"}
"""
)


@dataclass(frozen=True)
class Served:
    """A site and its UI.

    Attributes:
        site: plans `nightly` (its first run failed), `live` (has one sealed set) and `workshop` (80 orders).
        ui: the UI, which runs.
        failed: what the failed run of `nightly` told; nothing stops its next one.
        set_id: the set of `live`.
        live: the database of `live`.
    """

    site: TestSite
    ui: Ui
    failed: dict[str, Any]
    set_id: SetId
    live: PostgresTarget


@pytest.fixture(scope="package")
def served(
    tmp_path_factory: pytest.TempPathFactory, server: EmbeddedServer, template: Callable[[str, str], str]
) -> Iterator[Served]:
    made = {}
    for name, source in (
        ("supabase", template("shop", SHOP)),
        ("keycloak", template("identities", IDENTITIES)),
        ("live", template("shop", SHOP)),
    ):
        made[name] = server.target(f"served_{name}")
        with connected(server.target()) as connection:
            connection.execute(f'drop database if exists "{made[name].database}" with (force)'.encode())
            connection.execute(f'create database "{made[name].database}" template "{source}"'.encode())
    site = TestSite(tmp_path_factory.mktemp("served"))
    site.variables = gustav_variables(made["supabase"], made["keycloak"]) | {"SHOP_URL": dsn(made["live"])}
    site.write(SETTINGS)
    failed = json.loads(site.run("backup", "nightly", "--json").out)
    write_storage(site.folder / "storage")
    write_workshop(site.folder / "werkstatt.db", site.folder / "Archiv", ORDERS)
    set_id = sealed_set(site.site, "live")
    with ui_of(site) as ui:
        yield Served(site, ui, failed, set_id, made["live"])


@pytest.fixture(scope="session")
def image() -> None:
    """The container image."""
    built_image()
