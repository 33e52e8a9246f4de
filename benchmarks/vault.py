"""Copies in a vault beside restic and borg: the same sealed sets into the same kind of place, one after the other.

Beside both stands the least that a copy has to do, as bare calls of the same libraries (`vault_floor`).

    python -m benchmarks.vault [--size MEGABYTES] [--files N] [--repeat N] [--places folder,s3]

Each round makes a new vault and new repositories and does the same in each: copies a set, a set in which nothing
changed, a set with 1 % more, brings the last one back, checks every stored byte. The figures are the medians of the
rounds. Ours is the time of the calls in a fresh process, as the backup job makes them, without the start of Python and
its imports (0.3 s of a processor); restic and borg are timed as commands, of which restic's start takes 0.01 s. The
time of the processors stands beside: other work on the machine changes it less. What was written before is synced
before each. It takes some seven minutes on two processors. restic 0.14 or newer and borg 1.2 or newer have to be
installed (`apt install restic borgbackup`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backup_pipeline.model.manifest import Draft, Manifest
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.vault.check import check_stored
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline.stores.vault.machine_keys import MachineKeys
from backup_pipeline.stores.vault.names import COPIES
from backup_pipeline.stores.vault.vault import VaultAccess, VaultReader, initialise, open_writer
from benchmarks.report import Measured, Report, in_fresh_process
from benchmarks.vault_floor import bare_copy

PLAN = "nightly"
_PASSWORD = "benchmark"
_BUCKET = "benchmark"
_STEPS = ("first copy", "copy, nothing changed", "copy, 1 % more", "fetch", "check of every stored byte")
_COPIES = _STEPS[:3]
_APPENDED = 0.01


def sealed(store: LocalStore, number: int, files: dict[str, Path]) -> SetId:
    """Seal a set of these files."""
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
    draft = Draft(set_id=set_id_at(moment), plan=PLAN, root_run_id="r", sources=("s",), started_at=moment)
    writer = store.begin(draft)
    records = []
    for name, path in files.items():
        with writer.create(name) as file, path.open("rb") as content:
            shutil.copyfileobj(content, file, 1 << 20)
        records.append(writer.file_record(name, file))
    record = ArtefactRecord(
        key=("s", "files"),
        source="s",
        kind=ArtefactKind.FOLDER_TARBALL,
        set_id=draft.set_id,
        files=tuple(records),
        source_label="s",
        started_at=moment,
        finished_at=moment,
    )
    writer.write_record(record)
    manifest = Manifest(
        set_id=draft.set_id,
        plan=PLAN,
        sources=("s",),
        started_at=moment,
        sealed_at=moment,
        run_id="r",
        root_run_id="r",
        pipeline_version="1",
        artefacts=writer.records(),
    )
    writer.seal(manifest)
    return draft.set_id


def dump_like(folder: Path, megabytes: int) -> list[dict[str, Path]]:
    """Return three sets' files: bytes that do not compress, as a compressed dump's; the same; 1 % more at the end."""
    content, more = folder / "dump", folder / "more"
    source = random.Random(1)
    with content.open("wb") as file:
        for _ in range(megabytes):
            file.write(source.randbytes(1_000_000))
    shutil.copy(content, more)
    with more.open("ab") as file:
        file.write(source.randbytes(int(megabytes * 1e6 * _APPENDED)))
    return [{"s_db.sql.gz": content}] * 2 + [{"s_db.sql.gz": more}]


def small_files(folder: Path, count: int) -> list[dict[str, Path]]:
    """Return three sets' files: many small ones; the same; 1 % more of them."""
    source = random.Random(2)
    for number in range(int(count * (1 + _APPENDED))):
        (folder / f"{number}").write_bytes(source.randbytes(source.randrange(500, 12_000)))
    first = {f"tables/s/{number:06}.parquet": folder / f"{number}" for number in range(count)}
    more = {f"tables/s/{number:06}.parquet": folder / f"{number}" for number in range(int(count * (1 + _APPENDED)))}
    return [first, first, more]


@dataclass(frozen=True)
class Vault:
    """A vault of a round, as a fresh process opens it."""

    url: str
    keys: Path
    recipient: str
    identity: str
    store: Path
    environment: dict[str, str] = field(default_factory=dict)

    def access(self) -> VaultAccess:
        """Open its place."""
        options = PlaceOptions()
        if self.environment:
            options = PlaceOptions(
                credentials_env={"access_key": "KEY", "secret_key": "SECRET"},
                endpoint_env="ENDPOINT",
                environment=self.environment,
            )
        return VaultAccess("vault", open_place(self.url, options), (self.recipient,), "age", (), MachineKeys(self.keys))


def our_copy(vault: Vault, set_id: SetId) -> dict[str, int]:
    """Copy a set; return bytes sent in chunks, bytes of the copy's own object, and number of chunks."""
    access = vault.access()
    done = open_writer(access).copy(LocalStore(vault.store, PLAN), PLAN, set_id)
    assert not done.already_there
    account = access.place.info(COPIES + done.copy)
    assert account is not None
    return {"sent": done.sent_bytes, "account": account.size, "chunks": done.chunks}


def our_fetch(vault: Vault, set_id: SetId, folder: Path) -> None:
    """Bring a set back."""
    access = vault.access()
    reader = VaultReader(access.place, vault.identity, access.trusted())
    for copy in reader.catalog.copies()[0]:
        if reader.content(copy).set_id == set_id:
            reader.reader(copy).fetch(folder)
            return
    raise AssertionError(f"no copy of {set_id}")


def our_check(vault: Vault) -> None:
    """Check every stored byte."""
    access = vault.access()
    reader = VaultReader(access.place, vault.identity, access.trusted())
    assert not check_stored(reader.catalog).findings


class Peer:
    """A program that does the same: its commands for the steps."""

    def __init__(self, name: str, environment: dict[str, str], commands: dict[str, list[str]]) -> None:
        self.name = name
        self._environment = os.environ | environment
        self._commands = commands

    def run(self, step: str, folder: Path) -> tuple[float, float]:
        """Run a step in `folder`; return its seconds, and those of the processors."""
        spent, begin = _of_children(), time.perf_counter()
        done = subprocess.run(self._commands[step], cwd=folder, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{self._commands[step]}: {done.stderr}"
        return time.perf_counter() - begin, _of_children() - spent


def _of_children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def restic(repository: str, environment: dict[str, str]) -> Peer:
    """Return restic with a repository of its own."""
    base = ["restic", "-q", "-r", repository, "--no-cache"]
    back_up = [*base, "backup", "."]
    return Peer(
        "restic",
        {"RESTIC_PASSWORD": _PASSWORD, **environment},
        {
            "init": [*base, "init"],
            "first copy": back_up,
            "copy, nothing changed": back_up,
            "copy, 1 % more": back_up,
            "fetch": [*base, "restore", "latest", "--target", "."],
            "check of every stored byte": [*base, "check", "--read-data"],
        },
    )


def borg(repository: Path) -> Peer:
    """Return borg with a repository of its own; zstd as it is by default in its documents."""
    archive = f"{repository}::{{now}}-{{pid}}"
    back_up = ["borg", "create", "-C", "none", archive, "."]
    fetch = ["/bin/sh", "-c", f"borg extract '{repository}'::$(borg list --last 1 --short '{repository}')"]
    variables = {"BORG_PASSPHRASE": _PASSWORD, "BORG_BASE_DIR": f"{repository}-home"}
    return Peer(
        "borg",
        variables,
        {
            "init": ["borg", "init", "-e", "repokey", str(repository)],
            "first copy": back_up,
            "copy, nothing changed": back_up,
            "copy, 1 % more": back_up,
            "fetch": fetch,
            "check of every stored byte": ["borg", "check", "--verify-data", str(repository)],
        },
    )


@dataclass
class Rounds:
    """What was measured: (program, step) → seconds of each round."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    processor: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    sent: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    account: int = 0
    chunks: int = 0
    peak_mb: float = 0.0

    def median(self, program: str, step: str) -> float:
        """Return the median of the rounds."""
        return statistics.median(self.seconds[program, step])

    def ours(self, step: str, measured: Measured) -> None:
        """Note a call of ours."""
        self.seconds["ours", step].append(measured.seconds)
        self.processor["ours", step].append(measured.processor_seconds)
        self.peak_mb = max(self.peak_mb, measured.peak_mb)
        if measured.result:
            self.sent[step].append(measured.result["sent"])
            self.account = measured.result["account"]
            self.chunks = measured.result["chunks"]


def one_round(rounds: Rounds, vault: Vault, sets: list[SetId], peers: list[Peer], scratch: Path) -> None:
    """Do every step with ours and the peers in turn."""
    initialise(vault.access())
    for other in peers:
        other.run("init", scratch)
    for step, set_id in zip(_STEPS, [*sets, sets[-1], sets[-1]], strict=True):
        if step in _COPIES:
            os.sync()
            bare = (vault.store / set_id, f"{vault.url}-bare", vault.environment, vault.recipient, scratch / "known")
            rounds.seconds["bare", step].append(in_fresh_process(bare_copy, *bare).seconds)
        for peer in [None, *peers]:
            os.sync()
            folder = vault.store / set_id
            if step == "fetch":
                folder = Path(tempfile.mkdtemp(dir=scratch))
            if peer is not None:
                seconds, processor = peer.run(step, folder)
                rounds.seconds[peer.name, step].append(seconds)
                rounds.processor[peer.name, step].append(processor)
            elif step == "fetch":
                rounds.ours(step, in_fresh_process(our_fetch, vault, set_id, folder))
            elif step.startswith("check"):
                rounds.ours(step, in_fresh_process(our_check, vault))
            else:
                rounds.ours(step, in_fresh_process(our_copy, vault, set_id))
            if step == "fetch":
                shutil.rmtree(folder)


def add_rows(report: Report, rounds: Rounds, what: str, size: int, peers: list[Peer]) -> None:
    """Write what the rounds gave into the report."""
    for step in _STEPS:
        for peer in peers:
            least = None
            if peer.name == "restic":
                least = 2.0 if step in ("first copy", "copy, 1 % more") else 1.0 if step == "fetch" else None
            report.row(
                f"{what}: {step}",
                rounds.median("ours", step),
                rounds.median(peer.name, step),
                other_name=peer.name,
                at_least=least,
            )
            if step in _COPIES:
                spent = [statistics.median(rounds.processor[name, step]) for name in ("ours", peer.name)]
                report.row(f"{what}: {step}, time of the processors", *spent, other_name=peer.name)
        if step in _COPIES:
            bare = rounds.median("bare", step)
            report.row(f"{what}: {step}, the least", bare, rounds.median("restic", step), other_name="restic")
    # Where a vault cuts depends on its random key, and so does what is cut anew.
    unchanged, more = (statistics.median(rounds.sent[step]) / size for step in _STEPS[1:3])
    report.row(f"{what}: copy, nothing changed", rounds.median("ours", _STEPS[1]), at_most=3)
    report.row(
        f"{what}: new bytes, nothing changed, with the copy's own object",
        100 * (unchanged + rounds.account / size),
        unit="%",
        at_most=0.5,
    )
    report.row(f"{what}: new bytes, 1 % more", 100 * more, unit="%", at_most=3)
    report.row(
        f"{what}: the copy's own object",
        100 * rounds.account / size,
        unit="%",
        note="its header; manifest and list of files too, where they are short",
    )
    report.row(f"{what}: chunks per MiB", rounds.chunks / (size / (1 << 20)), unit="chunks", at_most=1)
    report.row(f"{what}: peak memory of a step", rounds.peak_mb, unit="MB", at_most=300)


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run SeaweedFS with a bucket; gives ENDPOINT, KEY and SECRET."""
    from backup_pipeline_tests.support.object_servers import weed_server

    with weed_server(folder) as server:
        server.client.create_bucket(Bucket=_BUCKET)
        known = server.options().environment
        assert known is not None
        yield {"ENDPOINT": server.address, "KEY": known["TEST_S3_KEY"], "SECRET": known["TEST_S3_SECRET"]}


def measure(report: Report, what: str, sets: list[SetId], store: Path, repeat: int, s3: dict[str, str]) -> None:
    """Measure one kind of set in one kind of place."""
    rounds, peers = Rounds(), []
    size = sum(size for _, size in LocalStore(store, PLAN).files(sets[-1]))
    for number in range(repeat):
        with tempfile.TemporaryDirectory(prefix="bp-bench-") as name:
            scratch = Path(name)
            identity, recipient = new_identity()
            if s3:
                place = f"{what.split()[0]}-{number}"
                url, repository = f"s3://{_BUCKET}/ours-{place}", f"s3:{s3['ENDPOINT']}/{_BUCKET}/restic-{place}"
                peers = [restic(repository, {"AWS_ACCESS_KEY_ID": s3["KEY"], "AWS_SECRET_ACCESS_KEY": s3["SECRET"]})]
            else:
                (scratch / "vault").mkdir()
                url = f"file://{scratch / 'vault'}"
                peers = [restic(str(scratch / "restic"), {})]
                if shutil.which("borg"):
                    peers.append(borg(scratch / "borg"))
            one_round(rounds, Vault(url, scratch / "keys", recipient, identity, store, s3), sets, peers, scratch)
    add_rows(report, rounds, f"{what}, {'S3' if s3 else 'folder'}", size, peers)


def version_of(program: str) -> str:
    """Return what a program says of its version; "" when it is not installed."""
    if not shutil.which(program):
        return ""
    asked = "version" if program == "restic" else "--version"
    return subprocess.run([program, asked], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=400, help="megabytes of the large file")
    parser.add_argument("--files", type=int, default=10_000, help="small files")
    parser.add_argument("--repeat", type=int, default=3, help="rounds, the medians count")
    parser.add_argument("--places", default="folder,s3")
    options = parser.parse_args()
    report = Report("vault", "Copies in a vault, beside restic and borg")
    for program in ("restic", "borg"):
        report.fact(program, version_of(program) or "not installed")
    kinds: dict[str, Any] = {
        f"{options.size} MB dump": lambda folder: dump_like(folder, options.size),
        f"{options.files} small files": lambda folder: small_files(folder, options.files),
    }
    report.fact("rounds", options.repeat)
    report.fact("the least", "read, cut, three hashes, encryption, storing: bare calls of the libraries, nothing else")
    with tempfile.TemporaryDirectory(prefix="bp-bench-") as name:
        root = Path(name)
        stores: dict[str, tuple[list[SetId], Path]] = {}
        for number, (what, make) in enumerate(kinds.items()):
            content = root / f"content{number}"
            content.mkdir()
            store = LocalStore(root / f"store{number}", PLAN)
            store.prepare()
            stores[what] = [sealed(store, day, files) for day, files in enumerate(make(content))], store.folder
            shutil.rmtree(content)
        for place in options.places.split(","):
            server_folder = root / place
            server_folder.mkdir()
            serving: contextlib.AbstractContextManager[dict[str, str]] = contextlib.nullcontext({})
            if place == "s3":
                serving = s3_server(server_folder)
            with serving as s3:
                for what, (sets, folder) in stores.items():
                    measure(report, what, sets, folder, options.repeat, s3)
    report.write()


if __name__ == "__main__":
    main()
