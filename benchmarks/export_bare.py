"""The table export alone: the same reading, decoding and Parquet file as in a capture, nothing checked.

With `fingerprints`, those are taken in the same snapshot, as a capture does.
"""

from __future__ import annotations

from pathlib import Path

from backup_pipeline.model.record import Fingerprint
from backup_pipeline.postgres.catalog.partitions import rows_of
from backup_pipeline.postgres.catalog.read import read_tables
from backup_pipeline.postgres.export.fingerprint import HashableTypes, fingerprint_table
from backup_pipeline.postgres.export.profile import Figures, TableProfile
from backup_pipeline.postgres.export.readers import Readers
from backup_pipeline.postgres.export.source_columns import KnownTables
from backup_pipeline.postgres.server.snapshot import exported_snapshot
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres.table_export import TableExport
from backup_pipeline.tables.arrow_types import ColumnForm, family_of
from benchmarks.capture_once import settings_with, writer_in


def export(target: PostgresTarget, folder: Path, connections: int, *, fingerprints: bool = False) -> int:
    """Write every table as Parquet, one after the other; return the rows of what was written."""
    import pyarrow.parquet as pq

    context = writer_in(folder / "bare")
    rows = 0
    with exported_snapshot(target) as snapshot, Readers(snapshot, connections) as readers:
        tables = list(read_tables(snapshot.connection, sizes=True))
        known = KnownTables((table.schema_name, table.name) for table in tables)
        for table in tables:
            columns, _ = known.of(snapshot.connection, table.schema_name, table.name)
            forms = tuple(ColumnForm(c.name, c.type, c.base_type, family_of(c.base_type)) for c in columns)
            found = Fingerprint(algorithm="", server_major=0, value="", rows=0)
            if fingerprints:
                found = fingerprint_table(snapshot.connection, table.schema_name, table.name)
            whole = rows_of(table.schema_name, table.name, [(c.name, c.type) for c in columns], None)
            profile = TableProfile(found, columns, tuple(Figures(found.rows) for _ in columns), forms, whole)
            job = TableExport(context, settings_with(), readers, HashableTypes(), known, table, f"tables/{table.name}")
            record = job.write_parquet(f"tables/{table.name}.parquet", profile)
            with context.writer.open(record.path) as file:
                rows += pq.read_metadata(file).num_rows
    return rows
