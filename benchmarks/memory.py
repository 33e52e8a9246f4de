"""Peak memory of captures and drills while the database grows; draws the curves in docs/pictures/memory.png.

python -m benchmarks.memory [--sizes 100,300,1000,2000]

A capture is of everything: dump, table exports, figures and checks. A drill loads the dump into a scratch server and
compares every row with what was recorded and exported. Each is a fresh process; the servers' memory is not counted.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from backup_pipeline.postgres.server.connection import connected
from benchmarks.data_database import bench_server, fill, size_of
from benchmarks.report import Report, in_fresh_process
from benchmarks.set_site import back_up, drill, make_site

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "memory.png"
_LIMIT = 400.0
# Between the smallest and the largest database; what a handful of larger buffers may cost.
_GROWTH = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100,300,1000,2000", help="megabytes of tables, ascending")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    report = Report("memory", "Peak memory of captures and drills while the database grows")
    curves: dict[str, list[tuple[float, float]]] = {"capture": [], "drill": []}
    with bench_server() as server, tempfile.TemporaryDirectory(prefix="bp-bench-") as scratch:
        with connected(server.target()) as connection:
            connection.execute('create database "bench" template template0')
        target = server.target("bench")
        before = 0
        for size in sizes:
            fill(target, size, already=before)
            before = size
            megabytes = size_of(target) / 1e6
            site = make_site(Path(scratch) / f"site{size}", target, server.target())
            made = in_fresh_process(back_up, site)
            drilled = in_fresh_process(drill, site, made.result["set_id"])
            for what, done in (("capture", made), ("drill", drilled)):
                curves[what].append((megabytes, done.peak_mb))
                title = f"{what}: {megabytes:.0f} MB of tables"
                report.row(title, done.peak_mb, unit="MB", at_most=_LIMIT, note=f"{done.seconds:.1f} s")
            shutil.rmtree(site)
    for what, curve in curves.items():
        report.row(f"{what}: largest against smallest database", curve[-1][1] / curve[0][1], unit="x", at_most=_GROWTH)
    # First what was measured: the picture needs matplotlib.
    report.write()
    _draw(curves)


def _draw(curves: dict[str, list[tuple[float, float]]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for what, curve in curves.items():
        axes.plot([x for x, _ in curve], [y for _, y in curve], marker="o", label=what)
    axes.set(xlabel="megabytes of tables", ylabel="peak memory in MB", title="Memory does not grow with the database")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)
    print(f"drawn: {PICTURE.name}")


if __name__ == "__main__":
    main()
