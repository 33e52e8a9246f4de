"""The form of a restore: what its fields mean as restore options, and what is wrong with them. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args
from urllib.parse import urlencode

from pydantic import ValidationError as PydanticError

from backup_pipeline.model.restore import ConflictRule, Operator, RestoreMode, RestoreOptions, RowComparison
from backup_pipeline.operations.data.set_contents import SourceContents

OPERATORS: tuple[str, ...] = get_args(Operator)
CONDITIONS = 5
"""So many comparisons a form has room for; the shell takes any number."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class FormError(Exception):
    """A field is wrong: its name and what is wrong with it."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(what)
        self.name, self.what = name, what


@dataclass(frozen=True)
class Choice:
    """One way of restoring a source: the value of the field `what`, a title, and what it means for what is live."""

    value: str
    title: str
    meaning: str


_DELETED = Choice(
    "deleted",
    "Bring back deleted rows",
    "Rows that are in the backup and missing now are put back. Rows that are there now stay as they are.",
)
_CHANGED = Choice(
    "changed",
    "Bring back deleted and changed rows",
    "As above, and rows that differ get the backup's values. Rows that are new since the backup stay.",
)
_FILES = Choice(
    "files",
    "Bring back single files or folders",
    "Only these are put into the living folder. A file that is replaced is kept; everything else stays.",
)
_SWAP = Choice(
    "swap",
    "Go back to the backup as a whole",
    "It is rebuilt beside what is live, compared with the backup, and then takes its place. What is live now is kept "
    "under another name, so that you can undo it.",
)
_BESIDE = Choice(
    "beside",
    "Make a copy beside it, to inspect first",
    "It is rebuilt under a new name. What is live is not touched.",
)


def choices(contents: SourceContents) -> list[Choice]:
    """Return the ways in which a source can be restored here, the gentlest first."""
    found = [_DELETED, _CHANGED] if contents.rows_come_back else []
    found += [_FILES] if contents.files_come_back else []
    return found + ([_BESIDE, _SWAP] if contents.whole else [])


def options_of(form: Mapping[str, list[str]], contents: SourceContents) -> RestoreOptions:
    """Return what a form asks for.

    Raises:
        FormError: a field is missing or wrong.
    """
    what = _one(form, "what")
    if what not in {choice.value for choice in choices(contents)}:
        raise FormError("what", "Choose what is to be brought back.")
    if what not in ("deleted", "changed", "files"):
        _refuse_selection(form)
    if what == "swap":
        return RestoreOptions()
    if what == "beside":
        return RestoreOptions(into=_new_name(_one(form, "into")))
    if what == "files":
        return _files(form)
    where = comparisons_of(form, contents)
    tables = tuple(dict.fromkeys(form.get("tables", ())))
    known = {table.name for table in contents.tables}
    if unknown := [name for name in tables if name not in known]:
        raise FormError("tables", f"The backup has no table {unknown[0][:100]}.")
    # A table that is ticked comes whole, unless some of its rows are selected.
    selected = {comparison.table for comparison in where}
    tables = tuple(name for name in tables if name not in selected)
    return RestoreOptions(
        mode=RestoreMode.UPSERT,
        on_conflict=ConflictRule.KEEP if what == "deleted" else ConflictRule.BACKUP,
        # Named tables must be restorable; of all of them those that are not are named and passed over.
        skip_refused=not tables and not where,
        tables=tuple(_pattern(name) for name in tables),
        where=where,
    )


def query_of(options: RestoreOptions) -> str:
    """Return the query by which the form of rows opens as these options say; "" for other restores."""
    if options.mode is not RestoreMode.UPSERT or options.rows:
        return ""
    fields = [("what", "deleted" if options.on_conflict is ConflictRule.KEEP else "changed")]
    fields += [("tables", re.sub(r"\[(.)\]", r"\1", pattern)) for pattern in options.tables]
    for each in options.where:
        given = {"table": each.table, "column": each.column, "operator": each.operator, "value": ", ".join(each.values)}
        fields += [(f"where_{name}", value) for name, value in given.items()]
    return f"?{urlencode(fields)}"


def _refuse_selection(form: Mapping[str, list[str]]) -> None:
    """Raise FormError where single things are selected and everything would be restored: one of both is a mistake."""
    for name, things in (("tables", "tables"), ("where_column", "rows"), ("files", "files")):
        if any(text.strip() for text in form.get(name, ())):
            raise FormError(
                "what", f"You selected single {things}, and to restore everything. Clear the {things}, or choose again."
            )


def _pattern(name: str) -> str:
    """Return a table's name as a pattern that means it alone."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _one(form: Mapping[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0].strip()


def _new_name(text: str) -> str:
    if not _NAME.fullmatch(text) or ".." in text:
        raise FormError("into", "Write a new name of letters, digits, hyphens, dots and underscores.")
    return text


def _files(form: Mapping[str, list[str]]) -> RestoreOptions:
    lines = [line.strip() for text in form.get("files", ()) for line in text.splitlines()]
    files = tuple(dict.fromkeys(line for line in lines if line.strip("/")))
    if not files:
        raise FormError("files", "Name at least one file or folder; the list of files has them.")
    into = _one(form, "files_into")
    return RestoreOptions(files=files, into=_new_name(into) if _one(form, "files_where") == "beside" else "")


def comparisons_of(form: Mapping[str, list[str]], contents: SourceContents) -> tuple[RowComparison, ...]:
    """Return the comparisons of a form (`where_table`, `where_column`, …); lines without a column are empty ones.

    A line without a table is about that of the line above.

    Raises:
        FormError: a comparison is not complete, or names no table or column of the set.
    """
    table = ""
    tables, columns, operators, values = (
        form.get(f"where_{name}", []) for name in ("table", "column", "operator", "value")
    )
    found = []
    for number, column in enumerate(columns[:CONDITIONS]):
        table = (tables[number].strip() if number < len(tables) else "") or table
        operator = operators[number] if number < len(operators) else "="
        value = values[number] if number < len(values) else ""
        if not column.strip():
            if value.strip():
                raise FormError("where", f"Name the column that is to be compared with {value.strip()[:50]!r}.")
            continue
        given = [part.strip() for part in value.split(",")] if operator == "in" else [value.strip()]
        if operator.endswith("null"):
            given = []
        try:
            found.append(
                RowComparison.model_validate(
                    {"table": table, "column": column.strip(), "operator": operator, "values": given}
                )
            )
        except PydanticError as error:
            why = str(error.errors(include_url=False, include_input=False)[0]["msg"]).removeprefix("Value error, ")
            raise FormError("where", f"{why[:1].upper()}{why[1:]}.") from None
    for comparison in found:
        _check_column(comparison, contents)
    return tuple(found)


def _check_column(comparison: RowComparison, contents: SourceContents) -> None:
    table = next((each for each in contents.tables if each.name == comparison.table), None)
    if table is None:
        raise FormError("where", "Choose the table whose rows are to be compared.")
    known = [column.name for column in table.columns]
    if known and comparison.column not in known:
        raise FormError("where", f"{table.name} has no column {comparison.column[:100]}: it has {', '.join(known)}.")
