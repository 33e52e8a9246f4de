"""Verification finds a missing, empty, cut, changed or added file, wherever in a set it lies, and names it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.proof import Proof
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.proof.verify import verify_all, verify_set
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.postgres_restore import sealed_set
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn, write_storage

SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL, tables: {formats: [parquet, jsonl, json, csv]}}
  storage: {kind: folder, path: storage}
plans:
  nightly: {sources: [shop, storage]}
"""


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, server: EmbeddedServer, template: Callable[[str, str], str]
) -> tuple[TestSite, SetId]:
    site = TestSite(tmp_path_factory.mktemp("verify"))
    site.variables["SHOP_URL"] = dsn(server.target(template("verified_shop", SHOP)))
    write_storage(site.folder / "storage")
    site.write(SETTINGS)
    return site, sealed_set(site.site, "nightly")


@pytest.fixture
def sealed(made: tuple[TestSite, SetId]) -> Iterator[tuple[TestSite, SetId, Path]]:
    """The set, and a copy that is put back after each test."""
    site, set_id = made
    folder = site.site.store_folder("nightly") / set_id
    copy = folder.with_name("kept")
    shutil.copytree(folder, copy)
    yield site, set_id, folder
    shutil.rmtree(folder)
    copy.rename(folder)


def verified(sealed: tuple[TestSite, SetId, Path]) -> Proof:
    return verify_set(sealed[0].site, "nightly", sealed[1])


def named(proof: Proof) -> dict[str, str]:
    found: dict[str, str] = {}
    for finding in proof.findings:
        found[finding.subject] = f"{found.get(finding.subject, '')} {finding.problem}"
    return found


def test_a_good_set_is_verified_and_says_so(sealed: tuple[TestSite, SetId, Path]) -> None:
    proof = verified(sealed)
    assert (proof.passed, proof.findings) == (True, ())
    assert proof.numbers["files"] >= 9
    assert sealed[0].store("nightly").read(sealed[1]).verified


@pytest.mark.parametrize(
    ("path", "damage", "problem"),
    [
        ("shop_db.sql.gz", lambda place: place.unlink(), "is missing"),
        ("shop_db.sql.gz", lambda place: place.write_bytes(b""), "is empty"),
        ("storage_buckets.tar.gz", lambda place: place.write_bytes(place.read_bytes()[:-7]), "cut short"),
        ("shop_roles.json", lambda place: place.write_bytes(place.read_bytes() + b"\n"), "has grown"),
        ("stranger.txt", lambda place: place.write_bytes(b"x"), "is not in the manifest"),
        ("tables/shop/stranger.parquet", lambda place: place.write_bytes(b"x"), "is not in the manifest"),
        ("records/stranger.json", lambda place: place.write_bytes(b"{}"), "added after sealing"),
        ("records/shop.dump.json", lambda place: place.unlink(), "is missing"),
        ("records/sealed.sha256", lambda place: place.unlink(), "is missing"),
    ],
)
def test_each_kind_of_damage_is_named(
    sealed: tuple[TestSite, SetId, Path], path: str, damage: Callable[[Path], None], problem: str
) -> None:
    place = sealed[2] / path
    if not place.exists() and "stranger" not in path:
        place = next(sealed[2].rglob(path.replace("storage_buckets", "storage*")))
    damage(place)
    found = named(verified(sealed))
    assert problem in found[place.relative_to(sealed[2]).as_posix()]


def test_one_flipped_bit_anywhere_is_found_and_its_file_named(sealed: tuple[TestSite, SetId, Path]) -> None:
    chance = random.Random(4)
    for place in sorted(path for path in sealed[2].rglob("*") if path.is_file() and "proofs" not in path.parts):
        whole = place.read_bytes()
        name = place.relative_to(sealed[2]).as_posix()
        for position in {0, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(2))}:
            flipped = bytearray(whole)
            flipped[position] ^= 1 << chance.randrange(8)
            place.write_bytes(flipped)
            from backup_pipeline.operations.proof.verify import verification_of

            proof = verification_of(LocalStore(sealed[2].parent, "nightly"), sealed[1])
            assert not proof.passed, f"{name} at {position}"
            reported = " ".join(f"{finding.subject} {finding.problem}" for finding in proof.findings)
            assert name in reported, reported
        place.write_bytes(whole)


def test_a_changed_proof_is_named_and_proves_nothing(sealed: tuple[TestSite, SetId, Path]) -> None:
    site, set_id, folder = sealed
    (folder / "stranger.txt").write_text("x")
    assert not verified(sealed).passed
    (place,) = (folder / "proofs").iterdir()
    whole = place.read_bytes()
    assert b'"passed": false' in whole
    place.write_bytes(whole.replace(b'"passed": false', b'"passed": true'))
    known = site.store("nightly").read(set_id)
    assert (known.verified, known.proofs, known.damaged_proofs) == (False, (), (place.name,))
    (folder / "stranger.txt").unlink()
    found = named(verified(sealed))
    assert list(found) == [f"proofs/{place.name}"]
    assert not site.store("nightly").read(set_id).verified
    place.unlink()
    assert verified(sealed).passed
    assert site.store("nightly").read(set_id).verified


def test_one_flipped_bit_anywhere_in_a_proof_is_found(sealed: tuple[TestSite, SetId, Path]) -> None:
    from backup_pipeline.model.proof import read_proof

    verified(sealed)
    (place,) = (sealed[2] / "proofs").iterdir()
    whole = place.read_bytes()
    assert read_proof(whole, sealed[1]).passed
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        with pytest.raises(ValueError):
            read_proof(bytes(flipped), sealed[1])


def test_what_a_damaged_proof_hides_is_not_outvoted_by_an_older_one(sealed: tuple[TestSite, SetId, Path]) -> None:
    site, set_id, folder = sealed
    assert verified(sealed).passed
    (folder / "stranger.txt").write_text("x")
    verified(sealed)
    newest = max((folder / "proofs").iterdir())
    newest.write_bytes(newest.read_bytes()[:-40])
    assert not site.store("nightly").read(set_id).verified


@pytest.mark.parametrize("name", ["manifest.json", "records/shop.done.json", "shop_db.sql.gz", "proofs"])
def test_a_file_that_became_a_link_is_named_even_where_its_content_is_the_same(
    sealed: tuple[TestSite, SetId, Path], name: str, tmp_path: Path
) -> None:
    assert verified(sealed).passed
    path = sealed[2] / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "is a link" in named(verified(sealed))[name]


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "records/shop.done.json",
        "records/shop.dump.json",
        "records/set.json",
        "records/sealed.sha256",
        "shop_db.sql.gz",
        "proofs/one.json",
    ],
)
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting_and_is_named(
    sealed: tuple[TestSite, SetId, Path], name: str
) -> None:
    assert verified(sealed).passed
    place = sealed[2] / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    known = sealed[0].store("nightly").read(sealed[1])
    if known.manifest is not None:
        assert "no ordinary file" in named(verified(sealed))[name]
    else:
        assert (known.state, name) == (SetState.DAMAGED, "manifest.json")
        assert "no ordinary file" in known.problem


def test_a_result_that_cannot_be_kept_is_told_all_the_same(sealed: tuple[TestSite, SetId, Path]) -> None:
    shutil.rmtree(sealed[2] / "proofs", ignore_errors=True)
    (sealed[2] / "proofs").write_bytes(b"in the way")
    with pytest.raises(StoreError, match=r"cannot be kept with the set: .* It was: proofs: is not in the manifest"):
        verified(sealed)


def test_a_proof_nested_deeper_than_any_reader_goes_is_named(sealed: tuple[TestSite, SetId, Path]) -> None:
    assert verified(sealed).passed
    (proof,) = (sealed[2] / "proofs").glob("*.json")
    proof.write_bytes(b"[" * 100_000)
    assert "is not what a verification" in named(verified(sealed))[f"proofs/{proof.name}"]


def test_a_proof_without_a_digest_of_its_own_and_one_of_another_set_are_told_apart(
    sealed: tuple[TestSite, SetId, Path],
) -> None:
    site, set_id, folder = sealed
    proof = verified(sealed)
    (place,) = (folder / "proofs").iterdir()
    place.write_text(proof.model_dump_json(indent=1, exclude={"content_sha256"}))
    assert site.store("nightly").read(set_id).verified, "results of earlier releases count"
    place.write_text(proof.model_copy(update={"set_id": "2020-01-01T000000Z"}).model_dump_json())
    assert not site.store("nightly").read(set_id).verified


def test_a_manifest_that_agrees_with_nothing_else_is_named_even_without_its_checksum(
    sealed: tuple[TestSite, SetId, Path],
) -> None:
    (sealed[2] / "records" / "sealed.sha256").unlink()
    manifest = sealed[2] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows": 300', '"rows": 301', 1))
    assert "says something else" in named(verified(sealed))["manifest.json"]


def test_all_sets_are_verified_and_incomplete_ones_left_out(sealed: tuple[TestSite, SetId, Path]) -> None:
    unsealed = sealed[2].with_name("2020-01-01T000000Z")
    shutil.copytree(sealed[2], unsealed)
    (unsealed / "manifest.json").unlink()
    try:
        assert [proof.set_id for proof in verify_all(sealed[0].site)] == [sealed[1]]
        with pytest.raises(RefusedError, match="never sealed"):
            verify_set(sealed[0].site, "nightly", SetId(unsealed.name))
    finally:
        shutil.rmtree(unsealed)
