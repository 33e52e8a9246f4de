"""The status page: self-contained, escaped, and drawn right by a real browser.

The tests with `parsed` look at the text with an HTML parser and always run. Those with `browser` lay the page out in a
headless Chromium or Chrome; where none is installed they are skipped and say so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from datetime import date, timedelta
from html.parser import HTMLParser

import pytest

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.errors import ExitCode
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status.charts import DAY_STATES, Point, calendar, chart, nice_ceiling
from backup_pipeline.operations.status.page import short_bytes, short_count, short_seconds, status_page
from backup_pipeline.operations.status.plan import plan_status
from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.copies_site import CopiesSite
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set

NOW = at("2026-11-21 12:00")
LONG = "a_plan_whose_name_is_as_long_as_the_settings_let_any_name_be"
VOID = {"meta", "br", "img", "link", "input", "hr"}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """A page of two plans: one with every state of a day, one without sets; names that need escaping."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "backup.yaml").write_text(
        SITE.replace("keep_last: 2", "keep_last: 30") + f"  {LONG}: {{sources: [files]}}\n"
    )
    site = load_site(folder, environment={})
    store = open_store(site, "nightly")
    sets = [make_set(store, at(f"2026-11-{day} 02:00"), size=1000 * day) for day in range(11, 21)]
    for one in sets[:4]:
        add_proof(store, one, ProofKind.VERIFICATION, NOW)
    add_proof(store, sets[2], ProofKind.DRILL, NOW, rto_seconds=33)
    add_proof(store, sets[3], ProofKind.DRILL, NOW + timedelta(hours=1), rto_seconds=44)
    make_set(store, at("2026-11-20 04:00"), sealed=False, failed="no room")
    make_set(store, at("2026-11-21 02:00"), sealed=False, failed=f"<script>alert('x')</script> & more{'x' * 80}")
    (store.folder / "backup_log.txt").write_text(
        "2026-10-01 02:01:00 - backup - INFO - nightly/2026-10-01T020000Z complete, 1 artefacts, 9 rows, 9 bytes, 1 s\n"
    )
    plans = [plan_status(site, name, NOW) for name in site.settings.plans]
    return status_page(plans, now=NOW, site="Werkstatt <& Söhne>", timezone="Europe/Berlin")


class Parsed(HTMLParser):
    """Counts elements and classes, gathers texts and addresses, and refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.classes: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "class":
                self.classes.append(value)
            if name in ("src", "href", "xlink:href", "action", "style") or name.startswith("on"):
                self.addresses.append(f"{name}={value}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_parsed_page_is_well_formed_and_asks_for_nothing_from_outside(page):
    parsed = Parsed(page)
    assert parsed.addresses == []
    assert "script" not in parsed.tags
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_parsed_page_has_every_plan_and_every_state_of_a_day(page):
    parsed = Parsed(page)
    assert parsed.classes.count("plan") == 2
    shown = [name for name in parsed.classes if name.startswith("day ")]
    # Each state stands once in each plan's legend; the rest are days.
    counts = {state: shown.count(f"day {state}") - 2 for state in DAY_STATES}
    assert counts == {"proven": 2, "verified": 2, "complete": 5, "mixed": 1, "failed": 1, "removed": 1}
    assert parsed.texts.count("nothing recorded yet") == 3


def test_names_and_reasons_are_escaped(page):
    parsed = Parsed(page)
    assert "Backups of Werkstatt <& Söhne>" in parsed.texts
    assert any("<script>alert('x')</script> & more" in text for text in parsed.texts)


def test_a_test_of_the_parser_that_it_can_fail(page):
    with pytest.raises(AssertionError):
        Parsed(page.replace("</table>", "", 1))
    assert Parsed('<img src="http://x">').addresses


def test_the_calendar_ends_today_and_shows_a_year():
    days = {date(2026, 11, 20): ("complete", "1 set"), date(2020, 1, 1): ("failed", "too old to show")}
    picture = calendar(days, date(2026, 11, 21), "x")
    assert picture.days[-1].text == "2026-11-21: no set"
    assert [day.text for day in picture.days if day.state != "none"] == ["2026-11-20: 1 set"]
    assert len(picture.days) == 52 * 7 + 6


def test_a_chart_begins_at_zero_and_one_point_stands_in_the_middle():
    (alone,) = chart("x", [Point(at("2026-11-21 02:00"), 5)], str).dots
    assert alone.x == 188.0
    two = chart("x", [Point(at("2026-11-20 02:00"), 0), Point(at("2026-11-21 02:00"), 5)], str)
    assert two.line == "46.0,122.0 330.0,12.0"


def test_figures_have_three_digits():
    assert [short_bytes(v) for v in (0, 999, 1234, 45_600_000, 1.5e12)] == [
        "0 B",
        "999 B",
        "1.23 KB",
        "45.6 MB",
        "1.5 TB",
    ]
    assert [short_seconds(v) for v in (0.5, 100, 300, 7200)] == ["0.5 s", "100 s", "5 min", "2 h"]
    assert [short_count(v) for v in (12, 12_345, 999_999)] == ["12", "12.3 k", "1 M"]
    assert [nice_ceiling(v) for v in (0, 1, 1.1, 2.2, 49, 51, 1000)] == [1, 1, 2, 2.5, 50, 100, 1000]


def test_the_command_writes_the_page(tmp_path, capsys):
    (tmp_path / "backup.yaml").write_text(SITE)
    file = tmp_path / "status.html"
    assert run_app(build_app(), ["status", "--config", str(tmp_path), "--html", str(file)]) == ExitCode.CHECKS
    assert "plan" in Parsed(file.read_text()).classes


def test_a_persons_own_file_is_kept_and_an_earlier_page_is_replaced(tmp_path, capsys):
    (tmp_path / "backup.yaml").write_text(SITE)
    file = tmp_path / "notes.html"
    file.write_text("<p>my notes</p>")
    command = ["status", "--config", str(tmp_path), "--html", str(file)]
    for _ in range(2):
        assert run_app(build_app(), command) == ExitCode.CHECKS
        (kept,) = (tmp_path / ".former").glob("notes.html.*")
        assert kept.read_text() == "<p>my notes</p>"
        assert "plan" in Parsed(file.read_text()).classes


# --- in a browser -----------------------------------------------------------------------------------------------------

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_BROWSER = os.environ.get("BROWSER_PROGRAM") or next((path for name in _NAMES if (path := shutil.which(name))), None)
browser = pytest.mark.skipif(_BROWSER is None, reason="no Chromium or Chrome here; only the parser looked at the page")

_MEASURE = """
<script>
const light = c => { const m = c.match(/[\\d.]+/g).map(Number);
  const f = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  return 0.2126 * f(m[0]) + 0.7152 * f(m[1]) + 0.0722 * f(m[2]); };
const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (!c.endsWith(', 0)') && c != 'transparent') return c; } return 'rgb(255, 255, 255)'; };
const contrast = e => { const a = light(getComputedStyle(e).color), b = light(ground(e));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
const all = q => [...document.querySelectorAll(q)];
const box = e => e.getBoundingClientRect();
const fills = {};
for (const g of all('.calendar .day')) fills[g.classList[1]] = getComputedStyle(g.querySelector('rect')).fill;
const told = all('h1, h2, h3, p, dt, dd, small, li, span, td, th').filter(e => e.textContent.trim() && box(e).height);
document.title = JSON.stringify({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  plans: all('section.plan').map(e => box(e).height),
  pictures: all('svg.calendar, figure svg').map(e => [box(e).width, box(e).height]),
  faint: told.filter(e => contrast(e) < 4.5).map(e => e.className + ': ' + e.textContent.slice(0, 40)),
  spilt: all('h2, .store, ul.problems li, td').filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent),
  ribbons: all('.store').filter(e => box(e).width < 200 && box(e).height > 30).map(e => e.textContent),
  hidden: all('div.scroll').filter(e => e.scrollWidth > e.clientWidth + 1).length,
  fills, told: told.length,
});
</script></body>
"""


def _chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def _measured(text: str, folder, width: int) -> dict:
    # The page forbids scripts; the copy that is measured allows this one.
    text = re.sub(r"<meta http-equiv=.*\n", "", text).replace("</body>", _MEASURE)
    (folder / "measured.html").write_text(text)
    done = _chromium(f"--window-size={width},900", "--dump-dom", f"file://{folder}/measured.html")
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert found, done.stderr
    return json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))


@browser
@pytest.mark.parametrize("width", [1120, 700])
def test_a_browser_lays_the_page_out_without_overflow_and_readable(page, tmp_path, width):
    measured = _measured(page, tmp_path, width)
    assert measured["overflow"] <= 0
    assert measured["spilt"] == measured["ribbons"] == []
    assert width < 760 or not measured["hidden"]  # on a narrow screen the table may be moved sideways
    assert all(height > 300 for height in measured["plans"])
    assert all(wide > 200 and high > 60 for wide, high in measured["pictures"])
    assert len(measured["pictures"]) == 2 + 3
    assert measured["told"] > 100
    assert measured["faint"] == []
    assert len(set(measured["fills"].values())) == len(measured["fills"]) == len(DAY_STATES) + 1


@browser
def test_the_browser_test_can_fail(page, tmp_path):
    broken = page.replace(
        "</style>", "h2 {color: #eee} main {min-width: 3000px} .day rect {fill: red !important}</style>"
    )
    measured = _measured(broken, tmp_path, 1120)
    assert measured["overflow"] > 0
    assert measured["faint"]
    assert len(set(measured["fills"].values())) == 1


@browser
def test_a_browser_finds_nothing_to_complain_of_and_prints_a_page_per_plan(page, tmp_path):
    (tmp_path / "page.html").write_text(page)
    done = _chromium(
        "--enable-logging=stderr",
        "--no-pdf-header-footer",
        f"--print-to-pdf={tmp_path}/page.pdf",
        f"file://{tmp_path}/page.html",
    )
    assert "CONSOLE" not in done.stderr
    printed = (tmp_path / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 2


def test_the_page_says_where_copies_are_and_what_is_missing_of_3_2_1_1_0(tmp_path):
    site = CopiesSite(tmp_path).begin()
    assert site.run("backup", "nightly").code == 0
    written = tmp_path / "status.html"
    assert site.run("status", "--html", str(written)).code == 0
    shown = " ".join(" ".join(Parsed(written.read_text()).texts).split())
    assert "Copies off this machine" in shown
    assert "A folder cannot lock objects" in shown
    assert "1 off-site ✕ nothing outside of this building" in shown
    assert "identity" in shown
    assert site.recipient not in written.read_text()
