"""Every page that the application has, by its table of routes: axe finds nothing, nothing is wider than the screen."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType
from playwright.sync_api import Browser, Page
from starlette.routing import Match, Route

from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.names import SET_TAG, restored_key
from backup_pipeline.orchestration.run_progress import Piece
from backup_pipeline.orchestration.set_partitions import synchronise_partitions
from backup_pipeline.web import front
from backup_pipeline.web.front.app import pages_application
from backup_pipeline.web.front.context import Front
from backup_pipeline_tests.support.archive_sets import repository
from backup_pipeline_tests.support.dagster_runs import instance_in
from backup_pipeline_tests.support.front_pages import application_of, guarded_pages, served
from backup_pipeline_tests.support.invented_sets import SITE, at, write_every_state
from backup_pipeline_tests.support.sites import TestSite
from backup_pipeline_tests.support.vault_sites import identity_in
from backup_pipeline_tests.web.front.conftest import picture

pytestmark = pytest.mark.takes(seconds=20, together="front in a browser")

# For each route of the application the pages to inspect: of which site, and the address below /backups. `states` has
# invented sets in every state, `real` real ones with their runs, `closed` the same ones without the vault's identity.
PAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (("states", ""), ("real", "?started=WAITING"), ("broken", "")),
    "/find": (
        *(("real", f"/find{query}") for query in ("?name=letter", "", "?name=none&plan=nightly", "?name=readme")),
        ("closed", "/find?name=letter"),
    ),
    "/restore": (("real", "/restore"), ("states", "/restore")),
    "/restore/run/{run}": tuple(
        ("real", f"/restore/run/{run}")
        for run in ("PLANNED", "APPLIED", "UNDONE", "FAILED", "WAITING", "RUNNING", "none")
    ),
    "/restore/run/{run}/rows": (("real", "/restore/run/PLANNED/rows?table=main.orders"),),
    "/restore/run/{run}/undo": (("real", "/restore/run/APPLIED/undo"), ("real", "/restore/run/LATEST/undo")),
    "/restore/{plan}/{set:set}": (("real", "/restore/nightly/latest"), ("real", "/restore/offsite:nightly/ONLY_THERE")),
    "/restore/{plan}/{set:set}/{source}": (
        *(("real", f"/restore/nightly/latest/{source}") for source in ("shop", "files", "code", "none")),
        ("real", "/restore/offsite:nightly/ONLY_THERE/files"),
        ("closed", "/restore/offsite:nightly/ONLY_THERE/files"),
    ),
    "/evidence": (("states", "/evidence"), ("real", "/evidence")),
    "/evidence/show": (("states", "/evidence/show?plan=nightly&period=2026-11"), ("real", "/evidence/show?plan=none")),
    "/evidence/{plan}/{name}": (("real", "/evidence/nightly/SIGNED"), ("real", "/evidence/nightly/none")),
    "/docs/{name:path}": (
        ("states", "/docs/restore-in-the-browser.md"),
        ("states", "/docs/settings.md"),
        ("states", "/docs/none.md"),
    ),
    "/{plan}": (
        *(("states", f"/{plan}") for plan in ("nightly", "weekly", "none")),
        *(("real", f"/{plan}") for plan in ("nightly", "offsite:nightly", "none:nightly")),
        ("closed", "/offsite:nightly"),
    ),
    "/{plan}/{set:set}": (
        *(("states", f"/nightly/{one}") for one in ("2026-11-21T020000Z", "2026-11-18T090000Z", "2026-11-18T090001Z")),
        ("real", "/nightly/latest"),
        ("real", "/offsite:nightly/ONLY_THERE"),
        ("closed", "/offsite:nightly/ONLY_THERE"),
    ),
    "/{plan}/{set:set}/files": (("real", "/nightly/latest/files"), ("closed", "/offsite:nightly/ONLY_THERE/files")),
    "/{plan}/{set:set}/files/{source}": tuple(
        ("real", f"/nightly/latest/files/{source}") for source in ("shop", "files", "code", "none")
    ),
    "/{plan}/{set:set}/files/{source}/tree": (
        ("real", "/nightly/latest/files/files/tree?of=files.tarball"),
        ("real", "/nightly/latest/files/files/tree?of=files.tarball&node=DEEP"),
        ("real", "/nightly/latest/files/code/tree?of=code.bundle"),
        ("real", "/nightly/latest/files/code/tree?of=code.archive"),
        ("real", "/offsite:nightly/ONLY_THERE/files/files/tree?of=files.tarball"),
    ),
    "/{plan}/{set:set}/files/{source}/table": (
        ("real", "/nightly/latest/files/shop/table?table=main.orders&where_column=id&where_operator=in&where_value=7"),
        ("real", "/nightly/latest/files/shop/table?table=main.user_passwords"),
        ("real", "/nightly/latest/files/shop/table?table=main.orders&where_column=none"),
    ),
    "/{plan}/{set:set}/files/{source}/diff": (
        ("real", "/nightly/latest/files/shop/diff"),
        ("real", "/nightly/latest/files/shop/diff?with=offsite:nightly/ONLY_THERE&table=main.orders"),
    ),
}
NO_PAGES = {
    *("/static", "/live", "/evidence/check_evidence.py"),
    *(f"/{{plan}}/{{set:set}}/files/{{source}}/{what}" for what in ("file", "download")),
}
"""What is given to be kept, or belongs to pages."""
OF_THE_GUARD = (
    ("guarded", "/login"),
    ("guarded", "/login?next=/backups/nightly"),
    ("guarded", "/logout"),
    ("refusing", "/backups"),
)
"""Pages before all others, below the prefix itself."""

TEMPLATES = Path(front.__file__).parent / "templates"
_SETTINGS = """
store: {folder}/backups
sources:
  shop: {{kind: sqlite, path: shop.db, tables: {{include: ["main.*"], formats: [parquet]}}}}
  files: {{kind: folder, path: files}}
  code: {{kind: repository, path: code}}
plans:
  nightly: {{sources: [shop, files, code], wait_seconds: 0.5, copies: [{{to: offsite}}]}}
vaults:
  offsite: {{url: "file://{folder}/vault", recipients: [{recipient}]}}
"""


@dataclass(frozen=True)
class Served:
    """The sites by name, and what stands in the addresses of their pages for names that are known only here."""

    sites: dict[str, str]
    names: dict[str, str]

    def address(self, site: str, path: str) -> str:
        for name, value in self.names.items():
            path = path.replace(name, value)
        return f"{self.sites[site]}{path}"


def _runs(site: TestSite, instance: dg.DagsterInstance) -> dict[str, str]:
    """Restore files twice, undo one of them, fail once, leave one waiting; return the runs by what became of them."""
    set_id = site.store("nightly").sealed_ids()[-1]
    definitions = build_definitions(site.site)
    synchronise_partitions(site.site, "nightly", instance)

    def run(job: str, op: str, **config: object) -> str:
        config = {"files": ["deep"], **config} if job == "nightly_restore" else config
        done = definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            raise_on_error=False,
            partition_key=set_id if job == "nightly_restore" else None,
            asset_selection=[restored_key("nightly", "files")] if job == "nightly_restore" else None,
            run_config={
                "ops": {op: {"config": config}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )
        return done.run_id

    op, letter = "nightly__restore_files", site.folder / "files" / "deep" / "er" / "letter.txt"
    found: dict[str, str] = {}
    for applied in ("APPLIED", "LATEST"):
        letter.unlink()
        found["PLANNED"] = run("nightly_restore", op, step="plan")
        [record] = instance.fetch_observations(restored_key("nightly", "files"), limit=1).records
        assert record.asset_observation
        plan: Any = record.asset_observation.metadata["plan_id"].value
        found[applied] = run("nightly_restore", op, step="apply", plan_id=plan, confirm="files")
        assert letter.exists()
        if applied == "APPLIED":
            found["UNDONE"] = run("nightly_undo", "nightly__undo", source="files", confirm="files")
            letter.write_text("written anew")
    found["FAILED"] = run("nightly_restore", op, step="apply", plan_id="none", confirm="files")
    for name in ("WAITING", "RUNNING"):
        found[name] = instance.create_run_for_job(
            definitions.resolve_job_def("nightly_restore"),
            tags={"dagster/partition": set_id, SET_TAG: f"nightly/{set_id}"},
            run_config={"ops": {op: {"config": {"step": "plan"}}}},
            asset_selection=frozenset([restored_key("nightly", "files")]),
        ).run_id
    begin = DagsterEvent(DagsterEventType.RUN_START.value, job_name="nightly_restore")
    instance.report_dagster_event(begin, found["RUNNING"])
    line = Piece("files: restore", 3, 12, "files", 6, False).line()
    instance.handle_new_event(dg.EventLogEntry(None, 20, line, found["RUNNING"], at("2026-11-21 12:00").timestamp()))
    return found


def _real_site(folder: Path) -> TestSite:
    """Two sets of a database, a folder and a repository, both copied into a vault; the older one is only there."""
    site = TestSite(folder / "site")
    (site.folder / "files" / "deep" / "er").mkdir(parents=True)
    for path in ("a <b> & 'c'.txt", "deep/er/letter.txt", "id_rsa"):
        (site.folder / "files" / path).write_text(f"content of {path}", "utf-8")
    with sqlite3.connect(site.folder / "shop.db") as database:
        database.execute("create table orders (id integer primary key, note text, api_token text)")
        database.execute("create table user_passwords (id integer primary key, value text)")
        database.executemany("insert into orders values (?, ?, 't')", [(n, f"note {n}") for n in range(1, 61)])
    repository(site.folder / "code")
    (folder / "vault").mkdir()
    identity, recipient = identity_in(folder)
    site.variables["VAULT_IDENTITY_FILE"] = str(identity)
    site.write(_SETTINGS.format(folder=folder, recipient=recipient))
    assert site.run("vault", "init", "offsite").code == 0
    assert site.run("backup", "nightly").code in (0, 11)
    with sqlite3.connect(site.folder / "shop.db") as database:
        database.execute("update orders set note = 'changed' where id = 10")
    assert site.run("backup", "nightly").code in (0, 11)
    return site


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("every")
    site = _real_site(folder)
    only_there, _ = site.store("nightly").sealed_ids()
    shutil.rmtree(site.site.store_folder("nightly") / only_there)
    for name in ("states", "closed", "broken"):
        (folder / name).mkdir()
    write_every_state(folder / "states")
    shutil.copy(site.folder / "backup.yaml", folder / "closed")
    (folder / "broken" / "backup.yaml").write_text(SITE.replace("keep_last", "keep_lots"), "utf-8")
    with ExitStack() as stack:
        instance = stack.enter_context(instance_in(folder))
        names = {**_runs(site, instance), "ONLY_THERE": only_there, "DEEP": hashlib.sha256(b"deep").hexdigest()[:20]}
        of_runs = Front(settings=site.folder / "backup.yaml")
        of_runs.workspace = SimpleNamespace(instance=instance)  # type: ignore[assignment]
        signed = site.run("evidence", "make", "nightly")
        assert signed.code == 0, signed.text
        names["SIGNED"] = next(path.name for path in folder.rglob("*.dsse.json"))
        sites = {
            "states": application_of(folder / "states", lambda: at("2026-11-21 12:00")),
            "real": guarded_pages(of_runs),
            "closed": application_of(folder / "closed"),
            "broken": application_of(folder / "broken"),
            "guarded": guarded_pages(of_runs, "a password of some length"),
        }
        addresses = {name: stack.enter_context(served(application)) for name, application in sites.items()}
        # Asked for under a name that is not its own.
        addresses["refusing"] = addresses["guarded"].replace("127.0.0.1", "anything.localhost")
        yield Served(addresses, names)


def test_no_route_of_the_application_is_missing_in_the_list() -> None:
    routes = [one for one in pages_application(Front()).routes if isinstance(one, Route)]
    shown = {one.path.removeprefix("/backups") for one in routes if "GET" in (one.methods or ())}
    assert shown - NO_PAGES - {"/", "/metrics"} == set(PAGES)
    for template, examples in PAGES.items():
        for _, path in examples:
            address = f"/backups{path.partition('?')[0].replace('ONLY_THERE', 'latest')}"
            scope = {"type": "http", "method": "GET", "path": address}
            first = next(one.path for one in routes if one.matches(scope)[0] is Match.FULL)
            assert first == f"/backups{template}", path


def _problem(page: Page, address: str, name: str) -> str:
    """Return what is wrong with a page, "" for nothing; whether it is one of an error is for other tests."""
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    try:
        picture(page, name)
    except AssertionError as error:
        return f"{address}: {error}"
    return ""


# What is too wide is so on a phone, and what lacks contrast in the dark: one of four holds nearly all. Pages of one
# route are made from one template: the first of each shows most of it.
@pytest.mark.parametrize(
    ("width", "scheme", "most"),
    [
        (390, "dark", 1),
        *(
            pytest.param(width, scheme, None, marks=pytest.mark.story)
            for width in (390, 1280)
            for scheme in ("light", "dark")
        ),
    ],
)
def test_axe_finds_nothing_and_nothing_overflows_on_any_page(
    pages: Served, browser: Browser, width: int, scheme: Literal["light", "dark"], most: int | None
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    examples = [(site, f"/backups{path}") for listed in PAGES.values() for site, path in listed[:most]]
    problems = []
    for number, (site, path) in enumerate([*examples, *OF_THE_GUARD]):
        problems.append(_problem(page, pages.address(site, path), f"every-{width}-{scheme}-{number:02}"))
    context.close()
    assert list(filter(None, problems)) == []


def test_what_scrolls_can_be_scrolled_with_the_keyboard() -> None:
    # Only on a screen that is too narrow for it would axe say so.
    texts = {path.name: path.read_text("utf-8") for path in TEMPLATES.glob("*.jinja")}
    found = [f"{name}: {part[:80]}" for name, text in texts.items() for part in text.split('class="scroll"')[1:]]
    assert found
    assert [one for one in found if not one.partition(": ")[2].startswith(' tabindex="0" role=')] == []
