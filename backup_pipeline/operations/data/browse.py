"""Reading single files and rows of sealed sets for a person; every access is written to a log beside the sets."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import pyarrow as pa

from backup_pipeline.archives.tarball import shown
from backup_pipeline.artefacts.contents import Entry, contents_of, no_such_file
from backup_pipeline.artefacts.types import primary_key
from backup_pipeline.errors import RefusedError, SetNotFoundError, StoreError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.restore import RowComparison
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.reexport import batches_of, csv_lines
from backup_pipeline.operations.data.set_contents import TableContents
from backup_pipeline.operations.data.table_files import TableFiles, sealed
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.operations.sites.identity import state_folder
from backup_pipeline.operations.sites.stores import split_place
from backup_pipeline.rules.secret_names import is_secret_file, is_secret_table, secret_columns
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import append_line, make_folders
from backup_pipeline.system.scratch_folders import scratch_folder
from backup_pipeline.tables.parquet import ParquetTable
from backup_pipeline.tables.parquet_queries import quoted
from backup_pipeline.tables.query_process import ask_apart

ACCESS_LOG_NAME = "access_log.txt"
_CHUNK = 1 << 20
_MEMORY_MB, _SECONDS = 512, 60.0
_SCRATCH = "backup-pipeline-tables-"


def log_access(site: Site, place: str, set_id: SetId, what: str, who: str, now: datetime) -> None:
    """Append who read what of a set to the log beside the plan's sets, or to the site's memory where that is read-only.

    Accesses to copies in a vault (`VAULT:PLAN`) stand there too; the vault itself is not written.

    Raises:
        StoreError: neither can be written; then nothing is shown.
    """
    moment = now.astimezone(ZoneInfo(site.settings.timezone))
    text = " ".join(f"{place}/{set_id} {what} read by {who}".split())
    # A name in a set may hold what a terminal obeys.
    text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    line = f"{moment:%Y-%m-%d %H:%M:%S} - access - INFO - {text}\n"
    mode = int(site.settings.file_mode, 8)
    plan = split_place(place)[1]
    beside = site.store_folder(plan) if plan in site.settings.plans else state_folder(site)
    try:
        try:
            append_line(beside / ACCESS_LOG_NAME, line, mode=mode)
        except OSError as error:
            # The webserver of a container only reads the stores.
            if error.errno not in (errno.EROFS, errno.EACCES, errno.ENOENT):
                raise
            make_folders(state_folder(site), 0o700)
            append_line(state_folder(site) / ACCESS_LOG_NAME, line, mode=mode)
    except OSError as error:
        raise StoreError(
            f"Each access to a set is logged, and the log cannot be written ({error.strerror}); nothing is shown.",
            where=str(beside / ACCESS_LOG_NAME),
            remedy="Make the store writable for this process, or read the set in a terminal.",
        ) from None


@dataclass
class Node:
    """A folder or file of an artefact's tree. `number` is a digest of its path, which may be hostile or no UTF-8."""

    number: str
    path: str
    entry: Entry | None = None
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path, fit for a page."""
        return shown(self.path.rpartition("/")[2])

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return bool(self.children) or self.entry is None or self.entry.kind == "directory"


@dataclass(frozen=True)
class Tree:
    """All files of an artefact by number; the top has the number ""."""

    nodes: dict[str, Node]

    def node(self, number: str) -> Node:
        """Return a node; SetNotFoundError where there is none of that number."""
        try:
            return self.nodes[number]
        except KeyError:
            raise SetNotFoundError("There is no such file or folder in the set.", remedy="Begin at the top.") from None

    def listed(self, node: Node) -> list[Node]:
        """Return what is in a folder: folders first, then files, by name."""
        return sorted(node.children.values(), key=lambda one: (not one.is_folder, one.path))

    def above(self, node: Node) -> list[Node]:
        """Return the folders above a node, the outermost first."""
        parts = node.path.split("/")[:-1]
        return [self.nodes[node_number("/".join(parts[: depth + 1]))] for depth in range(len(parts))]


_TREES: OrderedDict[tuple[str, SetId, str, str], Tree] = OrderedDict()
_LOCK = threading.Lock()
_KEPT = 3


def tree_of(site: Site, plan: str, set_id: SetId, record: ArtefactRecord) -> Tree:
    """Return the tree of an artefact's files; the last ones are kept in memory, since a sealed set does not change."""
    key = (str(site.file), set_id, record.name, record.files[0].sha256)
    with _LOCK:
        if key in _TREES:
            _TREES.move_to_end(key)
            return _TREES[key]
    contents = contents_of(record)
    if contents is None:
        raise RefusedError("Its files cannot be listed.", where=record.name, remedy="Restore it beside, to inspect it.")
    with reading(site, plan, set_id, "browse") as store:
        tree = _tree(contents.entries(lambda path: store.open(set_id, path), record))
    with _LOCK:
        _TREES[key] = tree
        while len(_TREES) > _KEPT:
            _TREES.popitem(last=False)
    return tree


def node_number(path: str) -> str:
    """Return the number of the node at a path of a tree."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:20] if path else ""


def _tree(entries: Iterable[Entry]) -> Tree:
    nodes = {"": Node("", "")}
    for entry in entries:
        parts = entry.path.split("/")
        above = nodes[""]
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            number = node_number(path)
            node = nodes.get(number)
            if node is None:
                node = nodes[number] = Node(number, path)
            above.children[number] = node
            above = node
        above.entry = entry
    return Tree(nodes)


def file_pieces(site: Site, plan: str, set_id: SetId, record: ArtefactRecord, path: str) -> Iterator[bytes]:
    """Yield the content of one file inside an artefact; the set is kept while it is read.

    Raises:
        SetNotFoundError: no such file. RefusedError: its name sounds secret. ValidationError: damaged.
    """
    require_shown_file(site, path)
    contents = contents_of(record)
    if contents is None:
        raise no_such_file(record, path)
    with reading(site, plan, set_id, "browse") as store:
        yield from contents.read(lambda name: store.open(set_id, name), record, path)


def artefact_pieces(site: Site, plan: str, set_id: SetId, path: str) -> Iterator[bytes]:
    """Yield a file of the set as it is."""
    with reading(site, plan, set_id, "browse") as store, store.open(set_id, path) as file:
        yield from _pieces(file)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_CHUNK):
        yield piece


def require_shown_file(site: Site, path: str) -> None:
    """Raise RefusedError where a file's content is not to be shown."""
    browse = site.settings.browse
    if not browse.rows:
        raise _refused("The settings keep rows and files of sets out of the pages.", "browse.rows")
    if is_secret_file(path, browse.although_secret):
        raise _refused(f"{shown(path)} sounds secret by its name.", f"browse.although_secret: [{shown(path)}]")


def _refused(what: str, setting: str) -> RefusedError:
    return RefusedError(what, where="browse", remedy=f"Where it may be shown, set `{setting}` in backup.yaml.")


def require_shown_table(site: Site, schema: str, table: str) -> None:
    """Raise RefusedError where no row of a table is to be shown."""
    browse = site.settings.browse
    if not browse.rows:
        raise _refused("The settings keep rows and files of sets out of the pages.", "browse: {rows: true}")
    if is_secret_table(schema, table, browse.although_secret):
        name = f"{schema}.{table}"
        raise _refused(f"The table {name} sounds secret by its name.", f"browse: {{although_secret: [{name}]}}")


def hidden_columns(site: Site, table: TableContents) -> tuple[str, ...]:
    """Return the columns whose values no page shows.

    Raises:
        RefusedError: no row of the table is shown.
    """
    require_shown_table(site, table.schema, table.table)
    columns = [column.name for column in table.columns]
    return secret_columns(table.schema, table.table, columns, site.settings.browse.although_secret)


@dataclass(frozen=True)
class RowsPage:
    """Some rows of a table.

    Attributes:
        columns: those that are shown.
        hidden: those that are not, because their names sound secret.
        key: the columns of the primary key, by which the rows are ordered; empty where there is none.
        more: whether further rows follow.
    """

    columns: tuple[str, ...]
    hidden: tuple[str, ...]
    key: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool


def rows_page(
    site: Site,
    place: tuple[str, SetId, str],
    table: TableContents,
    *,
    where: Sequence[RowComparison] = (),
    page: int = 0,
    size: int = 50,
) -> RowsPage:
    """Return one page of a table's rows, read from its Parquet file in a process of its own.

    Args:
        site: the site.
        place: plan, set and source.
        table: a table of it.
        where: conditions that all must be true.
        page: counted from 0.
        size: rows of a page.

    Raises:
        RefusedError: the rows are not to be shown, there is no Parquet file, or a condition does not fit its column.
        ToolError: DuckDB is not installed.
    """
    plan, set_id, source = place
    hidden = hidden_columns(site, table)
    if any(comparison.column in hidden for comparison in where):
        # Or its values could be found out one comparison at a time.
        raise _refused("A column that sounds secret is not compared either.", "browse: {although_secret: […]}")
    if not table.file:
        raise RefusedError(
            "The set has no Parquet file of this table.",
            where=table.name,
            remedy="Add parquet to the source's formats.",
        )
    with ExitStack() as stack:
        store = stack.enter_context(reading(site, plan, set_id, "browse"))
        folder = stack.enter_context(scratch_folder(_SCRATCH))
        known = sealed(store, set_id)
        records = [record for record in known.records if record.source == source]
        key = primary_key(lambda path: store.open(set_id, path), records, table.schema, table.table)
        view = (source, table.schema, table.table)
        path = TableFiles(store, known, folder).path(view)
        shown_columns = [column.name for column in table.columns if column.name not in hidden]
        query = _query(view, shown_columns, [column for column in key if column in shown_columns], where)
        answer = ask_apart(
            {view: path},
            f"{query} limit {size + 1} offset {page * size}",
            limit=size,
            memory_mb=_MEMORY_MB,
            timeout_seconds=_SECONDS,
        )
    return RowsPage(answer.columns, hidden, key, answer.rows, answer.more)


def _query(
    view: tuple[str, str, str], columns: Sequence[str], key: Sequence[str], where: Sequence[RowComparison]
) -> str:
    conditions = " and ".join(f"({_condition(comparison)})" for comparison in where)
    return (
        f"select {', '.join(map(quoted, columns)) or '1'} from {'.'.join(map(quoted, view))}"  # noqa: S608
        + (f" where {conditions}" if conditions else "")
        + (f" order by {', '.join(map(quoted, key))}" if key else "")
    )


def _condition(comparison: RowComparison) -> str:
    """Return a comparison as DuckDB's SQL; its values are literals, which take the column's type."""
    column = quoted(comparison.column)
    values = ["'" + value.replace("'", "''") + "'" for value in comparison.values]
    if comparison.operator in ("is null", "is not null"):
        return f"{column} {comparison.operator}"
    if comparison.operator == "in":
        return f"{column} in ({', '.join(values)})"
    if comparison.operator == "contains":
        return f"contains(cast({column} as varchar), {values[0]})"
    return f"{column} {comparison.operator} {values[0]}"


def csv_pieces(site: Site, plan: str, set_id: SetId, table: TableContents) -> Iterator[bytes]:
    """Yield a table as CSV without the columns that are hidden; the set is kept while it is read."""
    hidden = hidden_columns(site, table)
    with reading(site, plan, set_id, "browse") as store, store.open(set_id, table.file) as stream:
        parquet = ParquetTable(stream, table.file)
        names = [name for name in parquet.schema.names if name not in hidden]
        schema = pa.schema([parquet.schema.field(name) for name in names])
        pieces = (piece.select(names) if hidden else piece for piece in parquet.pieces())
        for _, data in csv_lines(schema, batches_of(pieces)):
            yield data


def parquet_pieces(site: Site, plan: str, set_id: SetId, table: TableContents) -> Iterator[bytes]:
    """Yield a table's Parquet file as it is; RefusedError where it has columns that are hidden."""
    if hidden := hidden_columns(site, table):
        raise _refused(
            f"The Parquet file holds columns that sound secret: {', '.join(hidden)}. CSV comes without them.",
            f"browse: {{although_secret: [{table.name}.{hidden[0]}]}}",
        )
    yield from artefact_pieces(site, plan, set_id, table.file)
