"""Processes that capture the sources of one set side by side; one that is killed or cut off loses its claim."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from backup_pipeline.errors import LockError
from backup_pipeline.model.source_done import SourceDone
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.operations.proof.verify import verify_set
from backup_pipeline.operations.sites.stores import plan_lock
from backup_pipeline.orchestration.launcher import EXECUTOR_VARIABLE
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.system import locks

_CONTEXT = multiprocessing.get_context("spawn")
_WAIT = "import pathlib, time\npathlib.Path('started').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)"
_SETTINGS = f"""
sources:
  slow:
    kind: folder
    path: slow
    run_before: {{run: ["{sys.executable}", "-c", "{_WAIT.replace(chr(10), chr(92) + "n")}"]}}
  quick: {{kind: folder, path: quick}}
plans:
  nightly:
    sources: [slow, quick]
    wait_seconds: 0.2
    run_before: {{run: [sh, -c, "echo before >> log"]}}
    run_after: {{run: [sh, -c, "echo after >> log"]}}
"""


def _run(site: Site, root: str = "root") -> BackupRun:
    return BackupRun(site, "nightly", RunIdentity(root, root, datetime(2026, 11, 21, 2, tzinfo=UTC), beside=True))


def _capture(folder: str, source: str) -> None:
    """What a step's process does: exit code 0, or 4 when its claim is another's."""
    run = _run(load_site(Path(folder), environment={}))
    try:
        list(run.capture(source))
    except LockError:
        sys.exit(4)
    finally:
        run.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "backup.yaml").write_text(_SETTINGS)
    for name in ("slow", "quick"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    return load_site(tmp_path, environment={})


@contextmanager
def _worker_with_a_claim(site: Site) -> Iterator[BaseProcess]:
    """Another process that has claimed the source `slow` and waits before it captures."""
    process = _CONTEXT.Process(target=_capture, args=(str(site.folder), "slow"))
    process.start()
    deadline = time.monotonic() + 60
    while not (site.folder / "started").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _capture_here(site: Site, *sources: str) -> None:
    run = _run(site)
    for source in sources:
        list(run.capture(source))
    run.close()


def _seal(site: Site) -> dict[str, int]:
    """Seal the set, and return the generation under which each source was captured."""
    run = _run(site)
    run.seal()
    generations = {done.source: done.generation for done in run.writer.sources_done()}
    run.close()
    return generations


def _is_whole(site: Site) -> bool:
    store = site.store_folder("nightly")
    (set_id,) = (path.name for path in store.glob("*T*Z"))
    assert not list(store.glob(".claims/*"))
    return verify_set(site, "nightly", set_id).passed


def test_two_processes_capture_side_by_side_and_the_set_is_sealed_once(site: Site) -> None:
    with _worker_with_a_claim(site) as worker:
        _capture_here(site, "quick")
        with (
            pytest.raises(LockError, match=f"process {worker.pid} .*slow of nightly"),
            plan_lock(site, "nightly", "another run", owner="other"),
        ):
            pass
        (site.folder / "go").touch()
        assert _seal(site) == {"slow": 1, "quick": 1}
        worker.join()
        assert worker.exitcode == 0
    assert _is_whole(site)
    assert (site.folder / "log").read_text() == "before\nafter\n"
    lines = (site.store_folder("nightly") / "backup_log.txt").read_text().splitlines()
    assert len(lines) == 1
    assert "complete, 2 artefacts" in lines[0]


def test_the_claim_of_a_killed_process_is_taken_over_at_once(site: Site) -> None:
    with _worker_with_a_claim(site) as worker:
        worker.kill()
        worker.join()
        (site.folder / "go").touch()
        _capture_here(site, "slow", "quick")
        assert _seal(site) == {"slow": 2, "quick": 1}
    assert _is_whole(site)


def test_a_process_that_stood_still_past_its_lease_writes_nothing_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _worker_with_a_claim(site) as worker:
        assert worker.pid
        os.kill(worker.pid, signal.SIGSTOP)
        (site.folder / "go").touch()
        monkeypatch.setattr(locks, "FOREIGN_STALE_SECONDS", 0.3)
        _capture_here(site, "slow", "quick")
        before = {path: path.stat() for path in site.store_folder("nightly").rglob("*") if path.is_file()}
        os.kill(worker.pid, signal.SIGCONT)
        worker.join()
        assert worker.exitcode == 4
        log = site.store_folder("nightly") / "backup_log.txt"
        after = {path: path.stat() for path in site.store_folder("nightly").rglob("*") if path.is_file()}
        assert {path for path in after if before.get(path) != after[path]} == {log}
        assert "lost its lock" in log.read_text()
        assert _seal(site) == {"slow": 2, "quick": 1}
    assert _is_whole(site)


@pytest.mark.story
def test_steps_in_processes_of_their_own_make_one_set_with_one_line_in_the_log(site: Site) -> None:
    (site.folder / "go").touch()
    command = [sys.executable, "-c", "from backup_pipeline.cli.main import main; main()", "backup"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(site.folder), EXECUTOR_VARIABLE: "multiprocess"}
    done = subprocess.run(command, env=environment, cwd=site.folder, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert _is_whole(site)
    records = sorted(site.store_folder("nightly").glob("*/records/*.done.json"))
    assert [SourceDone.model_validate_json(path.read_bytes()).generation for path in records] == [1, 1]
    assert (site.folder / "log").read_text() == "before\nafter\n"
    assert len((site.store_folder("nightly") / "backup_log.txt").read_text().splitlines()) == 1
