"""What a further copy adds to a vault in a folder: next to nothing where nothing changed, little where rows came.

The vault here is cut finer than usual, at 64 KiB, as the sets are smaller than usual; counted are the bytes of new
chunks.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.folder.capture import capture_folder
from backup_pipeline.sources.folder.settings import FolderSource
from backup_pipeline.sources.repository.capture import capture_repository
from backup_pipeline.sources.repository.settings import RepositorySource
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.stores.objects.folder import FolderPlace
from backup_pipeline.stores.vault.cutting import SetStream, cut
from backup_pipeline.stores.vault.description import Cutting, read_description
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline.stores.vault.machine_keys import MachineKeys
from backup_pipeline.stores.vault.names import DESCRIPTION
from backup_pipeline.stores.vault.vault import VaultAccess, initialise, open_writer
from backup_pipeline_tests.support.archive_sets import context_of, git, new_set
from backup_pipeline_tests.support.postgres_capture import begin, capture
from backup_pipeline_tests.support.sealed_sets import manifest_of

TRADES = 120_000
TABLES = """
create table trades (id bigint primary key, symbol text not null, price numeric(14,4) not null, at timestamptz,
    account uuid, comment text);
create table symbols as select i, 'symbol ' || i as name from generate_series(1, 500) i;
"""
ROWS = """
insert into trades select i, (array['BTCUSD', 'ETHUSD', 'EURUSD', 'SPY'])[1 + i % 4], (i * 104729 % 9999991) / 100.0,
    timestamptz '2021-01-01 00:00+00' + i * interval '1.234567 seconds', md5((i % 5000)::text)::uuid, md5(i::text)
from generate_series({first}::bigint, {last}) i
"""


@dataclass
class FolderVault:
    """A vault in a folder, and the copies that were made into it."""

    folder: Path
    stored: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "vault").mkdir(parents=True)
        _, recipient = new_identity()
        keys = MachineKeys(self.folder / "keys")
        self.access = VaultAccess("nas", FolderPlace(self.folder / "vault"), (recipient,), "age", (), keys)
        initialise(self.access)
        signer = keys.signer()
        assert signer is not None
        known = read_description(self.access.place, (signer.public,))
        # Where a vault cuts depends on its random key: with one that is fixed, what is counted repeats.
        keys.keep_id_key(known.vault, b"k" * 32)
        finer = Cutting(average=64 << 10, smallest=8 << 10, largest=256 << 10)
        self.access.place.put(DESCRIPTION, known.model_copy(update={"cutting": finer}).as_bytes(signer))

    def grown_by(self, store: LocalStore, plan: str) -> float:
        """Copy the store's newest set; return the new chunks' share of the set's bytes."""
        set_id = store.ids()[-1]
        before = self._chunk_bytes()
        done = open_writer(self.access).copy(store, plan, set_id)
        assert not done.already_there
        return (self._chunk_bytes() - before) / done.size

    def _chunk_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "vault" / "chunks").rglob("*") if path.is_file())


@pytest.fixture
def vault(tmp_path: Path) -> FolderVault:
    return FolderVault(tmp_path / "site")


@pytest.mark.parametrize(
    ("values", "tables", "unchanged", "appended"),
    [
        # Both ends of a plain dump differ each time: its key for \restrict is random, and so is whether one chunk more
        # (1.3 % of these sets) is cut anew.
        ({}, False, 0.04, 0.07),
        ({"compression": "zstd"}, False, 0.04, 0.08),
        ({"dump_format": "custom", "compression": "none"}, False, 0.005, 0.03),
        # One row group only, and of each of its columns the last page is another one.
        ({}, True, 0.005, 0.25),
    ],
    ids=["gzip", "zstd", "custom", "parquet"],
)
@pytest.mark.takes(seconds=15)
def test_rows_that_were_appended_add_little_and_the_others_nothing(
    vault: FolderVault,
    database: Callable[..., PostgresTarget],
    template: Callable[[str, str], str],
    tmp_path: Path,
    values: dict[str, object],
    tables: bool,
    unchanged: float,
    appended: float,
) -> None:
    target = database(template("growth", TABLES + ROWS.format(first=1, last=TRADES)))
    key = frozenset({("s", "public", "trades"), ("s", "public", "symbols")}) if tables else frozenset({("s", "dump")})
    shares = []
    for last in (TRADES, TRADES, TRADES + TRADES // 100):
        if last > TRADES:
            with connected(target, pinned=False) as connection:
                connection.execute(ROWS.format(first=TRADES + 1, last=last).encode())
        folder = tmp_path / f"store{len(shares)}"
        store = LocalStore(folder, "p")
        done = capture(folder, target, selected=key, into=begin(folder, later=len(shares)), **values)
        done.writer.seal(done.manifest())
        shares.append(vault.grown_by(store, "p"))
    first, again, more = shares
    assert first > 1
    assert again <= unchanged, shares
    assert 0.005 < more <= appended, shares


@pytest.mark.story
@pytest.mark.takes(seconds=45)
def test_a_million_rows_as_parquet_repeat_but_for_what_was_appended(
    database: Callable[..., PostgresTarget], template: Callable[[str, str], str], tmp_path: Path
) -> None:
    rows = 1_000_000
    target = database(template("growth_million", TABLES + ROWS.format(first=1, last=rows)))
    files = []
    key = frozenset({("s", "public", "trades")})
    for number in range(2):
        if number:
            with connected(target, pinned=False) as connection:
                connection.execute(ROWS.format(first=rows + 1, last=rows + rows // 100).encode())
        folder = tmp_path / f"store{number}"
        done = capture(folder, target, selected=key, into=begin(folder, later=number))
        files.append(done.path(done.records["s", "public", "trades"], ".parquet").read_bytes())
    shares = []
    for number in range(9):
        before, after = (chunks_of(file, bytes([number]) * 32) for file in files)
        shares.append(sum(size for name, size in after.items() if name not in before) / len(files[1]))
    # Of 31 MB. For a key in four or five the finer cuts of the file's end (some 1.5 MB) begin elsewhere: they and the
    # chunk of 1 to 2 MiB before them are new.
    assert 0.01 < sorted(shares)[4] <= 0.04, shares
    assert max(shares) <= 0.13, shares


def chunks_of(file: bytes, key: bytes = b"k" * 32) -> dict[bytes, int]:
    """Cut a set of one large file and a small one before and behind it, as every vault does by default."""
    parts = {"a.json": b"{}", "b.sql.gz": file, "c.json": b"{}"}
    sizes = {path: len(part) for path, part in parts.items()}
    stream = SetStream(sizes, lambda path: io.BytesIO(parts[path]), {}, lambda done: None, where="set")
    found = cut(stream, Cutting(), key)
    return {hashlib.sha256(chunk).digest(): len(chunk) for chunk in found}


def test_a_dump_that_differs_at_its_ends_and_by_one_percent_costs_that_at_full_size() -> None:
    random_bytes = random.Random(3)
    dump = random_bytes.randbytes(200_000_000)
    before = chunks_of(dump)
    assert 100 < len(before) < len(dump) >> 20

    def added(after: bytes) -> float:
        return sum(size for name, size in chunks_of(after).items() if name not in before) / len(after)

    ends = random_bytes.randbytes(30_011), random_bytes.randbytes(60_005)
    again = ends[0] + dump[30_000:-60_000] + ends[1]
    assert added(again) <= 0.005
    rows = random_bytes.randbytes(2_000_000)
    more = again[:150_000_000] + rows + again[150_000_000:]
    assert 0.01 < added(more) <= 0.03


def test_files_behind_many_small_ones_cost_what_they_hold_and_little_more() -> None:
    random_bytes = random.Random(4)
    before = {f"tables/{number:03}.parquet": random_bytes.randbytes(500_000) for number in range(126)}
    after = before | {"tables/999.parquet": random_bytes.randbytes(630_000)}

    def chunks(files: dict[str, bytes], key: bytes, known: dict[bytes, int]) -> dict[bytes, int]:
        sizes = {path: len(content) for path, content in files.items()}
        stream = SetStream(sizes, lambda path: io.BytesIO(files[path]), {}, lambda done: None, where="set")
        found = cut(stream, Cutting(), key, lambda piece: hashlib.sha256(piece).digest() in known)
        return {hashlib.sha256(chunk).digest(): len(chunk) for chunk in found}

    for number in range(8):
        key = bytes([number]) * 32
        first = chunks(before, key, {})
        assert len(first) <= 45, "chunks of 63 MB: with lists and questions a request per MiB"
        assert chunks(before, key, first) == first
        new = [size for name, size in chunks(after, key, first).items() if name not in first]
        assert 630_000 <= sum(new) <= 1_500_000, key
        assert len(new) <= 10


def seal(writer_folder: Path, number: int, fill: Callable[[CaptureContext], object]) -> LocalStore:
    writer = new_set(writer_folder, number=number)
    fill(context_of(writer))
    writer.seal(manifest_of(writer))
    return LocalStore(writer_folder / "store", "nightly")


def test_a_new_file_in_a_folder_adds_little_and_the_others_nothing(vault: FolderVault, tmp_path: Path) -> None:
    tree = tmp_path / "storage"
    content = random.Random(1)
    for number in range(1_000):
        path = tree / f"{number % 10}" / f"{number:04}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.randbytes(content.randrange(1, 20_000)))
        # In the tarball, too: with times of its own each run would be cut in other places.
        os.utime(path, (1_700_000_000, 1_700_000_000))
    source = FolderSource(kind="folder", path=tree)
    shares = []
    for number in range(3):
        if number == 2:
            (tree / "5" / "0001.bin").write_bytes(content.randbytes(50_000))
        store = seal(tmp_path, number, lambda context: list(capture_folder(context, source)))
        shares.append(vault.grown_by(store, "nightly"))
    assert shares[1] <= 0.01, shares
    assert 0.004 < shares[2] <= 0.08, shares


def test_a_commit_in_a_repository_adds_what_it_changed(vault: FolderVault, tmp_path: Path) -> None:
    path = tmp_path / "claire"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    content = random.Random(2)
    for number in range(200):
        (path / f"{number:03}.bin").write_bytes(content.randbytes(20_000))
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "First")
    source = RepositorySource(kind="repository", path=path)
    shares = []
    for number in range(3):
        if number == 2:
            (path / "new.bin").write_bytes(content.randbytes(50_000))
            git(path, "add", "-A")
            git(path, "commit", "-q", "-m", "Second")
        store = seal(tmp_path, number, lambda context: list(capture_repository(context, source)))
        shares.append(vault.grown_by(store, "nightly"))
    assert shares[1] <= 0.01, shares
    # 50 kB in ZIP and bundle each, of 8 MB, and the ends of both.
    assert 0.01 < shares[2] <= 0.05, shares
