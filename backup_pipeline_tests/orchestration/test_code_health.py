"""The health check of the code location's container fails when no definitions are served, though the server answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from backup_pipeline.orchestration.code_health import what_is_wrong
from backup_pipeline.postgres.server.embedded import free_port

PATIENCE_SECONDS = 120


def test_a_code_location_whose_settings_are_wrong_is_not_healthy_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text("sources: {a: {kind: foldr, path: x}}\nplans: {p: {sources: [a]}}\n")
    home = tmp_path / "home"
    home.mkdir()
    port = free_port()
    silent = f"Nothing answers on port {port}."
    assert what_is_wrong(port) == silent
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dagster",
            "api",
            "grpc",
            "--lazy-load-user-code",
            "-m",
            "backup_pipeline.definitions",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
        ],
        env=kept | {"BACKUP_PIPELINE_CONFIG": str(tmp_path / "backup.yaml"), "DAGSTER_HOME": str(home)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (problem := what_is_wrong(port)) == silent and time.monotonic() < deadline:
            assert server.poll() is None
            time.sleep(0.2)
    finally:
        server.terminate()
        server.wait()
    assert "backup.yaml:1: sources.a.kind: no such kind of source: foldr; did you mean folder?" in problem
