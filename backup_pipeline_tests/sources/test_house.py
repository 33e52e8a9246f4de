"""The house: nothing outside of `sources` asks which kind a source is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import backup_pipeline
from backup_pipeline.settings.types import source_kinds

ROOT = Path(backup_pipeline.__file__).parent
MODELS = {model.__name__ for model in source_kinds().values()}
# Where each kind is at home.
AT_HOME = ("sources/",)


def _names(node: ast.AST) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def questions(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and form of each question for a kind of source."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            if MODELS & _names(node):
                yield node.lineno, node.func.id
        elif isinstance(node, ast.MatchClass):
            if MODELS & _names(node.cls):
                yield node.cls.lineno, "match"
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            asks = any(isinstance(side, ast.Attribute) and side.attr == "kind_name" for side in sides)
            constant = any(isinstance(side, ast.Constant) and side.value in source_kinds() for side in sides)
            kind = any(isinstance(side, ast.Attribute) and side.attr == "kind" for side in sides)
            if asks or (constant and kind):
                yield node.lineno, "comparison"


def test_nothing_outside_of_sources_asks_for_a_kind_of_source() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {form}"
        for path in sorted(ROOT.rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith(AT_HOME)
        for line, form in questions(path.read_text("utf-8"))
    ]
    assert found == []


def test_the_questions_are_recognised() -> None:
    asked = """
if isinstance(source, (PostgresSource, int)): ...
match source:
    case FolderSource(path=place): ...
if site.source(name).kind_name == "orders": ...
if source.kind != "sqlite": ...
if record.kind is ArtefactKind.SQLITE_COPY: ...
"""
    assert [form for _, form in questions(asked)] == ["isinstance", "comparison", "comparison", "match"]
