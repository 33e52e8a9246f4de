"""Dumps of what has not changed: parts are taken over from the last verified set, and the set stands by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.proof.verify import verify_set
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system.streams import gunzip
from backup_pipeline_tests.support.postgres_restore import run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL, compression: gzip, tables: {include: []}}
plans:
  nightly: {sources: [shop]}
"""
# A dump of some 18 MB: parts are of four at least.
ROWS = """
create table public.big (id int primary key, name text);
insert into public.big select n, md5(n::text) || md5((n + 1)::text) || md5((n + 2)::text)
  from generate_series(1, 170000) n;
"""


@pytest.fixture
def shop(tmp_path: Path, database: Callable[..., PostgresTarget]) -> tuple[TestSite, PostgresTarget]:
    """A site with a database, without any set."""
    target = database()
    run(target, ROWS)
    site = TestSite(tmp_path)
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS)
    return site, target


def dump_in(site: TestSite, made: SetId) -> ArtefactRecord:
    manifest = site.store("nightly").read(made).manifest
    assert manifest is not None
    record = manifest.record("shop", "dump")
    assert record is not None
    return record


def text_of(site: TestSite, made: SetId) -> bytes:
    """Return the text of a dump without its two random lines."""
    with site.store("nightly").open(made, "shop_db.sql.gz") as file:
        text = b"".join(gunzip(file, name="dump"))
    return re.sub(rb"(?m)^\\(un)?restrict .*$", b"", text)


def test_an_unchanged_dump_is_taken_over_and_proves_itself(shop: tuple[TestSite, PostgresTarget]) -> None:
    site, _ = shop
    first = sealed_set(site.site, "nightly")
    unverified = sealed_set(site.site, "nightly")
    assert "taken_over" not in dump_in(site, unverified).details
    assert verify_set(site.site, "nightly", first).passed
    second = sealed_set(site.site, "nightly")
    before, now = dump_in(site, first), dump_in(site, second)
    assert now.details["taken_over_from"] == first
    assert 4e6 < float(str(now.details["taken_over"])) < (now.files[0].content_size or 0)
    assert now.files[0].content_sha256 == before.files[0].content_sha256
    assert text_of(site, second) == text_of(site, first)
    assert {check.name for check in now.checks} == {check.name for check in before.checks}
    for gone in (first, unverified):
        site.store("nightly").remove(gone)
    assert verify_set(site.site, "nightly", second).passed
    assert drill_set(site.site, "nightly", second).findings == ()


def test_a_dump_is_compressed_anew_from_its_first_change(shop: tuple[TestSite, PostgresTarget]) -> None:
    site, target = shop
    first = sealed_set(site.site, "nightly")
    assert verify_set(site.site, "nightly", first).passed
    run(target, "update public.big set name = 'other' where id = 1; insert into public.big values (0, 'new')")
    second = sealed_set(site.site, "nightly")
    assert "taken_over" not in dump_in(site, second).details
    assert b"0\tnew\n" in text_of(site, second)
    assert verify_set(site.site, "nightly", second).passed


@pytest.mark.parametrize("damage", ["a bit", "missing"])
def test_nothing_is_taken_over_from_a_damaged_dump(shop: tuple[TestSite, PostgresTarget], damage: str) -> None:
    site, _ = shop
    first = sealed_set(site.site, "nightly")
    assert verify_set(site.site, "nightly", first).passed
    text = text_of(site, first)
    path = site.store("nightly").path_of(first, "shop_db.sql.gz")
    if damage == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    second = sealed_set(site.site, "nightly")
    failed = [check for check in dump_in(site, second).checks if not check.passed]
    assert [check.name for check in failed] == ["earlier_dump_is_whole"]
    assert first in failed[0].summary
    assert text_of(site, second) == text
    assert verify_set(site.site, "nightly", second).passed
