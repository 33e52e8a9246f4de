"""Rules of the code that no linter holds, over the whole product."""

from __future__ import annotations

import ast
from pathlib import Path

import backup_pipeline

ROOT = Path(backup_pipeline.__file__).parent
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}

# What dagster.yaml names replaces parts of Dagster that have no public base; a run from the shell is one without a code
# server; the health check asks one; `up` is Dagster's own command with two of its modules exchanged.
MAY_IMPORT_PRIVATE_DAGSTER = {
    "orchestration/storage.py",
    "orchestration/sqlite_storage.py",
    "orchestration/launcher.py",
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
    assert {path for path, tree in TREES.items() if _imports_private_dagster(tree)} == MAY_IMPORT_PRIVATE_DAGSTER
