"""Names of sources may hold `-`: from the settings to the set, its verification and Dagster's assets."""

from __future__ import annotations

from pathlib import Path

from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.names import source_key
from backup_pipeline_tests.support.sites import TestSite

SETTINGS = """
sources:
  my-files: {kind: folder, path: files}
  their_files: {kind: folder, path: files, after: [my-files]}
  work-shop: {kind: orders, database: w.db, archive: Archiv}
plans:
  nightly: {sources: [my-files, their_files]}
  workshop: {sources: [work-shop]}
"""


def test_sources_with_a_hyphen_are_captured_verified_and_shown_by_source(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "note.txt").write_text("kept")
    site.write(SETTINGS)
    definitions = build_definitions(site.site)
    graph = definitions.resolve_asset_graph()
    assert {source_key("nightly", "my-files"), source_key("nightly", "their_files")} <= graph.get_all_asset_keys()
    assert definitions.resolve_job_def("nightly_backup")

    done = site.run("backup", "nightly")
    assert done.code == 0, done.text
    lines = [line.split() for line in done.out.splitlines()]
    # A line for each source, none for its artefacts; those are told on request.
    assert [line[0] for line in lines if line and line[0].endswith("files")] == ["my-files", "their_files"]
    assert "my-files.tarball" in site.run("show", "nightly/latest").out
    assert site.run("verify", "nightly/latest").code == 0
    more = site.run("backup", "nightly", "--verbose")
    assert "my-files.tarball" in more.out


def test_names_that_dagster_cannot_tell_apart_are_refused_by_line(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    site.write(SETTINGS.replace("their_files", "my_files"))
    reported = site.run("list")
    assert reported.code != 0
    assert "my_files: differs from my-files only by - and _" in reported.text
