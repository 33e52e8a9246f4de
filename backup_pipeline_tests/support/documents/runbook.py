"""The runbook's sections: their commands, and a site on which they are followed."""

from __future__ import annotations

import json

from backup_pipeline_tests.support.documents.blocks import ROOT, Block, blocks_of, commands
from backup_pipeline_tests.support.sites import TestSite

RUNBOOK = ROOT / "docs" / "runbook.md"
# Every section with commands, each followed by a test in acceptance/test_deployment_runbook.py.
FOLLOWED = (
    "0. First",
    "1. Choose a set",
    "2. A database is damaged",
    "3. Only some rows are wrong",
    "4. Files, a repository, a SQLite database",
    "5. The order archive's database is lost",
    "6. The whole machine is lost",
    "7. Afterwards",
    "8. Without this program",
)


def section(title: str) -> list[Block]:
    """The blocks of one section of the runbook."""
    assert title in FOLLOWED
    return blocks_of(RUNBOOK.read_text("utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0], RUNBOOK)


def calls(title: str) -> list[list[str]]:
    """The calls of the command line in one section; there is nothing else in it."""
    words = [command.words for block in section(title) for command in commands(block)]
    assert words
    assert {first for first, *_ in words} == {"backup-pipeline"}
    return [rest for _, *rest in words]


def follow(site: TestSite, title: str, *, until: str = "") -> None:
    """Do what a section says, up to the first command of this name."""
    steps = calls(title)
    end = next((number for number, words in enumerate(steps) if words[0] == until), len(steps))
    follow_calls(site, steps[:end])


def follow_calls(site: TestSite, steps: list[list[str]]) -> None:
    """Run each; what a plan prints is what the next command is given."""
    known: dict[str, str] = {}
    for words in steps:
        words = [known.get(word, word) for word in words]
        planning = words[0] == "restore" and "--apply" not in words
        done = site.run(*words, *(["--json"] if planning else []))
        assert done.code == 0, f"{words}\n{done.text}"
        if planning:
            plan = json.loads(done.out)
            known = {"PLAN_ID": plan["plan_id"], "NAME": plan["confirm"]}
