"""Poolers that keep no sessions are recognised by what they do and refused before anything is done (real PgBouncer)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.errors import SourceError
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.poolers import pgbouncer
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn

_LEFT_BEHIND = "select count(*) from pg_locks where locktype = 'advisory'"


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("transaction", []),
        ("transaction", ["default_pool_size = 1"]),
        ("transaction", ["server_round_robin = 1", "min_pool_size = 4"]),
        ("statement", []),
    ],
)
def test_a_pooler_that_keeps_no_sessions_is_refused_in_words(
    database: Callable[..., PostgresTarget], mode: str, settings: list[str]
) -> None:
    target = database()
    with pgbouncer(target, mode, *settings) as through:
        with pytest.raises(SourceError, match=f"keeps no sessions .{mode} pooling") as caught, connected(through):
            pass
        assert "session mode" in caught.value.remedy
        # The session that the application is given next has no setting of ours.
        import psycopg

        with psycopg.connect(**through.connect_arguments(), autocommit=True) as application:  # type: ignore[arg-type]
            assert application.execute("show search_path").fetchone() == ('"$user", public',)
            assert application.execute(_LEFT_BEHIND).fetchone() == (0,)


def test_every_command_that_connects_refuses_such_a_pooler(
    tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> None:
    target = database(template("shop", SHOP))
    site = TestSite(tmp_path)
    site.variables = {"SHOP_URL": dsn(target)}
    site.write("sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}\nplans: {nightly: {sources: [shop]}}\n")
    assert site.run("backup", "nightly").code == 0
    with pgbouncer(target, "transaction") as through:
        site.variables = {"SHOP_URL": dsn(through)}
        site.write_env()
        for command in (
            ["backup", "nightly"],
            ["restore", "latest", "shop", "--upsert"],
            ["restore", "latest", "shop"],
        ):
            ended = site.run(*command)
            assert ended.code == 5, ended.text
            assert "transaction pooling" in ended.text


def test_a_backup_through_a_pooler_that_keeps_sessions_is_whole(
    tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> None:
    target = database(template("shop", SHOP))
    site = TestSite(tmp_path)
    with pgbouncer(target, "session", "default_pool_size = 20") as through:
        site.variables = {"SHOP_URL": dsn(through)}
        site.write("sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}\nplans: {nightly: {sources: [shop]}}\n")
        ended = site.run("backup", "nightly")
    assert ended.code == 0, ended.text
