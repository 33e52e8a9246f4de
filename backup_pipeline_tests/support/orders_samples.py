"""A small workshop for tests: a database with nasty values and an archive folder. Not a test."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backup_pipeline.sources.orders.database.database import sqlite_orders
from backup_pipeline.sources.orders.export import ExportOptions, export_orders
from backup_pipeline.sources.orders.format.order import COLUMNS, DATA_NAME, META_NAME, ExportResult, VerifyResult
from backup_pipeline.sources.orders.restore import OrdersRestoreOptions, restore_orders
from backup_pipeline.sources.orders.verify import VerifyOptions, verify_orders

DDL = """CREATE TABLE auftraege (record_id INTEGER PRIMARY KEY, auftrag_nr TEXT, kunde_name TEXT, kunden_nr TEXT,
    kennzeichen TEXT, vin TEXT, datum TEXT, formular_version TEXT, keywords_json TEXT, file_path TEXT, hash TEXT,
    data_complete INTEGER, created_at TEXT, updated_at TEXT)"""


def order(record_id: int, **changes: Any) -> tuple[Any, ...]:
    """Return a sound row."""
    year, number = 2019 + record_id % 6, f"{record_id:06}"
    row: dict[str, Any] = {
        "record_id": record_id,
        "auftrag_nr": number,
        "kunde_name": f'Müller "{record_id}", Söhne',
        "kunden_nr": f"{record_id:05}",
        "kennzeichen": f"B-AB {record_id % 9000 + 1}",
        "vin": None,
        "datum": f"{year}-05-{1 + record_id % 28:02}",
        "formular_version": "2.1",
        "keywords_json": '{"Garantie": [2]}',
        "file_path": f"{year}/{number}/{number}_Auftrag.pdf",
        "hash": "",
        "data_complete": record_id % 2,
        "created_at": f"{year}-05-01T08:00:00",
        "updated_at": f"{year}-06-01T08:00:00Z",
    }
    return tuple({**row, **changes}[name] for name in COLUMNS)


PRINTED = order(
    12,
    auftrag_nr="076329",
    kunde_name="Müller",
    kunden_nr="K12345",
    kennzeichen="B-AB 1234",
    vin="WVW1234567890",
    datum="2024-07-29",
    formular_version="neu",
    file_path="test_archiv/2024/076329/076329_Auftrag.pdf",
    hash="abc123",
    data_complete=1,
    created_at="2024-07-29T10:00:00",
    updated_at="2024-07-29T10:00:00",
)
"""The order as the old tool's document prints it: its path counts from the folder that the archive lies in."""


def old_pair(folder: Path, row: tuple[Any, ...], *, escape: str = "double", ending: str = "\r\n") -> None:
    """A pair as the old tool wrote it: NULL and empty alike, CRLF, times without a zone; quotes in either form."""
    text = io.StringIO()
    forms: dict[str, dict[str, Any]] = {"double": {}, "backslash": {"escapechar": "\\", "doublequote": False}}
    writer = csv.writer(text, lineterminator=ending, **forms[escape])
    writer.writerows([COLUMNS, row])
    data = text.getvalue().encode()
    meta = {
        "schema_version": "1.0",
        "checksum": hashlib.sha256(data).hexdigest(),
        "exported_at": "2024-07-29T10:30:00",
        "auftrag_nr": row[1],
        "record_id": row[0],
        "file_size": len(data),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DATA_NAME).write_bytes(data)
    (folder / META_NAME).write_text(json.dumps(meta, indent=2), "utf-8")


class Workshop:
    """A database and its archive below a folder."""

    def __init__(self, folder: Path, rows: Sequence[tuple[Any, ...]], ddl: str = DDL) -> None:
        self.folder = folder
        self.database = folder / "werkstatt.db"
        self.archive = folder / "Archiv"
        self.archive.mkdir()
        with sqlite3.connect(self.database) as connection:
            connection.execute(ddl)
        connection.close()
        self.insert(*rows)

    def insert(self, *rows: tuple[Any, ...]) -> None:
        self.execute(*[(f"INSERT INTO auftraege VALUES ({', '.join('?' * len(row))})", row) for row in rows])

    def execute(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        connection = sqlite3.connect(self.database)
        with connection:
            for statement, values in statements:
                connection.execute(statement, values)
        connection.close()

    def rows(self, database: Path | None = None) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(database or self.database)
        found = connection.execute("SELECT * FROM auftraege ORDER BY record_id").fetchall()
        connection.close()
        return found

    def export(self, **options: Any) -> ExportResult:
        with sqlite_orders(self.database) as snapshot:
            return export_orders(snapshot, self.archive, ExportOptions(**options))

    def verify(self, *, database: bool = False, **options: Any) -> VerifyResult:
        options.setdefault("workers", 1)
        if not database:
            return verify_orders(self.archive, options=VerifyOptions(**options))
        with sqlite_orders(self.database) as snapshot:
            return verify_orders(self.archive, snapshot, VerifyOptions(**options))

    def restore(self, target: Path | None = None, **options: Any) -> Any:
        options.setdefault("workers", 1)
        return restore_orders(self.archive, target or self.database, OrdersRestoreOptions(**options))


def kinds(result: Any, level: str = "error") -> dict[str, list[str]]:
    """Return the paths of findings by kind."""
    found: dict[str, list[str]] = {}
    for finding in result.findings.kept:
        if finding.level == level:
            found.setdefault(finding.kind, []).append(finding.path)
    return found
