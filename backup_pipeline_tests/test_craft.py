"""Rules of the code that no linter holds, over the whole product."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import backup_pipeline

ROOT = Path(backup_pipeline.__file__).parent


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Return every module of the product, parsed."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))
    }


# What dagster.yaml names replaces parts of Dagster that have no public base; a run from the shell is one without a code
# server; the health check asks one; `up` is Dagster's own command with two of its modules exchanged.
MAY_IMPORT_PRIVATE_DAGSTER = {
    "orchestration/celery_runs.py",
    "orchestration/storage.py",
    "orchestration/sqlite_storage.py",
    "orchestration/sqlite_index.py",
    "orchestration/redacted_events.py",
    "orchestration/launcher.py",
    "orchestration/docker_launcher.py",
    "orchestration/kubernetes_launcher.py",
    "orchestration/worker_end.py",
    "orchestration/coordinator.py",
    "orchestration/launch.py",
    "orchestration/code_health.py",
    "web/services.py",
}


def _imports_private_dagster(tree: ast.Module) -> bool:
    return any(
        name.startswith("dagster._")
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    )


def test_private_modules_of_dagster_are_imported_only_where_nothing_public_serves() -> None:
    assert {path for path, tree in trees().items() if _imports_private_dagster(tree)} == MAY_IMPORT_PRIVATE_DAGSTER


LINES, PARAMETERS = 60, 7
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _parameters(function: Function) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([each for each in named if each.arg not in ("self", "cls")])


def _is_command(function: Function) -> bool:
    """Whether a function's parameters are a command's arguments and options: Typer reads them."""
    return any("Annotated" in ast.unparse(each.annotation) for each in function.args.args if each.annotation)


def _is_too_long(function: Function) -> bool:
    if _is_command(function):
        return (function.end_lineno or 0) - function.body[0].lineno >= LINES
    return (function.end_lineno or 0) - function.lineno >= LINES or _parameters(function) > PARAMETERS


def test_functions_have_at_most_60_lines_and_7_parameters() -> None:
    found = {
        (path, node.name)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, Function) and _is_too_long(node)
    }
    assert found == set()


def test_a_long_function_and_one_of_many_parameters_are_recognised() -> None:
    long = ast.parse("def f():\n" + "    pass\n" * LINES)
    many = ast.parse("def f(a, b, c, d, *, e, g, h, i): pass")
    short = ast.parse("def f(self, a, b, c, d, *, e, g, h):\n" + "    pass\n" * (LINES - 1))
    assert [_is_too_long(tree.body[0]) for tree in (long, many, short)] == [True, True, False]  # type: ignore[arg-type]


def test_no_two_classes_have_the_same_name() -> None:
    names = Counter(node.name for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


# Plain English and the field's terms: reported, recorded, inspect, skipped, unexpected, formatting, selected.
BANNED = {
    *("told", "foretold", "foreseen", "look", "looks", "looked", "seen", "scene", "scenes", "stranger", "strangers"),
    *("leftout", "words", "meanings", "chosen", "neutralise", "neutralised"),
}
# A field of the archive's index (docs/formats-orders.md).
IN_A_FORMAT = "seen"


def _parts(name: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("left_out", "leftout").split("_"))


def _identifiers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | Function):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _is_banned(path: str, name: str) -> bool:
    return bool(BANNED & _parts(name)) and not (path.startswith("sources/orders/") and name == IN_A_FORMAT)


def test_names_and_first_lines_of_modules_are_plain_english() -> None:
    found = set()
    for path, tree in trees().items():
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        if BANNED & set(re.findall(r"[a-z]+", first.lower().replace("left out", "leftout"))):
            found.add(f"{path}: {first}")
        found |= {f"{path}: {name}" for name in _identifiers(tree) if _is_banned(path, name)}
    assert found == set()
