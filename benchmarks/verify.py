"""Verifying a set: its checksums against `sha256sum`, the structure of its dump against `gzip -t`.

python -m benchmarks.verify [--megabytes 600]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from backup_pipeline.artefacts.types import inspect
from backup_pipeline.model.record import ArtefactKind
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.operations.proof.verify import verification_of
from backup_pipeline.postgres.server.embedded import scratch_server
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore
from benchmarks.data_database import make_database
from benchmarks.report import Report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=600)
    options = parser.parse_args()
    report = Report("verify", "Verifying a set")
    with tempfile.TemporaryDirectory(prefix="bp-bench-") as folder, scratch_server(Path("/tmp")) as server:
        target = make_database(server, options.megabytes)
        url = f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}"
        run(make_set(Path(folder), url), report)
    report.write()


def make_set(folder: Path, url: str) -> Site:
    from datetime import UTC, datetime

    (folder / "backup.yaml").write_text(
        "sources: {bench: {kind: postgres, dsn_env: BENCH_URL}}\nplans: {nightly: {sources: [bench]}}\n"
    )
    (folder / ".env").write_text(f"BENCH_URL='{url}'\n")
    (folder / ".env").chmod(0o600)
    site = load_site(folder, environment={})
    run = BackupRun(site, "nightly", RunIdentity("bench", "bench", datetime.now(UTC)))
    try:
        for _ in run.capture("bench"):
            pass
        run.seal()
    finally:
        run.close()
    return site


def run(site: Site, report: Report) -> None:
    store = LocalStore(site.store_folder("nightly"), "nightly")
    set_id = store.ids()[-1]
    manifest = store.read(set_id).manifest
    assert manifest is not None
    paths = [str(store.path_of(set_id, file.path)) for record in manifest.artefacts for file in record.files]
    dump = next(record for record in manifest.artefacts if record.kind is ArtefactKind.POSTGRES_DUMP)
    dump_path = str(store.path_of(set_id, dump.files[0].path))
    report.fact("set, MB", round(manifest.size / 1e6))
    report.fact("dump (gzip), MB", round(dump.files[0].size / 1e6))
    from backup_pipeline.model.progress import no_progress
    from backup_pipeline.operations.proof.verify import _file_problems

    present = dict(store.files(set_id))
    sums = best(lambda: _file_problems(store, set_id, manifest, present, no_progress))
    theirs = best(lambda: subprocess.run(["sha256sum", *paths], check=True, stdout=subprocess.DEVNULL))
    report.row("checksums of every file", sums, theirs, other_name="sha256sum", at_most=1.2)
    structure = best(lambda: inspect(lambda path: store.open(set_id, path), dump))
    gzip = best(lambda: subprocess.run(["gzip", "-t", dump_path], check=True))
    report.row(
        "dump: gzip, end marker, rows of every table, content hash", structure, gzip, other_name="gzip -t", at_least=1
    )
    whole = best(lambda: verification_of(store, set_id))
    report.row("the whole verification, exports decoded", whole, theirs + gzip, other_name="sha256sum, then gzip -t")


def best(call: Callable[[], object], rounds: int = 3) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


if __name__ == "__main__":
    main()
