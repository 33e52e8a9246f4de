"""A session that somebody ends while a set is restored is reported as that: one cause, one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.errors import UnreachableError
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

_HEAVY = """
create table first (n int primary key, t text);
insert into first select n, repeat(md5(n::text), 20) from generate_series(1, 30000) n;
create table second as select * from first;
create table third as select * from first;
"""
_END = """select count(pg_terminate_backend(pid)) from pg_stat_activity
 where datname like 'drill%%' and application_name = 'backup-pipeline' and query ilike %s"""


@pytest.mark.parametrize("during", ["copy %", pytest.param("%hash_record%", marks=pytest.mark.story)])
def test_a_session_ended_in_a_drill_is_no_fault_of_the_set(
    tmp_path: Path, database: Callable[..., PostgresTarget], capfd: pytest.CaptureFixture[str], during: str
) -> None:
    target = database()
    with connected(target, pinned=False) as connection:
        connection.execute(_HEAVY.encode())
    site = TestSite(tmp_path)
    site.variables = {"SHOP_URL": dsn(target), "DRILL_DATABASE_URL": dsn(database())}
    site.write("sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}\nplans: {nightly: {sources: [shop]}}\n")
    set_id = sealed_set(site.site, "nightly")
    over = threading.Event()
    ended: list[int] = []

    def end() -> None:
        with connected(target.with_database("postgres")) as watching:
            while not ended and not over.is_set():
                row = watching.execute(_END, [during]).fetchone()
                assert row is not None
                ended.extend([1] * int(row[0]))

    ending = threading.Thread(target=end)
    ending.start()
    try:
        with pytest.raises(UnreachableError, match="The connection was ended") as caught:
            drill_set(site.site, "nightly", set_id)
    finally:
        over.set()
        ending.join()
    assert ended
    assert "disk" not in str(caught.value)
    assert "refused" not in str(caught.value)
    assert "Exception ignored" not in capfd.readouterr().err
    # It says nothing against the set: no result is kept.
    known = site.store("nightly").read(set_id)
    assert not known.proofs
