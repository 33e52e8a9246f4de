"""Several sources of one run at a time: what happens to one is nothing to the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from psycopg import sql

from backup_pipeline.operations.status.progress import running_sets
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.proxies import proxy_before
from backup_pipeline_tests.support.sites import NOW, SHOP, TestSite, dsn

Make = Callable[..., PostgresTarget]


def test_of_three_sources_one_hangs_and_one_fails_and_the_third_is_captured(
    tmp_path: Path, database: Make, template: Callable[[str, str], str]
) -> None:
    target = database(template("shop", SHOP))
    site = TestSite(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    with proxy_before(target) as (proxy, through):
        site.variables = {"HUNG_URL": dsn(through) + "?connect_timeout=2", "GONE_URL": dsn(target) + "_gone"}
        site.write(
            "sources:\n"
            "  hung: {kind: postgres, dsn_env: HUNG_URL, stall_timeout: 2s}\n"
            "  gone: {kind: postgres, dsn_env: GONE_URL, stall_timeout: 1h}\n"
            "  files: {kind: folder, path: files, stall_timeout: 1h}\n"
            "  later: {kind: folder, path: files, after: [hung]}\n"
            "plans: {nightly: {sources: [hung, gone, files, later], parallel_sources: 3}}\n"
        )
        proxy.trouble_at("COPY public.orders", "stall")
        output = site.run("backup", "nightly", "--json")
        assert proxy.happened.is_set()
        proxy.mend()
        document = json.loads(output.out)
        assert output.code == 5, output.text
        assert not document["sealed"]
        whats = sorted(error["what"] for error in document["errors"])
        assert len(whats) == 2
        assert "no progress for 2s (`sources.hung.stall_timeout`)" in whats[0]
        assert "does not exist" in whats[1]
        known = site.store("nightly").read(site.store("nightly").ids()[-1])
        assert {failure.key[0] for failure in known.failures} == {"hung", "gone"}
        assert {record.source for record in known.records if record.name.startswith("files")} == {"files"}
        assert not [*running_sets(site.site, NOW)]
        # What is left is captured by the next try, and what was captured stays.
        site.variables["GONE_URL"] = dsn(target)
        site.write((tmp_path / "backup.yaml").read_text().replace("stall_timeout: 2s", "stall_timeout: 1h"))
        again = json.loads((output := site.run("backup", "nightly", "--resume", "--json")).out)
    assert output.code == 0, output.text
    assert {one["name"].split(".")[0] for one in again["artefacts"]} == {"hung", "gone", "later"}


def test_sources_of_a_server_with_room_for_one_are_captured_one_after_the_other(
    tmp_path: Path, database: Make, template: Callable[[str, str], str], server: EmbeddedServer
) -> None:
    targets = [database(template("shop", SHOP)) for _ in range(2)]
    with connected(server.target()) as connection:
        connection.execute("create role crowded login bypassrls password 'q8ZrT2vLk0Xb' connection limit 4")
        connection.execute("grant pg_read_all_data to crowded")
    site = TestSite(tmp_path)
    try:
        site.variables = {
            f"URL_{number}": dsn(target).replace(f"//{target.user}:{target.password}@", "//crowded:q8ZrT2vLk0Xb@")
            for number, target in enumerate(targets)
        }
        site.write(
            "sources:\n"
            "  first: {kind: postgres, dsn_env: URL_0, connections: 1}\n"
            "  second: {kind: postgres, dsn_env: URL_1, connections: 1}\n"
            "plans: {nightly: {sources: [first, second]}}\n"
        )
        output = site.run("backup", "nightly", "--json")
        assert output.code == 0, output.text
        assert len(json.loads(output.out)["artefacts"]) >= 8
    finally:
        with connected(server.target()) as connection:
            connection.execute(sql.SQL("drop owned by crowded"))
            connection.execute(sql.SQL("drop role crowded"))
