"""The UI of a site, asked as its pages ask: the real webserver, daemon and code location."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline_tests.support.sites import TestSite


class Ui:
    """The UI's GraphQL interface."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        assert "errors" not in found, found
        return dict(found["data"])

    def wait_until_loaded(self, process: subprocess.Popen[bytes]) -> None:
        query = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
        for _ in range(1000):
            assert process.poll() is None
            try:
                entries = self.ask(query)["workspaceOrError"]["locationEntries"]
                if [(e["locationOrLoadError"] or {}).get("__typename") for e in entries] == ["RepositoryLocation"]:
                    return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.3)
        raise AssertionError("the code location was not loaded")

    def wait_for_run(self, run_id: str) -> str:
        for _ in range(1000):
            found = self.ask("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)
            status = str(found["runOrError"]["status"])
            if status in {"SUCCESS", "FAILURE", "CANCELED"}:
                return status
            time.sleep(0.3)
        raise AssertionError("the run did not end")


@contextmanager
def ui_of(site: TestSite) -> Iterator[Ui]:
    port = free_port()
    command = [sys.executable, "-c", "from backup_pipeline.cli.main import main; main()", "up", "--port", str(port)]
    with (site.folder / "up.log").open("wb") as log:
        # As a shell starts what it puts in the background: with SIGINT ignored.
        process = subprocess.Popen(
            ["bash", "-c", 'trap "" INT; exec "$@"', "up", *command, "--config", str(site.folder)],
            env=site.environment(),
            cwd=site.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        ui = Ui(port)
        ui.wait_until_loaded(process)
        yield ui
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        left = [each for each in psutil.process_iter() if _is_of(each, process.pid)]
        _, left = psutil.wait_procs(left, timeout=15)
        assert left == [], "code servers or the daemon outlived `up`"


def _is_of(process: psutil.Process, session: int) -> bool:
    with suppress(psutil.Error, OSError):
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    return False
