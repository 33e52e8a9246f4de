"""The storage tarball against `tar czf`: large files, and many small ones; structure checks against `gzip -t`.

    python -m benchmarks.tarball [--size MB] [--files N] [--repeat N] [--folder DIR]

Ours includes what `tar czf` does not do: SHA-256 of every file, the listing, the sync to disk, and reading the tarball
again with every member compared. Both sides are run in turn, and the best of the repeats counts for each.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.manifest import Draft
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.sources.folder.capture import capture_folder, inspect_folder
from backup_pipeline.sources.folder.settings import FolderSource
from backup_pipeline.stores.local import LocalStore
from benchmarks.report import Report, in_fresh_process

_START = datetime(2026, 1, 1, tzinfo=UTC)
_WORDS = 4000


def _text(rng: random.Random, words: list[bytes], size: int) -> bytes:
    text = b" ".join(rng.choices(words, k=size // 6 + 1))
    return text[:size]


def make_large(folder: Path, megabytes: int) -> None:
    """Write files of 64 MB: half text, half random bytes, as a bucket of documents and pictures has them."""
    folder.mkdir(parents=True)
    rng = random.Random(1)
    words = [rng.randbytes(rng.randint(2, 5)).hex().encode() for _ in range(_WORDS)]
    text = _text(rng, words, 8 << 20)
    for number in range(0, megabytes, 64):
        with (folder / f"{number:05d}.bin").open("wb") as file:
            for _ in range(min(64, megabytes - number)):
                begin = rng.randrange(len(text) - (1 << 19))
                file.write(text[begin : begin + (1 << 19)])
                file.write(rng.randbytes(1 << 19))


def make_small(folder: Path, count: int) -> None:
    """Write files of 0.3 to 12 kB of text, a hundred to a folder."""
    rng = random.Random(2)
    words = [rng.randbytes(rng.randint(2, 5)).hex().encode() for _ in range(_WORDS)]
    for number in range(count):
        place = folder / f"{number // 100:04d}" / f"{number:06d}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(_text(rng, words, rng.randint(300, 12_000)))


def capture(root: Path, bucket: str, store: Path, number: int) -> dict[str, object]:
    """Capture one bucket into a new set; return the tarball's path and what the record says."""
    moment = _START + timedelta(seconds=number)
    draft = Draft(set_id=set_id_at(moment), plan="bench", root_run_id="bench", sources=("s",), started_at=moment)
    writer = LocalStore(store, "bench").begin(draft)
    begin = time.perf_counter()
    (record,) = capture_folder(CaptureContext(writer, "s"), FolderSource(kind="folder", path=root, buckets=(bucket,)))
    seconds = time.perf_counter() - begin
    if record.failed_checks:
        raise RuntimeError(record.failed_checks[0].summary)
    begin = time.perf_counter()
    problems = list(inspect_folder(writer.open, record))
    inspected = time.perf_counter() - begin
    if problems:
        raise RuntimeError(problems[0].problem)
    return {
        "seconds": seconds,
        "inspect": inspected,
        "tarball": str(writer.folder / record.files[0].path),
        "size": record.files[0].size,
        "content": record.details["bytes"],
    }


def _timed(*command: str) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - begin


def compare(report: Report, work: Path, bucket: str, *, what: str, at_least: float, repeat: int) -> None:
    """Run both sides in turn on one bucket and add the rows."""
    ours, inspect, peak, theirs, tested = [], [], [], [], []
    root, packed = work / "storage", work / "peer.tar.gz"
    result: dict[str, object] = {}
    for number in range(repeat):
        theirs.append(_timed("tar", "czf", str(packed), "-C", str(root), bucket))
        measured = in_fresh_process(capture, root, bucket, work / f"store-{bucket}", number)
        result = measured.result
        ours.append(float(str(result["seconds"])))
        inspect.append(float(str(result["inspect"])))
        peak.append(measured.peak_mb)
        tested.append(_timed("gzip", "-t", str(result["tarball"])))
        if number < repeat - 1:
            Path(str(result["tarball"])).unlink()
    report.fact(f"{what}: content (MB)", round(float(str(result["content"])) / 1e6, 1))
    report.row(
        what,
        min(ours),
        min(theirs),
        other_name="tar czf",
        at_least=at_least,
        note="ours hashes every file, writes the listing, syncs, and reads the tarball again, comparing every member",
    )
    report.row(
        f"{what}: check of structure and content",
        min(inspect),
        min(tested),
        other_name="gzip -t",
        at_least=1.0,
        note="gzip -t compares one checksum; ours compares every member's header and SHA-256 with the listing",
    )
    size, peer = float(str(result["size"])) / 1e6, packed.stat().st_size / 1e6
    report.row(f"{what}: size", size, peer, other_name="tar czf", unit="MB")
    report.row(f"{what}: peak memory of the capture", max(peak), unit="MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, metavar="MB", help="of the large files together")
    parser.add_argument("--files", type=int, default=10_000, metavar="N", help="number of small files")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each side; the best one counts")
    parser.add_argument("--folder", type=Path, default=None, metavar="DIR", help="where to work (default: temporary)")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tarball-bench-", dir=options.folder))
    report = Report("tarball", "Storage tarball against tar czf")
    version = subprocess.run(["tar", "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    report.fact("peer", f"{version}, gzip")
    report.fact("runs of each side, best counts", options.repeat)
    try:
        make_large(work / "storage" / "large", options.size)
        make_small(work / "storage" / "small", options.files)
        compare(report, work, "large", what=f"{options.size} MB of large files", at_least=3.0, repeat=options.repeat)
        shutil.rmtree(work / "store-large")
        compare(report, work, "small", what=f"{options.files} small files", at_least=1.0, repeat=options.repeat)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report.write()
    raise SystemExit(0 if report.met else 1)


if __name__ == "__main__":
    main()
