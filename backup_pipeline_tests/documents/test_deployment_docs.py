"""What the documents say is true: their settings load, their links lead on. Their commands run in documents/."""

from __future__ import annotations

import re
from pathlib import Path

import apprise
import pytest

from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.documents.blocks import DOCUMENTS, ROOT, blocks, commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_link_between_the_documents_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


def test_every_picture_is_shown_in_a_document() -> None:
    texts = "".join(document.read_text("utf-8") for document in DOCUMENTS)
    unused = [path.name for path in (ROOT / "docs" / "pictures").iterdir() if f"pictures/{path.name})" not in texts]
    assert unused == []


GUIDES = [path for path in DOCUMENTS if path.stem.startswith("guide")]


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.stem)
def test_the_settings_of_the_guides_load(document: Path, tmp_path: Path) -> None:
    (settings,) = [block for block in blocks(document) if block.kind == "yaml"]
    (tmp_path / "backup.yaml").write_text(settings.text, "utf-8")
    site = load_site(tmp_path, environment={})
    called = {
        command.words[2].split("/")[0]
        for block in blocks(document)
        if block.kind == "sh"
        for command in commands(block)
        if re.match(r"backup-pipeline (backup|list|show) ", command.text)
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
