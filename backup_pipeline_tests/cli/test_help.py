"""What `--help` says of every command: that its examples are right, and that a switch does not look like an option."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app


def _pages(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _pages(below, (*words, name))


APP = get_command(build_app())
PAGES = dict(_pages(APP))


def test_no_switch_seems_to_take_a_value_and_no_type_of_python_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for words in PAGES:
        assert run_app(APP, [*words, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "--help" in shown
        assert not re.search(r"<(?!text|number|path)[^<>]*>…?\s", shown), words


def test_every_command_stands_below_a_heading_of_its_own_kind(capsys: pytest.CaptureFixture[str]) -> None:
    run_app(APP, ["--help"])
    assert "─ Commands ─" not in capsys.readouterr().out


def test_every_command_says_what_it_does_and_each_of_its_options_too() -> None:
    for words, command in PAGES.items():
        assert command.help, words
        for parameter in command.params:
            assert parameter.help, (words, parameter.name)


def test_every_example_is_one_that_the_command_line_understands() -> None:
    found = 0
    for command in PAGES.values():
        for example in re.findall(r"`(backup-pipeline [^`]+)`", (command.help or "").replace("\n", " ")):
            words = shlex.split(example)[1:]
            below = PAGES[()]
            while getattr(below, "commands", None) and (words or not below.invoke_without_command):
                below = below.commands[words.pop(0)]
            below.make_context(below.name, words)
            found += 1
    assert found > 10
