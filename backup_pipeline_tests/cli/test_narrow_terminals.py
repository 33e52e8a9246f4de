"""In a terminal of 80 columns nothing that is to be copied is cut, and something moves before the first second ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline_tests.support.invented_sets import add_proof, make_set
from backup_pipeline_tests.support.sites import TestSite
from backup_pipeline_tests.support.terminals import Screen, in_terminal

LONG = "werkstattverwaltung_aller_niederlassungen_und_ihrer_archive"
PLANS = 200
SITE = "store: ./backups\nsources: {files: {kind: folder, path: files}}\nplans:\n" + "".join(
    f"  {name}: {{sources: [files]}}\n" for name in ["nightly", LONG, *(f"plan_{n}" for n in range(PLANS - 2))]
)


@pytest.fixture
def site(tmp_path: Path) -> TestSite:
    made = TestSite(tmp_path)
    made.write(SITE)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "Größe – 表.txt").write_text("content\n", "utf-8")
    return made


def shown(site: TestSite, *arguments: str, width: int = 80) -> Screen:
    return in_terminal([*arguments], site.folder, site.environment(), width)


def test_list_keeps_whole_names_of_sets_and_proofs_in_80_columns(site: TestSite) -> None:
    store = open_store(site.site, LONG)
    now = datetime.now(UTC).replace(microsecond=0)
    plain = make_set(store, now - timedelta(days=400), size=999_990_000 // 1000, rows=3_002_500, tables=2)
    odd = make_set(store, now - timedelta(days=1), purpose=Purpose.EMERGENCY, partial=True)
    add_proof(store, plain, ProofKind.DRILL, now)
    listed = shown(site, "list", LONG)
    assert listed.widest <= 80
    for one in (plain, odd):
        assert any(line.startswith(f"{one}  complete") for line in listed.lines), listed.text
    assert "…" not in listed.text
    assert next(line for line in listed.lines if line.startswith(plain)).endswith("yes")
    assert "checks" not in listed.text
    assert "checks" in shown(site, "list", LONG, width=140).text


def test_show_breaks_long_names_of_artefacts_and_cuts_none(site: TestSite) -> None:
    store = open_store(site.site, LONG)
    made = make_set(store, datetime.now(UTC) - timedelta(hours=1), rows=12_345_678)
    text = shown(site, "show", LONG)
    assert text.lines[0] == f"{LONG}/{made}"
    assert text.widest <= 80
    assert "…" not in text.text


def test_status_of_200_plans_names_the_worst_last_and_ends_with_six(site: TestSite) -> None:
    good = make_set(open_store(site.site, "nightly"), datetime.now(UTC) - timedelta(hours=1))
    add_proof(open_store(site.site, "nightly"), good, ProofKind.DRILL, datetime.now(UTC))
    found = shown(site, "status")
    assert found.code == 6
    assert found.lines[:2] == ["nightly  good", f"  {good}, 60 min ago; proven {good}"]
    assert found.lines[-2] == f"{PLANS} plans: 1 good, {PLANS - 1} failing"
    assert shown(site, "status", "nightly").code == 0


def test_lines_of_status_are_filled_below_each_other_and_commands_whole(site: TestSite) -> None:
    found = shown(site, "status", LONG)
    command = f"`backup-pipeline backup {LONG}`"
    assert any(command in line for line in found.lines), found.text
    # Prose is filled by us, each line below its first; only a command may be longer, for the terminal to break.
    assert [line for line in found.lines if len(line) > 80 and "`" not in line] == []
    assert [line for line in found.lines[1:] if line and not line.startswith("  ")] == []


@pytest.mark.story
def test_a_backup_in_a_terminal_has_one_line_per_source_and_whole_paths(site: TestSite) -> None:
    done = shown(site, "backup", LONG)
    assert done.code == 0, done.text
    assert sum("files" in line for line in done.lines) == 1
    [made] = open_store(site.site, LONG).ids()
    path = str(site.site.store_folder(LONG) / made)
    # What a terminal breaks by itself is copied as one line; a program's own end of line is not.
    assert path in done.raw
    assert f"{LONG}/{made}" in done.raw
    assert "files.tarball" in shown(site, "backup", LONG, "--verbose").text


def test_a_backup_shows_that_it_began_before_anything_is_loaded(site: TestSite) -> None:
    done = shown(site, "backup", "nightly")
    assert done.raw.index("starting") < done.raw.index("backup nightly/")
    plain = site.start("backup", "nightly")
    _, errors = plain.communicate()
    lines = errors.decode().splitlines()
    assert "starting" not in errors.decode()
    assert [line.split(" ")[0] for line in lines if line.startswith(("backup", "["))] == ["backup", "[1/1]"]
