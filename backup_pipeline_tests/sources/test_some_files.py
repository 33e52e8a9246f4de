"""Single files of a folder come back into the living folder or beside it, and what they replaced comes back by undo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backup_pipeline_tests.support.sites import TestSite, write_storage

_SETTINGS = """
store: backups
sources:
  storage: {kind: folder, path: storage, buckets: [materials, submissions]}
plans:
  nightly: {sources: [storage], store: sets, wait_seconds: 0.5}
"""
_DELETED = "materials/folder 1/file-1.txt"
_CHANGED = "materials/folder 2/file-2.txt"


@pytest.fixture
def backed_up(tmp_path: Path) -> TestSite:
    site = TestSite(tmp_path)
    write_storage(tmp_path / "storage")
    site.write(_SETTINGS)
    assert site.run("backup", "nightly").code == 0
    (tmp_path / "storage" / _DELETED).unlink()
    (tmp_path / "storage" / _DELETED).parent.rmdir()
    (tmp_path / "storage" / _CHANGED).write_text("written over", "utf-8")
    (tmp_path / "storage" / "materials" / "new.txt").write_text("since the backup", "utf-8")
    return site


def _plan(site: TestSite, *options: str, code: int = 0) -> dict[str, object]:
    answer = site.run("restore", "nightly/latest", "storage", "--json", *options)
    assert answer.code == code, answer.text
    return dict(json.loads(answer.out))


def _apply(site: TestSite, *options: str) -> dict[str, object]:
    plan = _plan(site, *options)
    arguments = ("--apply", "--plan-id", str(plan["plan_id"]), "--confirm", str(plan["confirm"]))
    return _plan(site, *options, *arguments)


def _files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


def test_a_deleted_and_a_changed_file_come_back_and_undo_takes_them_back(backed_up: TestSite) -> None:
    storage = backed_up.folder / "storage"
    before = _files(storage)
    options = ("--file", "materials/folder 1", "--file", _CHANGED)
    plan = _plan(backed_up, *options)
    assert [(row["table"], row["insert"], row["update"]) for row in plan["tables"]] == [  # type: ignore[attr-defined]
        (_DELETED, 1, 0),
        (_CHANGED, 0, 1),
    ]
    assert _files(storage) == before
    done = _apply(backed_up, *options)
    assert done["emergency_set"] == ""
    wanted = {_DELETED: "materials 1\n" * 50, _CHANGED: "materials 2\n" * 50}
    assert _files(storage) == before | wanted
    assert backed_up.run("undo", "nightly/storage", "--apply", "--confirm", "storage").code == 0
    assert _files(storage) == before


def test_files_come_back_beside_the_folder_which_stays_as_it_is(backed_up: TestSite) -> None:
    before = _files(backed_up.folder / "storage")
    _apply(backed_up, "--file", "submissions", "--into", "found again")
    assert _files(backed_up.folder / "storage") == before
    beside = _files(backed_up.folder / "found again")
    assert len(beside) == 5
    assert all(path.startswith("submissions/") for path in beside)


def test_files_that_are_as_they_were_are_nothing_to_do(backed_up: TestSite) -> None:
    plan = _plan(backed_up, "--file", "submissions", code=8)
    assert "nothing to do" in str(plan["reasons_against"])


def test_a_path_that_is_not_in_the_set_is_named(backed_up: TestSite) -> None:
    plan = _plan(backed_up, "--file", "../../etc/passwd", "--file", "submissions", code=8)
    assert "../../etc/passwd is not in the set" in str(plan["reasons_against"])


def test_a_link_on_the_way_is_never_written_through(
    backed_up: TestSite, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (backed_up.folder / "storage" / "materials" / "folder 1").symlink_to(elsewhere)
    plan = _plan(backed_up, "--file", _DELETED, code=8)
    assert "is a link" in str(plan["reasons_against"])
    assert list(elsewhere.iterdir()) == []


def test_a_plan_does_not_hold_once_one_of_its_files_changed(backed_up: TestSite) -> None:
    plan = _plan(backed_up, "--file", _CHANGED)
    (backed_up.folder / "storage" / _CHANGED).write_text("written once more", "utf-8")
    arguments = ("--apply", "--plan-id", str(plan["plan_id"]), "--confirm", "storage")
    answer = backed_up.run("restore", "nightly/latest", "storage", "--file", _CHANGED, *arguments)
    assert answer.code == 8
    assert "does not hold any more" in answer.text


def test_the_plan_of_a_whole_folder_counts_what_would_be_lost(backed_up: TestSite) -> None:
    plan = _plan(backed_up)
    (row,) = plan["tables"]  # type: ignore[misc]
    assert (row["insert"], row["update"], row["unchanged"], row["only_in_target"]) == (1, 1, 8, 1)
