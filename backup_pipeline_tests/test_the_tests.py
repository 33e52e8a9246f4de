"""Rules for the tests themselves: names that are sentences of at most 80 characters, and something to fail by."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent
PACKAGE = ROOT.name
FILES = sorted(ROOT.rglob("test_*.py"))
LONGEST_NAME = 80
SENTENCE = re.compile(r"test(_[a-z0-9]+){3,}")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def written_in(path: Path) -> list[Function]:
    return [function for function in functions(parsed(path)) if function.name.startswith("test_")]


def module_file(name: str) -> Path | None:
    """Return the file of a module of the tests, None for any other."""
    path = ROOT.parent.joinpath(*name.split(".")).with_suffix(".py")
    return path if name.startswith(f"{PACKAGE}.") and path.exists() else None


@cache
def imported(path: Path) -> dict[str, tuple[Path, str]]:
    """Return what a file imports from other files of the tests: its name there, where it is from, its name here."""
    found = {}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module and (origin := module_file(node.module)):
            found |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
    return found


def has_assertion(function: Function, path: Path, known: frozenset[tuple[Path, str]] = frozenset()) -> bool:
    """Whether a function asserts or expects an error, itself or by a helper of the tests that it calls."""
    known |= {(path, function.name)}
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call) and (
            ast.unparse(node.func) in ("pytest.raises", "pytest.fail", "pytest.warns")
            or any(
                (origin, called.name) not in known and has_assertion(called, origin, known)
                for origin, called in called_helpers(node.func, path)
            )
        ):
            return True
    return False


def called_helpers(called: ast.expr, path: Path) -> list[tuple[Path, Function]]:
    """Return the functions of the tests that a call may mean: by name, or as a method of a class known in the file."""
    if isinstance(called, ast.Name):
        origin, name = imported(path).get(called.id, (path, called.id))
        return [(origin, one) for one in parsed(origin).body if isinstance(one, Function) and one.name == name]
    if isinstance(called, ast.Attribute):
        origins = {path, *(origin for origin, _ in imported(path).values())}
        return [
            (origin, method)
            for origin in origins
            for node in parsed(origin).body
            if isinstance(node, ast.ClassDef)
            for method in node.body
            if isinstance(method, Function) and method.name == called.attr
        ]
    return []


def all_tests() -> Iterator[tuple[Path, Function]]:
    return ((path, function) for path in FILES for function in written_in(path))


def test_every_name_is_a_sentence_of_at_most_80_characters() -> None:
    names = [function.name for _, function in all_tests()]
    assert [name for name in names if len(name) > LONGEST_NAME or not SENTENCE.fullmatch(name)] == []


def test_every_test_has_an_assertion_or_an_expected_error() -> None:
    found = [f"{path.relative_to(ROOT)}::{test.name}" for path, test in all_tests() if not has_assertion(test, path)]
    assert found == []


def test_a_test_without_an_assertion_is_found(tmp_path: Path) -> None:
    path = tmp_path / "test_sample.py"
    path.write_text(
        "def test_a_call_alone():\n    print(1)\n"
        "def test_a_helper_that_asserts():\n    helper()\n"
        "def test_a_helper_that_does_not():\n    other()\n"
        "def helper():\n    assert 1\n"
        "def other():\n    other()\n"
    )
    found = {function.name: has_assertion(function, path) for function in written_in(path)}
    assert found == {
        "test_a_call_alone": False,
        "test_a_helper_that_asserts": True,
        "test_a_helper_that_does_not": False,
    }
