"""Times and sources are read from the names that other tools give their backups."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.rules.backup_names import source_of, stem_of, time_of

BERLIN = ZoneInfo("Europe/Berlin")
MODIFIED = 1_760_068_800.0  # 2025-10-10 04:00 UTC


@pytest.mark.parametrize(
    ("names", "at", "zone"),
    [
        (["backup_20250905_005234.sql.gz", "daily"], "2025-09-04T22:52:34", "Europe/Berlin"),
        (["cdb_backup_2025-11-25_2227.sql"], "2025-11-25T21:27:00", "Europe/Berlin"),
        (["supabase_db.sql.gz", "20251101_020000"], "2025-11-01T01:00:00", "Europe/Berlin"),
        (["shop_2025-11-25T02-00-05+01:00.dump"], "2025-11-25T01:00:05", ""),
        (["shop_2025-11-25T02:00:05+01:00.dump"], "2025-11-25T01:00:05", ""),
        (["shop_2025-11-25T02:00:05Z.dump"], "2025-11-25T02:00:05", ""),
        (["shop_2025-11-25_02-00-05.d"], "2025-11-25T01:00:05", "Europe/Berlin"),
        (["shop-20251125-020005.sql.gz", "last"], "2025-11-25T01:00:05", "Europe/Berlin"),
        (["shop-20251125.sql.gz", "daily"], "2025-11-24T23:00:00", "Europe/Berlin"),
        (["shop", "localhost", "postgresql_databases"], "2025-10-10T04:00:00", ""),
        (["shop-202547.sql.gz", "weekly"], "2025-10-10T04:00:00", ""),
        (["order-9920251399.sql"], "2025-10-10T04:00:00", ""),
        (["shop_20250230_010101.sql"], "2025-10-10T04:00:00", ""),
    ],
)
def test_the_time_of_a_backup_is_that_of_its_name(names: list[str], at: str, zone: str) -> None:
    found = time_of(names, MODIFIED, BERLIN)
    assert (found.at.isoformat(), found.zone) == (f"{at}+00:00", zone)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("supabase_db.sql.gz", "supabase"),
        ("shop_2025-11-25T02-00-05+01:00.dump", "shop"),
        ("storage_buckets.tar.gz", "storage"),
        ("backup_20250905_005234.sql.gz", ""),
        ("postgres.sql", "postgres"),
    ],
)
def test_what_a_name_says_beside_its_time_may_be_its_source(name: str, stem: str) -> None:
    assert stem_of(name) == stem


@pytest.mark.parametrize(
    ("stems", "source"),
    [
        (["supabase"], "supabase"),
        (["Identities"], "keycloak"),
        (["supabase_auth"], "supabase"),
        (["", "keycloak"], "keycloak"),
        ([""], None),
        (["other"], None),
    ],
)
def test_a_source_is_found_by_its_name_or_its_databases_and_never_guessed(stems: list[str], source: str | None) -> None:
    found = source_of(stems, {"supabase": ["postgres"], "keycloak": ["identities"]})
    assert (found.source if found else None) == source
    only = source_of(stems, {"shop": []})
    assert only is not None
    assert only.source == "shop"


@pytest.mark.parametrize(
    ("stems", "source", "why"),
    [
        (["shop"], "shop", ""),
        (["shopdb"], "shop", ""),
        (["shop-prod"], "shop", "its name begins so"),
        (["pg_shop_prod"], "shop", "'shop' stands in 'pg_shop_prod'"),
        (["full", "server1-shop"], "shop", "'shop' stands in 'server1-shop'"),
        (["workshop"], None, ""),
        (["pg_shop_and_crm"], None, ""),
        (["all"], None, ""),
    ],
)
def test_a_source_within_a_name_is_inferred_where_no_other_is(stems: list[str], source: str | None, why: str) -> None:
    found = source_of(map(stem_of, stems), {"shop": ["store"], "crm": ["customers"]})
    assert (found.source if found else None, found.why if found else "") == (source, why)
