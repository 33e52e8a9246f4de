"""What a set holds of each source, as far as single tables, rows and files of it can be named. Reads only records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from backup_pipeline.artefacts.contents import contents_of
from backup_pipeline.artefacts.types import artefact_types
from backup_pipeline.model.backup_set import BackupSet
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, ColumnRecord


@dataclass(frozen=True)
class TableContents:
    """A table of a set: its rows where they were counted, its columns where they are recorded, and its export.

    Attributes:
        file: path of its Parquet file in the set, "" where there is none.
        size: bytes of that file.
    """

    schema: str
    table: str
    rows: int | None
    columns: tuple[ColumnRecord, ...] = ()
    file: str = ""
    size: int = 0

    @property
    def name(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True)
class SourceContents:
    """What a set holds of a source.

    Attributes:
        rows_come_back: whether single tables and rows can be restored into the living source.
        files_come_back: whether single files can.
        whole: whether anything here can restore it as a whole.
        tables: by name.
        trees: the artefacts whose files can be listed.
    """

    source: str
    is_database: bool
    rows_come_back: bool
    files_come_back: bool
    whole: bool
    records: tuple[ArtefactRecord, ...]
    tables: tuple[TableContents, ...] = field(default=())
    trees: tuple[ArtefactRecord, ...] = field(default=())

    @property
    def label(self) -> str:
        """Host, port and database, or path, of the source when it was captured."""
        return self.records[0].source_label

    @property
    def size(self) -> int:
        """Bytes of its artefacts."""
        return sum(record.size for record in self.records)


def set_contents(known: BackupSet) -> tuple[SourceContents, ...]:
    """Return what a set holds, by source in the order of its manifest."""
    found: dict[str, list[ArtefactRecord]] = {}
    for record in known.records:
        found.setdefault(record.source, []).append(record)
    return tuple(_of_source(name, tuple(records)) for name, records in found.items())


def _of_source(source: str, records: tuple[ArtefactRecord, ...]) -> SourceContents:
    types = [known for record in records if (known := artefact_types().get(record.kind)) is not None]
    return SourceContents(
        source=source,
        is_database=any(known.is_database for known in types),
        rows_come_back=any(known.restorer and known.is_database for known in types),
        files_come_back=any(known.restore_some for known in types),
        whole=any(known.restore or known.restorer for known in types),
        records=records,
        tables=tuple(sorted(_tables(records), key=lambda table: table.name)),
        trees=tuple(record for record in records if contents_of(record) is not None),
    )


def _tables(records: Iterable[ArtefactRecord]) -> list[TableContents]:
    found: dict[tuple[str, str], TableContents] = {}
    for record in records:
        listed = record.details.get("tables")
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and entry.get("schema") and entry.get("table"):
                name = (str(entry["schema"]), str(entry["table"]))
                rows = entry.get("rows")
                found.setdefault(name, TableContents(*name, rows if isinstance(rows, int) else None))
    for record in records:
        if record.kind is ArtefactKind.TABLE_EXPORT and len(record.key) == 3:
            parquet = next((file for file in record.files if file.path.endswith(".parquet")), None)
            name = (record.key[1], record.key[2])
            found[name] = TableContents(
                *name, record.rows, record.columns, parquet.path if parquet else "", parquet.size if parquet else 0
            )
    return list(found.values())
