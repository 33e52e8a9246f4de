"""The front page in a real browser: readable with and without JavaScript, on a desk and in a hand, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from backup_pipeline.operations.alerts.send import evaluate_incidents
from backup_pipeline.operations.sites.stores import plan_lock
from backup_pipeline.settings.loader import load_site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.browser import chromium
from backup_pipeline_tests.support.front_pages import application_of, served
from backup_pipeline_tests.support.invented_sets import HOSTILE, SITE, at, make_set, write_every_state
from backup_pipeline_tests.web.front.conftest import picture

NOW = at("2026-11-21 12:00")
SET = "2026-11-21T020000Z"
pytestmark = pytest.mark.takes(seconds=5, together="front in a browser")
PAGES = (
    *("/backups", "/backups/nightly", f"/backups/nightly/{SET}", "/backups/weekly", "/backups/nothing"),
    *("/backups/evidence", "/backups/evidence/show?plan=nightly&period=2026-11"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_every_state(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(application_of(folder, lambda: NOW)) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@contextmanager
def opened(browser: Browser, width: int, *, script: bool = True, scheme: str = "light") -> Iterator[Page]:
    """A page that fails the test when the browser reports an error or a breach of the policy, or asks elsewhere."""
    context = browser.new_context(
        viewport={"width": width, "height": 844},
        java_script_enabled=script,
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: None if "//127.0.0.1:" in request.url else problems.append(request.url))
    try:
        yield page
        # That a page was not found is what one of them is for.
        assert [one for one in problems if "404" not in one] == []
    finally:
        # A connection that stays open would keep the server from ending.
        context.close()


@pytest.mark.parametrize(
    "width", [390, 1280, pytest.param(760, marks=pytest.mark.story), pytest.param(1920, marks=pytest.mark.story)]
)
def test_the_answer_and_its_reason_stand_on_the_first_screen(browser: Browser, address: str, width: int) -> None:
    with opened(browser, width, script=False) as page:
        page.goto(f"{address}/")
        assert page.get_by_role("heading", level=1).inner_text() == "No. Something is wrong with nightly and weekly."
        for part in (page.get_by_role("heading", level=1), page.locator(".problems li").first):
            box = part.bounding_box()
            assert box is not None
            assert box["y"] + box["height"] < 844


@pytest.mark.parametrize("width", [1280, 390])
def test_an_owner_reads_whether_it_is_safe_and_why_not(browser: Browser, address: str, width: int) -> None:
    with opened(browser, width) as page:
        page.goto(f"{address}/")
        assert page.get_by_text("Are we safe?").is_visible()
        assert page.get_by_role("heading", level=1).inner_text() == "No. Something is wrong with nightly and weekly."
        reason = page.locator(".problems li").filter(has_text="nightly").first
        picture(page, f"owner-home-{width}")
        reason.get_by_role("link", name="nightly", exact=True).click()
        assert page.get_by_role("heading", level=1).inner_text().startswith("nightly")
        assert page.locator(".problems li").first.is_visible()
        page.get_by_role("link", name=SET).click()
        assert page.get_by_text("Not proven", exact=True).is_visible()
        page.get_by_text("✕ failed").scroll_into_view_if_needed()
        assert page.get_by_text("✕ failed").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_an_owner_acknowledges_an_incident_which_stays_and_counts(browser: Browser, tmp_path: Path, width: int) -> None:
    evaluate_incidents(load_site(write_every_state(tmp_path), environment={}), NOW)
    with served(application_of(tmp_path, lambda: NOW)) as address, opened(browser, width) as page:
        page.goto(f"{address}/backups")
        answer = page.get_by_role("heading", level=1).inner_text()
        problem = page.locator(".problems li").filter(has_text="nightly").filter(has=page.locator("summary")).first
        said = problem.locator("strong").first.inner_text()
        problem.locator("summary").click()
        picture(page, f"owner-acknowledges-{width}")
        problem.get_by_label("Your name").fill("anna")
        problem.get_by_label("Why, or what is done about it").fill("the disk is ordered")
        problem.get_by_role("button", name="Acknowledge").click()
        known = page.locator(".problems li.acknowledged").filter(has_text=said)
        assert "Acknowledged by anna until 2026-11-28 12:00: the disk is ordered" in known.inner_text()
        assert page.get_by_role("heading", level=1).inner_text() == answer
        picture(page, f"owner-acknowledged-{width}")
        known.get_by_role("button", name="Alert again").click()
        assert page.locator(".problems li").filter(has_text=said).locator("summary").first.is_visible()
        assert page.locator(".problems li.acknowledged").count() == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_an_auditor_reads_a_period_its_gaps_and_signs_it(browser: Browser, address: str, width: int) -> None:
    with opened(browser, width) as page:
        page.goto(f"{address}/")
        page.get_by_role("link", name="Evidence", exact=True).click()
        picture(page, f"evidence-home-{width}")
        page.get_by_label("Period").fill("2026-11")
        page.get_by_role("button", name="Show").click()
        assert page.get_by_role("heading", name="Gaps").is_visible()
        picture(page, f"evidence-period-{width}")
        page.get_by_role("button", name="Sign and keep it").click()
        assert page.get_by_text("signed.").first.is_visible()
        picture(page, f"evidence-signed-{width}")
        with page.expect_download() as download:
            page.get_by_role("link", name="Signed file").click()
        assert '"payloadType":"application/vnd.in-toto+json"' in download.value.path().read_text().replace(" ", "")


def test_without_javascript_every_page_can_be_reached_and_read(browser: Browser, address: str) -> None:
    with opened(browser, 390, script=False) as page:
        page.goto(f"{address}/backups")
        page.get_by_role("link", name="nightly", exact=True).last.click()
        page.get_by_role("link", name=SET).click()
        assert page.get_by_role("heading", level=1).inner_text() == "nightly, 2026-11-21 02:00"
        table = page.get_by_role("row", name="public.t1")
        assert table.is_visible()  # A check of its source did not pass: that is open from the beginning.
        page.locator("summary").first.click()
        assert not table.is_visible()
        assert page.get_by_text("✕ failed").is_visible()
        page.get_by_role("link", name="Backups", exact=True).first.click()
        assert page.url == f"{address}/backups"


def test_markup_in_what_sets_say_is_shown_and_never_run(browser: Browser, address: str) -> None:
    with opened(browser, 1280) as page:
        for path in PAGES:
            page.goto(address + path)
            assert page.locator("img[src=x]").count() == 0
        for path in ("/backups/nightly", f"/backups/nightly/{SET}", "/backups/nightly/2026-11-18T090000Z"):
            page.goto(address + path)
            assert HOSTILE in page.inner_text("body")
            assert page.locator("img[src=x]").count() == 0


def test_the_keyboard_skips_to_the_content_and_shows_where_it_is(browser: Browser, address: str) -> None:
    with opened(browser, 1280) as page:
        page.goto(f"{address}/backups")
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        assert skip.evaluate("one => document.activeElement === one")
        assert skip.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"


def test_what_runs_now_moves_by_itself_and_the_page_follows_its_end(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    site = load_site(tmp_path, environment={})
    store = LocalStore(tmp_path / "backups" / "nightly", "nightly")
    make_set(store, at("2026-11-20 02:00"), size=1000, tables=3)
    with served(application_of(tmp_path, lambda: NOW)) as address, opened(browser, 1280) as page:
        with plan_lock(site, "nightly", "a backup"):
            make_set(store, at("2026-11-21 11:00"), size=500, tables=0, sealed=False)
            page.goto(f"{address}/backups")
            live = page.get_by_role("region", name="Running now")
            assert "Backup of nightly" in live.inner_text()
            assert "1 of 4 artefacts are done" in live.inner_text()
            live.locator("summary").click()  # Few artefacts: it is open from the beginning, and closed stays closed.
            folder = store.folder / "2026-11-21T110000Z"
            (folder / "half.tmp").write_bytes(b"x" * 250)
            live.get_by_text("73 %").first.wait_for()
            assert "about 22.4 min left" in live.inner_text()
            assert live.locator("details").get_attribute("open") is None
        page.get_by_text("Nothing runs at the moment.").wait_for()
        assert page.get_by_role("heading", level=1).inner_text() == "No. Something is wrong with nightly."
