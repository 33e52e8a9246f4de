"""A process that restores and undoes is killed at random moments: the target is always the old or the new one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from backup_pipeline.system.file_swap import heal, restoring, undo
from backup_pipeline.system.file_swap_note import SwapState, read_note
from backup_pipeline_tests.support.archive_sets import NOW

# Swaps and undoes for ever; each content says which round wrote it. Killed from outside.
WORKER = """
import sys
from datetime import timedelta
from pathlib import Path
from backup_pipeline.system.file_swap import restoring, swap, undo
from backup_pipeline.system import file_exchange
from backup_pipeline_tests.support.archive_sets import NOW
target, plain, start = Path(sys.argv[1]), sys.argv[2] == "plain", int(sys.argv[3])
if plain:
    file_exchange._renameat2 = lambda: None
print("ready", flush=True)
for number in range(start, start + 100000):
    now = NOW + timedelta(seconds=number)
    with restoring(target, now=now) as (real, new):
        for bucket in ("materials", "submissions"):
            (new / bucket).mkdir(parents=True)
            (new / bucket / "content").write_text("new")
        swap(real, now, names=("materials", "submissions"))
    undo(target, now=now + timedelta(days=1))
"""


@pytest.mark.parametrize("way", ["exchange", "plain"])
def test_a_kill_at_any_moment_leaves_old_or_new_and_never_a_mixture(tmp_path: Path, way: str) -> None:
    target = tmp_path / "storage"
    for bucket in ("materials", "submissions"):
        (target / bucket).mkdir(parents=True)
        (target / bucket / "content").write_text("old")
    (target / "other").write_text("untouched")
    rng = random.Random(7)
    seen = set()
    for round_number in range(8):
        command = [sys.executable, "-c", WORKER, str(target), way, str(round_number * 1000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.0, 0.12))
            process.send_signal(signal.SIGKILL)
        # As the next restore would: it takes over the dead one's lock and heals first.
        with restoring(target, now=NOW + timedelta(days=9, seconds=round_number)) as (real, new):
            assert real == target
            assert not new.exists()
        contents = {(target / bucket / "content").read_text() for bucket in ("materials", "submissions")}
        assert len(contents) == 1, "the buckets are of two different restores"
        seen |= contents
        assert (target / "other").read_text() == "untouched"
        if any(entry.state is SwapState.SWAPPED for entry in read_note(target).swaps):
            assert contents == {"new"}
            undo(target, now=NOW + timedelta(days=10, seconds=round_number))
        assert {(target / bucket / "content").read_text() for bucket in ("materials", "submissions")} == {"old"}
        assert heal(target) == ""
    assert seen <= {"old", "new"}
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".storage.restored")]


def test_the_note_of_a_dead_process_is_plain_json(tmp_path: Path) -> None:
    from backup_pipeline.system.file_swap import swap

    target = tmp_path / "db"
    target.write_text("old")
    with restoring(target, now=NOW) as (real, new):
        new.write_text("new")
        swap(real, NOW, label="2026-11-20T020000Z")
    note = json.loads((tmp_path / ".db.restore.json").read_bytes())
    assert note["note_version"] == 1
    assert note["swaps"][0]["label"] == "2026-11-20T020000Z"
    assert note["swaps"][0]["parts"][0]["kept"] == "db.before-2026-11-21T020000Z"
