"""What tests of folders, repositories and SQLite files share: a real set, real git, trees compared."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.manifest import Draft
from backup_pipeline.model.record import ArtefactRecord, CheckResult
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.stores.local import LocalSetWriter, LocalStore

NOW = datetime(2026, 11, 21, 2, 0, 0, tzinfo=UTC)


def new_set(folder: Path, *, number: int = 0, source: str = "storage") -> LocalSetWriter:
    """Begin a set in a store below `folder`."""
    moment = NOW + timedelta(seconds=number)
    draft = Draft(set_id=set_id_at(moment), plan="nightly", root_run_id="r", sources=(source,), started_at=moment)
    return LocalStore(folder / "store", "nightly").begin(draft)


def context_of(writer: LocalSetWriter, source: str = "storage") -> CaptureContext:
    """Return what a capture needs."""
    return CaptureContext(writer, source)


def check_of(record: ArtefactRecord, name: str) -> CheckResult:
    """Return a check of a record."""
    return next(check for check in record.checks if check.name == name)


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return every file and folder below `folder`: mode, time of files in nanoseconds, content."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[os.fsdecode(os.fsencode(path.relative_to(folder)))] = (
            status.st_mode,
            status.st_mtime_ns if path.is_file() else 0,
            content,
        )
    return found


def git(folder: Path, *arguments: str) -> str:
    """Run git with a fixed identity."""
    identity = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    for role in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{role}_NAME": "Claire", f"GIT_{role}_EMAIL": "claire@example.org"}
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "protocol.file.allow=always", *arguments],
        env={**os.environ, **identity},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    """Make a repository with three commits, a branch, a tag, an executable, a link and odd names."""
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "README.md").write_text("# Claire\r\n")
    (folder / ".gitignore").write_text(".env\n")
    (folder / "tool.sh").write_text("#!/bin/sh\necho ok\n")
    (folder / "tool.sh").chmod(0o755)
    (folder / "sub").mkdir()
    (folder / "sub" / "ü ber\nline.txt").write_text("odd name")
    (folder / "link").symlink_to("README.md")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "First")
    git(folder, "tag", "-a", "v1", "-m", "one")
    git(folder, "checkout", "-q", "-b", "feature")
    (folder / "feature.txt").write_text("feature")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Feature")
    git(folder, "checkout", "-q", "main")
    (folder / "empty.txt").write_text("")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Second\n\nwith a body")
    return folder
