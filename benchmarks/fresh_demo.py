"""`make demo` in a fresh clone, installation included, and the same again, when everything is installed and made.

    python -m benchmarks.fresh_demo

The last commit is cloned into a temporary folder; packages come from wherever pip takes them, or from its cache.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.report import Report

_PASSED_ON = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy")
_REPOSITORY = Path(__file__).resolve().parent.parent
_FIRST, _AGAIN = "make demo in a fresh clone, installation included", "make demo once more: new sets of the same site"


def make(clone: Path, *what: str) -> tuple[float, float]:
    """Run make in a clone; return wall and processor seconds."""
    named = ("PIP_", "UV_")
    environment = {n: v for n, v in os.environ.items() if n in _PASSED_ON or n.startswith(named)}
    spent, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(["make", *what], cwd=clone, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"make {' '.join(what)}: exit code {done.returncode}: {done.stderr[-2000:]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime - spent.ru_utime - spent.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    report = Report("fresh_demo", "The demo, from a clone to recovered sets")
    with tempfile.TemporaryDirectory(prefix="bp-bench-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(_REPOSITORY), str(clone)], check=True)
        seconds, processor = make(clone, "demo")
        report.row(_FIRST, seconds, at_most=60.0, note=f"{processor:.1f} s of processor")
        seconds, processor = make(clone, "demo")
        report.row(_AGAIN, seconds, note=f"{processor:.1f} s of processor")
        make(clone, "clean-demo")
    report.write()


if __name__ == "__main__":
    main()
