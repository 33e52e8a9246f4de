from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from backup_pipeline.errors import BackupSystemError, SourceError, ToolError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.sources.repository.capture import capture_repository, inspect_repository
from backup_pipeline.sources.repository.settings import RepositorySource
from backup_pipeline.stores.local import LocalSetWriter
from backup_pipeline_tests.support.archive_sets import check_of, context_of, new_set, repository

# The commands of Docker's client that are used, with its exit codes, output and streams, on volumes that are folders.
CLIENT = """\
#!{python}
import os, pathlib, shutil, subprocess, sys
root = pathlib.Path({root!r})
with (root / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
words = sys.argv[1:]
if words[:2] == ["volume", "ls"]:
    print(*sorted(p.name for p in (root / "volumes").iterdir()), sep="\\n")
elif words[0] == "ps":
    print("postgres:16")
elif words[0] == "create":
    name, inside, mode = words[words.index("--volume") + 1].split(":")
    (root / "containers").mkdir(exist_ok=True)
    (root / "containers" / "c0ffee").write_text(name)
    print("c0ffee")
elif words[0] == "cp":
    container, _, path = words[1].partition(":")
    name = (root / "containers" / container).read_text()
    sys.exit(subprocess.run(["tar", "-C", root / "volumes" / name, "-cf", "-", "."]).returncode)
elif words[0] == "rm":
    (root / "containers" / words[-1]).unlink()
else:
    sys.exit("unknown command")
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "engine"
    data = root / "volumes" / "claire_postgres_data" / "base"
    data.mkdir(parents=True)
    (data / "1").write_bytes(b"page" * 5000)
    (data.parent / "PG_VERSION").write_text("16\n")
    (data.parent / "link").symlink_to("/etc/passwd")
    (root / "volumes" / "claire_empty").mkdir()
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(CLIENT.format(python=sys.executable, root=str(root)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return root


def capture(writer: LocalSetWriter, path: Path, *volumes: str, **more: object) -> dict[str, ArtefactRecord]:
    settings = RepositorySource(kind="repository", path=path, docker_volumes=volumes, **more)  # type: ignore[arg-type]
    return {record.key[-1]: record for record in capture_repository(context_of(writer, "claire"), settings)}


def test_a_named_volume_comes_into_the_set_and_its_container_goes(tmp_path: Path, docker: Path) -> None:
    writer = new_set(tmp_path)
    records = capture(writer, repository(tmp_path / "claire"), "claire_postgres_data", "claire_empty")
    record = records["volume_claire_postgres_data"]
    with tarfile.open(writer.folder / "claire_volume_claire_postgres_data.tar.gz") as archive:
        assert archive.getnames() == ["PG_VERSION", "base", "base/1"]
        content = archive.extractfile("base/1")
        assert content is not None
        assert content.read() == b"page" * 5000
    assert not record.failed_checks
    assert list(inspect_repository(writer.open, record)) == []
    check = check_of(record, "volume_captured_whole")
    assert (check.passed, check.severity) == (False, "WARN")
    assert check.summary == "1 links, sockets or devices are not captured."
    assert check_of(records["volume_claire_empty"], "volume_captured_whole").summary == "The volume is empty."
    assert records["bundle"].facts["volumes"] == "yes"
    assert list((docker / "containers").iterdir()) == []
    assert "create --volume claire_postgres_data:/volume:ro postgres:16" in (docker / "calls").read_text()


def test_volumes_stay_out_unless_they_are_asked_for(tmp_path: Path, docker: Path) -> None:
    records = capture(new_set(tmp_path), repository(tmp_path / "claire"), "claire_empty", include_volumes=False)
    assert list(records) == ["archive", "bundle"]
    assert records["bundle"].facts["volumes"] == "no"
    assert not (docker / "calls").exists()


def test_an_unknown_volume_is_an_error_that_names_those_there_are(tmp_path: Path, docker: Path) -> None:
    writer = new_set(tmp_path)
    with pytest.raises(SourceError, match="postgres_data") as caught:
        capture(writer, repository(tmp_path / "claire"), "postgres_data")
    assert "claire_postgres_data" in caught.value.remedy
    assert [entry.name for entry in writer.folder.iterdir()] == ["records"]


def test_without_a_client_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repository(tmp_path / "claire")
    git = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ToolError, match="Docker's client was not found"):
        capture(new_set(tmp_path), path, "claire_postgres_data")


def test_a_copy_that_fails_leaves_nothing_in_the_set(tmp_path: Path, docker: Path) -> None:
    program = tmp_path / "bin" / "docker"
    program.write_text(program.read_text().replace('["tar", "-C"', '["false", "-C"'))
    writer = new_set(tmp_path)
    with pytest.raises(BackupSystemError, match=r"volume could not be copied|docker cp failed"):
        capture(writer, repository(tmp_path / "claire"), "claire_postgres_data")
    assert not list(writer.folder.glob("*volume*"))
    assert list((docker / "containers").iterdir()) == []
