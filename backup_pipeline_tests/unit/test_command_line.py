"""What holds for the command line as a whole."""

from __future__ import annotations

import pytest

from backup_pipeline import __version__
from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(build_app(), ["--version"]) == 0
    assert capsys.readouterr().out == f"backup-pipeline {__version__}\n"


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(build_app(), ["bakup"]) == 2
    assert "bakup" in capsys.readouterr().err
