"""A process that takes one member after the other: started when it is needed, and again after it has ended early."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.fleet_run import MemberOutcome
from backup_pipeline.system import processes

Task = Literal["backup", "drill"]
_LINE = 1 << 16


class MemberProcess:
    """One process of `operations.fleets.member`."""

    def __init__(self, settings_file: Path, run_id: str) -> None:
        self._command: list[str | Path] = [sys.executable, "-m", "backup_pipeline.operations.fleets.member"]
        self._command += [settings_file, *([run_id] if run_id else [])]
        self._stack = ExitStack()
        self._program: processes.Running | None = None

    def ask(self, task: Task, plan: str) -> MemberOutcome:
        """Have a member backed up or drilled; where the process ends, that member alone has failed."""
        try:
            return self._asked(task, plan)
        except BackupSystemError as error:
            self.close()
            return MemberOutcome(
                plan=plan,
                state="failed",
                at=utc_now(),
                what=error.what,
                remedy=error.remedy,
                exit_code=int(error.exit_code),
            )

    def close(self) -> None:
        """End the process."""
        self._program = None
        self._stack.close()

    def _asked(self, task: Task, plan: str) -> MemberOutcome:
        if self._program is None:
            running = processes.running(self._command, env=dict(os.environ), with_stdin=True)
            self._program = self._stack.enter_context(running)
        program, line = self._program, b""
        with suppress(OSError):
            program.stdin.write(f"{task} {plan}\n".encode())
            while not line.endswith(b"\n") and (piece := program.stdout.read(_LINE)):
                line += piece
        try:
            return MemberOutcome.model_validate_json(line)
        except ValueError:
            code, messages = program.finish(timeout=30)
            raise BackupSystemError(
                f"Its process ended (exit code {code}): {processes.last_lines(messages)}",
                where=plan,
                remedy=f"backup-pipeline {task} {plan}",
            ) from None


@contextmanager
def member_process(settings_file: Path, run_id: str) -> Iterator[MemberProcess]:
    """Give a process that ends with the block."""
    one = MemberProcess(settings_file, run_id)
    try:
        yield one
    finally:
        one.close()
