"""Doing what a document says: its commands in a folder of a test, in this process where no shell is needed."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from backup_pipeline.postgres.server.clients import embedded_folders
from backup_pipeline_tests.support.documents.blocks import Block, Command, blocks, commands
from backup_pipeline_tests.support.sites import Output

# Why a command is not run here, and the test that looks at it instead.
ELSEWHERE = {
    r"^backup-pipeline up\b": (
        "runs until it is stopped",
        "acceptance/test_ui.py::test_the_ui_backs_up_and_re_executes_from_failure_into_the_same_set",
    ),
    r"^make (demo|test|stories|explore|check|format|bench)\b": (
        "installs, or runs these very tests",
        "documents/test_commands.py::test_the_targets_of_make_call_what_exists",
    ),
    r"\bpip install\b|^python3 -m venv\b": (
        "installs; the first step of .ci/run",
        "documents/test_commands.py::test_what_is_installed_is_what_the_project_declares",
    ),
    r"^useradd\b|^systemctl\b|^mount\b": (
        "changes this machine",
        "documents/test_deployment.py::test_systemd_accepts_the_units",
    ),
    r"^docker/pin-digests$": (
        "needs an engine and the network",
        "documents/test_deployment.py::test_digests_are_written_into_every_file_and_written_anew",
    ),
    r"^kubectl\b": (
        "needs a cluster",
        "orchestration/test_kubernetes_manifests.py::test_kubectl_makes_of_the_site_what_the_files_say",
    ),
    r"^celery\b": (
        "runs until it is stopped",
        "faults/test_celery_workers.py::test_runs_are_spread_over_workers_and_proven_from_another",
    ),
    r"^(\w+=\S+ )?docker (compose .* up|run)\b": (
        "needs an engine",
        "documents/test_deployment.py::test_compose_files_fulfil_the_compose_specification",
    ),
}
_INSIDE = re.compile(r"^docker compose .* exec code ")
_OF_A_SHELL = re.compile(r"[|<>;$*`&]")


def elsewhere(command: str) -> str:
    """Return why a command is not run here, "" when it is."""
    return next((why for pattern, (why, _) in ELSEWHERE.items() if re.search(pattern, command)), "")


@dataclass
class Shell:
    """Where a document's commands are run, and how its names are those of a test.

    Attributes:
        folder: the site's folder; `bin` beside it holds the program.
        variables: environment of every command.
        names: texts of the document, each with what stands for it here.
        before: called before a command that begins so, once.
        codes: exit codes other than 0 that a command, written so, may end with.
        followed: the document's commands that were run here, or are run elsewhere, as they are written.
    """

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    codes: dict[str, set[int]] = field(default_factory=dict)
    cwd: Path = field(init=False)
    exported: list[str] = field(default_factory=list)
    printed: dict[str, Output] = field(default_factory=dict)
    followed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cwd = self.folder
        programs = self.folder.parent / "bin"
        programs.mkdir(exist_ok=True)
        program = programs / "backup-pipeline"
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} -c "from backup_pipeline.cli.main import main; main()" "$@"\n'
        )
        program.chmod(0o755)
        kept = ("LANG", "TMPDIR", "LD_LIBRARY_PATH")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "PATH": f"{programs}:{embedded_folders()[0]}:{os.environ['PATH']}",
            "HOME": str(self.folder.parent),
            "COLUMNS": "200",
            **self.variables,
        }
        self.names.setdefault("/opt/backup-pipeline/bin/backup-pipeline", str(program))

    def follow(self, document: Path) -> None:
        """Run every command of a document in its order; each must end well."""
        for block in blocks(document):
            if block.kind == "sh":
                self.follow_block(block)
            elif block.kind == "crontab":
                for line in block.text.splitlines():
                    self.cron(line, block.where)

    def follow_block(self, block: Block) -> None:
        for command in commands(block):
            self.do(command)

    def do(self, command: Command) -> Output:
        self.followed.append(command.text)
        text = _INSIDE.sub("", command.text)
        for beginning in list(self.before):
            if text.startswith(beginning):
                self.before.pop(beginning)()
        if elsewhere(text):
            return Output(0, "", "")
        done = self.run(self.here(text))
        self.learn(done)
        allowed = self.codes.get(" ".join(text.split("#")[0].split()), {0})
        assert done.code in allowed, f"{command.block.where}: {text}\nended with {done.code}\n{done.text}"
        self.printed[text] = done
        return done

    def learn(self, done: Output) -> None:
        """Keep what a restore's plan ends with: its id and the name to confirm, for the commands that follow it."""
        if found := re.search(r"--apply --plan-id (\w+) --confirm (\S+)", done.out):
            self.names["PLAN_ID"] = self.names["4f1c…"] = found[1]
            self.names["--confirm NAME"] = self.names["--confirm postgres"] = f"--confirm {found[2]}"

    def here(self, text: str) -> str:
        """Return a document's text with the names of this test."""
        for name, value in self.names.items():
            text = text.replace(name, value)
        return text

    def cron(self, line: str, where: str) -> None:
        """Run a line of a crontab as cron does: by sh, with `\\%` for a per cent sign."""
        command = self.here(line.split(None, 5)[5].replace("\\%", "%"))
        done = self.bash(command)
        assert done.code in self.codes.get("cron", {0}), f"{where}: {command}\n{done.text}"

    def run(self, text: str) -> Output:
        words = Command(Block(Path(), 0, "sh", text), text).words
        if words[0] == "cd":
            self.cwd = self.cwd / words[1]
            return Output(0, "", "")
        if words[0] == "export":
            self.exported.append(text)
            return Output(0, "", "")
        # Options of the program itself ask what it was called.
        if (
            words[0] == "backup-pipeline"
            and words[1][0] != "-"
            and not _OF_A_SHELL.search(re.sub(r"'[^']*'|\"[^\"$]*\"", "", text))
        ):
            return self.call(words[1:])
        return self.bash(text)

    def call(self, words: list[str]) -> Output:
        """Run the command line in this process, in the folder where a person would stand."""
        from backup_pipeline.cli.main import build_app, run_app

        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            contextlib.chdir(self.cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run_app(build_app(), words)
        return Output(code, out.getvalue(), err.getvalue())

    def bash(self, text: str) -> Output:
        # With a line after it the command is no replacement of bash: it can ask which shell it was started from.
        script = "\n".join(["set -o pipefail", *self.exported, text, "exit $?"])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Output(done.returncode, done.stdout, done.stderr)
