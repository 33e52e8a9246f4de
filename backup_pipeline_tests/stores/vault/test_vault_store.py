"""Copies read as a store: what comes down, and which proofs count."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from backup_pipeline.errors import ValidationError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.proof import Proof, ProofKind
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.proof.verify import keep_proof, verification_of
from backup_pipeline.operations.sites.vaults import plans_in
from backup_pipeline.stores.objects.errors import PlaceUnreachableError
from backup_pipeline.stores.vault.clean import clean, mark
from backup_pipeline.stores.vault.encryption import OtherRecipientsError, new_identity
from backup_pipeline.stores.vault.names import CHUNKS, COPIES, PROOFS, chunk_object
from backup_pipeline.stores.vault.proofs import write_proof
from backup_pipeline.stores.vault.signing import Signer, new_private_key
from backup_pipeline.stores.vault.store import VaultStore
from backup_pipeline.stores.vault.vault import change_recipients
from backup_pipeline_tests.support.archive_sets import NOW
from backup_pipeline_tests.support.vault_sites import FILES, PLAN, VaultSite

TABLE = "tables/werkstatt/main.auftraege.parquet"


@pytest.fixture
def site(tmp_path: Path) -> VaultSite:
    return VaultSite(tmp_path).init()


def drilled(set_id: SetId, *, passed: bool = True) -> Proof:
    return Proof(
        kind=ProofKind.DRILL,
        set_id=set_id,
        plan=PLAN,
        manifest_sha256="0" * 64,
        started_at=NOW,
        finished_at=NOW,
        passed=passed,
    )


def fetched(site: VaultSite) -> list[str]:
    """Names of the objects that are read from now on."""
    names: list[str] = []
    site.place.before = lambda call, name: names.append(name) if call == "get" else None
    return names


def test_only_the_chunks_of_what_is_read_come_down(site: VaultSite) -> None:
    site.seal(0, FILES)
    store = site.copied()
    names = fetched(site)
    (set_id,) = store.ids()
    assert names == [], "names of copies say which sets there are"
    assert store.read(set_id).state is SetState.COMPLETE
    list(store.files(set_id))
    read = {name for name in names if not name.startswith(COPIES)}
    [copy] = site.access.catalog().copies()[0]
    assert read == {chunk_object(chunk.name) for chunk in copy.header.list_chunks}
    names.clear()
    with store.open(set_id, TABLE) as file:
        assert file.read() == FILES[TABLE]
    chunks = {name for name in names if name.startswith(CHUNKS)}
    everything = [name for name in site.place.objects if name.startswith(CHUNKS)]
    assert 1 <= len(chunks) <= 2 < len(everything)


def test_chunks_are_brought_down_once_where_there_is_scratch_space(site: VaultSite, tmp_path: Path) -> None:
    site.seal(0, FILES)
    site.copied()
    (tmp_path / "scratch").mkdir()
    store = VaultStore("offsite", site.reader(), PLAN, scratch=tmp_path / "scratch")
    names = fetched(site)
    (set_id,) = store.ids()
    for _ in range(3):
        for path, content in FILES.items():
            with store.open(set_id, path) as file:
                assert file.read() == content
        store._open[set_id][1]._held.clear()
    chunks = [name for name in names if name.startswith(CHUNKS)]
    assert len(chunks) == len(set(chunks))
    little = VaultStore("offsite", site.reader(), PLAN, scratch=tmp_path / "scratch", keep_bytes=0)
    with little.open(set_id, "werkstatt_db.sql") as file:
        assert file.read() == FILES["werkstatt_db.sql"]


def test_a_changed_chunk_is_an_error_and_no_bytes_of_it_are_given(site: VaultSite) -> None:
    site.seal(0, FILES)
    store = site.copied()
    largest = max(
        (name for name in site.place.objects if name.startswith(CHUNKS)), key=lambda n: len(site.place.objects[n][0])
    )
    data, at = site.place.objects[largest]
    site.place.objects[largest] = (data[:-1] + bytes([data[-1] ^ 1]), at)
    with store.open(store.ids()[0], "werkstatt_db.sql") as file, pytest.raises(ValidationError, match="changed"):
        file.read()


def test_a_damaged_copy_is_listed_as_damaged_and_hides_no_other(site: VaultSite) -> None:
    good, bad = site.seal(0), site.seal(1)
    store = site.copied()
    (name,) = (name for name in site.place.objects if name.startswith(f"{COPIES}{bad}"))
    data, at = site.place.objects[name]
    site.place.objects[name] = (data[:-9], at)
    assert {known.set_id: known.state for known in store.sets()} == {good: SetState.COMPLETE, bad: SetState.DAMAGED}
    assert "cut short" in store.read(bad).problem


def test_a_proof_that_another_wrote_or_carried_over_says_nothing(site: VaultSite) -> None:
    first, second = site.seal(0), site.seal(1)
    store = site.copied()
    store.add_proof(first, drilled(first))
    (proof,) = (name for name in site.place.objects if name.startswith(PROOFS))
    copy = next(name for name in site.place.objects if name.startswith(f"{COPIES}{second}")).removeprefix(COPIES)
    site.place.objects[f"{PROOFS}{copy}/{proof.rpartition('/')[2]}"] = site.place.objects[proof]
    stranger = Signer(new_private_key())
    write_proof(site.place, site.reader().description, copy, drilled(second), stranger)
    site.place.put(f"{PROOFS}{copy}/2026-11-21T020000Z-00000000", b"nothing of the kind")
    assert store.read(first).proven
    assert not store.read(second).proofs
    assert not store.read(second).damaged_proofs


def test_a_proof_whose_content_was_changed_voids_what_was_proven(site: VaultSite) -> None:
    set_id = site.seal(0)
    store = site.copied()
    store.add_proof(set_id, drilled(set_id))
    (name,) = (name for name in site.place.objects if name.startswith(PROOFS))
    data, at = site.place.objects[name]
    site.place.objects[name] = (data[:-1] + bytes([data[-1] ^ 1]), at)
    known = store.read(set_id)
    assert not known.proven
    assert len(known.damaged_proofs) == 1


def test_proofs_go_with_their_copy(site: VaultSite) -> None:
    set_id = site.seal(0)
    store = site.copied()
    store.add_proof(set_id, drilled(set_id))
    catalog = site.access.catalog()
    mark(catalog, catalog.copy_names(), "retention")
    site.place.now += timedelta(hours=73)
    clean(catalog, lambda: site.place.now)
    assert not [name for name in site.place.objects if name.startswith((PROOFS, COPIES))]


def test_a_network_that_breaks_off_says_nothing_against_a_set(site: VaultSite) -> None:
    set_id = site.seal(0, FILES)
    store = site.copied()
    left = 1

    def breaks_off(call: str, name: str) -> None:
        nonlocal left
        left -= call == "get" and name.startswith(CHUNKS)
        if left < 0:
            raise PlaceUnreachableError("It did not answer.", where=name)

    site.place.before = breaks_off
    with pytest.raises(PlaceUnreachableError):
        keep_proof(store, verification_of(store, set_id))
    site.place.before = lambda call, name: None
    assert not [name for name in site.place.objects if name.startswith(PROOFS)]
    again = site.copied()
    keep_proof(again, verification_of(again, set_id))
    assert [name for name in site.place.objects if name.startswith(PROOFS)]


def test_copies_of_other_recipients_are_neither_damaged_nor_in_the_way(site: VaultSite) -> None:
    old = site.seal(0)
    site.copied()
    identity, recipient = new_identity()
    site.recipients = (recipient,)
    change_recipients(site.access)
    site.identity = identity
    new = site.seal(1)
    store = site.copied()
    assert store.ids() == (old, new)
    assert [known.set_id for known in store.sets()] == [new]
    with pytest.raises(OtherRecipientsError, match="does not open"):
        store.read(old)
    assert plans_in(site.reader()) == (PLAN,)
