"""What of a SQLite file only its application can read: collations and functions that it registers itself.

Pages can be copied without them, and rows read wherever the order does not matter. A collation that is missing here is
stood in for by the order of bytes, so that statements can be prepared at all; whatever depends on one is then skipped
of the checks, by name. Functions are
stood in for only so that the structure of the file can be checked.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass, field

_COLLATE = re.compile(
    r"""\bcollate\s+(?:"((?:[^"]|"")+)"|\[([^\]]+)\]|`((?:[^`]|``)+)`|'((?:[^']|'')+)'|([\w$]+))""", re.IGNORECASE
)
_MISSING_FUNCTION = re.compile(r"(?:no such|unknown) function: (.+?)(?:\(\))?$")
_BUILT_IN = ("binary", "nocase", "rtrim")  # `PRAGMA collation_list` names missing ones too once the schema is read
_MOST = 200
"""Functions that are stood in for at most: an application has some, an endless search would be an attack."""
_MEANING = re.compile(
    r"(?:not in PRIMARY KEY order for|CHECK constraint failed in|NULL value in|missing from index|NUMERIC value in"
    r"|non-unique entry in index|TEXT value in|values differ from index) (?P<name>.*)$"
)
_DAMAGE_AT_MOST = 20


def _bytewise(one: str, other: str) -> int:
    return (one > other) - (one < other)


@dataclass
class KnownApplication:
    """What a file's own application would have to be asked for.

    Attributes:
        collations: names of missing collations.
        functions: names of missing functions that indexes, generated columns and checks use.
        tables: tables whose order, uniqueness or conditions depend on one of these; with their missing names.
        columns: generated columns (table.column) that cannot be computed here; they are not exported.
    """

    collations: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    tables: dict[str, list[str]] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)

    def described(self) -> str:
        """Return a sentence about what was not checked, "" when everything was."""
        if not (self.tables or self.columns):
            return ""
        parts = [f"{table} ({', '.join(names)})" for table, names in sorted(self.tables.items())]
        text = f"Not checked, since only its application has what they use: {'; '.join(parts)}." if parts else ""
        if self.columns:
            text += f" Computed by its application and not exported: {', '.join(self.columns)}."
        return text.strip()


class Reader(sqlite3.Connection):
    """A connection that knows what it stands in for; see `learn`."""

    application: KnownApplication


def application_of(connection: sqlite3.Connection) -> KnownApplication:
    """Return what a connection stands in for; nothing where `learn` was not called."""
    return getattr(connection, "application", None) or KnownApplication()


def learn(connection: Reader) -> None:
    """Find what the file uses and this program has not, and stand in for its collations."""
    found = connection.application = KnownApplication()
    sources = _sources(connection)
    known = set(_BUILT_IN)
    for text in sources.values():
        for groups in _COLLATE.findall(text):
            name = next(filter(None, groups)).replace('""', '"')
            if name.casefold() not in known:
                connection.create_collation(name, _bytewise)
                known.add(name.casefold())
                found.collations.add(name)
    # Before functions are stood in for: a column that they made up would pass for one that can be read.
    found.columns = _not_computable(connection, list(sources))
    _stand_in_for_functions(connection, found)
    for table, text in sources.items():
        names = [n for n in sorted(found.collations | found.functions) if _mentions(text, n)]
        if names:
            found.tables[table] = names


def _sources(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the SQL of each table with that of its indexes."""
    sources: dict[str, str] = {}
    query = "SELECT tbl_name, sql FROM main.sqlite_schema WHERE type IN ('table', 'index') AND sql IS NOT NULL"
    for table, sql in connection.execute(query):
        sources[str(table)] = f"{sources.get(str(table), '')}\n{sql}"
    return sources


def _mentions(text: str, name: str) -> bool:
    written = name.replace('"', '""')  # as it stands between quotes
    return re.search(rf"(?<![\w$]){re.escape(written)}(?![\w$])", text, re.IGNORECASE) is not None


def _stand_in_for_functions(connection: sqlite3.Connection, found: KnownApplication) -> None:
    """Stand in for the functions that a check of the file's structure needs; none of them is ever asked for rows."""
    while len(found.functions) < _MOST:
        try:
            # Prepared and not run: every index and generated column is resolved.
            connection.execute("EXPLAIN PRAGMA main.integrity_check").close()
            return
        except sqlite3.OperationalError as error:
            missing = _MISSING_FUNCTION.search(str(error))
            if missing is None or missing[1] in found.functions:
                return
            found.functions.add(missing[1])
            connection.create_function(missing[1], -1, lambda *_: None, deterministic=True)


def _not_computable(connection: sqlite3.Connection, tables: list[str]) -> list[str]:
    found = []
    for table in tables:
        name = '"' + table.replace('"', '""') + '"'
        try:
            columns = connection.execute(f"PRAGMA main.table_xinfo({name})").fetchall()
        except sqlite3.OperationalError:
            continue  # a virtual table of an unknown module
        for column in columns:
            if column[6] != 2:
                continue
            wanted = '"' + str(column[1]).replace('"', '""') + '"'
            try:
                connection.execute(f"EXPLAIN SELECT {wanted} FROM main.{name}").close()  # noqa: S608
            except sqlite3.OperationalError as error:
                if _MISSING_FUNCTION.search(str(error)) is None:
                    raise
                found.append(f"{table}.{column[1]}")
    return found


def structure_problems(connection: sqlite3.Connection) -> list[str]:
    """Return what is wrong with the file: all of `integrity_check` for tables that this program understands whole.

    Of the others every page and row is read, but not what depends on the application's own order and functions.
    """
    found = application_of(connection)
    if not (found.tables or found.functions):
        return _checked(connection, "PRAGMA main.integrity_check(20)", frozenset())
    theirs = {name for table in found.tables for name in _names_of(connection, table)}
    problems = _checked(connection, "PRAGMA main.quick_check(2147483647)", frozenset(theirs))
    for table in _sources(connection):
        if not problems and table not in found.tables:
            name = '"' + table.replace('"', '""') + '"'
            problems = _checked(connection, f"PRAGMA main.integrity_check({name})", frozenset())
    return problems


def _names_of(connection: sqlite3.Connection, table: str) -> set[str]:
    query = "SELECT name FROM main.sqlite_schema WHERE tbl_name = ?"
    return {str(row[0]) for row in connection.execute(query, (table,))}


def _checked(connection: sqlite3.Connection, check: str, theirs: frozenset[str]) -> list[str]:
    problems: list[str] = []
    for (line,) in connection.execute(check):
        meaning = _MEANING.search(str(line))
        of_theirs = meaning is not None and any(
            meaning["name"] == name or meaning["name"].startswith(f"{name}.") for name in theirs
        )
        if line != "ok" and not of_theirs:
            problems.append(str(line))
        if len(problems) >= _DAMAGE_AT_MOST:
            break
    return problems
