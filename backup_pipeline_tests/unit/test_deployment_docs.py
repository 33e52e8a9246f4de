"""What the documents say is true: their commands exist with their options, their settings load, their links lead on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import apprise
import click
import pytest
import yaml
from typer.main import get_command

from backup_pipeline.cli.main import build_app
from backup_pipeline.orchestration.launcher import executor_from_environment
from backup_pipeline.settings.loader import load_site

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "deployment",
    "alerts",
    "security",
    "scaling-out",
    "guide-supabase-keycloak-storage",
    "guide-trading-and-repository",
    "guide-supabase-json-export",
    "guide-from-cron",
    "runbook",
)
DOCUMENTS = [path for name in NAMES if (path := ROOT / "docs" / f"{name}.md").exists()]

_CALL = re.compile(r"(?:^|[ /])backup-pipeline ([a-z].*?)(?=$| &&| \|\||>>| > |  #)")
# Lines in which the name stands for a user, a folder or an image.
_OTHER = re.compile(r"useradd|docker build|pip install|^ *install ")


def blocks(text: str) -> list[str]:
    """The indented blocks of a document, without their indent."""
    found = re.findall(r"(?:^(?: {4,}.*)?\n)*^ {4,}.*$", text, re.MULTILINE)
    return [re.sub(r"^ {4}", "", block.strip("\n"), flags=re.MULTILINE) for block in found]


def commands(text: str) -> list[list[str]]:
    """Every call of the command line in the blocks of a document."""
    lines = [line for line in "\n".join(blocks(text)).splitlines() if not _OTHER.search(line)]
    return [shlex.split(call) for line in lines for call in _CALL.findall(line)]


def check(command: click.Command, words: list[str], known_as: str) -> None:
    """Parse the words as the command line would, without running anything."""
    context = command.make_context(known_as, list(words), resilient_parsing=False)
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, child, words = command.resolve_command(context, rest)
        assert child is not None
        check(child, words, f"{known_as} {name}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_in_the_documents_exists_with_its_options(document: Path) -> None:
    app = get_command(build_app())
    for words in commands(document.read_text("utf-8")):
        try:
            check(app, words, "backup-pipeline")
        except click.ClickException as error:
            pytest.fail(f"{document.name}: backup-pipeline {' '.join(words)}: {error.format_message()}")


def test_the_documents_hold_commands_at_all() -> None:
    assert len([words for document in DOCUMENTS for words in commands(document.read_text("utf-8"))]) > 15


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_link_between_the_documents_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.stem.startswith("guide")], ids=lambda path: path.stem)
def test_the_settings_of_the_guides_load(document: Path, tmp_path: Path) -> None:
    found = [block for block in blocks(document.read_text("utf-8")) if re.search(r"^sources:", block, re.MULTILINE)]
    assert len(found) == 1
    (tmp_path / "backup.yaml").write_text(found[0], "utf-8")
    site = load_site(tmp_path, environment={})
    assert site.settings.plans
    called = {
        words[1].split("/")[0]
        for words in commands(document.read_text("utf-8"))
        if words[0] in ("backup", "list", "show")
    }
    assert called <= set(site.settings.plans)


def test_the_addresses_in_the_table_of_alerts_are_ones_that_apprise_knows() -> None:
    text = (ROOT / "docs" / "alerts.md").read_text("utf-8")
    found = re.findall(r"^\| [^|]+ \| `(\w+://[^`]+)` \|$", text, re.MULTILINE)
    assert len(found) == 6
    real = {
        "TOKEN_A/TOKEN_B/TOKEN_C": "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "BOT_TOKEN": "123456789:abcdefg_hijklmnop",
    }
    real["CHAT_ID"] = "12315544"
    for address in found:
        for placeholder, value in real.items():
            address = address.replace(placeholder, value)
        assert apprise.Apprise.instantiate(address) is not None, address


def test_the_configurations_of_launchers_and_executors_are_json_objects() -> None:
    text = (ROOT / "docs" / "scaling-out.md").read_text("utf-8")
    found = re.findall(r"^ {4}BACKUP_PIPELINE_\w+_CONFIG=(.+)$", text, re.MULTILINE)
    assert len(found) == 3
    for configuration in found:
        assert isinstance(yaml.safe_load(configuration), dict)
    assert executor_from_environment({"BACKUP_PIPELINE_EXECUTOR": "in_process"}).name == "in_process"
