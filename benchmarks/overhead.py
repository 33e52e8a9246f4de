"""What a run costs beside the data: a plan of tiny databases cold from the shell, definitions of 1,000 tables, `list`.

python -m benchmarks.overhead
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backup_pipeline.operations.backup.known_tables import remember_tables
from backup_pipeline.postgres.server.embedded import scratch_server
from backup_pipeline.postgres.server.script import create_database, run_script
from benchmarks.report import Report

_SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL}
  people: {kind: postgres, dsn_env: PEOPLE_URL, after: [shop]}
  files: {kind: folder, path: files, after: [shop]}
plans:
  nightly: {sources: [shop, files, people]}
"""
_SQL = (
    "create table t{n} (id int primary key, name text); insert into t{n} select i, 'x' from generate_series(1, 20) i;"
)

# Runs in a process of its own and says when each stage was over.
_STAGES = """
import json, sys, time
start = float(sys.argv[2])
marks = [("python starts", time.time())]
from pathlib import Path
from backup_pipeline.settings.loader import load_site
site = load_site(Path(sys.argv[1]))
from backup_pipeline.orchestration.site_process import enter_site
enter_site(site)
marks.append(("settings", time.time()))
import psycopg, pyarrow, pandas
marks.append(("import psycopg, pyarrow, pandas", time.time()))
import dagster as dg
marks.append(("import dagster", time.time()))
from backup_pipeline.orchestration.build import build_definitions
definitions = build_definitions(site)
definitions.resolve_job_def("nightly_backup")
marks.append(("build the definitions", time.time()))
with dg.DagsterInstance.get() as instance:
    instance.get_runs_count()
marks.append(("open the instance", time.time()))
from backup_pipeline.orchestration.launch import run_job
outcome = run_job(site.file, "nightly_backup")
assert outcome.success
marks.append(("the run itself", time.time()))
out, before = [], start
for name, moment in marks:
    out.append((name, moment - before)); before = moment
print(json.dumps(out))
"""

_DEFINITIONS = """
import sys, time
from pathlib import Path
import dagster as dg
from backup_pipeline.settings.loader import load_site
from backup_pipeline.orchestration.build import build_definitions
site = load_site(Path(sys.argv[1]))
start = time.perf_counter()
definitions = build_definitions(site)
definitions.get_repository_def()
definitions.resolve_job_def("nightly_backup")
print(time.perf_counter() - start)
"""


def _run(code: str, *arguments: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _cold(command: list[str], environment: dict[str, str], times: int) -> float:
    main = "from backup_pipeline.cli.main import main; main()"
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", main, *command], env=environment, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    return statistics.median(seconds)


def main() -> None:
    """Measure and write the result."""
    report = Report("overhead", "What a run costs beside the data")
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    with tempfile.TemporaryDirectory() as name, scratch_server(Path("/tmp")) as server:
        site = Path(name)
        for number, database in enumerate(("shop", "people")):
            create_database(server.target(), database)
            run_script(server.target(database), "".join(_SQL.format(n=n) for n in range(5 + number)))
        target = server.target()
        address = f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}"
        (site / ".env").write_text(f"SHOP_URL={address}/shop\nPEOPLE_URL={address}/people\n")
        (site / "backup.yaml").write_text(_SETTINGS)
        (site / "files").mkdir()
        (site / "files" / "one.txt").write_text("one")
        config = ["--config", str(site)]
        seconds = _cold(["backup", "nightly", *config], environment, 5)
        report.row("a plan of two tiny databases and a folder, cold from the shell", seconds, at_most=8.0)
        stages = json.loads(_run(_STAGES, str(site), repr(time.time()), environment=environment))
        for stage, spent in stages:
            report.row(f"of which, in one further run: {stage}", spent)
        report.row("`list`, cold", _cold(["list", *config], environment, 5), at_most=0.5)
        report.row("`show`, cold", _cold(["show", "latest", *config], environment, 5), at_most=0.5)
        remember_tables(site / "backups" / "nightly", "shop", [("shop", "public", f"t{n}") for n in range(1000)])
        seconds = statistics.median(float(_run(_DEFINITIONS, str(site), environment=environment)) for _ in range(3))
        report.row("definitions of 1,000 tables, with their checks", seconds, at_most=2.0)
    report.write()


if __name__ == "__main__":
    main()
