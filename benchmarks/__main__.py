"""Run every benchmark, one after the other: `python -m benchmarks` (or some: `python -m benchmarks dump restore`)."""

from __future__ import annotations

import subprocess
import sys

PROGRAMS = (
    "overhead",
    "dump",
    "table_exports",
    "memory",
    "tarball",
    "orders",
    "restore",
    "upsert",
    "verify",
    "vault",
    "front_page",
    "many_sets",
    "many_plans",
    "many_databases",
)


def main() -> int:
    """Run the programs named, all by default; return how many ended with a promise not met or an error."""
    names = sys.argv[1:] or PROGRAMS
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    print(f"not met or not ended: {', '.join(failed)}" if failed else "every promise met")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
