"""Backups of other tools beside the sets are listed by their date; nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

from backup_pipeline_tests.support.invented_sets import SITE, at, make_set
from backup_pipeline_tests.support.sites import TestSite


def test_old_backups_are_listed_by_date_and_nothing_else(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    site.write(SITE.replace("./backups", ".").replace("    sources", "    store: ./backups\n    sources"))
    store = site.store("nightly")
    make_set(store, at("2026-11-20 02:00"))
    for name in (
        "daily/backup_20250905_005234.sql.gz",
        "20251101_020000/keycloak_db.sql.gz",
        "2025-11-02_0200.zip",
        "notes.txt",
        "exports/2025-01-01.json",
        "20251399_000000/x",
        "version-1.2.3.4/y",
    ):
        (store.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (store.folder / name).write_text("x")
    (store.folder / "20200101_000000").symlink_to(tmp_path)
    found = json.loads(site.run("list", "--json").out)["foreign"]
    assert [(one["path"], one["dated"]) for one in found] == [
        ("daily/backup_20250905_005234.sql.gz", "2025-09-05 00:52:00"),
        ("20251101_020000", "2025-11-01 02:00:00"),
        ("2025-11-02_0200.zip", "2025-11-02 02:00:00"),
    ]
