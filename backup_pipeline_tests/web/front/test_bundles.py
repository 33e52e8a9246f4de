"""What lies in a repository's bundle is listed by reference, read and handed out, whatever its trees hold."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from backup_pipeline_tests.support.front_pages import pages_of
from backup_pipeline_tests.support.sites import TestSite

_SETTINGS = """
store: backups
sources: {code: {kind: repository, path: code}}
plans: {nightly: {sources: [code], wait_seconds: 0.5}}
"""


def _git(folder: Path, *arguments: str, stdin: str = "") -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, input=stdin.encode(), capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode().strip()


def _endless_branch(folder: Path) -> None:
    """Make a branch of a million files in six small trees, each of which holds the one below it ten times."""
    blob = _git(folder, "hash-object", "-w", "--stdin", stdin="bomb")
    below = _git(folder, "mktree", stdin="".join(f"100644 blob {blob}\tf{n}\n" for n in range(10)))
    for _ in range(5):
        below = _git(folder, "mktree", stdin="".join(f"040000 tree {below}\td{n}\n" for n in range(10)))
    _git(folder, "branch", "endless", _git(folder, "commit-tree", below, "-m", "many"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TestSite:
    made = TestSite(tmp_path_factory.mktemp("bundled"))
    code = made.folder / "code"
    (code / "src").mkdir(parents=True)
    _git(code, "init", "--quiet", "--initial-branch=main", ".")
    (code / "src" / "main.py").write_text("print('first')\n")
    (code / "id_rsa").write_text("not for everybody")
    (code / "<b>odd\n.txt").write_text("odd")
    (code / "link").symlink_to("/etc/passwd")
    _git(code, "add", ".")
    _git(code, "commit", "--quiet", "-m", "first")
    _git(code, "tag", "-a", "v1", "-m", "release")
    _git(code, "branch", "feature/one")
    (code / "src" / "main.py").write_text("print('second')\n")
    _git(code, "commit", "--quiet", "-am", "second")
    _endless_branch(code)
    made.write(_SETTINGS)
    done = made.run("backup", "nightly")
    assert done.code in (0, 11), done.text
    return made


@pytest.fixture
def pages(site: TestSite) -> TestClient:
    return pages_of(site.folder)


@pytest.fixture
def base(site: TestSite) -> str:
    return f"/backups/nightly/{site.store('nightly').sealed_ids()[0]}/files/code"


def _of(path: str) -> str:
    return f"?of=code.bundle&node={hashlib.sha256(path.encode()).hexdigest()[:20]}"


def test_each_branch_and_tag_of_a_bundle_has_its_tree_and_files(pages: TestClient, base: str) -> None:
    assert f"{base}/tree?of=code.bundle" in pages.get(base).text
    top = pages.get(f"{base}/tree?of=code.bundle").text
    assert ">heads/<" in top
    assert ">tags/<" in top
    assert ">HEAD/<" not in top  # It is at a branch.
    heads = pages.get(f"{base}/tree{_of('heads')}").text
    assert [name for name in ("main", "feature", "endless") if f">{name}/<" not in heads] == []
    for ref, content in (("main", "second"), ("feature/one", "first")):
        assert "main.py" in pages.get(f"{base}/tree{_of(f'heads/{ref}/src')}").text
        assert pages.get(f"{base}/file{_of(f'heads/{ref}/src/main.py')}").text == f"print('{content}')\n"
    assert pages.get(f"{base}/file{_of('tags/v1/src/main.py')}").text == "print('first')\n"


def test_hostile_names_links_and_secrets_in_a_bundle_are_only_shown(pages: TestClient, base: str) -> None:
    text = pages.get(f"{base}/tree{_of('heads/main')}").text
    assert "<b>odd" not in text
    assert "link, not captured" in text
    assert "sounds secret: hidden" in text
    assert pages.get(f"{base}/file{_of('heads/main/id_rsa')}").status_code == 409
    answer = pages.get(f"{base}/file{_of('heads/main/link')}")
    assert answer.status_code == 409
    assert "root:" not in answer.text


def test_a_tree_of_a_million_files_is_listed_up_to_a_limit(pages: TestClient, base: str) -> None:
    text = pages.get(f"{base}/tree{_of('heads/endless')}").text
    assert "more files than are listed here: restore it beside" in text
    assert ">d0/<" in text
