"""A site of 200 plans beside one of one plan: `backup` of one plan, `list`, `status`, `env check`, cold from the shell.

python -m benchmarks.many_plans [plans]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from backup_pipeline.model.set_id import is_set_id
from benchmarks.cold_commands import copy_set, cost, once, ours
from benchmarks.report import Report


def _site(site: Path, plans: int) -> None:
    """Make a site whose plans have a folder and a set each."""
    sources, policies = ["store: backups", "sources:"], ["plans:"]
    for number in range(plans):
        (site / f"folder{number}").mkdir(parents=True)
        (site / f"folder{number}" / "one.txt").write_text("one")
        sources.append(f"  source{number}: {{kind: folder, path: folder{number}}}")
        policies.append(f'  plan{number}: {{sources: [source{number}], schedule: "0 2 * * *"}}')
    (site / "backup.yaml").write_text("\n".join([*sources, *policies]) + "\n")
    once(ours("backup", "plan0", "--config", str(site)))
    first = next(path for path in (site / "backups" / "plan0").iterdir() if is_set_id(path.name))
    for number in range(1, plans):
        names = {'"plan0"': f'"plan{number}"', '"source0"': f'"source{number}"'}
        copy_set(first, site / "backups" / f"plan{number}" / first.name, names)


def main() -> None:
    """Measure and write the result."""
    plans = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    report = Report("many_plans", f"A site of {plans} plans beside one of one plan; processor seconds")
    with tempfile.TemporaryDirectory() as name:
        one, many = Path(name) / "one", Path(name) / "many"
        _site(one, 1)
        _site(many, plans)
        alone = cost(ours("backup", "plan0", "--config", str(one))).cpu
        beside = cost(ours("backup", "plan0", "--config", str(many))).cpu
        report.row("`backup` of one plan", beside, alone, other_name="the same on a site of one plan", at_most=1.2)
        for command in (["list"], ["status"], ["env", "check"]):
            found = cost(ours(*command, "--config", str(many)))
            report.row(f"`{' '.join(command)}`", found.cpu, at_most=0.6, note=f"wall {found.wall:.2f} s")
    report.write()


if __name__ == "__main__":
    main()
