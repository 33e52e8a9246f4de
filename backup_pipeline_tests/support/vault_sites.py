"""What tests of vaults share: a sealed set, a vault, its identity."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from backup_pipeline.model.manifest import Draft
from backup_pipeline.model.proof import Proof
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.vault.catalog import utc_now
from backup_pipeline.stores.vault.clean import mark
from backup_pipeline.stores.vault.encryption import Encryption, new_identity
from backup_pipeline.stores.vault.machine_keys import MachineKeys
from backup_pipeline.stores.vault.plan_store import KEPT_BELOW, PlanVault, VaultPlanStore
from backup_pipeline.stores.vault.proofs import write_proof
from backup_pipeline.stores.vault.sending import WriterOptions
from backup_pipeline.stores.vault.store import VaultStore
from backup_pipeline.stores.vault.vault import VaultAccess, VaultReader, initialise, open_writer
from backup_pipeline.stores.vault.write_copy import CopyResult
from backup_pipeline_tests.support.archive_sets import NOW
from backup_pipeline_tests.support.memory_place import MemoryPlace
from backup_pipeline_tests.support.sealed_sets import manifest_of, write_artefact

SETTINGS = "plans:\n  nightly: {sources: [werkstatt]}\n"
PLAN = "nightly"
FILES = {
    "werkstatt_db.sql": random.Random(1).randbytes(5_000_000),
    "tables/werkstatt/main.auftraege.parquet": b"Kunde Meier, Auftrag 076329\n" * 400,
    "empty.txt": b"",
} | {f"many/{number:03}.txt": f"row {number}".encode() for number in range(200)}


def identity_in(folder: Path) -> tuple[Path, str]:
    """Write a new identity into a file of a folder, as settings name it; return the file and its recipient."""
    identity, recipient = new_identity()
    file = folder / "identity.txt"
    file.write_text(identity + "\n")
    file.chmod(0o600)
    return file, recipient


class VaultSite:
    """A store with a plan's sets, and a vault for it."""

    def __init__(self, folder: Path, *, encryption: Encryption = "age", place: ObjectPlace | None = None) -> None:
        self.folder = folder
        self.store = LocalStore(folder / "store", PLAN)
        self.place: Any = place or MemoryPlace()
        self.clock = utc_now if place else lambda: self.place.now
        self.identity, self.recipient = new_identity()
        self.recipients: tuple[str, ...] = () if encryption == "none" else (self.recipient,)
        self.encryption: Encryption = encryption
        self.keys = MachineKeys(folder / "keys")

    @property
    def access(self) -> VaultAccess:
        return VaultAccess("offsite", self.place, self.recipients, self.encryption, (), self.keys)

    def init(self) -> VaultSite:
        initialise(self.access)
        return self

    def seal(self, number: int = 0, files: dict[str, bytes] | None = None) -> SetId:
        moment = NOW + timedelta(seconds=number)
        writer = self.store.begin(
            Draft(set_id=set_id_at(moment), plan=PLAN, root_run_id="r", sources=("s",), started_at=moment)
        )
        write_artefact(writer, FILES if files is None else files, "s", "files")
        writer.seal(manifest_of(writer))
        return writer.draft.set_id

    def copy(self, set_id: SetId, **options: object) -> CopyResult:
        made = WriterOptions(clock=self.clock, **options)  # type: ignore[arg-type]
        return open_writer(self.access, made).copy(self.store, PLAN, set_id, settings=SETTINGS)

    def reader(self) -> VaultReader:
        return VaultReader(self.place, "" if self.encryption == "none" else self.identity, self.access.trusted())

    def copied(self) -> VaultStore:
        """Copy every set, and return the copies as a store."""
        for set_id in self.store.ids():
            self.copy(set_id)
        reader = self.reader()

        def keep(copy: str, proof: Proof) -> None:
            signer = self.keys.signer()
            assert signer is not None
            write_proof(self.place, reader.description, copy, proof, signer)

        return VaultStore("offsite", reader, PLAN, keep_proof=keep)

    def plan_store(
        self, folder: str = "plan", kept_below: int = KEPT_BELOW, lock_until: datetime | None = None
    ) -> VaultPlanStore:
        """Return the store of a plan that has nothing but this vault."""

        def mark_copy(set_id: SetId) -> None:
            catalog = self.access.catalog()
            mark(catalog, [name for name in catalog.copy_names() if name.startswith(set_id)])

        vault = PlanVault(
            name="offsite",
            open_writer=lambda notes: open_writer(
                self.access, WriterOptions(clock=self.clock, lock_until=lock_until), notes
            ),
            open_copies=lambda: VaultStore("offsite", self.reader(), PLAN),
            mark=mark_copy,
            settings=lambda: SETTINGS,
            kept_below=kept_below,
        )
        return VaultPlanStore(self.folder / folder, PLAN, vault, file_mode=0o600, folder_mode=0o700)

    def fetch(self, name: str, folder: Path) -> Path:
        reader = self.reader()
        return reader.reader(reader.catalog.copy(name)).fetch(folder)

    def write_out(self, folder: Path) -> Path:
        """Write the vault's objects as files, as a bucket is downloaded."""
        for name, (data, _) in self.place.objects.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder
