"""A running UI whose pages tests walk through: a shop's database and a folder, backed up once, then damaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.fleets.member import back_up_member
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.browser import chromium
from backup_pipeline_tests.support.postgres_restore import sealed_set
from backup_pipeline_tests.support.running_ui import Ui, ui_of
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn, write_storage
from backup_pipeline_tests.support.vault_sites import identity_in

_SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL, tables: {include: ["public.*"], formats: [parquet]}}
  storage: {kind: folder, path: storage, buckets: [materials, submissions], after: [shop]}
  files: {kind: folder, path: files}
plans:
  nightly: {sources: [shop, storage], wait_seconds: 0.5}
  started: {sources: [files], retention: {keep_last: 5}}
fleets:
  tenants:
    sources_from: {list: [acme]}
    source: {kind: postgres, dsn_env: SHOP_URL, tables: {include: ["public.*"], formats: [parquet]}}
vaults:
  offsite: {url: "file://VAULT", recipients: [RECIPIENT]}
"""


@dataclass(frozen=True)
class Walked:
    """A site with one sealed set of `nightly`, one of a fleet's member, none of `started`; its UI; their database."""

    site: TestSite
    ui: Ui
    set_id: SetId
    live: PostgresTarget

    def execute(self, statement: str) -> None:
        with connected(self.live) as connection:
            connection.execute(statement.encode())

    def value(self, query: str) -> object:
        with connected(self.live) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def address(self, path: str) -> str:
        return f"{self.ui.address}/backups{path}"


# Of all tests here that ask it: to start its processes takes as long as a walk, and they are never quite at rest.
@pytest.fixture(scope="package")
def walked(
    tmp_path_factory: pytest.TempPathFactory, server: EmbeddedServer, template: Callable[[str, str], str]
) -> Iterator[Walked]:
    live = server.target(f"walked_{os.getpid()}")
    source = template("shop", SHOP)
    with connected(server.target()) as connection:
        connection.execute(f'drop database if exists "{live.database}" with (force)'.encode())
        connection.execute(f'create database "{live.database}" template "{source}"'.encode())
    site = TestSite(tmp_path_factory.mktemp("walked"))
    site.variables = {"SHOP_URL": dsn(live)}
    write_storage(site.folder / "storage")
    (site.folder / "files").mkdir()
    (site.folder / "files" / "a.txt").write_text("content", "utf-8")
    identity, recipient = identity_in(site.folder)
    site.variables["VAULT_IDENTITY_FILE"] = str(identity)
    (site.folder / "vault").mkdir()
    site.write(_SETTINGS.replace("VAULT", str(site.folder / "vault")).replace("RECIPIENT", recipient))
    assert site.run("vault", "init", "offsite").code == 0
    set_id = sealed_set(site.site, "nightly")
    assert back_up_member(site.site, "tenants_acme", "").state == "sealed"
    with ui_of(site) as ui:
        yield Walked(site, ui, set_id, live)


@pytest.fixture
def as_backed_up(walked: Walked) -> None:
    """Each walk begins with the rows that the set has, whatever one before it, or its own first attempt, left."""
    with connected(walked.live, pinned=False) as connection:
        connection.execute(f"drop table if exists public.orders, public.customers; {SHOP}".encode())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    made = context.new_page()
    made.set_default_timeout(90_000)
    yield made
    context.close()


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    """A page on a phone that is touched, in the browser's emulation of one."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True, has_touch=True
    )
    made = context.new_page()
    made.set_default_timeout(90_000)
    yield made
    context.close()


def wait_for(page: Page, heading: str) -> None:
    """Wait until the page's heading has this text."""
    expect(page.get_by_role("heading", level=1)).to_contain_text(heading, timeout=120_000)


def type_and_go(page: Page, name: str, button: str) -> None:
    """Type a name on the page of a plan or an undo, and press the button."""
    page.get_by_label("To do it, type the name").fill(name)
    page.get_by_role("button", name=button, exact=True).click()


def keep_picture(page: Page, name: str) -> None:
    """Keep a picture of a page where PICTURES names a folder."""
    if folder := os.environ.get("PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


_CUT_CAPTIONS = """[...document.querySelectorAll('.scroll caption')].filter(one => one.getClientRects().length
 && one.getBoundingClientRect().width > one.closest('.scroll').clientWidth + 1).map(one => one.innerText)"""
"""The captions that are wider than the box in which their table scrolls: part of them is not on the screen."""


def picture(page: Page, name: str) -> None:
    """Hold a page to what axe says and to its width; keep a picture of it."""
    keep_picture(page, name)
    found = Axe().run(page)
    assert found.violations_count == 0, f"{name}: {found.generate_report()}"
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
    assert page.evaluate(_CUT_CAPTIONS) == [], name
