"""What lies in a set is listed, read and handed out: safely, whatever its names are, and with each access logged."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import sqlite3
import tarfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from backup_pipeline.archives.tarball import EntryKind, Member
from backup_pipeline.model.manifest import Draft, Manifest
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.operations.data.browse import log_access
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.front_pages import pages_of
from backup_pipeline_tests.support.invented_sets import SITE, at, make_set
from backup_pipeline_tests.support.sites import TestSite

_SETTINGS = """
store: backups
sources:
  shop: {kind: sqlite, path: shop.db, tables: {include: ["main.*"], formats: [parquet]}}
  files: {kind: folder, path: files}
plans:
  nightly: {sources: [shop, files], wait_seconds: 0.5}
"""
_TABLES = """
create table orders (id integer primary key, note text, api_token text, payload blob);
create table user_passwords (id integer primary key, value text);
insert into user_passwords values (1, 'hunter2');
"""
HOSTILE = "<img src=x onerror=alert(1)> & 'q'.txt"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TestSite:
    made = TestSite(tmp_path_factory.mktemp("browsed"))
    with sqlite3.connect(made.folder / "shop.db") as database:
        database.executescript(_TABLES)
        rows = [(n, f"<b>note {n}</b>", f"token-{n}", b"\x00\xff") for n in range(1, 121)]
        database.executemany("insert into orders values (?, ?, ?, ?)", rows)
    folder = made.folder / "files"
    for path in (HOSTILE, "deep/er/letter.txt", "id_rsa", "deep/javascript:alert(1).html", "..%2f..%2fetc%2fpasswd"):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"content of {path}", "utf-8")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\nbytes")).write_text("odd", "utf-8")
    (folder / "link").symlink_to("/etc/passwd")
    made.write(_SETTINGS)
    assert made.run("backup", "nightly").code in (0, 11)
    with sqlite3.connect(made.folder / "shop.db") as database:
        database.execute("delete from orders where id <= 3")
        database.execute("update orders set note = 'changed' where id = 10")
    time.sleep(1.1)
    assert made.run("backup", "nightly").code in (0, 11)
    return made


@pytest.fixture
def pages(site: TestSite) -> TestClient:
    return pages_of(site.folder)


@pytest.fixture
def base(site: TestSite) -> str:
    return f"/backups/nightly/{site.store('nightly').sealed_ids()[0]}/files"


def _log(site: TestSite) -> str:
    place = site.site.store_folder("nightly") / "access_log.txt"
    return place.read_text("utf-8") if place.exists() else ""


def _links(text: str, ending: str) -> list[str]:
    return [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', text) if ending in link]


def test_files_are_listed_folder_by_folder_and_downloaded(site: TestSite, pages: TestClient, base: str) -> None:
    top = pages.get(f"{base}/files/tree?of=files.tarball").text
    folder = re.search(r'href="([^"]+)">deep/<', top)
    assert folder
    inner = pages.get(folder[1].replace("&amp;", "&")).text
    er = re.search(r'href="([^"]+)">er/<', inner)
    assert er
    (link,) = _links(pages.get(er[1].replace("&amp;", "&")).text, "/file?")
    answer = pages.get(link)
    assert answer.text == "content of deep/er/letter.txt"
    assert answer.headers["content-disposition"].startswith('attachment; filename="letter.txt"')
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "files.tarball: file deep/er/letter.txt read by front page" in _log(site)


def test_ticked_files_and_folders_lead_to_the_form_of_a_restore(pages: TestClient, base: str) -> None:
    text = pages.get(f"{base}/files/tree?of=files.tarball").text
    form = re.search(r'<form method="get" action="(/backups/restore/[^"]+)">', text)
    assert form
    ticked = re.findall(r'type="checkbox" name="files" value="([^"]+)"', text)
    assert "deep" in ticked
    answer = pages.get(form[1], params={"what": "files", "files": ["deep", "id_rsa"]})
    assert re.search(r'rows="5">deep\nid_rsa</textarea>', answer.text)
    assert 'value="files" checked' in answer.text


def test_hostile_names_of_files_are_shown_as_text_and_downloaded_harmlessly(pages: TestClient, base: str) -> None:
    answer = pages.get(f"{base}/files/tree?of=files.tarball")
    assert answer.status_code == 200
    assert "<img" not in answer.text.replace('<img src="/backups/static/icon.svg" alt="">', "")
    assert "\\xff\\nbytes" in answer.text or "\\udcff\\nbytes" in answer.text
    for link in _links(answer.text, "/file?"):
        given = pages.get(link)
        disposition = given.headers["content-disposition"]
        assert re.fullmatch(
            r"attachment; filename=\"[A-Za-z0-9._ -]+\"; filename\*=UTF-8''[A-Za-z0-9._~%-]+", disposition
        )


def test_files_that_sound_secret_are_listed_and_not_handed_out(site: TestSite, pages: TestClient, base: str) -> None:
    text = pages.get(f"{base}/files/tree?of=files.tarball").text
    assert "sounds secret: hidden" in text
    number = hashlib.sha256(b"id_rsa").hexdigest()[:20]
    before = _log(site)
    answer = pages.get(f"{base}/files/file?of=files.tarball&node={number}")
    assert answer.status_code == 409
    assert "content of" not in answer.text
    assert _log(site) == before


@pytest.mark.parametrize("node", ["../../etc/passwd", "0" * 20, "%00", "' or 1"])
def test_a_node_that_is_not_of_the_tree_is_not_found(pages: TestClient, base: str, node: str) -> None:
    for kind in ("tree", "file"):
        answer = pages.get(f"{base}/files/{kind}", params={"of": "files.tarball", "node": node})
        assert answer.status_code == 404
        assert "root:" not in answer.text


def test_rows_come_by_page_and_key_without_columns_that_look_secret(
    site: TestSite, pages: TestClient, base: str
) -> None:
    address = f"{base}/shop/table?table=main.orders"
    first = pages.get(address).text
    assert "&lt;b&gt;note 50&lt;/b&gt;" in first
    assert "note 51<" not in first.replace("&lt;", "<")
    assert "token-" not in first
    assert "Not shown, because the names sound secret: api_token" in first
    assert "note 51" in pages.get(f"{address}&page=1").text
    found = pages.get(f"{address}&where_column=id&where_operator=in&where_value=7,%209").text
    assert [n for n in range(1, 121) if f"note {n}&lt;" in found] == [7, 9]
    assert "shop main.orders: rows 1 to 50 by id read by front page" in _log(site)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id) or 1=1 --", "1"),
        ("id", "1 or 1=1"),
        ("id", "1'); copy (select 1) to '/tmp/x'; --"),
        ("api_token", "token-1"),
    ],
)
def test_hostile_comparisons_show_no_rows(pages: TestClient, base: str, column: str, value: str) -> None:
    query = {"table": "main.orders", "where_column": column, "where_operator": "=", "where_value": value}
    answer = pages.get(f"{base}/shop/table", params=query)
    assert answer.status_code == 200
    assert "note 1&lt;" not in answer.text
    assert 'role="alert"' in answer.text


def test_a_table_that_sounds_secret_shows_columns_and_no_rows(site: TestSite, pages: TestClient, base: str) -> None:
    before = _log(site)
    page = pages.get(f"{base}/shop/table?table=main.user_passwords").text
    assert "hunter2" not in page
    assert "sounds secret by its name" in page
    for form in ("csv", "parquet"):
        answer = pages.get(f"{base}/shop/download?table=main.user_passwords&as={form}")
        assert answer.status_code == 409
        assert "hunter2" not in answer.text
    assert _log(site) == before


def test_what_the_settings_allow_is_shown_and_what_they_forbid_is_not(site: TestSite, base: str) -> None:
    try:
        site.write(f"{_SETTINGS}browse: {{although_secret: [main.user_passwords, main.orders.api_token]}}\n")
        pages = pages_of(site.folder)
        assert "hunter2" in pages.get(f"{base}/shop/table?table=main.user_passwords").text
        parquet = pages.get(f"{base}/shop/download?table=main.orders&as=parquet")
        assert pq.read_table(io.BytesIO(parquet.content)).num_rows == 120
        site.write(f"{_SETTINGS}browse: {{rows: false}}\n")
        pages = pages_of(site.folder)
        assert "note 1&lt;" not in pages.get(f"{base}/shop/table?table=main.orders").text
        assert pages.get(f"{base}/shop/download?table=main.orders").status_code == 409
    finally:
        site.write(_SETTINGS)


def test_a_table_is_downloaded_as_csv_without_hidden_columns(site: TestSite, pages: TestClient, base: str) -> None:
    answer = pages.get(f"{base}/shop/download?table=main.orders")
    assert answer.headers["content-disposition"].startswith('attachment; filename="main.orders.csv"')
    lines = answer.text.splitlines()
    assert lines[0] == "id,note,payload"
    assert len(lines) == 121
    assert "token-" not in answer.text
    assert "shop main.orders: all rows as csv read by front page" in _log(site)
    assert pages.get(f"{base}/shop/download?table=main.orders&as=parquet").status_code == 409


def test_nothing_is_shown_when_the_access_cannot_be_logged(site: TestSite, pages: TestClient, base: str) -> None:
    place = site.site.store_folder("nightly") / "access_log.txt"
    kept = place.read_bytes() if place.exists() else b""
    place.unlink(missing_ok=True)
    place.mkdir()
    try:
        assert pages.get(f"{base}/shop/download?table=main.orders").status_code == 500
        assert "note 1&lt;" not in pages.get(f"{base}/shop/table?table=main.orders").text
    finally:
        place.rmdir()
        place.write_bytes(kept)


def test_where_the_store_is_read_only_accesses_are_logged_in_the_sites_memory(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    site = TestSite(tmp_path).site
    # A store that is not there cannot be written by anybody, root included.
    log_access(site, "nightly", SetId("2026-11-21T020000Z"), "files: file a", "a test", at("2026-11-21 12:00"))
    (log,) = tmp_path.rglob("access_log.txt")
    assert not log.is_relative_to(tmp_path / "backups")
    assert "nightly/2026-11-21T020000Z files: file a read by a test" in log.read_text("utf-8")


def test_two_sets_are_compared_as_counts_then_rows(site: TestSite, pages: TestClient, base: str) -> None:
    newer = site.store("nightly").sealed_ids()[1]
    counts = pages.get(f"{base}/shop/diff?with={newer}").text
    row = re.search(r"main\.orders.*?</tr>", counts, re.DOTALL)
    assert row
    assert re.findall(r">(\d+)</td>", row[0]) == ["1", "4", "0", "116"]


def test_names_of_a_set_reach_the_log_of_accesses_as_text(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    site = TestSite(tmp_path).site
    what = "shop main.a\x1b[2K\n\u202eb\udcff: rows 1 to 50"
    log_access(site, "nightly", SetId("2026-11-21T020000Z"), what, "a test", at("2026-11-21 12:00"))
    (log,) = tmp_path.rglob("access_log.txt")
    assert r"main.a\x1b[2K \u202eb\udcff: rows 1 to 50 read by a test" in log.read_text("utf-8")
    assert log.read_text("utf-8").replace("\n", "").isprintable()


def _hostile_set(folder: Path) -> SetId:
    """Write a set whose tarball and listing name what a hostile hand would."""
    (folder / "backup.yaml").write_text(SITE, "utf-8")
    (folder / "files").mkdir()
    (folder / "more").mkdir()
    store = LocalStore(folder / "backups" / "nightly", "nightly")
    start = at("2026-11-21 02:00")
    set_id = set_id_at(start)
    writer = store.begin(
        Draft(set_id=set_id, plan="nightly", root_run_id="r", sources=("files", "more"), started_at=start)
    )
    names = ["../../../etc/hosts", "/etc/motd", "a/../../b", "ok.txt"]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"hi"))
        link = tarfile.TarInfo("passwd")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    digest = hashlib.sha256(b"hi").hexdigest()
    listing = b"".join(Member(name, EntryKind.FILE, 2, 0, 0o644, sha256=digest).line() for name in [*names, "linked"])
    files = []
    for path, data in (("t.tar.gz", made.getvalue()), ("t.listing.jsonl.gz", listing)):
        with writer.create(path) as file:
            file.write(gzip.compress(data))
        files.append(writer.file_record(path, file))
    writer.write_record(
        ArtefactRecord(
            key=("files", "tarball"),
            source="files",
            kind=ArtefactKind.FOLDER_TARBALL,
            set_id=set_id,
            files=tuple(files),
            source_label="<script>alert(1)</script>",
            started_at=start,
            finished_at=start,
            details={"bytes": 10, "members": 5},
        )
    )
    writer.seal(
        Manifest(
            set_id=set_id,
            plan="nightly",
            sources=("files", "more"),
            started_at=start,
            sealed_at=start,
            run_id="r",
            root_run_id="r",
            pipeline_version="1.0.0",
            artefacts=writer.records(),
        )
    )
    return set_id


def test_a_hostile_tarball_is_only_text_and_bytes(tmp_path: Path) -> None:
    set_id = _hostile_set(tmp_path)
    pages = pages_of(tmp_path)
    base = f"/backups/nightly/{set_id}/files"
    assert "<script>alert" not in pages.get(base).text
    text = pages.get(f"{base}/files/tree?of=files.tarball").text
    assert "<script>alert" not in text
    number = hashlib.sha256(b"../../../etc/hosts").hexdigest()[:20]
    given = pages.get(f"{base}/files/file?of=files.tarball&node={number}")
    assert given.text == "hi"
    assert 'filename="hosts"' in given.headers["content-disposition"]
    link = hashlib.sha256(b"linked").hexdigest()[:20]
    answer = pages.get(f"{base}/files/file?of=files.tarball&node={link}")
    assert answer.status_code == 500
    assert "root:" not in answer.text


def test_pages_of_a_set_of_500_tables_list_every_one(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    set_id = make_set(LocalStore(tmp_path / "backups" / "nightly", "nightly"), at("2026-11-21 02:00"), tables=500)
    pages = pages_of(tmp_path)
    for path in (f"/backups/nightly/{set_id}/files/files", f"/backups/restore/nightly/{set_id}/files"):
        text = pages.get(path).text
        assert [
            number for number in range(1, 501) if f"public.t{number}<" not in text and f'"public.t{number}"' not in text
        ] == []
