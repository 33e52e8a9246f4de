"""Many small databases in one plan, and two tiny ones, cold from the shell; beside `pg_dump | gzip` of each.

And beside a bare program that does the unavoidable work alone (`small_databases_floor`), one database after the other
and two at once: the floor under what is measured.

python -m benchmarks.many_databases [databases]
"""

from __future__ import annotations

import os
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer, scratch_server
from backup_pipeline.postgres.server.script import create_database, run_script
from benchmarks.cold_commands import cost, once, ours
from benchmarks.report import Report

_TABLES = 3
_SQL = (
    "create table t{n} (id int primary key, name text); insert into t{n} select i, 'x' from generate_series(1, 20) i;"
)
_TIMES = 3


def _fill(server: EmbeddedServer, databases: int) -> list[str]:
    names = [f"small{number}" for number in range(databases)]
    for name in names:
        create_database(server.target(), name)
        run_script(server.target(name), "".join(_SQL.format(n=n) for n in range(_TABLES)))
    return names


def _site(server: EmbeddedServer, site: Path, names: list[str], options: str = "") -> None:
    site.mkdir()
    target = server.target()
    address = f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}"
    (site / ".env").write_text("".join(f"{name.upper()}_URL={address}/{name}\n" for name in names))
    sources = "".join(f"  {name}: {{kind: postgres, dsn_env: {name.upper()}_URL}}\n" for name in names)
    (site / "backup.yaml").write_text(
        f"store: backups\nsources:\n{sources}plans:\n  all: {{sources: [{', '.join(names)}]{options}}}\n"
    )


def _peer(server: EmbeddedServer, names: list[str], folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the shell's line that dumps each database, and its environment."""
    with connected(server.target(names[0])) as connection:
        client = choose_client(connection.info.server_version // 10000)
    program = str(client.program("pg_dump"))
    lines = []
    given: dict[str, str] = {}
    for name in names:
        target = server.target(name)
        arguments = shlex.join([program, *target.program_arguments()])
        lines.append(f"{arguments} | gzip > {shlex.quote(str(folder / name))}.sql.gz")
        given |= {key: value for key, value in target.program_environment().items() if os.environ.get(key) != value}
    return ["; ".join(lines)], given


def _floor(site: Path, folder: Path, at_once: int) -> float:
    """Return the wall seconds of the bare program, the median of several runs."""
    found = []
    for number in range(_TIMES):
        place = str(folder / f"floor{site.name}{at_once}{number}")
        program = [sys.executable, "-m", "benchmarks.small_databases_floor", str(site / ".env"), place, str(at_once)]
        found.append(once(program).wall)
    return statistics.median(found)


def main() -> None:
    """Measure and write the result."""
    databases = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    report = Report("many_databases", "Small databases in one plan, cold from the shell; wall seconds")
    with tempfile.TemporaryDirectory() as name, scratch_server(Path("/tmp")) as server:
        names = _fill(server, databases)
        for count, at_most in ((2, 4.0), (databases, 9.0)):
            site = Path(name) / f"site{count}"
            _site(server, site, names[:count])
            line, given = _peer(server, names[:count], Path(name))
            peer = cost(line, times=_TIMES, shell=True, given=given)
            found = cost(ours("backup", "all", "--config", str(site)), times=_TIMES)
            what = f"`backup` of {count} databases of {_TABLES} tables"
            report.row(what, found.wall, at_most=at_most, note=f"processor {found.cpu:.2f} s")
            report.row(f"{what} beside the peer", found.wall, peer.wall, other_name=f"{count} x pg_dump | gzip")
            for at_once, named in ((1, "one after the other"), (2, "two at once")):
                floor = _floor(site, Path(name), at_once)
                report.row(f"{what} beside the floor, {named}", found.wall, floor, other_name="the bare program")
        for sources in (1, 4, 8):
            site = Path(name) / f"parallel{sources}"
            _site(server, site, names, f", parallel_sources: {sources}")
            other = cost(ours("backup", "all", "--config", str(site)), times=_TIMES).wall
            report.row(f"{what}", found.wall, other, other_name=f"with `parallel_sources: {sources}` instead of 2")
    report.write()


if __name__ == "__main__":
    main()
