"""Run the benchmarks one after the other, unattended, and write all results.

    python -m benchmarks [--minutes 20] [--full] [name ...]

Without names the programs run in the order of this list, each with sizes that fit: on two processors all of them take
less than twenty minutes. A program for which the time left is too short is not begun, and named at the end. `--full`
takes the programs' own sizes and adds the long ones: a million orders, memory up to 10 GB, restic and borg (two hours).
A program that takes three times as long as expected is ended, and the next one begins.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

_PATIENCE = 3.0


@dataclass(frozen=True)
class Program:
    """A program: its module, the minutes it takes, and the arguments that make it short; `full` is None to skip it."""

    name: str
    minutes: float
    short: tuple[str, ...] | None = ()
    full: tuple[str, ...] = ()
    full_minutes: float = 0.0


PROGRAMS = (
    Program("dump", 2.5, full=("--repeat", "3"), full_minutes=4),
    Program("whole_capture", 2.0, ("--repeat", "2"), full_minutes=3),
    Program("restore", 1.5, ("--megabytes", "200"), full_minutes=3),
    Program("fresh_demo", 1.5),
    Program("many_tables", 4.0, full_minutes=5),
    Program("many_databases", 1.0),
    Program("drill", 1.0, ("--sizes", "100", "--repeat", "1"), full_minutes=5),
    Program("overhead", 0.7),
    Program("many_plans", 0.7),
    Program("many_sets", 0.7),
    Program("memory", 1.0, ("--sizes", "100,1000"), ("--sizes", "100,1000,10000"), 15),
    Program("orders", 0.8, ("--sizes", "10000"), full_minutes=5),
    Program("verify", 0.5, ("--megabytes", "300"), full_minutes=1),
    Program("front_page", 0.7),
    Program("fleet", 0.1),
    Program("orders", 0, None, ("--sizes", "1000000", "--durable-only", "--name", "orders_million"), 20),
    Program("table_exports", 0, None, full_minutes=4),
    Program("tarball", 0, None, full_minutes=5),
    Program("upsert", 0, None, full_minutes=3),
    Program("vault", 0, None, full_minutes=8),
    Program("celery_workers", 0, None, full_minutes=20),
)


def _run(program: Program, arguments: tuple[str, ...], minutes: float) -> str:
    """Run a program to its end; return what is wrong, "" where nothing is."""
    command = [sys.executable, "-m", f"benchmarks.{program.name}", *arguments]
    print(f"== {program.name} {' '.join(arguments)} (about {minutes:g} min)", flush=True)
    begin = time.monotonic()
    # In a group of its own, with the servers that it starts.
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            code = process.wait(_PATIENCE * minutes * 60)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"ended after {_PATIENCE * minutes:g} minutes"
        except BaseException:
            _end(process)
            raise
    print(f"   {program.name}: {(time.monotonic() - begin) / 60:.1f} min", flush=True)
    return f"exit code {code}" if code else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program: by SIGINT, so that it removes what it made and stops its servers, and by force after a while."""
    for number, seconds in ((signal.SIGINT, 20), (signal.SIGKILL, 5)):
        os.killpg(process.pid, number)
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue


def main() -> int:
    """Run the programs asked for; return how many were not run to their end or broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help="only these; all by default")
    parser.add_argument("--minutes", type=float, default=0.0, help="in all; 20 by default, with --full no limit")
    parser.add_argument("--full", action="store_true", help="the programs' own sizes, and the long programs")
    options = parser.parse_args()
    if unknown := set(options.names) - {program.name for program in PROGRAMS}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    limit = options.minutes or (float("inf") if options.full else 20.0)
    begin = time.monotonic()
    wrong: dict[str, str] = {}
    for program in PROGRAMS:
        if options.names and program.name not in options.names:
            continue
        arguments = program.full if options.full else program.short
        minutes = program.full_minutes or program.minutes if options.full else program.minutes
        if arguments is None:
            if not options.names:
                continue
            arguments, minutes = program.full, program.full_minutes
        if (time.monotonic() - begin) / 60 + minutes > limit:
            wrong[program.name] = "not begun: no time left"
        elif problem := _run(program, arguments, minutes):
            wrong[program.name] = problem
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes", flush=True)
    for name, problem in wrong.items():
        print(f"{name}: {problem}")
    print("What was met stands in benchmarks/results.")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
