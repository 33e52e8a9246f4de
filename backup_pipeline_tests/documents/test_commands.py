"""Every command of README and docs runs, on a site that is built as its document says; a new one runs or fails here.

The runbook is followed in acceptance/test_deployment_runbook.py. What cannot run on a machine of tests stands in
`ELSEWHERE`, each with its reason and with the test that looks at it.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from typer.main import get_command

from backup_pipeline.cli.main import build_app
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.documents.blocks import DOCUMENTS, ROOT, SILENT, Block, blocks, blocks_of, commands
from backup_pipeline_tests.support.documents.runbook import FOLLOWED
from backup_pipeline_tests.support.documents.shell import ELSEWHERE, elsewhere
from backup_pipeline_tests.support.documents.walkthroughs import WALKTHROUGHS, Stage, document

KINDS = {"sh", "script", "makefile", "crontab", "env", "yaml", *SILENT}
TO_RUN = {"sh", "script", "makefile", "crontab"}
WITH_COMMANDS = [path for path in DOCUMENTS if any(block.kind in TO_RUN for block in blocks(path))]


# The longest: what their commands do is held by shorter tests, that the documents name them by nothing shorter.
LONG = {"deployment", "guide-from-cron", "restore", "vaults"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.story if name in LONG else pytest.mark.takes(seconds=8))
        for name in sorted(WALKTHROUGHS)
    ],
)
def test_every_command_of_the_document_runs(
    name: str,
    tmp_path: Path,
    database: Callable[..., PostgresTarget],
    template: Callable[[str, str], str],
    server: EmbeddedServer,
) -> None:
    stage = Stage(tmp_path, database, template, server)
    WALKTHROUGHS[name](stage)
    written = {command.text for block in blocks(document(name)) if block.kind == "sh" for command in commands(block)}
    assert stage.shells
    assert written - {text for shell in stage.shells for text in shell.followed} == set()


def test_every_document_with_commands_is_followed() -> None:
    assert {path.stem for path in WITH_COMMANDS} == {*WALKTHROUGHS, "runbook"}


def test_every_section_of_the_runbook_with_commands_is_followed() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    sections = {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}
    with_commands = {title for title, part in sections.items() if blocks_of(part, Path("runbook.md"))}
    assert with_commands == set(FOLLOWED)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_python_in_the_documents_is_python(document: Path) -> None:
    for block in blocks(document):
        if block.kind == "python":
            assert ast.parse(block.text).body, block.where


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_block_is_of_a_known_kind(document: Path) -> None:
    unknown = [block.where for block in blocks(document) if block.kind not in KINDS]
    assert not unknown, f"name what is printed or drawn with ```text, and new programs in blocks.py: {unknown}"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("helm install x", ""),
        ("backup-pipeline list\nfrobnicate", ""),
        ("UI=1 docker compose up", "sh"),
        ("A=1\nB='x y'", "env"),
        ("0 2 * * * run it", "crontab"),
        ("store: x", "yaml"),
        ("#!/bin/sh\nx", "script"),
        ("migrate: ; x", "makefile"),
    ],
)
def test_an_unknown_program_makes_a_block_of_no_kind(text: str, kind: str) -> None:
    assert Block(Path("x.md"), 1, "", text).kind == kind


def test_a_command_that_looks_at_an_exit_code_is_one_with_what_gave_it() -> None:
    text = "backup-pipeline backup a\ncase $? in\n  0) ;;\nesac\nbackup-pipeline list"
    found = commands(Block(Path("x.md"), 1, "sh", text))
    assert [command.text.split("\n")[0] for command in found] == ["backup-pipeline backup a", "backup-pipeline list"]


def test_what_is_looked_at_elsewhere_is_in_the_documents_and_its_test_exists() -> None:
    texts = [command.text for path in WITH_COMMANDS for block in blocks(path) for command in commands(block)]
    for pattern, (_, test) in ELSEWHERE.items():
        assert any(re.search(pattern, text) for text in texts), pattern
        file, function = test.split("::")
        assert f"def {function}(" in (ROOT / "backup_pipeline_tests" / file).read_text("utf-8")
    ours = [text for text in texts if text.startswith("backup-pipeline") and elsewhere(text)]
    assert all(text.startswith("backup-pipeline up") for text in ours)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_in_running_text_exists_with_its_options(document: Path) -> None:
    app = get_command(build_app())
    calls = re.findall(r"`backup-pipeline ([a-z][^`]*)`", document.read_text("utf-8"))
    calls += [
        " ".join(map(shlex.quote, command.words[1:]))
        for block in blocks(document)
        if block.kind == "sh"
        for command in commands(block)
        if command.text.startswith("backup-pipeline up")
    ]
    for call in calls:
        try:
            parse(app, shlex.split(call), "backup-pipeline")
        except click.exceptions.MissingParameter:
            pass  # the text names the command
        except click.ClickException as error:
            pytest.fail(f"{document.name}: backup-pipeline {call}: {error.format_message()}")


def parse(command: click.Command, words: list[str], known_as: str) -> None:
    """Parse the words as the command line would, without running anything."""
    if isinstance(command, click.Group) and not words:
        return
    context = command.make_context(known_as, list(words), resilient_parsing=False)
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, child, words = command.resolve_command(context, rest)
        assert child is not None
        parse(child, words, f"{known_as} {name}")


def test_the_targets_of_make_call_what_exists() -> None:
    app = get_command(build_app())
    targets = {
        words[1]
        for path in WITH_COMMANDS
        for block in blocks(path)
        for command in commands(block)
        if (words := command.words) and words[0] == "make"
    }
    assert {"demo", "test", "check"} <= targets
    for target in sorted({*targets, "up", "clean-demo", "backup", "status", "restore"}):
        # One looks for a fitting Python by itself; to do that for each takes longer than all else here.
        given = [] if target == "test" else [f"PYTHON={sys.executable}", "SOURCE=supabase", "PLAN=nightly"]
        done = subprocess.run(["make", "-n", target, *given], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        # One of the two is called, whichever is there.
        programs = [name for name in re.findall(r"\.venv/bin/([\w-]+)", done.stdout) if name not in ("uv", "pip")]
        assert programs, target
        assert all((ROOT / ".venv" / "bin" / name).exists() for name in programs) or not (ROOT / ".venv").exists()
        for call in re.findall(r"bin/backup-pipeline (.+)", done.stdout):
            parse(app, shlex.split(call), "backup-pipeline")


def test_what_is_installed_is_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "backup-pipeline" in project["scripts"]
    asked = [
        command.text
        for path in WITH_COMMANDS
        for block in blocks(path)
        for command in commands(block)
        if re.search(r"\bpip install\b", command.text)
    ]
    for text in asked:
        for extras in re.findall(r"\[([\w,]+)\]", text):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), text
        assert all((ROOT / name).exists() for name in re.findall(r"-c (\S+)", text)), text
