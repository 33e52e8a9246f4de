from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.errors import SourceError, ToolError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.sources.repository.capture import capture_repository
from backup_pipeline.sources.repository.restore import restore_repository
from backup_pipeline.sources.repository.settings import RepositorySource
from backup_pipeline.stores.local import LocalSetWriter
from backup_pipeline_tests.support.archive_sets import NOW, check_of, context_of, git, new_set


def capture(writer: LocalSetWriter, path: Path) -> dict[str, ArtefactRecord]:
    settings = RepositorySource(kind="repository", path=path)
    return {record.key[-1]: record for record in capture_repository(context_of(writer, "claire"), settings)}


def start(folder: Path, *options: str) -> Path:
    """Make a repository with two commits."""
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main", *options)
    for number in (1, 2):
        (folder / "f.txt").write_text(f"{number}\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"Commit {number}")
    return folder


def tag_named_like_the_branch(folder: Path) -> Path:
    path = start(folder)
    git(path, "tag", "main", "HEAD~1")
    git(path, "tag", "HEAD", "HEAD~1")
    git(path, "update-ref", "refs/heads/HEAD", "HEAD~1")
    git(path, "update-ref", "refs/heads/refs/heads/main", "HEAD~1")
    (path / "HEAD").write_text("a file that is called like HEAD")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "HEAD")
    return path


def odd_names_and_objects(folder: Path) -> Path:
    path = start(folder)
    blob = git(path, "rev-parse", "HEAD:f.txt")
    for name in ("refs/heads/ü/ß", 'refs/heads/"quoted"', "refs/heads/-x", "refs/heads/@", "refs/meta/config"):
        git(path, "update-ref", name, "HEAD~1")
    git(path, "update-ref", "refs/tags/blob", blob)
    git(path, "update-ref", "refs/tags/tree", "HEAD^{tree}")
    git(path, "tag", "-a", "annotated", "-m", "of a tag's tag", "HEAD")
    git(path, "tag", "-a", "again", "-m", "nested", "annotated")
    git(path, "notes", "add", "-m", "a note", "HEAD")
    git(path, "replace", "HEAD~1", "HEAD")
    git(path, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(path, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    return path


def linked_worktree(folder: Path) -> Path:
    main = start(folder.with_name("main"))
    git(main, "worktree", "add", "-q", "--detach", str(folder.with_name("aside")), "HEAD~1")
    git(main, "worktree", "add", "-q", "-b", "work", str(folder))
    git(main, "checkout", "-q", "--detach", "HEAD~1")
    aside = folder.with_name("aside")
    (aside / "f.txt").write_text("only here\n")
    git(aside, "commit", "-q", "-a", "-m", "Only at a detached HEAD")
    git(aside, "update-ref", "refs/bisect/bad", "HEAD")
    return folder


def three_stashes(folder: Path) -> Path:
    path = start(folder)
    for number in range(3):
        (path / "f.txt").write_text(f"stash {number}\n")
        git(path, "stash", "push", "-q", "-m", f"work {number}")
    return path


def head_on_a_missing_branch(folder: Path) -> Path:
    path = start(folder)
    git(path, "symbolic-ref", "HEAD", "refs/heads/gone")
    return path


def sha256(folder: Path) -> Path:
    path = start(folder, "--object-format=sha256")
    (path / "f.txt").write_text("stash\n")
    git(path, "stash", "push", "-q")
    return path


def dated(folder: Path, author: str) -> Path:
    """Make a repository whose HEAD has this line as its author, which `git commit` would not write."""
    path = start(folder)
    tree, parent = git(path, "rev-parse", "HEAD^{tree}"), git(path, "rev-parse", "HEAD")
    text = f"tree {tree}\nparent {parent}\nauthor {author}\ncommitter C <c@example.org> 1700000000 +0000\n\nOdd\n"
    command = ["git", "-C", str(path), "hash-object", "-t", "commit", "-w", "--stdin", "--literally"]
    made = subprocess.run(command, input=text.encode(), check=True, capture_output=True).stdout.decode().strip()
    git(path, "update-ref", "HEAD", made)
    return path


def borrowed_objects(folder: Path) -> Path:
    start(folder.with_name("lender"))
    git(folder.parent, "clone", "-q", "--shared", "lender", folder.name)
    return folder


def grafted(folder: Path) -> Path:
    path = start(folder)
    (path / ".git" / "info").mkdir(exist_ok=True)
    (path / ".git" / "info" / "grafts").write_text(git(path, "rev-parse", "HEAD") + "\n")
    return path


def everything(path: Path) -> dict[str, str]:
    """Return every reference with its object and what it names, HEAD and the stashes."""
    lines = git(path, "for-each-ref", "--format=%(refname) %(objectname) %(symref)").splitlines()
    found = {line.split(" ")[0]: line for line in lines}
    found["HEAD"] = subprocess.run(
        ["git", "-C", str(path), "symbolic-ref", "-q", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip() or git(path, "rev-parse", "HEAD")
    found["stashes"] = git(path, "stash", "list", "--date=iso", "--format=%H %gd %gn %ge %gs")
    return found


@pytest.mark.parametrize(
    "make",
    [
        tag_named_like_the_branch,
        odd_names_and_objects,
        three_stashes,
        head_on_a_missing_branch,
        sha256,
        borrowed_objects,
        grafted,
        pytest.param(lambda folder: dated(folder, "A <a@b> 1700000000 +9999"), id="impossible_zone"),
        pytest.param(lambda folder: dated(folder, "A <a@b>"), id="no_date"),
        pytest.param(lambda folder: dated(folder, "A <a@b> 99999999999 +0000"), id="year_5138"),
    ],
)
def test_a_repository_comes_back_with_equal_references(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "claire")
    writer = new_set(tmp_path)
    records = capture(writer, path)
    assert [check.name for record in records.values() for check in record.failed_checks] == []
    target = tmp_path / "restored"
    restore_repository(writer.open, records["bundle"], target, now=NOW)
    assert everything(target) == everything(path)
    # Another object must not fit under a name: git itself reads every one that is named.
    git(target, "rev-list", "--objects", "--all", "--quiet")
    if "archive" in records:
        assert records["archive"].details["commit"] == git(path, "rev-parse", "--verify", "HEAD^{commit}")


def test_a_linked_worktree_becomes_a_repository_of_its_own_and_that_is_said(tmp_path: Path) -> None:
    path = linked_worktree(tmp_path / "claire")
    writer = new_set(tmp_path)
    records = capture(writer, path)
    check = check_of(records["archive"], "one_worktree")
    assert (check.passed, check.severity) == (False, "WARN")
    assert "linked worktree" in check.summary
    assert {Path(str(row["path"])).name for row in check.table} == {"main", "aside"}
    target = tmp_path / "restored"
    restore_repository(writer.open, records["bundle"], target, now=NOW)
    aside = git(tmp_path / "aside", "rev-parse", "HEAD")
    kept = {
        "refs/backup/main-worktree/HEAD": git(tmp_path / "main", "rev-parse", "HEAD"),
        "refs/backup/worktrees/aside/HEAD": aside,
        "refs/backup/worktrees/aside/bisect/bad": aside,
    }
    found = everything(target)
    assert {name: found.pop(name).split(" ")[1] for name in kept} == kept
    assert found == everything(path)
    assert (target / ".git").is_dir()


def test_head_on_a_missing_branch_gives_a_bundle_and_a_warning(tmp_path: Path) -> None:
    records = capture(new_set(tmp_path), head_on_a_missing_branch(tmp_path / "claire"))
    assert list(records) == ["bundle"]
    check = check_of(records["bundle"], "head_exists")
    assert (check.passed, check.severity) == (False, "WARN")
    assert "refs/heads/gone" in check.summary


def test_stashes_ignored_files_and_unreadable_dates_are_in_the_record(tmp_path: Path) -> None:
    path = three_stashes(tmp_path / "claire")
    (path / ".gitignore").write_text("build/\n.env\n")
    git(path, "add", ".gitignore")
    git(path, "commit", "-q", "-m", "ignore")
    (path / ".env").write_text("SECRET=1")
    (path / "build").mkdir()
    (path / "build" / "x").write_text("x")
    records = capture(new_set(tmp_path), path)
    stashes = records["bundle"].details["stashes"]
    assert isinstance(stashes, list)
    assert len(stashes) == 3
    committed = check_of(records["archive"], "everything_committed")
    assert committed.passed
    assert committed.summary == "Everything is committed. 2 ignored paths are not captured."
    assert committed.numbers == {"count": 0, "ignored": 2}
    odd = capture(new_set(tmp_path, number=1), dated(tmp_path / "odd", "A <a@b> 1700000000 +9999"))["archive"]
    assert odd.details["date"] is None
    assert odd.details["date_unreadable"] == "1700000000 +9999"


def test_a_reference_that_git_cannot_read_is_a_warning_with_its_name(tmp_path: Path) -> None:
    path = start(tmp_path / "claire")
    (path / ".git" / "refs" / "heads" / "crashed").write_bytes(b"")
    check = check_of(capture(new_set(tmp_path), path)["archive"], "all_refs_readable")
    assert (check.passed, check.severity) == (False, "WARN")
    assert check.table == ({"path": "refs/heads/crashed"},)


def test_a_partial_clone_is_refused_with_the_way_to_a_full_one(tmp_path: Path) -> None:
    path = start(tmp_path / "origin")
    git(path, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{path}", "claire")
    writer = new_set(tmp_path)
    with pytest.raises(SourceError, match=r"partial clone: 1 objects .* never fetched") as caught:
        capture(writer, tmp_path / "claire")
    assert [entry.name for entry in writer.folder.iterdir()] == ["records"]
    remedy = caught.value.remedy
    assert "`git fetch --refetch --no-filter`" in remedy
    git(tmp_path / "claire", "fetch", "-q", "--refetch", "--no-filter")
    assert not capture(new_set(tmp_path, number=1), tmp_path / "claire")["bundle"].failed_checks


def test_a_missing_object_is_an_error_that_counts_it_and_names_the_remedy(tmp_path: Path) -> None:
    path = start(tmp_path / "claire")
    blob = git(path, "rev-parse", "HEAD~1:f.txt")
    (path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(ToolError, match="1 objects of its history are missing") as caught:
        capture(new_set(tmp_path), path)
    assert caught.value.where == str(path)
    assert "git fsck" in caught.value.remedy


def test_sets_of_earlier_versions_with_short_names_are_restored(tmp_path: Path) -> None:
    path = start(tmp_path / "claire")
    git(path, "tag", "main", "HEAD~1")
    git(path, "worktree", "add", "-q", "--detach", str(tmp_path / "aside"), "HEAD~1")
    (path / "f.txt").write_text("stash\n")
    git(path, "stash", "push", "-q")
    writer = new_set(tmp_path)
    record = capture(writer, path)["bundle"]
    place = writer.folder / record.files[0].path
    # As `git bundle create - HEAD --all` wrote it, with the details that such a record had.
    git(path, "bundle", "create", "-q", str(place), "HEAD", "--all")
    refs = dict(line.split(" ", 1)[::-1] for line in git(path, "bundle", "list-heads", str(place)).splitlines())
    assert "worktrees/aside/HEAD" in refs
    data = place.read_bytes()
    file = record.files[0].model_copy(update={"size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    details = {"commit": refs.pop("HEAD"), "branch": "heads/main", "refs": refs, "bare": False, "shallow": []}
    old = record.model_copy(update={"files": (file,), "details": details})
    target = tmp_path / "restored"
    restore_repository(writer.open, old, target, now=NOW)
    found = everything(target)
    assert found.pop("refs/backup/worktrees/aside/HEAD")
    expected = everything(path)
    assert found.pop("stashes").split(" ")[0] == expected.pop("stashes").split(" ")[0]
    assert found == expected
