"""Sets of every released format are verified, drilled and restored by this release: see fixtures/format_<version>."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.proof.verify import verify_set
from backup_pipeline_tests.support.sites import TestSite

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


def test_there_is_a_fixture_of_the_format_that_this_release_writes() -> None:
    from backup_pipeline.model.manifest import MANIFEST_VERSION

    assert (FIXTURES / f"format_{MANIFEST_VERSION}").is_dir()
