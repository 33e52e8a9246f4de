"""What pg_dump writes, and a server may refuse or understand otherwise when it is restored.

- A dump is loaded under an empty search_path, and since PostgreSQL 17 indexes and materialized views are built under
  one of the server's own. A CHECK, generated column, index or materialized view whose function names another function,
  table or type without its schema then fails, unless the function has a search_path of its own (`SET search_path`).
- A view that reads itself cannot be made by any statement.

The bodies of functions are read, never run; nothing of them is returned but names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from backup_pipeline.model.proof import Finding

_FIRST_OF_THE_SITE = 16384
# Users of functions that are evaluated while data is loaded or structures are built. A view is expanded only when it is
# read, a trigger does not fire, a default is not needed.
_USES = f"""
select pg_catalog.concat_ws(' ', i.type, i.identity), d.refobjid::bigint
  from pg_catalog.pg_depend d
  left join pg_catalog.pg_attrdef a on d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass and a.oid = d.objid
  left join pg_catalog.pg_attribute g on g.attrelid = a.adrelid and g.attnum = a.adnum
  left join pg_catalog.pg_rewrite r on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and r.oid = d.objid
  left join pg_catalog.pg_class c on c.oid = case when d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                                  then d.objid else r.ev_class end
  cross join lateral pg_catalog.pg_identify_object(
       case when r.oid is null then d.classid else 'pg_catalog.pg_class'::pg_catalog.regclass end,
       case when r.oid is null then d.objid else r.ev_class end, 0) i
 where d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.refobjid >= {_FIRST_OF_THE_SITE}
   and (d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass or g.attgenerated <> '' or c.relkind in ('i', 'm'))
 order by 1
"""  # noqa: S608 — a constant of this module
_FUNCTIONS = f"""
select p.oid::bigint, pg_catalog.format('%I.%I', n.nspname, p.proname), p.proname::text,
       case when l.lanname in ('sql', 'plpgsql') then p.prosrc else '' end,
       pg_catalog.array_to_string(p.proconfig, ' ') ~ '(^| )search_path='
  from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
  join pg_catalog.pg_language l on l.oid = p.prolang
 where p.oid >= {_FIRST_OF_THE_SITE} and n.nspname <> 'pg_catalog'
"""  # noqa: S608 — a constant of this module
_RELATIONS = f"""
select c.relname::text from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.oid >= {_FIRST_OF_THE_SITE} and c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname not like 'pg\\_%'
 union select t.typname::text from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
 where t.oid >= {_FIRST_OF_THE_SITE} and t.typtype in ('e', 'd', 'c') and n.nspname not like 'pg\\_%'
"""  # noqa: S608 — a constant of this module
_OF_THE_SERVER = "select distinct proname::text from pg_catalog.pg_proc where oid < 16384"
_SELF_READING = f"""
select distinct pg_catalog.format('%I.%I', n.nspname, c.relname)
  from pg_catalog.pg_depend d join pg_catalog.pg_rewrite r on r.oid = d.objid
  join pg_catalog.pg_class c on c.oid = r.ev_class join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and c.oid >= {_FIRST_OF_THE_SITE}
   and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refobjid = r.ev_class and d.refobjsubid > 0
   and c.relkind = 'v' and r.rulename = '_RETURN'
 order by 1
"""  # noqa: S608 — a constant of this module
_NOT_CODE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_CALL = re.compile(r'(?<![\w.$"])([a-z_][\w$]*)\s*\(', re.IGNORECASE)
_QUALIFIED_CALL = re.compile(r'\.\s*"?([a-z_][\w$]*)"?\s*\(', re.IGNORECASE)
_RELATION = re.compile(r"(?:\b(?:from|join|into|update|only)\s+|::\s*)([a-z_][\w$]*)\b(?!\s*[.(])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Function:
    label: str
    body: str
    has_path: bool


@dataclass(frozen=True, slots=True)
class _Names:
    """The site's functions by oid and by name, and the names of its relations and types."""

    functions: Mapping[int, _Function]
    by_name: Mapping[str, list[int]]
    relations: frozenset[str]
    servers: frozenset[str]


def restore_hazards(connection: Connection[TupleRow]) -> tuple[Finding, ...]:
    """Return the objects whose restore depends on more than the dump says, with a remedy for each."""
    return (*_dependent_on_search_path(connection), *_self_reading(connection))


def _self_reading(connection: Connection[TupleRow]) -> Iterator[Finding]:
    for (name,) in connection.execute(_SELF_READING.encode()).fetchall():
        yield Finding(
            subject=f"view {name}",
            problem="reads itself; pg_dump writes it in a form that no server takes, so the dump cannot be restored",
            remedy="Replace it by a view that reads its tables, or drop it: it cannot be read either.",
        )


def _dependent_on_search_path(connection: Connection[TupleRow]) -> Iterator[Finding]:
    uses = [(str(name), int(oid)) for name, oid in connection.execute(_USES.encode()).fetchall()]
    if not uses:
        return
    names = _read_names(connection)
    for name, oid in uses:
        if (found := _unqualified(oid, names, set())) is not None:
            function, called = found
            yield Finding(
                subject=name,
                problem=f"calls {function}, which names {called} without its schema; a restore finds it only under the "
                "database's own search_path",
                remedy=f"ALTER FUNCTION {function} SET search_path, or name {called} with its schema.",
            )


def _read_names(connection: Connection[TupleRow]) -> _Names:
    functions: dict[int, _Function] = {}
    by_name: dict[str, list[int]] = {}
    for oid, label, name, body, has_path in connection.execute(_FUNCTIONS.encode()).fetchall():
        functions[int(oid)] = _Function(str(label), _NOT_CODE.sub(" ", str(body or "")), bool(has_path))
        by_name.setdefault(str(name), []).append(int(oid))
    relations = frozenset(str(name) for (name,) in connection.execute(_RELATIONS.encode()))
    servers = frozenset(str(name) for (name,) in connection.execute(_OF_THE_SERVER.encode()))
    return _Names(functions, by_name, relations, servers)


def _unqualified(oid: int, names: _Names, visited: set[int]) -> tuple[str, str] | None:
    """Return a function (this one or one that it calls) and what it names without a schema; None for nothing."""
    function = names.functions.get(oid)
    if function is None or function.has_path or oid in visited:
        return None
    visited.add(oid)
    for called in _CALL.findall(function.body):
        if called.lower() in names.by_name and called.lower() not in names.servers:
            return function.label, called
    for relation in _RELATION.findall(function.body):
        if relation.lower() in names.relations:
            return function.label, relation
    for called in _QUALIFIED_CALL.findall(function.body):
        for other in names.by_name.get(called, ()):
            if (found := _unqualified(other, names, visited)) is not None:
                return found
    return None
