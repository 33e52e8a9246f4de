"""A file that was deleted is found by its name in every set that has it, here and in a vault, and comes back."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from starlette.testclient import TestClient

from backup_pipeline.errors import RefusedError
from backup_pipeline.operations.data.find import MOST, find_files
from backup_pipeline.web.front.context import Front
from backup_pipeline_tests.support.archive_sets import git, repository
from backup_pipeline_tests.support.front_pages import guarded_pages, pages_of, served
from backup_pipeline_tests.support.sites import TestSite
from backup_pipeline_tests.support.vault_sites import identity_in
from backup_pipeline_tests.web.front.conftest import picture

pytestmark = pytest.mark.takes(seconds=3, together="finding files")

LETTER = "letters/An Müller.txt"
ODD = "odd\nname [1]'s.txt"
_SETTINGS = """
store: backups
sources:
  files: {kind: folder, path: files}
  code: {kind: repository, path: code}
plans:
  nightly: {sources: [files, code], wait_seconds: 0.5, copies: [{to: offsite}]}
  other: {sources: [code]}
vaults:
  offsite: {url: "file://VAULT", recipients: [RECIPIENT]}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TestSite:
    """Three sets: the first is only in the vault; the second has another letter, the third none."""
    made = TestSite(tmp_path_factory.mktemp("found"))
    letter = made.folder / "files" / LETTER
    letter.parent.mkdir(parents=True)
    (made.folder / "files" / "passwords.txt").write_text("hunter2")
    (made.folder / "files" / ODD).write_text("odd")
    code = repository(made.folder / "code")
    (made.folder / "vault").mkdir()
    identity, recipient = identity_in(made.folder)
    made.variables = {"VAULT_IDENTITY_FILE": str(identity)}
    made.write(_SETTINGS.replace("VAULT", str(made.folder / "vault")).replace("RECIPIENT", recipient))
    assert made.run("vault", "init", "offsite").code == 0
    for content in ("first", "second", ""):
        if content:
            letter.write_text(content)
        else:
            letter.unlink()
            git(code, "rm", "-q", "tool.sh")
            git(code, "commit", "-q", "-m", "Without the tool")
        done = made.run("backup", "nightly")
        assert done.code in (0, 11), done.text
        time.sleep(1.1)
    shutil.rmtree(made.site.store_folder("nightly") / made.store("nightly").sealed_ids()[0])
    return made


@pytest.fixture
def pages(site: TestSite) -> TestClient:
    return pages_of(site.folder)


def _found(site: TestSite, *arguments: str) -> Any:
    return json.loads(site.run("find", *arguments, "--json").out)


def test_a_deleted_file_is_found_with_its_versions_here_and_in_a_vault(site: TestSite) -> None:
    older, newest = site.store("nightly").sealed_ids()
    found = _found(site, "mÜller")
    [file] = found["files"]
    assert (file["path"], file["source"], file["gone_in"]) == (LETTER, "files", newest)
    second, first = file["versions"]
    assert second["sets"] == [f"nightly/{older}"]
    assert first["sets"][0].startswith("offsite:nightly/")
    assert (second["size"], first["size"]) == (6, 5)
    assert second["digest"].startswith("sha256 16367aacb67a4a017c8da8ab95682ccb")
    assert found["searched_sets"] == 3
    assert found["not_searched"] == []


def test_the_command_that_is_shown_brings_the_file_back(site: TestSite) -> None:
    [file] = _found(site, LETTER)["files"]
    program, *arguments = shlex.split(file["versions"][0]["command"])
    assert program == "backup-pipeline"
    planned = site.run_alone(*arguments)
    assert planned.code == 0, planned.text
    assert LETTER in planned.text


def test_a_file_of_an_archive_or_bundle_is_saved_by_the_command_shown(site: TestSite, tmp_path: Any) -> None:
    older, newest = site.store("nightly").sealed_ids()
    files = {file["path"]: file for file in _found(site, "tool.sh")["files"]}
    assert {"tool.sh", "heads/main/tool.sh", "heads/feature/tool.sh", "tags/v1/tool.sh"} == set(files)
    assert files["tool.sh"]["gone_in"] == files["heads/main/tool.sh"]["gone_in"] == newest
    assert files["tags/v1/tool.sh"]["gone_in"] is None
    assert files["tool.sh"]["versions"][0]["digest"].startswith("crc32 ")
    assert files["tags/v1/tool.sh"]["versions"][0]["digest"].startswith("git ")
    for path in ("tool.sh", "heads/main/tool.sh"):
        assert f"--set nightly/{older} --save tool.sh" in files[path]["versions"][0]["command"]
        target = tmp_path / path.replace("/", "-")
        assert site.run("find", "--set", f"nightly/{older}", "--save", str(target), path).code == 0
        assert target.read_text() == "#!/bin/sh\necho ok\n"
        again = site.run("find", "--set", f"nightly/{older}", "--save", str(target), path)
        assert again.code == 8
        assert "something already" in again.err
    assert "code.archive: file tool.sh read by the shell of" in (
        site.site.store_folder("nightly") / "access_log.txt"
    ).read_text("utf-8")


def test_one_of_several_files_is_not_saved_by_chance(site: TestSite, tmp_path: Any) -> None:
    done = site.run("find", "tool", "--save", str(tmp_path / "x"))
    assert done.code == 8
    assert "4 files are meant" in done.err
    assert not (tmp_path / "x").exists()


def test_a_name_that_is_nowhere_ends_with_its_own_code(site: TestSite) -> None:
    done = site.run("find", "letters")
    assert done.code == 7
    assert "A folder's name needs its slash" in done.out
    assert _found(site, "letters/")["files"]
    assert site.run("find", " ").code == 2


def test_lines_fit_80_columns_but_for_commands_that_are_copied(site: TestSite) -> None:
    lines = site.run("find", "letters/", "tool").out.splitlines()
    assert [line for line in lines if len(line) > 80 and "backup-pipeline" not in line] == []
    assert any(line.startswith("  gone: not in ") for line in lines)


def test_names_with_control_signs_are_shown_as_text_and_still_saved(site: TestSite, tmp_path: Any) -> None:
    [file] = _found(site, "odd?name*", "--plan", "nightly")["files"][:1]
    assert "odd\\nname [1]'s.txt" in site.run("find", "odd").out
    words = shlex.split(file["versions"][0]["command"])[1:]
    words[words.index("--save") + 1] = str(tmp_path / "odd")
    assert site.run(*words).code == 0
    assert (tmp_path / "odd").read_text() == "odd"


def test_copies_that_no_identity_opens_are_named_as_not_searched(site: TestSite, monkeypatch: Any) -> None:
    (site.folder / ".env").rename(site.folder / "env")
    try:
        found = _found(site, LETTER)
    finally:
        (site.folder / "env").rename(site.folder / ".env")
    assert found["searched_sets"] == 2
    assert "1 set of nightly: only a copy in offsite is left" in found["not_searched"][0]


def test_a_damaged_listing_is_named_and_the_other_sets_are_searched(site: TestSite) -> None:
    newest = site.store("nightly").sealed_ids()[-1]
    [listing] = [
        site.site.store_folder("nightly") / newest / record.files[1].path
        for record in site.store("nightly").read(newest).records
        if record.name == "files.tarball"
    ]
    before = listing.read_bytes()
    listing.write_bytes(b"garbage")
    try:
        found = _found(site, LETTER)
    finally:
        listing.write_bytes(before)
    assert newest in found["not_searched"][0]
    assert len(found["files"][0]["versions"]) == 2


def test_more_files_than_a_person_reads_are_refused_with_a_remedy(tmp_path: Any) -> None:
    made = TestSite(tmp_path)
    (tmp_path / "files").mkdir()
    for number in range(MOST + 1):
        (tmp_path / "files" / f"{number}.txt").touch()
    made.write("store: backups\nsources: {files: {kind: folder, path: files}}\nplans: {nightly: {sources: [files]}}\n")
    assert made.run("backup").code == 0
    done = made.run("find", "*")
    assert done.code == 8
    assert "part of the path with a slash" in done.err
    with pytest.raises(RefusedError, match="More than"):
        find_files(made.site, ["nightly"], lambda path: True)
    assert "More than" in pages_of(tmp_path).get("/backups/find?name=*").text


def test_a_search_stops_after_its_time_and_says_what_is_left(site: TestSite) -> None:
    found = find_files(site.site, ["nightly", "other"], lambda path: path == LETTER, seconds=0)
    assert (found.searched, found.left) == (1, 2)
    assert found.files == ()


def test_the_page_finds_files_hides_secret_ones_and_escapes_names(site: TestSite, pages: TestClient) -> None:
    text = pages.get("/backups/find?name=pass").text
    assert "passwords.txt" in text
    assert "sounds secret: hidden" in text
    assert "&lt;img src=x&gt;" in pages.get("/backups/find?name=<img src=x>").text
    assert pages.get("/backups/find?name=x&plan=none").status_code == 404
    assert "odd\\nname [1]&#39;s.txt" in pages.get("/backups/find?name=odd").text


def test_every_version_on_the_page_is_downloaded_as_it_was(site: TestSite, pages: TestClient) -> None:
    text = pages.get("/backups/find?name=m%C3%BCller&plan=nightly").text
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+/file\?[^"]+)"', text)]
    assert [pages.get(link).text for link in links] == ["second", "first"]


def test_from_home_a_deleted_file_is_three_clicks_away(site: TestSite, page: Page) -> None:
    with served(guarded_pages(Front(settings=site.folder / "backup.yaml"))) as address:
        page.goto(f"{address}/backups")
        page.get_by_label("A deleted file: part of its name").fill("müller")
        page.get_by_role("button", name="Find it in the backups").click()
        expect(page.get_by_role("heading", name=LETTER)).to_be_visible()
        expect(page.get_by_text("does not have it any more")).to_be_visible()
        picture(page, "find-1280")
        with page.expect_download() as given:
            page.get_by_role("link", name="Download").first.click()
        assert given.value.suggested_filename == "An Müller.txt"
        page.get_by_role("link", name="Restore…").first.click()
        expect(page.get_by_label("Bring back single files or folders")).to_be_checked()
        expect(page.get_by_text(LETTER).first).to_be_visible()
