"""A backup from the shell whose database has stopped tells people at once, without a daemon, and no secret with it."""

from __future__ import annotations

import json
from pathlib import Path

from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline_tests.support.receivers import http_server
from backup_pipeline_tests.support.sites import TestSite

SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL}
  files: {kind: folder, path: files}
plans:
  nightly: {sources: [shop], ping_env: PING_URL}
  other: {sources: [files], ping_env: PING_URL}
alerts: {urls_env: ALERT_URLS}
"""
PASSWORD = "sehr-geheim-4711"


def test_a_stopped_database_alerts_from_the_shell_and_says_when_it_is_over(tmp_path: Path) -> None:
    with http_server() as web:
        site = TestSite(tmp_path)
        site.variables = {
            "SHOP_URL": f"postgresql://shop:{PASSWORD}@127.0.0.1:{free_port()}/shop",
            "ALERT_URLS": f"{web.url.replace('http', 'json')}/hook",
            "PING_URL": f"{web.url}/ping/abc",
        }
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "a.txt").write_text("a")
        site.write(SETTINGS)
        for _ in range(2):
            assert site.run("backup", "nightly").code != 0
        reported = [json.loads(body) for path, body in web.seen if path == "/hook"]
        assert len(reported) == 1
        assert reported[0]["title"] == f"[{tmp_path.name}] nightly: The backup failed."
        assert "127.0.0.1" in reported[0]["message"]
        assert PASSWORD not in str(web.seen)
        web.seen.clear()

        (tmp_path / "files").rename(tmp_path / "moved")
        assert site.run("backup", "other").code != 0
        (tmp_path / "moved").rename(tmp_path / "files")
        assert site.run("backup", "other").code == 0
        titles = [json.loads(body)["title"] for path, body in web.seen if path == "/hook"]
        assert titles == [
            f"[{tmp_path.name}] other: The backup failed.",
            f"[{tmp_path.name}] over: other: The backup failed.",
        ]
        pings = [path.split("?")[0] for path, _ in web.seen if path.startswith("/ping")]
        assert pings[-2:] == ["/ping/abc/start", "/ping/abc"]
