"""Programs in Python as processes of their own, forked from one that has imported Dagster and the command line.

For tests whose processes need a world of their own (packages, variables, folder), where how they start is not the
point: to import Dagster takes two seconds of the processor, a fork some milliseconds.

`python -m backup_pipeline_tests.support.forked_programs` reads lines of JSON (program, arguments, environment, folder,
files for the output) and writes each program's exit code when it has ended.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline_tests.support.sites import Output


@dataclass
class Programs:
    """The process, as a test uses it."""

    process: subprocess.Popen[str]

    def run(self, program: str, *arguments: str, environment: Mapping[str, str], folder: Path) -> Output:
        """Run `python -c program arguments` with these variables alone, in a folder; PYTHONPATH is one folder."""
        assert self.process.stdin
        assert self.process.stdout
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            asked = [program, arguments, dict(environment), str(folder), out.name, err.name]
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            code = int(self.process.stdout.readline())
            return Output(code, out.read().decode(), err.read().decode())


@contextlib.contextmanager
def forked_programs() -> Iterator[Programs]:
    """Run the process for the block."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Programs(process)


def _preload() -> None:
    # What a run, a drill and a restore import by themselves when they begin.
    import backup_pipeline.cli.main
    import backup_pipeline.operations.restore.run
    import backup_pipeline.orchestration.build
    import backup_pipeline.orchestration.launch  # noqa: F401


def _child(program: str, arguments: list[str], environment: dict[str, str], folder: str, out: str, err: str) -> None:
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, environment["PYTHONPATH"])
    importlib.invalidate_caches()
    sys.argv = ["-c", *arguments]
    code = 0
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Serve until the input ends."""
    _preload()
    while line := sys.stdin.readline():
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(*asked)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
