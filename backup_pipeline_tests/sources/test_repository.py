from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from backup_pipeline.errors import SourceError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.sources.repository.capture import capture_repository, inspect_repository
from backup_pipeline.sources.repository.git import is_environment_file, without_credentials
from backup_pipeline.sources.repository.settings import RepositorySource
from backup_pipeline.stores.local import LocalSetWriter
from backup_pipeline_tests.support.archive_sets import check_of, context_of, git, new_set, repository


def capture(writer: LocalSetWriter, path: Path, **more: object) -> dict[str, ArtefactRecord]:
    settings = RepositorySource(kind="repository", path=path, **more)  # type: ignore[arg-type]
    return {record.key[-1]: record for record in capture_repository(context_of(writer, "claire"), settings)}


def test_head_becomes_a_zip_named_by_time_and_commit_without_env_or_untracked_files(tmp_path: Path) -> None:
    path = repository(tmp_path / "claire")
    (path / ".env").write_text("SECRET=1")
    (path / "untracked.txt").write_text("x")
    writer = new_set(tmp_path)
    record = capture(writer, path)["archive"]
    commit = git(path, "rev-parse", "HEAD")
    assert record.files[0].path == f"claire_repo_2026-11-21_0200_{commit[:7]}.zip"
    with zipfile.ZipFile(writer.folder / record.files[0].path) as archive:
        assert sorted(archive.namelist()) == sorted(git(path, "ls-files", "-z").strip("\0").split("\0"))
        assert archive.read("README.md") == b"# Claire\r\n"
    assert not record.failed_checks


def test_an_entry_of_the_zip_has_the_time_of_its_files_last_change(tmp_path: Path) -> None:
    path = tmp_path / "claire"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    dates = {
        "first": "2001-02-03T04:05:06+0000",
        "second": "2011-02-03T04:05:06+0200",
        "merged": "2021-01-01T00:00:00Z",
    }
    for number, (name, date) in enumerate(dates.items()):
        if name == "merged":
            git(path, "checkout", "-q", "-b", "side", "HEAD~1")
        (path / f"größe {name}.txt").write_text(name)
        (path / "again.txt").write_text(str(number)) if number < 2 else None
        git(path, "add", "-A")
        git(path, "commit", "-q", "-m", name, f"--date={date}")
    git(path, "checkout", "-q", "main")
    git(path, "config", "log.showRoot", "false")
    git(path, "merge", "-q", "--no-ff", "--no-commit", "side")
    git(path, "commit", "-q", "-m", "merge", "--date=2022-05-06T07:08:10Z")
    writer = new_set(tmp_path)
    record = capture(writer, path)["archive"]
    with zipfile.ZipFile(writer.folder / record.files[0].path) as archive:
        times = {info.filename: info.date_time for info in archive.infolist()}
    assert times == {
        "größe first.txt": (2001, 2, 3, 4, 5, 6),
        "größe second.txt": (2011, 2, 3, 2, 5, 6),
        "again.txt": (2011, 2, 3, 2, 5, 6),
        "größe merged.txt": (2022, 5, 6, 7, 8, 10),
    }


def test_the_record_tells_what_was_captured(tmp_path: Path) -> None:
    path = repository(tmp_path / "claire")
    git(path, "remote", "add", "origin", "https://user:s3cret@example.org/x.git?token=t0ken")
    (path / "README.md").write_text("changed")
    record = capture(new_set(tmp_path), path)["archive"]
    details = record.details
    assert details["branch"] == "main"
    assert details["commit"] == git(path, "rev-parse", "HEAD")
    assert details["message"] == "Second\n\nwith a body"
    assert details["author"] == "Claire <claire@example.org>"
    assert details["commit_count"] == 3
    assert details["tags"] == ["v1"]
    assert details["remotes"] == {"origin": "https://example.org/x.git"}
    assert details["uncommitted"] == {"count": 1, "paths": ["README.md"]}
    check = check_of(record, "everything_committed")
    assert (check.passed, check.severity) == (False, "WARN")
    assert "s3cret" not in record.model_dump_json()
    assert "t0ken" not in record.model_dump_json()


def test_the_bundle_clones_with_every_branch_and_tag(tmp_path: Path) -> None:
    path = repository(tmp_path / "claire")
    writer = new_set(tmp_path)
    record = capture(writer, path)["bundle"]
    git(tmp_path, "clone", "-q", str(writer.folder / record.files[0].path), "clone")
    clone = tmp_path / "clone"
    assert git(clone, "rev-parse", "HEAD") == git(path, "rev-parse", "HEAD")
    assert git(clone, "rev-parse", "origin/feature") == git(path, "rev-parse", "feature")
    assert git(clone, "rev-parse", "v1") == git(path, "rev-parse", "v1")
    assert not record.failed_checks


@pytest.mark.parametrize("which", ["archive", "bundle"])
def test_flipped_bits_and_cuts_are_found_and_the_file_named(tmp_path: Path, which: str) -> None:
    writer = new_set(tmp_path)
    record = capture(writer, repository(tmp_path / "claire"))[which]
    place = writer.folder / record.files[0].path
    good = place.read_bytes()
    assert list(inspect_repository(writer.open, record)) == []
    for length in (0, 10, len(good) // 2, len(good) - 1):
        place.write_bytes(good[:length])
        assert list(inspect_repository(writer.open, record)), f"cut to {length}"
    if which == "bundle":
        for position in range(20, len(good), len(good) // 25):
            bad = bytearray(good)
            bad[position] ^= 16
            place.write_bytes(bad)
            found = list(inspect_repository(writer.open, record))
            assert found, f"bit at {position}"
            assert all(finding.subject.startswith("claire_repo.bundle") for finding in found)


def test_a_changed_content_of_the_zip_is_found(tmp_path: Path) -> None:
    writer = new_set(tmp_path)
    record = capture(writer, repository(tmp_path / "claire"))["archive"]
    place = writer.folder / record.files[0].path
    with zipfile.ZipFile(place) as archive:
        info = archive.getinfo("tool.sh")
    data = bytearray(place.read_bytes())
    data[info.header_offset + 30 + len("tool.sh") + 3] ^= 1
    place.write_bytes(data)
    (finding,) = inspect_repository(writer.open, record)
    assert finding.subject == record.files[0].path
    assert "tool.sh" in finding.problem


def test_programs_that_the_repository_names_are_not_run(tmp_path: Path) -> None:
    path = repository(tmp_path / "claire")
    trap = tmp_path / "trapped"
    command = f"touch {trap}; cat"
    (path / ".gitattributes").write_text("* filter=evil diff=evil export-subst\n")
    git(path, "add", ".gitattributes")
    git(path, "commit", "-q", "-m", "attributes")
    hooks = path / ".git" / "hooks"
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\n{command}\n")
        (hooks / name).chmod(0o755)
    filters = ("filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv")
    programs = ("core.fsmonitor", "core.sshCommand", "core.pager", "gpg.program", "diff.external", "core.editor")
    for setting in filters + programs:
        git(path, "config", setting, command)
    git(path, "config", "filter.evil.required", "true")
    git(path, "config", "log.showSignature", "true")
    (path / "README.md").write_text("changed, so that status must look into it")
    trap.unlink(missing_ok=True)
    records = capture(new_set(tmp_path), path)
    assert not trap.exists()
    assert not records["archive"].failed_checks


def test_env_and_volumes_are_captured_only_when_asked_for_and_stay_private(tmp_path: Path) -> None:
    path = repository(tmp_path / "claire")
    volume = tmp_path / "one" / "data"
    other = tmp_path / "two" / "data"
    for folder in (volume, other):
        folder.mkdir(parents=True)
        (folder / "f").write_text("x")
    with pytest.raises(SourceError, match=r"\.env.*gone"):
        capture(new_set(tmp_path), path, include_env=True, volumes=(tmp_path / "gone",))
    (path / ".env").write_text("SECRET=1")
    writer = new_set(tmp_path, number=1)
    records = capture(writer, path, include_env=True, volumes=(volume, other))
    assert records["extras"].details["volumes"] == {"data": str(volume), "data-2": str(other)}
    place = writer.folder / "claire_extras.tar.gz"
    assert place.stat().st_mode & 0o777 == 0o600
    listed = subprocess.run(["tar", "tzf", place], check=True, capture_output=True, text=True).stdout.split()
    assert listed == ["env/.env", "volumes/data/", "volumes/data/f", "volumes/data-2/", "volumes/data-2/f"]
    assert list(inspect_repository(writer.open, records["extras"])) == []


def test_a_tracked_env_is_a_warning(tmp_path: Path) -> None:
    path = repository(tmp_path / "claire")
    (path / ".env").write_text("SECRET=1")
    (path / ".env.example").write_text("SECRET=")
    git(path, "add", "-f", ".env", ".env.example")
    git(path, "commit", "-q", "-m", "oops")
    check = check_of(capture(new_set(tmp_path), path)["archive"], "no_secrets_tracked")
    assert not check.passed
    assert check.table == ({"path": ".env"},)


def test_a_shallow_clone_is_a_warning_and_its_bundle_still_verifies(tmp_path: Path) -> None:
    path = repository(tmp_path / "claire")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{path}", "shallow")
    records = capture(new_set(tmp_path), tmp_path / "shallow")
    assert not check_of(records["archive"], "history_complete").passed
    assert not records["bundle"].failed_checks


def test_detached_and_bare_repositories_are_captured(tmp_path: Path) -> None:
    path = repository(tmp_path / "claire")
    git(tmp_path, "clone", "-q", "--bare", str(path), "bare.git")
    assert capture(new_set(tmp_path), tmp_path / "bare.git")["archive"].details["bare"] is True
    git(path, "checkout", "-q", "--detach", "HEAD~1")
    records = capture(new_set(tmp_path, number=1), path)
    assert records["archive"].details["branch"] is None
    assert not any(record.failed_checks for record in records.values())


@pytest.mark.parametrize("kind", ["missing", "plain", "inside", "empty"])
def test_what_cannot_be_captured_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "plain":
        path.mkdir()
    if kind == "inside":
        path = repository(tmp_path / "claire") / "sub"
    if kind == "empty":
        path.mkdir()
        git(path, "init", "-q")
    writer = new_set(tmp_path)
    with pytest.raises(SourceError) as caught:
        capture(writer, path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    assert [entry.name for entry in writer.folder.iterdir()] == ["records"]


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://user:secret@host/x.git", "https://host/x.git"),
        ("https://ghp_token@host:8443/x", "https://host:8443/x"),
        ("ssh://git:pw@host:22/x", "ssh://git@host:22/x"),
        ("git@host:team/x.git", "git@host:team/x.git"),
        ("user:pw@host:x", "user@host:x"),
        ("/srv/git/x.git", "/srv/git/x.git"),
        ("https://host/x?access_token=secret#a", "https://host/x"),
    ],
)
def test_remotes_lose_their_credentials(url: str, clean: str) -> None:
    assert without_credentials(url) == clean


def test_templates_of_env_files_are_not_taken_for_secrets() -> None:
    assert [is_environment_file(name) for name in (".env", "a/.env.local", "prod.env")] == [True] * 3
    assert [is_environment_file(name) for name in (".env.example", ".env.template", "env.py", "a.environment")] == [
        False
    ] * 4
