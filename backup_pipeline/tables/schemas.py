"""Finding the pandera schema that a site, or the project, has for a table.

A site's folder holds files named `<source>.<schema>.<table>` or `<schema>.<table>`, the former first: `.yaml` in
pandera's own form, or `.py` with a `DataFrameSchema` (or `DataFrameModel`) called `schema`. The project's own are in
`rules/shipped_schemas`, by table name, and mean only tables that have all of their columns.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from backup_pipeline.errors import SettingsError
from backup_pipeline.tables import shipped_schemas
from backup_pipeline.tables.table_schema import suited

if TYPE_CHECKING:
    import pandera.pandas as pandera

_SHIPPED = Path(next(iter(shipped_schemas.__path__)))
_SUFFIXES = (".yaml", ".yml", ".py")


def own_schema(
    folder: Path | None, source: str, schema: str, table: str, columns: Iterable[str]
) -> pandera.DataFrameSchema | None:
    """Return the site's schema of a table, else None.

    Raises:
        SettingsError: a file cannot be read as a schema, or it names columns that the table does not have.
    """
    path = _own_file(folder, source, schema, table)
    if path is None:
        return None
    found = read_schema(path)
    _require_columns(found, list(columns), path, f"{schema}.{table}")
    return found


def _own_file(folder: Path | None, source: str, schema: str, table: str) -> Path | None:
    if folder is not None:
        for stem in (f"{source}.{schema}.{table}", f"{schema}.{table}"):
            for suffix in _SUFFIXES:
                path = folder / f"{stem}{suffix}"
                if path.is_file():
                    return path
    return None


def schema_texts(folder: Path | None, source: str, schema: str, table: str) -> list[str] | None:
    """Return the texts of the schemas that a table is held against; None for one in Python, which may mean anything."""
    own = _own_file(folder, source, schema, table)
    if own is not None:
        return None if own.suffix == ".py" else [own.read_text()]
    shipped = _shipped().get(table)
    return [shipped.read_text()] if shipped is not None else []


@cache
def _shipped() -> dict[str, Path]:
    """Return the project's own schemas by table; listed once, for thousands of tables ask."""
    return {path.stem: path for path in _SHIPPED.glob("*.yaml")}


def shipped_schema(table: str, fields: Sequence[pa.Field]) -> pandera.DataFrameSchema | None:
    """Return the project's schema of a table of that name with all of its columns, as far as it suits their types."""
    shipped = _shipped().get(table)
    # Most tables of such a name have other columns, and loading pandera takes longer than exporting a small database.
    if shipped is None or not _columns_in(shipped) <= {field.name for field in fields}:
        return None
    return suited(read_schema(shipped), fields)


@cache
def _columns_in(shipped: Path) -> frozenset[str]:
    import yaml

    return frozenset(yaml.safe_load(shipped.read_text())["columns"])


def _require_columns(found: pandera.DataFrameSchema, names: list[str], path: Path, table: str) -> None:
    missing = [name for name, column in found.columns.items() if column.required and name not in names]
    if missing:
        raise SettingsError(
            f"The schema speaks of columns that {table} does not have: {', '.join(missing)}.",
            where=str(path),
            remedy="Correct the names, or write `required: false` at these columns.",
        )


def read_schema(path: Path) -> pandera.DataFrameSchema:
    """Return the schema in a YAML or Python file; SettingsError when there is none."""
    import pandera.pandas as pandera
    from pandera.io import pandas_io

    try:
        read_yaml: Any = pandas_io.from_yaml
        found: Any = read_yaml(path) if path.suffix != ".py" else _from_python(path)
        if isinstance(found, type) and issubclass(found, pandera.DataFrameModel):
            found = found.to_schema()
    except Exception as error:  # whatever a site's own file does is a fault of that file
        raise SettingsError(
            f"Not a pandera schema ({type(error).__name__}: {' '.join(str(error).split())[:200]}).",
            where=str(path),
            remedy="Write it as pandera's to_yaml does, or a Python file with a DataFrameSchema called `schema`.",
        ) from error
    if not isinstance(found, pandera.DataFrameSchema):
        raise SettingsError(
            "It holds no pandera DataFrameSchema.", where=str(path), remedy="Call the DataFrameSchema `schema`."
        )
    return found


def _from_python(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"site_schema_{abs(hash(path))}", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, "schema", None)
