"""The project's own documents as pages: every link leads somewhere, and remedies are links."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from backup_pipeline_tests.support.documents.blocks import ROOT
from backup_pipeline_tests.support.front_pages import pages_of
from backup_pipeline_tests.support.invented_sets import SITE

DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
_TARGET = re.compile(r'(href|src)="([^"]*)"')


@pytest.fixture
def pages(tmp_path: Path) -> TestClient:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    return pages_of(tmp_path)


def test_every_document_is_a_page_whose_links_lead_somewhere(pages: TestClient) -> None:
    texts = {f"/backups/{name}": pages.get(f"/backups/{name}").text for name in DOCUMENTS}
    assert len(texts) > 60
    wrong = []
    for address, text in texts.items():
        body = text.partition('<main id="content"')[2]
        for kind, target in _TARGET.findall(body):
            if kind == "href" and target.startswith("https://"):
                continue
            path, _, anchor = target.partition("#")
            there = posixpath.normpath(posixpath.join(posixpath.dirname(address), path)) if path else address
            found = texts.get(there) or (pages.get(there).status_code == 200 and "a picture")
            if not found or (anchor and f'id="{anchor}"' not in found):
                wrong.append(f"{address}: {target}")
    assert wrong == []


@pytest.mark.parametrize(
    "name", ["none.md", "%2e%2e/README.md", "decisions/%2e%2e/vaults.md", "make_pictures.py", "/etc/passwd"]
)
def test_nothing_but_documents_is_shown_as_one(pages: TestClient, name: str) -> None:
    assert pages.get(f"/backups/docs/{name}").status_code == 404


def test_documents_stand_behind_the_guard(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    answer = pages_of(tmp_path, password="a password of some length").get("/backups/docs/vaults.md")
    assert answer.status_code == 401
    assert "Copies off the machine" not in answer.text


def test_a_remedy_that_names_a_document_leads_to_it_below_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(SITE.replace("keep_last", "keep_lots"), "utf-8")
    page = pages_of(tmp_path, prefix="/tools").get("/tools/backups").text
    assert '<a href="/tools/backups/docs/settings.md">docs/settings.md</a>' in page
