"""Re-exporting a sealed set's tables in another format, for other programs. The set itself is immutable: the files go
to `<store>/exports/<set>/<format>/<source>/<schema>.<table>.<jsonl.gz|json|csv.gz>`, each complete or not there.

Both formats are written from the Parquet exports. JSON lines: one object per row, decimals as numbers with all their
digits, json and jsonb columns as JSON, bytes in PostgreSQL's hexadecimal form, whatever Parquet holds as text (arrays,
ranges, intervals) as that text. CSV: with a header; NULL is an empty field, an empty text is `""`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from backup_pipeline.artefacts.time_limits import within_the_plans_limit
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.table_files import export_paths, sealed
from backup_pipeline.operations.retention.in_use import in_use
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import PlanStore
from backup_pipeline.system.files import AtomicFile, make_folders
from backup_pipeline.system.streams import compressed_sink
from backup_pipeline.tables.arrow_types import POSTGRES_TYPE
from backup_pipeline.tables.json_array import json_array
from backup_pipeline.tables.parquet import ParquetTable

ExportFormat = Literal["jsonl", "json", "csv"]
_SUFFIX: dict[str, str] = {"jsonl": ".jsonl.gz", "json": ".json", "csv": ".csv.gz"}
EXPORTS_FOLDER = "exports"
_ROWS = 10_000


@dataclass(frozen=True)
class Reexported:
    """One file that was written."""

    path: Path
    rows: int
    size: int


@within_the_plans_limit("The export")
def reexport_set(
    site: Site,
    plan_name: str,
    set_id: SetId,
    form: ExportFormat,
    *,
    source: str = "",
    progress: ProgressSink = no_progress,
) -> list[Reexported]:
    """Write every table export of a set in another format; files that are there are written anew.

    Args:
        site: the site.
        plan_name: the plan.
        set_id: a sealed set.
        form: jsonl, json (a plain array) or csv.
        source: only this source's tables.
        progress: receives the rows of each table.
    """
    store = open_store(site, plan_name)
    with in_use(store, set_id, "re-export"):
        return _reexport(site, store, set_id, form, source, progress)


def _reexport(
    site: Site, store: PlanStore, set_id: SetId, form: ExportFormat, source: str, progress: ProgressSink
) -> list[Reexported]:
    known = sealed(store, set_id)
    mode = int(site.settings.file_mode, 8)
    written = []
    for (owner, _, _), path in export_paths(known).items():
        if source and owner != source:
            continue
        folder = store.folder / EXPORTS_FOLDER / set_id / form / owner
        make_folders(folder, int(site.settings.folder_mode, 8))
        name = path.rpartition("/")[2]
        place = folder / f"{name.removesuffix('.parquet')}{_SUFFIX[form]}"
        with store.open(set_id, path) as stream, AtomicFile(place, mode=mode) as file:
            table = ParquetTable(stream, name)
            rows = 0
            with json_array(file) if form == "json" else compressed_sink(file) as sink:
                lines = csv_lines if form == "csv" else _json_lines
                for count, data in lines(table.schema, batches_of(table.pieces())):
                    sink.write(data)
                    rows += count
                    progress(Progress(place.name, rows, table.rows, "rows", finished=rows == table.rows))
        written.append(Reexported(place, rows, file.size))
    return written


def batches_of(pieces: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    """Yield pieces of a table in batches of some thousand rows."""
    for piece in pieces:
        yield from piece.to_batches(max_chunksize=_ROWS)


def _json_lines(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, bytes]]:
    names = [json.dumps(name, ensure_ascii=False) for name in schema.names]
    writers = [_json_writer(field) for field in schema]
    for batch in batches:
        columns = [batch.column(index).to_pylist() for index in range(batch.num_columns)]
        lines = (
            "{" + ",".join(f"{n}:{w(v)}" for n, w, v in zip(names, writers, row, strict=True)) + "}\n"
            for row in zip(*columns, strict=True)
        )
        yield batch.num_rows, "".join(lines).encode()


def _json_writer(field: pa.Field) -> Callable[[Any], str]:
    kind = (field.metadata or {}).get(POSTGRES_TYPE, b"").decode()
    if kind in ("json", "jsonb"):
        # Line ends between tokens mean as much as blanks.
        return lambda value: "null" if value is None else str(value).replace("\r", " ").replace("\n", " ")
    return _json_value


def _json_value(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else json.dumps(str(value))
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return json.dumps({"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN"))
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value


def csv_lines(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, bytes]]:
    """Yield rows as CSV, each piece with the number of its rows; the header comes first."""
    out = io.StringIO()
    out.write(",".join(map(_csv_value, schema.names)) + "\n")
    yield 0, _taken(out)
    for batch in batches:
        columns = [batch.column(index).to_pylist() for index in range(batch.num_columns)]
        for row in zip(*columns, strict=True):
            out.write(",".join(map(_csv_value, row)) + "\n")
        yield batch.num_rows, _taken(out)


def _taken(out: io.StringIO) -> bytes:
    data = out.getvalue().encode()
    out.seek(0)
    out.truncate()
    return data


def _csv_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    text = str(_plain(value))
    if text == "" or any(mark in text for mark in ',"\n\r') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text
