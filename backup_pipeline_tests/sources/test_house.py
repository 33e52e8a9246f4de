"""The house: nothing outside of `sources` asks which kind a source is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import backup_pipeline
from backup_pipeline.model.record import ArtefactKind
from backup_pipeline.settings.types import SourceSettings, source_kinds
from backup_pipeline.sources.registry import kind_named

ROOT = Path(backup_pipeline.__file__).parent
KINDS = frozenset(source_kinds())
CLASSES = {model.__name__ for model in source_kinds().values()} | {type(kind_named(name)).__name__ for name in KINDS}
FIELDS = {field for model in source_kinds().values() for field in model.model_fields} - {
    "kind",
    *SourceSettings.model_fields,
}
# Table exports are made by several kinds; every other type of artefact belongs to one.
TYPES = {kind.name for kind in ArtefactKind if kind is not ArtefactKind.TABLE_EXPORT}
ASKED = ("kind", "kind_name")
OF_TYPE = "type of artefact"
# Where each kind is at home, and the table that names their classes.
AT_HOME = (*(f"sources/{name}/" for name in KINDS), "settings/kinds.py")
# What is done with the types of artefacts, and the record that reads old ones.
TYPES_AT_HOME = ("artefacts/", "model/record.py")


class Question(NamedTuple):
    """Where a kind is asked for, and how."""

    line: int
    form: str


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _classes(node: ast.AST) -> bool:
    """Whether an expression names a class of a kind, alone, in a tuple or union, or in its module."""
    named = {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}
    named |= {found.attr for found in ast.walk(node) if isinstance(found, ast.Attribute)}
    return bool(CLASSES & named)


def _values(node: ast.AST | None) -> set[str]:
    """Return the kinds' names that an expression is or lists."""
    if isinstance(node, ast.Constant):
        return {node.value} & KINDS if isinstance(node.value, str) else set()
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return {name for element in node.elts for name in _values(element)}
    if isinstance(node, ast.Dict):
        return {name for key in node.keys for name in _values(key)}
    if isinstance(node, ast.Call) and _called(node) in ("frozenset", "set", "tuple", "list"):
        return {name for argument in node.args for name in _values(argument)}
    return set()


def _is_kind(node: ast.AST) -> bool:
    """Whether an expression gives the kind of something: `x.kind`, `x.kind_name`, `x["kind"]`, `x.get("kind")`."""
    if isinstance(node, ast.Attribute):
        return node.attr in ASKED
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value in ASKED
    if isinstance(node, ast.Call):
        if _called(node) == "str" and node.args:
            return _is_kind(node.args[0])
        keys = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        getter = _called(node) == "getattr" or (isinstance(node.func, ast.Attribute) and node.func.attr == "get")
        return getter and any(key in ASKED for key in keys)
    return False


class _Variables:
    """Names that hold a kind's name (`wanted = "postgres"`), and names that hold the kind of something."""

    def __init__(self, tree: ast.AST) -> None:
        self.constants: set[str] = set()
        self.kinds: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._bind(target, node.value)
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                self._bind(node.target, node.value)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, bound in zip(target.elts, value.elts, strict=False):
                self._bind(one, bound)
        elif isinstance(target, ast.Name):
            if _values(value):
                self.constants.add(target.id)
            if _is_kind(value):
                self.kinds.add(target.id)

    def names_kind(self, node: ast.AST) -> bool:
        """Whether an expression is a kind's name, or lists some."""
        return bool(_values(node)) or (isinstance(node, ast.Name) and node.id in self.constants)

    def gives_kind(self, node: ast.AST) -> bool:
        """Whether an expression is the kind of something."""
        if isinstance(node, ast.NamedExpr):
            node = node.value
        return _is_kind(node) or (isinstance(node, ast.Name) and (node.id in self.kinds or node.id in ASKED))


def questions(source: str) -> list[Question]:
    """Return each question for a kind of source in a module, by line."""
    tree = ast.parse(source)
    return sorted(_questions(tree, _Variables(tree)))


def _questions(tree: ast.AST, known: _Variables) -> Iterator[Question]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _in_call(node)
        elif isinstance(node, ast.MatchClass) and _classes(node.cls):
            yield Question(node.cls.lineno, "match of classes")
        elif isinstance(node, ast.Match):
            for case in node.cases:
                values = [found for found in ast.walk(case.pattern) if isinstance(found, ast.MatchValue)]
                if any(_values(found.value) for found in values) and known.gives_kind(node.subject):
                    yield Question(case.pattern.lineno, "match of names")
        elif isinstance(node, ast.Compare):
            yield from _in_comparison(node, known)
        elif isinstance(node, ast.Subscript) and len(_values(node.value)) > 1:
            yield Question(node.lineno, "table by name")
        elif isinstance(node, ast.Attribute) and node.attr in TYPES:
            yield Question(node.lineno, OF_TYPE)


def _in_call(node: ast.Call) -> Iterator[Question]:
    name = _called(node)
    if name in ("isinstance", "issubclass") and len(node.args) > 1 and _classes(node.args[1]):
        yield Question(node.lineno, name)
    fields = [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)]
    if name in ("hasattr", "getattr") and any(field in FIELDS for field in fields):
        yield Question(node.lineno, "field of a kind")


def _in_comparison(node: ast.Compare, known: _Variables) -> Iterator[Question]:
    sides = [node.left, *node.comparators]
    if any(_classes(side) for side in sides):
        yield Question(node.lineno, "comparison of classes")
    elif any(isinstance(side, ast.Attribute) and side.attr == "kind_name" for side in sides) or (
        any(known.gives_kind(side) for side in sides) and any(known.names_kind(side) for side in sides)
    ):
        yield Question(node.lineno, "comparison of names")


def test_nothing_outside_of_sources_asks_for_a_kind_of_source() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {form}"
        for path in sorted(ROOT.rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith(AT_HOME)
        for line, form in questions(path.read_text("utf-8"))
        if form != OF_TYPE or not path.relative_to(ROOT).as_posix().startswith(TYPES_AT_HOME)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("asked", "form"),
    [
        ("isinstance(source, (PostgresSource, int))", "isinstance"),
        ("isinstance(source, settings.PostgresSource)", "isinstance"),
        ("isinstance(source, FolderSource | SqliteSource)", "isinstance"),
        ("issubclass(model, kinds.orders.OrdersKind)", "issubclass"),
        ("type(source) is PostgresSource", "comparison of classes"),
        ("source.__class__ == settings.FolderSource", "comparison of classes"),
        ("match source:\n    case FolderSource(path=place): ...", "match of classes"),
        ("match source.kind:\n    case 'postgres' | 'sqlite': ...", "match of names"),
        ("kind = source.kind_name\nmatch kind:\n    case 'orders': ...", "match of names"),
        ("site.source(name).kind_name == wanted", "comparison of names"),
        ("source.kind != 'sqlite'", "comparison of names"),
        ("source.kind in ('postgres', 'sqlite')", "comparison of names"),
        ("data.get('kind') not in {'orders'}", "comparison of names"),
        ("'folder' == data['kind']", "comparison of names"),
        ("def f(kind: str) -> bool: return kind == 'postgres'", "comparison of names"),
        ("known = source.kind\nknown == 'postgres'", "comparison of names"),
        ("(found := source.kind_name) and found == 'postgres'", "comparison of names"),
        ("DATABASES = frozenset({'postgres', 'sqlite'})\nsource.kind in DATABASES", "comparison of names"),
        ("WANTED: str = 'orders'\nsource.kind == WANTED", "comparison of names"),
        ("{'postgres': dump, 'folder': pack}[name](source)", "table by name"),
        ("record.kind is ArtefactKind.SQLITE_COPY", OF_TYPE),
        ("hasattr(source, 'buckets')", "field of a kind"),
    ],
)
def test_a_question_for_a_kind_is_recognised(asked: str, form: str) -> None:
    assert [question.form for question in questions(asked)] == [form]


@pytest.mark.parametrize(
    "other",
    [
        "record.kind == ArtefactKind.TABLE_EXPORT",
        "artefact_type(record.kind).is_database",
        "proof.kind is ProofKind.DRILL",
        "scheme in ('postgres', 'postgresql')",
        "isinstance(source, SourceSettings)",
        "kind_of(site, name).capture(source)",
    ],
)
def test_what_asks_for_something_else_is_allowed(other: str) -> None:
    assert questions(other) == []
