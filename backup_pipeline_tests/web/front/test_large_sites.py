"""Pages of a site with many sets: what a page costs does not grow with the number of sets that it does not show."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.web.front.plan import SETS
from backup_pipeline_tests.support.front_pages import pages_of
from backup_pipeline_tests.support.invented_sets import SITE, at, make_set

BEGIN = at("2026-01-01 00:00")
COUNT = 300


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TestClient, list[SetId]]:
    """A site of 300 sets, the newest with 500 tables, and the list of the sets that are read from now on."""
    (tmp_path / "backup.yaml").write_text(SITE.replace("keep_last: 2", "keep_last: 999"), "utf-8")
    store = LocalStore(tmp_path / "backups" / "nightly", "nightly")
    first = make_set(store, BEGIN)
    for number in range(1, COUNT - 1):
        # Another set's content is of no interest here: such a one is shown as damaged.
        shutil.copytree(store.folder / first, store.folder / set_id_at(BEGIN + timedelta(hours=number)))
    make_set(store, BEGIN + timedelta(hours=COUNT), tables=500)
    read: list[SetId] = []
    original = LocalStore.read

    def counted(self: LocalStore, set_id: SetId) -> BackupSet:
        read.append(set_id)
        return original(self, set_id)

    found = pages_of(tmp_path)
    assert found.get("/backups").status_code == 200
    monkeypatch.setattr(LocalStore, "read", counted)
    return found, read


def test_the_home_page_reads_no_set_again_while_nothing_changed(pages: tuple[TestClient, list[SetId]]) -> None:
    client, read = pages
    for path in ("/backups", "/metrics", "/backups/live"):
        assert client.get(path).status_code == 200
    assert read == []


def test_a_plans_page_reads_the_sets_that_it_lists_and_every_set_is_on_one_page(
    pages: tuple[TestClient, list[SetId]],
) -> None:
    client, read = pages
    for number in range(COUNT // SETS):
        page = client.get(f"/backups/nightly?page={number}").text
        assert f"Page {number + 1} of {COUNT // SETS}" in page
    assert len(read) == len(set(read)) == COUNT
    for wrong in ("-1", "x", "99999999999999999999", "²", "7"):
        assert client.get(f"/backups/nightly?page={wrong}").status_code == 200


def test_a_set_of_500_tables_lists_some_and_says_how_many_more(pages: tuple[TestClient, list[SetId]]) -> None:
    client, read = pages
    page = client.get("/backups/nightly/latest").text
    assert "501 artefacts" in page
    assert "and 301 more" in page
    assert len(set(read)) == 1
