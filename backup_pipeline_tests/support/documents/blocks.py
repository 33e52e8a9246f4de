"""The blocks of README and docs, each of a known kind, and the commands in them. Nothing is run here."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

# What a line of a shell block may begin with. A program that is not among them makes its block one of no known kind.
PROGRAMS = frozenset(
    {
        "age-keygen",
        "backup-pipeline",
        "cd",
        "celery",
        "chmod",
        "chown",
        "cp",
        "curl",
        "docker",
        "pin-digests",
        "echo",
        "export",
        "git",
        "gunzip",
        "gzip",
        "install",
        "kubectl",
        "make",
        "mkdir",
        "mount",
        "openssl",
        "pip",
        "psql",
        "python3",
        "sha256sum",
        "systemctl",
        "tar",
        "useradd",
    }
)
# Kinds that hold nothing to run; a fenced block says so by its name.
SILENT = ("mermaid", "text", "json", "python")
_BEGIN = re.compile(r"^(?:case|for|if|while)\b")
_END = re.compile(r"^(?:esac|done|fi)\b")
_CRON = re.compile(r"^(?:[\d*/,-]+\s+){5}\S")


@dataclass(frozen=True)
class Block:
    """A block of a document: fenced (then with the name behind the fence) or indented."""

    document: Path
    line: int
    name: str
    text: str

    @property
    def kind(self) -> str:
        """One of sh, script, makefile, crontab, env, yaml and the silent ones; "" when it is none of them."""
        return self.name or _recognised(self.text)

    @property
    def where(self) -> str:
        return f"{self.document.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a block, as a shell would read it to its end."""

    block: Block
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def blocks(document: Path) -> list[Block]:
    """Return the blocks of a document in their order."""
    return blocks_of(document.read_text("utf-8"), document)


def blocks_of(text: str, document: Path) -> list[Block]:
    found: list[Block] = []
    held: list[str] = []
    start, name, fenced = 0, "", False
    for number, line in enumerate([*text.splitlines(), "end"], 1):
        if fenced:
            if line.strip().startswith("```"):
                found.append(Block(document, start, name, textwrap.dedent("\n".join(held))))
                held, fenced = [], False
            else:
                held.append(line)
        elif line.startswith("    ") or (held and not line.strip()):
            start = start if held else number
            held.append(line)
        else:
            if held:
                found.append(Block(document, start, "", textwrap.dedent("\n".join(held)).strip("\n")))
                held = []
            if fence := re.match(r"\s*```(\w*)$", line):
                start, name, fenced = number, fence[1], True
    return found


def commands(block: Block) -> list[Command]:
    """Return the commands of a shell block; a `case` that looks at `$?` belongs to the command before it."""
    found: list[str] = []
    inside = False
    for line in block.text.splitlines():
        if inside:
            found[-1] += f"\n{line}"
            inside = not _END.match(line)
        elif line.strip() and not line.startswith("#"):
            inside = bool(_BEGIN.match(line)) and not _END.search(line)
            if found and "$?" in line:
                found[-1] += f"\n{line}"
            else:
                found.append(line)
    return [Command(block, text) for text in found]


def _recognised(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if text.startswith("#!"):
        return "script"
    if lines and all(_CRON.match(line) for line in lines):
        return "crontab"
    if lines and all(re.match(r"^[\w-]+: ?;", line) for line in lines):
        return "makefile"
    if all(_first_word(command.text) in PROGRAMS for command in commands(Block(Path(), 0, "", text))):
        return "sh"
    if lines and all(re.match(r"^[A-Z][A-Z0-9_]*=(?:\S*$|'[^']*'$|\{)", line) for line in lines):
        return "env"
    return "yaml" if isinstance(_yaml(text), dict) else ""


def _first_word(text: str) -> str:
    """Return the program of a command, after the variables that are set for it."""
    words = text.split()
    while words and re.match(r"^[A-Z][A-Z0-9_]*=", words[0]):
        words.pop(0)
    return words[0].rsplit("/", 1)[-1] if words else ""


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None
