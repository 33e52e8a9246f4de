"""A drill of a whole set: restored from its files into a scratch server, compared, recorded, removed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.artefacts.drilling import DrillOptions
from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.model.proof import ProofKind, ProofOutcome
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.proof import drill as operation
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.postgres.compare.comparison import Expectation
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.retention import problem_of
from backup_pipeline.sources.postgres import drill as database_drill
from backup_pipeline_tests.support.postgres_restore import NASTY, run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn, write_storage

SETTINGS = """
store: backups
sources:
  nasty: {kind: postgres, dsn_env: NASTY_URL, tables: {include: ["app.*"]}, dump_format: FORMAT}
  storage: {kind: folder, path: storage}
plans:
  nightly: {sources: [nasty, storage]}
"""


@pytest.fixture(scope="module", params=["plain", pytest.param("custom", marks=pytest.mark.story)])
def made(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    server: EmbeddedServer,
    template: Callable[[str, str], str],
) -> tuple[TestSite, SetId]:
    site = TestSite(tmp_path_factory.mktemp("drill"))
    site.variables["NASTY_URL"] = dsn(server.target(template("nasty", NASTY)))
    site.variables["DRILL_DATABASE_URL"] = dsn(server.target())
    write_storage(site.folder / "storage")
    site.write(SETTINGS.replace("FORMAT", request.param))
    return site, sealed_set(site.site, "nightly")


def damaging(statements: str) -> DrillOptions:
    """Return options of a drill that damages each restored database before it is compared."""
    return DrillOptions(before_comparison=lambda target: run(target, statements))


def test_a_good_set_is_proven_and_leaves_nothing_behind(
    made: tuple[TestSite, SetId], server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, set_id = made
    # Of its own: drills of other tests run beside this one.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = server_facts(server.target())
    proof = drill_set(site.site, "nightly", set_id)
    assert proof.findings == ()
    assert proof.numbers["rto_seconds"] > 0
    assert proof.numbers["rpo_seconds"] > 0
    assert proof.numbers["tables"] > 15
    assert site.store("nightly").read(set_id).proven
    after = server_facts(server.target())
    assert (after.databases, after.roles) == (before.databases, before.roles)
    assert not list(Path(tempfile.gettempdir()).glob("backup-pipeline-drill-*"))


def test_a_copy_with_one_row_too_many_is_no_proof_and_the_export_shows_it_too(
    made: tuple[TestSite, SetId],
) -> None:
    site, set_id = made
    damage = "insert into app.no_key values (9, null)"
    proof = drill_set(site.site, "nightly", set_id, options=damaging(damage))
    reported = [f"{finding.subject}: {finding.problem}" for finding in proof.findings]
    assert not proof.passed
    assert not site.store("nightly").read(set_id).proven
    assert any("table app.no_key: 5 rows, 4 in the backup" in line for line in reported), reported
    assert any("no_key.parquet: holds 4 rows, the restored table 5" in line for line in reported), reported


def test_an_export_with_another_value_is_found(made: tuple[TestSite, SetId]) -> None:
    site, set_id = made
    damage = "alter table app.customers disable trigger user; update app.customers set name = 'Hanna' where id = 1"
    proof = drill_set(site.site, "nightly", set_id, options=damaging(damage))
    reported = {finding.subject: finding.problem for finding in proof.findings}
    assert any("customers.parquet" in subject and "other values" in reported[subject] for subject in reported), reported


@pytest.mark.parametrize("document", ["nasty_roles.json", "nasty_catalog.json"])
def test_a_damaged_document_is_a_finding_and_the_other_sources_are_drilled(
    made: tuple[TestSite, SetId], document: str
) -> None:
    site, set_id = made
    path = site.site.store_folder("nightly") / set_id / document
    whole = path.read_bytes()
    try:
        path.write_bytes(whole.replace(b'"', b"'", 1))
        proof = drill_set(site.site, "nightly", set_id)
    finally:
        path.write_bytes(whole)
    assert not proof.passed
    assert [f.subject for f in proof.findings if f.subject.startswith("nasty: ")] == [f"nasty: {document}"]
    assert proof.numbers["files"] > 0


def test_a_missing_file_is_a_finding_and_the_other_sources_are_drilled(made: tuple[TestSite, SetId]) -> None:
    site, set_id = made
    folder = site.site.store_folder("nightly") / set_id
    for name in ("nasty_roles.json", "nasty_catalog.json", *(p.name for p in folder.glob("nasty_db.*"))):
        away = (folder / name).rename(folder.parent / f".away-{name}")
        try:
            proof = drill_set(site.site, "nightly", set_id)
        finally:
            away.rename(folder / name)
        assert not proof.passed
        assert any(f.subject.startswith("nasty: ") for f in proof.findings), proof.findings
        assert proof.numbers["files"] > 0


def test_without_a_server_of_its_own_an_embedded_one_of_a_fitting_version_is_used(
    made: tuple[TestSite, SetId], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, set_id = made
    variables = dict(site.variables)
    # Short, since a socket's path has at most 107 characters, and open to the server's user.
    scratch = Path(tempfile.mkdtemp(prefix="bp-"))
    scratch.chmod(0o711)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    del site.variables["DRILL_DATABASE_URL"]
    site.write_env()
    try:
        proof = drill_set(site.site, "nightly", set_id)
    finally:
        site.variables = variables
        site.write_env()
    assert proof.findings == ()
    scratch.rmdir()  # which only an empty folder allows


def test_too_little_disk_is_told_before_anything_begins(
    made: tuple[TestSite, SetId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation, "_SPACE_AT_LEAST", 1 << 60)
    site, set_id = made
    with pytest.raises(StoreError, match="scratch area"):
        drill_set(site.site, "nightly", set_id)


def test_a_set_that_was_never_sealed_is_refused(made: tuple[TestSite, SetId]) -> None:
    site, set_id = made
    manifest = site.site.store_folder("nightly") / set_id / "manifest.json"
    data = manifest.read_bytes()
    manifest.unlink()
    try:
        with pytest.raises(RefusedError, match="sealed"):
            drill_set(site.site, "nightly", set_id)
    finally:
        manifest.write_bytes(data)


def test_a_set_that_needs_what_this_machine_lacks_is_not_drillable_here_and_not_bad(
    made: tuple[TestSite, SetId], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, set_id = made
    earlier = site.store("nightly").read(set_id)
    recorded = database_drill.expectation_of

    def needing(*arguments: Any) -> Expectation:
        known = recorded(*arguments)
        assert known.roles is not None
        return replace(known, roles=known.roles.model_copy(update={"extensions": {"vectorised_dreams": "1.0"}}))

    monkeypatch.setattr(database_drill, "expectation_of", needing)
    proof = drill_set(site.site, "nightly", set_id)
    assert (proof.passed, proof.findings) == (False, ())
    assert proof.outcome is ProofOutcome.NOT_HERE
    assert [one.subject for one in proof.missing_here] == ["nasty: extension vectorised_dreams"]
    assert "apt-get install" in proof.missing_here[0].remedy
    known = site.store("nightly").read(set_id)
    assert known.proven == earlier.proven, "an earlier proof still counts"
    assert known.last_proof(ProofKind.DRILL) == earlier.last_proof(ProofKind.DRILL)
    assert problem_of(known) == problem_of(earlier), "clean-up does not call it bad"
    listed = site.run("list")
    assert "could not be drilled here" in listed.text
    assert "Check the disk" not in site.run("status").text


def test_a_source_whose_dump_was_changed_is_never_loaded(made: tuple[TestSite, SetId]) -> None:
    site, set_id = made
    (path,) = (site.site.store_folder("nightly") / set_id).glob("nasty_db.*")
    whole = path.read_bytes()
    loaded: list[PostgresTarget] = []
    try:
        path.write_bytes(whole[:-1] + b"?")
        proof = drill_set(site.site, "nightly", set_id, options=DrillOptions(before_comparison=loaded.append))
    finally:
        path.write_bytes(whole)
    assert loaded == []
    assert proof.outcome is ProofOutcome.FAILED
    assert "tables" not in proof.numbers
    assert proof.numbers["files"] > 0, "the other source is drilled"
