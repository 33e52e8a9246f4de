"""The least that a first copy into a vault has to do, beside restic: read, cut, hash three times, encrypt, write, sync.

    python -m benchmarks.vault_floor [--size MEGABYTES] [--repeat N]

Threads do bare calls of the libraries, without records, checks, signatures, notes. By what `benchmarks.vault` is slower
than this, our own code is; by what this misses a promise, the libraries and the disk do.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyfastcdc import FastCDC

from backup_pipeline.stores.vault.encryption import Sealer, new_identity
from benchmarks.report import Report
from benchmarks.vault import dump_like, restic

_READ = 16 << 20
_KEY = b"k" * 32


def bare(source: Path, folder: Path, sealer: Sealer) -> float:
    """Do the least for one file; returns seconds."""

    def send(data: bytes) -> None:
        name = hmac.digest(_KEY, data, "sha256").hex()
        sealed = sealer.seal(data)
        hashlib.sha256(sealed).hexdigest()
        with (folder / name).open("wb", buffering=0) as file:
            file.write(sealed)
            os.fsync(file.fileno())

    cutter = FastCDC(1 << 20, min_size=128 << 10, max_size=4 << 20, normalized_chunking=1, seed=1)
    begin = time.perf_counter()
    digest, sent = hashlib.sha256(), []
    with source.open("rb") as file, ThreadPoolExecutor(6) as pool:
        while block := file.read(_READ):
            hashed = pool.submit(digest.update, block)
            start = 0
            for chunk in cutter.cut_buf(block):
                sent.append(pool.submit(send, block[start : start + chunk.length]))
                start += chunk.length
            hashed.result()
    for one in sent:
        one.result()
    return time.perf_counter() - begin


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=400, help="megabytes of the file")
    parser.add_argument("--repeat", type=int, default=3, help="rounds, the medians count")
    options = parser.parse_args()
    report = Report("vault_floor", "The least that a first copy has to do, beside restic")
    sealer = Sealer([new_identity()[1]])
    ours, theirs = [], []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory(prefix="bp-bench-") as name:
            root = Path(name)
            for folder in ("content", "set", "vault"):
                (root / folder).mkdir()
            dump_like(root / "content", options.size)[0]["s_db.sql.gz"].rename(root / "set" / "dump")
            peer = restic(str(root / "restic"), {})
            peer.run("init", root)
            ours.append(bare(root / "set" / "dump", root / "vault", sealer))
            theirs.append(peer.run("first copy", root / "set"))
    what = f"{options.size} MB into a folder, bare"
    report.row(what, statistics.median(ours), statistics.median(theirs), other_name="restic")
    report.write()


if __name__ == "__main__":
    main()
