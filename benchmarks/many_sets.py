"""Thousands of sets: `list`, `status`, `cleanup`, with the index beside them and without; reading the manifests alone.

python -m benchmarks.many_sets [sets]
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup_pipeline.model.set_id import SetId, is_set_id, set_id_at, set_time
from benchmarks.cold_commands import Cost, copy_set, cost, once, ours
from benchmarks.report import Report

_SETTINGS = """
store: backups
sources: {files: {kind: folder, path: files}}
plans: {nightly: {sources: [files], retention: {keep_last: 10}}}
"""
# Sets that changed within a minute are not indexed yet.
_SETTLED_SECONDS = 61.0
# The floor of anybody who reads them: JSON in C, nothing checked, nothing shown.
_READ_ALL = (
    "import json, pathlib, sys; [json.loads(p.read_bytes()) for p in pathlib.Path(sys.argv[1]).glob('*/manifest.json')]"
)
_COMMANDS = (["list"], ["list", "--json"], ["status"], ["cleanup", "--dry-run"])


def _filled(site: Path, sets: int) -> Path:
    (site / "backup.yaml").write_text(_SETTINGS)
    (site / "files").mkdir()
    (site / "files" / "one.txt").write_text("one")
    once(ours("backup", "--config", str(site)))
    store = site / "backups" / "nightly"
    first = next(SetId(path.name) for path in store.iterdir() if is_set_id(path.name))
    for number in range(1, sets):
        name = set_id_at(set_time(first) - timedelta(hours=number))
        copy_set(store / first, store / name, {first: name})
    return store


def _without_index(store: Path, command: list[str]) -> Cost:
    found = []
    for _ in range(3):
        (store / ".index.nightly.json").unlink(missing_ok=True)
        found.append(once(command))
    return min(found, key=lambda one: one.cpu)


def main() -> None:
    """Measure and write the result."""
    sets = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    report = Report("many_sets", f"A store of {sets} sets of one artefact")
    report.fact("processor seconds", "user and system; at most 0.8 s each, 20 s for removing them")
    report.fact("begun", datetime.now(UTC).isoformat(timespec="seconds"))
    with tempfile.TemporaryDirectory() as name:
        site = Path(name)
        store = _filled(site, sets)
        time.sleep(_SETTLED_SECONDS)
        floor = cost([sys.executable, "-c", _READ_ALL, str(store)]).cpu
        for arguments in _COMMANDS:
            command = ours(*arguments, "--config", str(site))
            what = f"`{' '.join(arguments)}`"
            bare = _without_index(store, command)
            report.row(f"{what} without an index", bare.cpu, floor, other_name="json.loads of every manifest, no more")
            indexed = cost(command)
            report.row(what, indexed.cpu, at_most=0.8, note=f"wall {indexed.wall:.2f} s")
        removed = once(ours("cleanup", "--yes", "--config", str(site)))
        report.row(f"removing {sets - 10} sets, wall", removed.wall, at_most=20, note=f"processor {removed.cpu:.1f} s")
        left = sum(is_set_id(path.name) for path in store.iterdir())
        assert left == 10, left
    report.write()


if __name__ == "__main__":
    main()
