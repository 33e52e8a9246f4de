"""Evidence of every released format is checked and read by this release: see fixtures/evidence_<version>.

Each folder has a chain of signed files, made by the release that the format began with, and the key they were signed
with: a period without history, one with events of every kind, and one in which nothing happened.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from backup_pipeline.model.evidence import EventKind
from backup_pipeline.operations.evidence.make import checker
from backup_pipeline.operations.evidence.statement import is_signed_with, read_envelope

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
RELEASED = sorted(FIXTURES.glob("evidence_*"))


def check(folder: Path, key: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Check a folder as an auditor does: by the program alone, with an interpreter that sees no installed package."""
    program = tmp_path / "check_evidence.py"
    program.write_bytes(checker())
    command = [sys.executable, "-I", "-S", str(program), "--key", key, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.name)
def test_evidence_of_a_released_format_is_still_valid_and_read(released: Path, tmp_path: Path) -> None:
    key = (released / "key.txt").read_text("utf-8").strip()
    files = sorted(released.glob("*.dsse.json"))
    done = check(released, key, tmp_path)
    assert (done.returncode, done.stdout.count(": valid\n"), done.stderr) == (0, len(files), "")
    read = [read_envelope(file) for file in files]
    assert {event.kind for one in read for event in one.events} == set(EventKind)
    assert [one.number for one in read] == [1, 2, 3]
    assert all(is_signed_with([key], file.read_bytes()) for file in files)


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.name)
@pytest.mark.parametrize("change", ["an event", "a file is missing"])
def test_evidence_of_a_released_format_that_was_changed_is_still_found(
    released: Path, change: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(released, tmp_path / "auditor")
    file = sorted(folder.glob("*.dsse.json"))[1]
    if change == "an event":
        document = json.loads(file.read_bytes())
        payload = b64decode(document["payload"])
        assert b'"good":false' in payload
        changed = payload.replace(b'"good":false', b'"good":true', 1)
        file.write_text(json.dumps({**document, "payload": b64encode(changed).decode()}), "utf-8")
    else:
        file.unlink()
    done = check(folder, (released / "key.txt").read_text("utf-8").strip(), tmp_path)
    assert (done.returncode, "valid" in done.stdout) == (1, True)
