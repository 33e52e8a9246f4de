"""Starting outside programs: argument lists only, a scrubbed environment, output captured, errors translated.

The only module (with `postgres/embedded`) that imports subprocess. Secrets travel in `env`, never in arguments.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from backup_pipeline.errors import ToolError
from backup_pipeline.system import limits

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH")

_TERMINATION_SECONDS = 3.0
_FOREGROUND_SECONDS = 60.0
_GROUP_SECONDS = 10.0


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a small environment for a child: a few variables of ours (no PG*, no secrets) and `extra`."""
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env.update(extra or {})
    return env


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_program(name: str, *, remedy: str) -> Path:
    """Return the path of a program on PATH; ToolError with `remedy` when there is none."""
    found = shutil.which(name)
    if found is None:
        raise ToolError(f"The program {name} was not found.", where="PATH", remedy=remedy)
    return Path(found)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left behind."""

    exit_code: int
    stdout: bytes
    stderr: str


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> Finished:
    """Run a program to its end with its output in memory (for small outputs).

    Args:
        command: program and arguments; no shell.
        env: variables added to a scrubbed environment.
        cwd: working folder.
        stdin: bytes for its standard input; empty otherwise.
        check: raise ToolError on an exit code other than 0.
        timeout: seconds after which it is killed and ToolError raised.
    """
    done = _run_to_its_end(command, env, cwd, stdin, timeout)
    stderr = done.stderr.decode("utf-8", "replace")
    if check and done.returncode != 0:
        raise ToolError(
            f"Exit code {done.returncode}: {last_lines(stderr)}", where=Path(str(command[0])).name, remedy=""
        )
    return Finished(done.returncode, done.stdout, stderr)


def _run_to_its_end(
    command: Sequence[str | Path],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    stdin: bytes | None,
    timeout: float | None,
) -> subprocess.CompletedProcess[bytes]:
    with _started(command, env, cwd, subprocess.PIPE) as process:
        limits.add_probe(process.pid, _Computing(process.pid))
        try:
            out, messages = process.communicate(stdin if stdin is not None else b"", timeout)
        except subprocess.TimeoutExpired as error:
            raise ToolError(
                f"No end after {timeout} s.",
                where=Path(str(command[0])).name,
                remedy="Find out what it waits for.",
            ) from error
        limits.progressed()
        return subprocess.CompletedProcess(process.args, process.returncode, out, messages)


class _Computing:
    """Says whether a program, or one that it started, has used a processor since it was last asked."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._used = 0.0

    def __call__(self) -> bool:
        import psutil

        try:
            program = psutil.Process(self._pid)
            used = sum(sum(each.cpu_times()[:2]) for each in (program, *program.children(recursive=True)))
        except psutil.Error:
            return False
        before, self._used = self._used, used
        return used > before


@contextlib.contextmanager
def _started(
    command: Sequence[str | Path], env: Mapping[str, str] | None, cwd: Path | None, stdin: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program for the block; it is ended when the block is left, a limit is reached or an interrupt comes."""
    limits.check()
    try:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=clean_environment(env),
            cwd=cwd,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
    except FileNotFoundError as error:
        raise ToolError(
            "The program was not found.", where=str(command[0]), remedy="Install it or correct PATH."
        ) from error
    try:
        with limits.ends_with(lambda: _end(process)):
            yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program that still runs: by SIGTERM, and by SIGKILL when it does not follow."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_TERMINATION_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_lines(text: str, count: int = 3) -> str:
    """Return the last lines of a program's messages as one line."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " | ".join(lines[-count:]) or "no message"


class Running:
    """A program whose standard output is being read as a stream; its messages are gathered beside it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._stderr: list[bytes] = []
        self._reader = threading.Thread(target=self._gather, daemon=True, name="stderr")
        self._reader.start()

    def _gather(self) -> None:
        assert self._process.stderr is not None
        # A ValueError: closed meanwhile, because something that the program started still holds the other end.
        with contextlib.suppress(ValueError):
            for line in self._process.stderr:
                self._stderr.append(line)
                if len(self._stderr) > 2000:
                    del self._stderr[100]

    def has_ended(self) -> None:
        """Let the messages of a program that has ended be read to their end, before their pipe is closed."""
        self._reader.join(timeout=5)

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        """The program's output, unbuffered."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        """The program's input, where it was asked for."""
        assert self._process.stdin is not None
        return self._process.stdin

    def finish(self, timeout: float | None = None) -> tuple[int, str]:
        """Wait for the end; return exit code and messages."""
        code = self._process.wait(timeout)
        self.has_ended()
        return code, b"".join(self._stderr).decode("utf-8", "replace")


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    with_stdin: bool = False,
) -> Iterator[Running]:
    """Start a program whose output is read while it runs; it is ended when the block is left early.

    Its standard input is empty unless `with_stdin`. Leaving the block does not judge the exit code: call `finish()`.
    """
    with _started(command, env, cwd, subprocess.PIPE if with_stdin else subprocess.DEVNULL) as process:
        program = Running(process)
        try:
            yield program
        finally:
            _end(process)
            program.has_ended()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError, ValueError):
                        pipe.close()


def run_in_foreground(command: Sequence[str | Path], *, cwd: Path | None = None) -> int:
    """Run a program on this terminal with this process's environment until it ends; return its exit code.

    Ctrl-C, SIGTERM and SIGHUP are passed on, and its end is waited for: a minute, then it is killed.
    """
    # A shell starts what it puts in the background with SIGINT ignored, and that is inherited: Dagster, which stops its
    # own processes by SIGINT, would then never end.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # In a group of its own a signal reaches it once and by way of this process only, whether a terminal sends it to
    # the group or somebody to this process alone.
    own_group = {"process_group": 0} if os.name == "posix" else {}
    process = subprocess.Popen([str(part) for part in command], cwd=cwd, **own_group)  # type: ignore[call-overload]
    reported: list[float] = []

    def pass_on(number: int, _: object) -> None:
        reported.append(time.monotonic())
        if process.returncode is None:
            process.send_signal(number)

    passed_on = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in passed_on}
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return int(process.wait(1))
            if reported and time.monotonic() - reported[0] > _FOREGROUND_SECONDS:
                _kill_group(process)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _end(process)
        _end_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what a program that has ended left running in its group: by SIGTERM, then by SIGKILL."""
    if not hasattr(os, "killpg"):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        until = time.monotonic() + _GROUP_SECONDS
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
