"""Sets that are only in a vault: their pages, files and rows come through the vault, a part at a time."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import sqlite3
import time

import pytest
from starlette.testclient import TestClient

from backup_pipeline_tests.support.front_pages import pages_of
from backup_pipeline_tests.support.sites import TestSite

_SETTINGS = """
store: backups
sources:
  shop: {{kind: sqlite, path: shop.db, tables: {{include: ["main.*"], formats: [parquet]}}}}
  files: {{kind: folder, path: files}}
plans:
  nightly: {{sources: [shop, files], wait_seconds: 0.5, copies: [{{to: offsite}}]}}
vaults:
  offsite: {{url: "file://{vault}", recipients: [{recipient}]}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TestSite:
    """A site of which the older set is only in its vault."""
    folder = tmp_path_factory.mktemp("copied")
    made = TestSite(folder / "site")
    (made.folder / "files" / "deep").mkdir(parents=True)
    (folder / "vault").mkdir()
    with sqlite3.connect(made.folder / "shop.db") as database:
        database.execute("create table orders (id integer primary key, note text)")
        database.executemany("insert into orders values (?, ?)", [(n, f"note {n}") for n in range(1, 61)])
    (made.folder / "files" / "deep" / "a.txt").write_text("content of a")
    # From 16 MiB on a file has chunks of its own: what lists its content is not in one with its bytes.
    (made.folder / "files" / "deep" / "large.bin").write_bytes(random.Random(1).randbytes(18_000_000))
    made.write(_SETTINGS.format(vault=folder / "vault", recipient=""))
    done = made.run("vault", "init", "offsite", "--new-identity", str(folder / "identity.txt"), "--json")
    assert done.code == 0, done.text
    [recipient] = json.loads(done.out)["recipients"]
    made.write(_SETTINGS.format(vault=folder / "vault", recipient=recipient))
    assert made.run("backup", "nightly").code == 0
    with sqlite3.connect(made.folder / "shop.db") as database:
        database.execute("delete from orders where id <= 3")
    time.sleep(1.1)
    assert made.run("backup", "nightly").code == 0
    older = made.store("nightly").sealed_ids()[0]
    assert len(made.store("nightly").sealed_ids()) == 2
    shutil.rmtree(made.site.store_folder("nightly") / older)
    return made


@pytest.fixture
def pages(site: TestSite) -> TestClient:
    site.variables = {"VAULT_IDENTITY_FILE": str(site.folder.parent / "identity.txt")}
    site.write_env()
    return pages_of(site.folder)


@pytest.fixture
def only_there(site: TestSite) -> str:
    """The set that is only in the vault."""
    names = {path.name.rpartition("-")[0] for path in (site.folder.parent / "vault" / "copies").iterdir()}
    (found,) = names - set(site.store("nightly").sealed_ids()) - {""}
    return found


def _number(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:20]


def test_the_plan_leads_to_its_copies_and_a_copy_to_its_set(pages: TestClient, only_there: str) -> None:
    assert '/backups/offsite%3Anightly"' in pages.get("/backups/nightly").text
    assert '/backups/offsite%3Anightly"' in pages.get("/backups/restore").text
    listed = pages.get("/backups/offsite:nightly").text
    assert f'/backups/offsite%3Anightly/{only_there}"' in listed
    text = pages.get(f"/backups/offsite:nightly/{only_there}").text
    assert "the copy in offsite" in text
    assert "60 rows" in text
    assert f'/backups/restore/offsite%3Anightly/{only_there}"' in text
    assert pages.get(f"/backups/nightly/{only_there}").status_code == 404
    form = pages.get(f"/backups/restore/offsite:nightly/{only_there}/files")
    assert f'action="/backups/restore/offsite%3Anightly/{only_there}/files"' in form.text
    assert (
        f'action="/backups/restore/offsite%3Anightly/{only_there}/shop"'
        in pages.get(f"/backups/restore/offsite:nightly/{only_there}/shop").text
    )


def test_files_and_rows_of_a_copy_are_shown_handed_out_and_logged(
    site: TestSite, pages: TestClient, only_there: str
) -> None:
    base = f"/backups/offsite:nightly/{only_there}/files"
    assert "/files/shop" in pages.get(base).text
    tree = pages.get(f"{base}/files/tree?of=files.tarball&node={_number('deep')}").text
    assert "large.bin" in tree
    given = pages.get(f"{base}/files/file?of=files.tarball&node={_number('deep/a.txt')}")
    assert given.text == "content of a"
    assert "note 7<" in pages.get(f"{base}/shop/table?table=main.orders").text
    assert len(pages.get(f"{base}/shop/download?table=main.orders").text.splitlines()) == 61
    log = (site.site.store_folder("nightly") / "access_log.txt").read_text("utf-8")
    assert f"offsite:nightly/{only_there} files.tarball: file deep/a.txt read by" in log


def test_a_copy_is_compared_with_a_set_of_the_store(site: TestSite, pages: TestClient, only_there: str) -> None:
    (newer,) = site.store("nightly").sealed_ids()
    base = f"/backups/offsite:nightly/{only_there}/files/shop/diff"
    assert f'value="nightly/{newer}"' in pages.get(base).text
    counts = re.search(r"main\.orders.*?</tr>", pages.get(base, params={"with": f"nightly/{newer}"}).text, re.DOTALL)
    assert counts
    assert re.findall(r">(\d+)</td>", counts[0]) == ["0", "3", "0", "57"]
    assert pages.get(base, params={"with": f"weekly/{newer}"}).status_code != 200


def test_a_tree_and_rows_need_no_tarball_to_come_down(site: TestSite, pages: TestClient, only_there: str) -> None:
    large = [path for path in (site.folder.parent / "vault" / "chunks").rglob("*") if path.is_file()]
    large = [path for path in large if path.stat().st_size > 100_000]
    assert large
    aside = site.folder.parent / "aside"
    aside.mkdir()
    moved = {path: path.rename(aside / str(number)) for number, path in enumerate(large)}
    try:
        base = f"/backups/offsite:nightly/{only_there}/files"
        assert "large.bin" in pages.get(f"{base}/files/tree?of=files.tarball&node={_number('deep')}").text
        assert "note 7<" in pages.get(f"{base}/shop/table?table=main.orders").text
        answer = pages.get(f"{base}/files/file?of=files.tarball&node={_number('deep/large.bin')}")
        assert answer.status_code >= 400
    finally:
        for path, kept in moved.items():
            kept.rename(path)
        aside.rmdir()


def test_without_an_identity_every_page_of_a_copy_says_what_is_missing(site: TestSite, only_there: str) -> None:
    site.variables = {}
    site.write_env()
    pages = pages_of(site.folder)
    listed = pages.get("/backups/offsite:nightly")
    assert listed.status_code == 200
    assert only_there in listed.text
    assert "The identity that opens these copies is not on this machine." in listed.text
    for path in (
        f"offsite:nightly/{only_there}",
        f"offsite:nightly/{only_there}/files",
        f"offsite:nightly/{only_there}/files/shop/table?table=main.orders",
        f"restore/offsite:nightly/{only_there}",
        f"restore/offsite:nightly/{only_there}/shop",
    ):
        answer = pages.get(f"/backups/{path}")
        assert answer.status_code == 409, path
        assert "the identity that opens them is not on this machine" in answer.text
        assert "VAULT_IDENTITY_FILE" in answer.text
        assert f"backup-pipeline restore offsite:nightly/{only_there} SOURCE --identity FILE" in answer.text
        assert "note 7" not in answer.text


@pytest.mark.parametrize("place", ["nowhere:nightly", "offsite:", "offsite:weekly", ":nightly"])
def test_a_vault_or_plan_that_is_none_is_not_found(pages: TestClient, only_there: str, place: str) -> None:
    for path in (f"{place}/{only_there}", f"{place}/{only_there}/files", f"restore/{place}/{only_there}"):
        assert pages.get(f"/backups/{path}").status_code == 404, path
