"""Pages of what lies in a set: files inside its archives, tables with their columns and rows, and their download."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from itertools import chain
from typing import Protocol, TypeVar
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from backup_pipeline.archives.tarball import shown
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.restore import RowComparison
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.browse import (
    Node,
    RowsPage,
    Tree,
    csv_pieces,
    file_pieces,
    hidden_columns,
    log_access,
    parquet_pieces,
    require_shown_file,
    rows_page,
    tree_of,
)
from backup_pipeline.operations.data.diff import TableDifference, diff_sets, differing_keys
from backup_pipeline.operations.data.set_contents import SourceContents, TableContents
from backup_pipeline.operations.sites.stores import open_sets, resolve_set, split_place
from backup_pipeline.rules.secret_names import is_secret_file, is_secret_table
from backup_pipeline.settings.site import Site
from backup_pipeline.tables.parquet_queries import QueryResult
from backup_pipeline.web.front.pages import PageError, PageRequest
from backup_pipeline.web.front.restore import Opened, opened
from backup_pipeline.web.front.restore_form import CONDITIONS, OPERATORS, FormError, comparisons_of

_FILES, _ROWS, _KEYS, _SETS = 200, 50, 200, 30


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_NamedT = TypeVar("_NamedT", bound=_Named)


def files_home(asked: PageRequest) -> Response:
    """Return the page of a set's sources: archives to open, tables to open."""
    found = opened(asked)
    return asked.render("files_home.html.jinja", found=found, zone=_zone(asked))


def files_source(asked: PageRequest) -> Response:
    """Return the page of one source: its archives, and its tables with rows and columns."""
    found = opened(asked)
    contents = found.source(asked.params["source"])
    browse = asked.front.site().settings.browse
    hidden = {
        table.name
        for table in contents.tables
        if not browse.rows or is_secret_table(table.schema, table.table, browse.although_secret)
    }
    return asked.render("files_source.html.jinja", found=found, contents=contents, hidden=hidden, zone=_zone(asked))


def _zone(asked: PageRequest) -> str:
    return asked.front.site().settings.timezone


def _named(found: Iterable[_NamedT], name: str, what: str) -> _NamedT:
    """Return the one of that name among what the set holds."""
    for one in found:
        if one.name == name:
            return one
    raise PageError(HTTPStatus.NOT_FOUND, f"The set has no such {what}.", "Choose one of those that are listed.")


def _artefact(asked: PageRequest, contents: SourceContents) -> ArtefactRecord:
    return _named(contents.trees, asked.query.get("of", ""), "archive")


def tree_page(asked: PageRequest) -> Response:
    """Return a folder inside an archive, a page at a time."""
    found, contents, record, tree, node = _node(asked)
    page = _page_number(asked)
    listed = tree.listed(node)
    browse = asked.front.site().settings.browse
    return asked.render(
        "files_tree.html.jinja",
        found=found,
        contents=contents,
        record=record,
        node=node,
        above=tree.above(node),
        listed=listed[page * _FILES : (page + 1) * _FILES],
        total=len(listed),
        page=page,
        pages=max(1, -(-len(listed) // _FILES)),
        is_hidden=lambda one: not browse.rows or is_secret_file(one.path, browse.although_secret),
        restorable=lambda one: contents.files_come_back and one.path.isprintable(),
        shown=shown,
        zone=_zone(asked),
    )


def _node(asked: PageRequest) -> tuple[Opened, SourceContents, ArtefactRecord, Tree, Node]:
    found = opened(asked)
    contents = found.source(asked.params["source"])
    record = _artefact(asked, contents)
    tree = tree_of(asked.front.site(), found.place, found.set_id, record)
    return found, contents, record, tree, tree.node(asked.query.get("node", ""))


def _page_number(asked: PageRequest) -> int:
    text = asked.query.get("page", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def file_download(asked: PageRequest) -> Response:
    """Return one file inside an archive, as an attachment that no browser opens by itself."""
    found, _, record, _, node = _node(asked)
    site = asked.front.site()
    if node.is_folder or node.entry is None or node.entry.kind != "file":
        raise PageError(HTTPStatus.CONFLICT, "This is no file.", "Open the folder, and choose a file.")
    require_shown_file(site, node.path)
    log_access(site, found.place, found.set_id, f"{record.name}: file {shown(node.path)}", asked.who, asked.front.now())
    return _attachment(file_pieces(site, found.place, found.set_id, record, node.path), node.name)


def _table(asked: PageRequest, contents: SourceContents) -> TableContents:
    return _named(contents.tables, asked.query.get("table", ""), "table")


def table_page(asked: PageRequest) -> Response:
    """Return a table's columns and, where they may be shown, a page of its rows by key or by comparisons."""
    found = opened(asked)
    contents = found.source(asked.params["source"])
    table, page, site = _table(asked, contents), _page_number(asked), asked.front.site()
    form = {name: asked.query.getlist(name) for name in asked.query} | {"where_table": [table.name]}
    problem, hidden = "", tuple[str, ...]()
    rows: RowsPage | None = None
    try:
        where = comparisons_of(form, contents)
        hidden = hidden_columns(site, table)
        log_access(
            site,
            found.place,
            found.set_id,
            _inspected(contents.source, table, page, where),
            asked.who,
            asked.front.now(),
        )
        rows = rows_page(site, (found.place, found.set_id, contents.source), table, where=where, page=page, size=_ROWS)
    except FormError as error:
        problem = error.what
    except BackupSystemError as error:
        problem = f"{error.what} {error.remedy}".strip()
    return asked.render(
        "files_table.html.jinja",
        found=found,
        contents=contents,
        table=table,
        rows=rows,
        hidden=hidden,
        problem=problem,
        page=page,
        size=_ROWS,
        form=form,
        operators=OPERATORS,
        conditions=range(CONDITIONS),
        cell=cell_text,
        zone=_zone(asked),
    )


def _inspected(source: str, table: TableContents, page: int, where: tuple[RowComparison, ...]) -> str:
    """Return what is logged of an access: which rows, by columns and never by values."""
    by = f" by {', '.join(comparison.column for comparison in where)}" if where else ""
    return f"{source} {table.name}: rows {page * _ROWS + 1} to {(page + 1) * _ROWS}{by}"


def cell_text(value: object) -> str:
    """Return a value fit for a page: cut where it is long, bytes in hexadecimal."""
    text = "\\x" + value[:100].hex() if isinstance(value, bytes) else str(value)
    return f"{text[:200]}…" if len(text) > 200 else text


def table_download(asked: PageRequest) -> Response:
    """Return a table as CSV or as its Parquet file."""
    found = opened(asked)
    contents = found.source(asked.params["source"])
    table, site = _table(asked, contents), asked.front.site()
    if not table.file:
        raise PageError(HTTPStatus.NOT_FOUND, "The set has no Parquet file of this table.", "")
    form = "parquet" if asked.query.get("as") == "parquet" else "csv"
    give: Callable[..., Iterator[bytes]] = parquet_pieces if form == "parquet" else csv_pieces
    hidden_columns(site, table)
    log_access(
        site,
        found.place,
        found.set_id,
        f"{contents.source} {table.name}: all rows as {form}",
        asked.who,
        asked.front.now(),
    )
    return _attachment(give(site, found.place, found.set_id, table), f"{table.name}.{form}")


def _attachment(pieces: Iterator[bytes], name: str) -> Response:
    """Return a download. What is wrong is found before the first byte is sent, or ends the connection."""
    first = next(pieces, b"")
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name).strip(". ") or "file"
    headers = {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    return StreamingResponse(chain([first], pieces), headers=headers, media_type="application/octet-stream")


def _comparable(site: Site, found: Opened) -> list[tuple[str, SetId]]:
    """Return the sets that one can be compared with, newest first: those beside it, and for a copy the plan's own."""
    places = [found.place, *([found.plan] if found.vault and found.plan in site.settings.plans else [])]
    known = [(place, set_id) for place in places for set_id in open_sets(site, place).sealed_ids()]
    return sorted((one for one in known if one[1] != found.set_id), key=lambda one: one[1], reverse=True)[:_SETS]


def diff_page(asked: PageRequest) -> Response:
    """Return what differs between this set and another: counts for each table, then the keys of one table's rows."""
    found = opened(asked)
    contents = found.source(asked.params["source"])
    site = asked.front.site()
    others = _comparable(site, found)
    older, table = asked.query.get("with", ""), asked.query.get("table", "")
    sides: list[SetId] = []
    tables: tuple[TableDifference, ...] = ()
    keys: QueryResult | None = None
    hidden: tuple[str, ...] = ()
    if older:
        name = older if "/" in older else f"{found.place}/{older}"
        if split_place(name.partition("/")[0])[1] != found.plan:
            raise PageError(HTTPStatus.NOT_FOUND, "The other set is of another plan.", "Choose one that is listed.")
        place, other = resolve_set(site, name)
        first, second = sorted([(place, other), (found.place, found.set_id)], key=lambda one: one[1])
        pair, sides = (first, second), [first[1], second[1]]
        tables = tuple(each for each in diff_sets(site, *pair, table=table) if each.source == contents.source)
        if table:
            one = _table(asked, contents)
            hidden = hidden_columns(site, one)
            what = f"{contents.source} {table}: keys of rows that differ from {other}"
            log_access(site, found.place, found.set_id, what, asked.who, asked.front.now())
            keys = differing_keys(site, *pair, f"{contents.source}.{table}", limit=_KEYS, hidden=hidden)
    return asked.render(
        "files_diff.html.jinja",
        found=found,
        contents=contents,
        others=others,
        older=older,
        sides=sides,
        tables=tables,
        table=table,
        keys=keys,
        hidden=hidden,
        cell=cell_text,
        zone=_zone(asked),
    )
