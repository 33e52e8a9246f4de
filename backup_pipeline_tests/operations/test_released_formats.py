"""Sets of every released format are verified, drilled and restored by this release: see fixtures/format_<version>."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.proof.verify import verify_set
from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore
from backup_pipeline.postgres.server.databases import drop_database
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline_tests.support.postgres_restore import ask
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL}
  files: {kind: folder, path: files}
  small: {kind: sqlite, path: small.db}
  code: {kind: repository, path: code}
plans: {daily: {sources: [shop, files, small, code]}}
"""
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.mark.parametrize("released", sorted(path.name for path in FIXTURES.glob("format_*")))
def test_a_set_of_a_released_format_is_still_whole_and_restorable(tmp_path: Path, released: str) -> None:
    (made,) = (FIXTURES / released).iterdir()
    shutil.copytree(made, tmp_path / "backups" / "daily" / made.name)
    site = TestSite(tmp_path)
    site.write(SETTINGS)
    proof = verify_set(site.site, "daily", SetId(made.name))
    assert proof.findings == ()
    assert len(proof.covered) >= 8
    proof = drill_set(site.site, "daily", SetId(made.name))
    assert proof.findings == ()
    assert proof.passed


@pytest.mark.parametrize("released", sorted(path.name for path in FIXTURES.glob("format_*")))
def test_every_source_of_a_set_of_a_released_format_is_restored(
    tmp_path: Path, server: EmbeddedServer, released: str
) -> None:
    (made,) = (FIXTURES / released).iterdir()
    shutil.copytree(made, tmp_path / "backups" / "daily" / made.name)
    site, target = TestSite(tmp_path), server.target().with_database(released)
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS)
    for source in ("shop", "files", "small", "code"):
        which = (site.site, "daily", SetId(made.name), source)
        plan = plan_restore(*which)
        assert plan.reasons_against == ()
        result = apply_restore(*which, confirmation=Confirmation(plan.plan_id, plan.confirm))
        assert result.findings == ()
    try:
        rows = "select count(*), sum(total), count(note), count(distinct customer_id) from orders"
        assert ask(target, rows) == [(300, Decimal("56437.50"), 240, 40)]
        assert ask(target, "select count(*) filter (where vip) from customers") == [(13,)]
    finally:
        drop_database(target)
    assert (tmp_path / "files" / "one ü.txt").read_bytes() == b"one\n"
    assert (tmp_path / "files" / "two.bin").read_bytes() == bytes(range(256))
    with closing(sqlite3.connect(tmp_path / "small.db")) as small:
        assert small.execute("select count(*) from t").fetchone() == (3,)
    refs = ("git", "-C", str(tmp_path / "code"), "for-each-ref", "--format=%(refname) %(objectname:short=7)")
    there = subprocess.run(refs, capture_output=True, text=True, check=True).stdout.split("\n")
    assert {"refs/heads/main e7608fe", "refs/heads/research bd0f729", "refs/tags/v1.0 e7608fe"} <= set(there)
    assert (tmp_path / "code" / "strategy.py").stat().st_size == 91


def test_there_is_a_fixture_of_the_format_that_this_release_writes() -> None:
    from backup_pipeline.model.manifest import MANIFEST_VERSION

    assert (FIXTURES / f"format_{MANIFEST_VERSION}").is_dir()
