"""Take the pictures of docs/pictures from a running UI, in headless Chromium.

Run `make demo`, then `make up` in another terminal, then `make pictures`. Needs Playwright's Python package and a
Chromium on this machine (CHROMIUM names another than /usr/bin/chromium). Rows are added to the demo's shop and backed
up a few times first, so that there is something to see over time.

Those of docs/restore-in-the-browser.md and docs/evidence.md are taken by the tests that walk through the pages, in the
folder that PICTURES names, as `evidence-1280.png` and so on:
PICTURES=/tmp/pictures python -m pytest -m "story or not story" backup_pipeline_tests/web/front
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import psycopg
from dotenv import dotenv_values
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def ask(base: str, query: str) -> dict:
    """Return the answer of the UI's GraphQL interface."""
    request = urllib.request.Request(
        f"{base}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["data"]


def newest_run(base: str, job: str) -> str:
    """Return the id of the newest run of a job."""
    runs = f'runsOrError(filter: {{pipelineName: "{job}"}}, limit: 1) {{ ... on Runs {{ results {{ runId }} }} }}'
    return ask(base, f"{{ {runs} }}")["runsOrError"]["results"][0]["runId"]


def make_history(site: Path, runs: int) -> None:
    """Add orders to the demo's shop and back its nightly plan up, a few times; prove the newest set."""
    dsn = dotenv_values(site / ".env")["DATABASE_URL"]
    command = [sys.executable, "-c", "from backup_pipeline.cli.main import main; main()"]
    lost = site / "supabase" / "storage" / "materials" / "course-0" / "syllabus.md"
    for number in range(1, runs + 1):
        # A file that changes, and is gone at the end, for the page that finds it.
        lost.write_text(f"# Syllabus\n\nWeek {number // 2}\n") if number < runs else lost.unlink(missing_ok=True)
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "insert into public.orders (customer_id, status, note, ordered_at, total) "
                "select customer_id, status, note, ordered_at + interval '1 year', total from public.orders "
                "where id <= %s",
                [400 + 150 * number],
            )
        subprocess.run([*command, "backup", "nightly", "--config", str(site)], check=True)
    subprocess.run([*command, "drill", "nightly/latest", "--config", str(site)], check=True)


def take(page: Page, url: str, file: Path, *, wait: float = 4.0, click: str | None = None, scroll: int = 0) -> None:
    """Open a page of the UI, let it settle, and take its picture."""
    page.goto(url, wait_until="networkidle")
    page.wait_for_timeout(wait * 1000)
    if click:
        page.get_by_text(click, exact=True).first.click()
        page.wait_for_timeout(2000)
    if scroll:
        page.mouse.move(1000, 600)
        page.mouse.wheel(0, scroll)
        page.wait_for_timeout(1000)
    page.screenshot(path=str(file))
    print(file)


def take_front_page(browser: Browser, base: str, folder: Path, site: Path) -> None:
    """Take the front page on a desk and in a hand, and the page of the newest set with its first source opened."""
    newest = max((site / "backups" / "nightly").glob("*T*Z")).name
    for name, path, width, height in (
        ("home", "", 1280, 1500),
        ("home-phone", "", 390, 844),
        ("set", f"/nightly/{newest}", 1280, 1100),
        ("find", "/find?name=syllabus", 1280, 700),
        ("find-phone", "/find?name=syllabus", 390, 844),
    ):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(f"{base}/backups{path}")
        if name == "set":
            page.locator("summary").first.click()
        page.screenshot(path=str(folder / f"{name}.png"))
        print(folder / f"{name}.png")
        page.close()


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="http://127.0.0.1:3000")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument("--site", type=Path, default=Path("demo-site"), help="the demo's folder")
    parser.add_argument("--history", type=int, default=4, help="backups made before the pictures")
    parser.add_argument("--front-page-only", action="store_true", help="only our own pages, as the site is now")
    arguments = parser.parse_args()
    if not arguments.front_page_only:
        make_history(arguments.site.absolute(), arguments.history)
    base, folder = arguments.base, arguments.folder
    folder.mkdir(exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS)
        take_front_page(browser, base, folder, arguments.site)
        if arguments.front_page_only:
            return
        page = browser.new_page(viewport={"width": 1600, "height": 950})
        group = f"{base}/locations/__repository__@backup-pipeline/asset-groups/nightly/lineage"
        page.set_viewport_size({"width": 2200, "height": 1500})
        take(page, group, folder / "lineage.png", wait=8, scroll=380)
        page.set_viewport_size({"width": 1600, "height": 950})
        take(page, f"{base}/runs/{newest_run(base, 'nightly_backup')}", folder / "run.png")
        orders = f"{base}/assets/nightly/supabase/public/orders"
        take(page, f"{orders}?view=overview", folder / "table.png")
        take(page, f"{orders}?view=checks&checkDetail=pandera_schema", folder / "table-checks.png")
        rows = f"{orders}?view=checks&checkDetail=row_count_not_collapsed"
        take(page, rows, folder / "table-rows.png", scroll=1200)
        take(page, f"{base}/assets/nightly/drill?view=partitions", folder / "sets.png")
        take(page, f"{base}/assets/nightly/manifest?view=events", folder / "manifest.png")
        browser.close()


if __name__ == "__main__":
    main()
