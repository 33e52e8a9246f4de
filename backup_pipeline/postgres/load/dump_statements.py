"""Which statements of a dump pg_dump writes, and the few that need more rights than a drill's loading role has. Pure.

Whoever can write to a store can append a statement to a dump. So anything that pg_dump never writes is refused, and
what is executed with superuser rights is of this list only, put together anew from its parts: a name stays a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Letters, the underscore and everything that is not ASCII; then digits and the dollar too. By what is excluded: Python
# takes 25 ms for each set that names a range up to U+10FFFF, and half a second for this module's.
_IDENT = r'(?:"(?:[^"]|"")+"|[^\x00-@\[-^`{-\x7f][^\x00-#%-/:-@\[-^`{-\x7f]*)'
_NAME = rf"{_IDENT}(?:\.{_IDENT})*"
_STRING = r"(?:'(?:[^']|'')*')"

# The leading keywords of what pg_dump writes (dumpacl.c, pg_dump.c of 13 to 18). Roles, databases, tablespaces and the
# server's own settings are pg_dumpall's, and never part of a database's dump.
_WRITTEN = re.compile(
    r"SET (?!SESSION AUTHORIZATION)[a-z_.]+ = |SET SESSION AUTHORIZATION |RESET SESSION AUTHORIZATION;"
    r"|SELECT pg_catalog\.(?:set_config\('search_path', '', false\)|setval\(|lo_create\(|lo_open\(|lowrite\("
    r"|lo_close\(|pg_restore_(?:relation|attribute|extended)_stats\(|pg_clear_(?:relation|attribute)_stats\()"
    r"|BEGIN;|COMMIT;|INSERT INTO |REFRESH MATERIALIZED VIEW |SECURITY LABEL |COMMENT ON "
    r"|(?:GRANT|REVOKE) .* (?:TO|FROM) "
    r"|CREATE (?:OR REPLACE )?"
    r"(?:UNLOGGED |FOREIGN |MATERIALIZED |RECURSIVE |TRUSTED |PROCEDURAL |CONSTRAINT |UNIQUE |DEFAULT )*"
    r"(?:TABLE|VIEW|SEQUENCE|FUNCTION|PROCEDURE|AGGREGATE|TYPE|DOMAIN|INDEX|TRIGGER|RULE|POLICY|SCHEMA|EXTENSION"
    r"|EVENT TRIGGER|PUBLICATION|SUBSCRIPTION|SERVER|DATA WRAPPER|USER MAPPING FOR|CAST|OPERATOR|COLLATION"
    r"|CONVERSION|LANGUAGE|STATISTICS|TEXT SEARCH|TRANSFORM|ACCESS METHOD|PROPERTY GRAPH)\b"
    r"|ALTER (?:TABLE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE|SEQUENCE|FUNCTION|PROCEDURE|ROUTINE|AGGREGATE|TYPE|DOMAIN"
    r"|INDEX|TRIGGER|RULE|POLICY|SCHEMA|EXTENSION|EVENT TRIGGER|PUBLICATION|SUBSCRIPTION|SERVER|FOREIGN DATA WRAPPER"
    r"|COLLATION|CONVERSION|LANGUAGE|PROCEDURAL LANGUAGE|STATISTICS|TEXT SEARCH|OPERATOR|DEFAULT PRIVILEGES"
    r"|LARGE OBJECT|CAST|PROPERTY GRAPH)\b",
    re.DOTALL,
)
# Rights on what belongs to the whole server, or membership in a role (which has no ON).
_NOT_A_DATABASES = re.compile(
    r"(?:GRANT|REVOKE) (?:.* ON (?:DATABASE|TABLESPACE|PARAMETER) |(?:(?! ON ).)* (?:TO|FROM) (?:(?! ON ).)*\Z)",
    re.DOTALL,
)


def is_written_by_pg_dump(statement: str) -> bool:
    """Return whether a statement begins as one that pg_dump writes into a database's dump."""
    return bool(_WRITTEN.match(statement)) and not _NOT_A_DATABASES.match(statement)


def leading_keywords(statement: str) -> str:
    """Return a statement's leading keywords, for a message: no literal, no data."""
    return " ".join(re.split(r"['$(;\"]", statement, maxsplit=1)[0].split()[:4])


@dataclass(frozen=True, slots=True)
class Owner:
    """`ALTER kind identity OWNER TO role`."""

    kind: str
    identity: str
    role: str

    def text(self, role: str) -> str:
        """Return the statement for another role, which is given quoted."""
        return f"ALTER {self.kind} {self.identity} OWNER TO {role}"


@dataclass(frozen=True, slots=True)
class NewExtension:
    """`CREATE EXTENSION`."""

    name: str
    schema: str


@dataclass(frozen=True, slots=True)
class AsSuperuser:
    """A statement that only a superuser may run, exactly as it stands. `last`: after everything else."""

    text: str
    last: bool = False


Known = Owner | NewExtension | AsSuperuser

# Brackets, commas and types of arguments; neither literals nor anything that would end a statement.
_ARGUMENTS = r"""\((?:"(?:[^"]|"")+"|[^"';$\\])*\)"""
_KINDS = (
    "TABLE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE|SEQUENCE|FUNCTION|PROCEDURE|AGGREGATE|TYPE|DOMAIN|SCHEMA|COLLATION"
    "|CONVERSION|SERVER|STATISTICS|TEXT SEARCH DICTIONARY|TEXT SEARCH CONFIGURATION|LANGUAGE|PROCEDURAL LANGUAGE"
    "|PUBLICATION|SUBSCRIPTION|EVENT TRIGGER|FOREIGN DATA WRAPPER"
)
_OWNER = re.compile(
    rf"ALTER (?P<kind>{_KINDS}) (?P<identity>(?:ONLY )?{_NAME}(?:{_ARGUMENTS})?) OWNER TO (?P<role>{_IDENT});\Z"
    rf"|ALTER (?P<operators>OPERATOR (?:CLASS|FAMILY)) (?P<operators_identity>{_NAME} USING {_IDENT})"
    rf" OWNER TO (?P<operators_role>{_IDENT});\Z"
    rf"|ALTER (?P<operator>OPERATOR) (?P<operator_identity>(?:{_IDENT}\.)?[-+*/<>=~!@#%^&|`?]+ {_ARGUMENTS})"
    rf" OWNER TO (?P<operator_role>{_IDENT});\Z"
    rf"|ALTER (?P<object>LARGE OBJECT) (?P<object_identity>\d+) OWNER TO (?P<object_role>{_IDENT});\Z"
)
_EXTENSION = re.compile(rf"CREATE EXTENSION (?:IF NOT EXISTS )?({_IDENT}) WITH SCHEMA ({_IDENT});\Z")
_OPTION = rf"[a-z_]+ = (?:{_STRING}|[A-Za-z_]+)"
_AS_SUPERUSER = tuple(
    re.compile(rf"{pattern};\Z")
    for pattern in (
        rf"COMMENT ON EXTENSION {_IDENT} IS (?:{_STRING}|NULL)",
        rf"CREATE PUBLICATION {_IDENT} FOR ALL TABLES(?: WITH \({_OPTION}(?:, {_OPTION})*\))?",
        rf"ALTER PUBLICATION {_IDENT} ADD TABLES IN SCHEMA {_IDENT}",
        rf"COMMENT ON (?:PUBLICATION|SUBSCRIPTION|FOREIGN DATA WRAPPER|ACCESS METHOD) {_IDENT} IS (?:{_STRING}|NULL)",
        # Never connected to: a subscription without a connection sends and receives nothing.
        rf"CREATE SUBSCRIPTION {_IDENT} CONNECTION {_STRING} PUBLICATION {_IDENT}(?:, {_IDENT})*"
        rf" WITH \(connect = false(?:, (?!connect|enabled|create_slot|copy_data){_OPTION})*\)",
        # Without a handler nothing of it can ever be executed.
        rf"CREATE FOREIGN DATA WRAPPER {_IDENT}(?: OPTIONS \(\s*{_IDENT} {_STRING}(?:,\s*{_IDENT} {_STRING})*\s*\))?",
        rf"GRANT (?:ALL|USAGE) ON (?:LANGUAGE|FOREIGN DATA WRAPPER) {_IDENT} TO {_IDENT}(?: WITH GRANT OPTION)?",
        rf"REVOKE (?:ALL|USAGE) ON (?:LANGUAGE|FOREIGN DATA WRAPPER) {_IDENT} FROM {_IDENT}",
        rf"CREATE ACCESS METHOD {_IDENT} TYPE TABLE HANDLER heap_tableam_handler",
        rf"CREATE OPERATOR FAMILY {_NAME} USING (?:btree|hash)",
        # The one C function that sites define by themselves (MusicBrainz and many others): unaccent's own, called
        # immutable for an index. It calls the dictionary that it is given, and STRICT keeps nulls from it.
        rf"CREATE FUNCTION {_NAME}\((?:{_IDENT} )?regdictionary, (?:{_IDENT} )?text\) RETURNS text\s+"
        r"LANGUAGE c (?:IMMUTABLE |STABLE )?STRICT(?: PARALLEL (?:SAFE|RESTRICTED))?(?: COST \d+)?\s+"
        r"AS '\$libdir/unaccent', 'unaccent_dict'",
    )
)
_LAST = tuple(
    re.compile(rf"{pattern};\Z")
    for pattern in (
        rf"CREATE EVENT TRIGGER {_IDENT} ON (?:ddl_command_start|ddl_command_end|sql_drop|table_rewrite)"
        rf"\s+(?:WHEN TAG IN \((?:'[A-Z ]+'(?:, ?)?)+\)\s+)?EXECUTE (?:FUNCTION|PROCEDURE) {_NAME}\(\)",
        rf"ALTER EVENT TRIGGER {_IDENT} (?:DISABLE|ENABLE|ENABLE REPLICA|ENABLE ALWAYS)",
        rf"COMMENT ON EVENT TRIGGER {_IDENT} IS (?:{_STRING}|NULL)",
    )
)
# An operator class whose functions are of the site's own (never of the server's, which trust their arguments) and take
# exactly the types that they are called with.
_CLASS = re.compile(
    rf"CREATE OPERATOR CLASS (?P<name>{_NAME})\s+(?:DEFAULT )?FOR TYPE (?P<type>{_NAME}) USING (?:btree|hash)"
    rf"(?: FAMILY {_NAME})? AS\s+(?P<items>[^;']+);\Z"
)
_CLASS_OPERATOR = re.compile(
    rf"OPERATOR \d+ (?:{_IDENT}\.)?[-+*/<>=~!@#%^&|`?]+\s?\((?P<left>{_NAME}) ?, ?(?P<right>{_NAME})\)"
)
_CLASS_FUNCTION = re.compile(
    rf"FUNCTION 1 \((?P<left>{_NAME}) ?, ?(?P<right>{_NAME})\)"
    rf" (?P<schema>{_IDENT})\.{_IDENT}\((?P<one>{_NAME}) ?, ?(?P<two>{_NAME})\)"
)


_PRIVILEGE = rf"[A-Z]+(?: ?\({_IDENT}(?:, ?{_IDENT})*\))?"
_RIGHTS_ON = re.compile(
    rf"(?:GRANT|REVOKE(?: GRANT OPTION FOR)?) {_PRIVILEGE}(?:, ?{_PRIVILEGE})* ON "
    rf"(?P<kind>TABLE|SEQUENCE|FUNCTION|PROCEDURE|SCHEMA|TYPE|DOMAIN|LARGE OBJECT|FOREIGN SERVER) "
    rf"(?P<identity>\d+|{_NAME}(?:{_ARGUMENTS})?) (?:TO|FROM) {_IDENT}(?: WITH GRANT OPTION)?;\Z"
)


def rights_on(statement: str) -> tuple[str, str] | None:
    """Return kind and identity of the one object that a GRANT or REVOKE is about; None for anything else."""
    found = _RIGHTS_ON.match(statement)
    return (found["kind"], found["identity"]) if found else None


# Settings that only superusers may change and a function may bring along, as Supabase's log_min_messages. None of them
# starts a program, loads a library, reads a file or touches another database; with them a function does no more than
# without.
_LENT_SETTINGS = frozenset(
    """
    backtrace_functions commit_delay compute_query_id deadlock_timeout event_triggers lc_messages log_connections
    log_disconnections log_duration log_error_verbosity log_executor_stats log_lock_failures log_lock_waits
    log_min_duration_sample log_min_duration_statement log_min_error_statement log_min_messages
    log_parameter_max_length log_parser_stats log_planner_stats log_replication_commands log_statement
    log_statement_sample_rate log_statement_stats log_temp_files log_transaction_sample_rate
    plpgsql.variable_conflict session_replication_role temp_file_limit track_activities track_cost_delay_timing
    track_counts track_functions track_io_timing track_wal_io_timing update_process_title wal_compression
    """.split()
)
_FUNCTIONS_SETTING = re.compile(r'^ +SET "?([a-z_.]+)"? TO ', re.MULTILINE)


def settings_to_lend(statement: str) -> frozenset[str]:
    """Return the superusers' settings, of the harmless ones, that a function's definition may set."""
    if not statement.startswith(("CREATE FUNCTION ", "CREATE PROCEDURE ")):
        return frozenset()
    return _LENT_SETTINGS.intersection(_FUNCTIONS_SETTING.findall(statement))


_SIGNATURE = re.compile(rf"(?:(?P<schema>{_IDENT})\.)?(?P<name>{_IDENT})\((?P<arguments>.*)\)\Z", re.DOTALL)


def function_signature(identity: str) -> tuple[str, str, str]:
    """Return schema ("" where none is named), name, and the arguments as they stand in a function's identity."""
    found = _SIGNATURE.match(identity)
    return (
        (unquoted(found["schema"] or ""), unquoted(found["name"]), found["arguments"]) if found else ("", identity, "")
    )


def known_statement(statement: str) -> Known | None:
    """Return what a statement is when it needs superuser rights and is of the recognised list."""
    if " OWNER TO " in statement and (found := _OWNER.match(statement)):
        for name in ("kind", "operators", "operator", "object"):
            if found[name]:
                prefix = "" if name == "kind" else f"{name}_"
                return Owner(found[name], found[f"{prefix}identity"], unquoted(found[f"{prefix}role"]))
    if found := _EXTENSION.match(statement):
        return NewExtension(unquoted(found[1]), unquoted(found[2]))
    if any(pattern.match(statement) for pattern in _AS_SUPERUSER) or _is_safe_class(statement):
        return AsSuperuser(statement)
    if any(pattern.match(statement) for pattern in _LAST):
        return AsSuperuser(statement, last=True)
    return None


_OPTIONS = rf"OPTIONS \(\s*{_IDENT} {_STRING}(?:,\s*{_IDENT} {_STRING})*\s*\)"
_COLUMN = rf"\s+{_IDENT} [a-z][a-z ]*(?:\(\d+(?:,\d+)?\))?(?:\[\])?(?: {_OPTIONS})?(?: NOT NULL)?"
_FOREIGN = re.compile(
    rf"CREATE FOREIGN TABLE (?P<name>{_NAME}) \({_COLUMN}(?:,{_COLUMN})*\s*\)\s*SERVER (?P<server>{_IDENT})"
    rf"\s*(?:{_OPTIONS})?;\Z"
)


_COLUMN_OPTIONS = re.compile(rf"ALTER FOREIGN TABLE (?:ONLY )?({_NAME}) ALTER COLUMN {_IDENT} {_OPTIONS};\Z")


def column_options(statement: str) -> str | None:
    """Return the foreign table whose column gets options; None for anything else."""
    found = _COLUMN_OPTIONS.match(statement)
    return found[1] if found else None


def plain_foreign_table(statement: str) -> tuple[str, str] | None:
    """Return name and server of a foreign table that has only columns of the server's own types; None otherwise."""
    found = _FOREIGN.match(statement)
    return (found["name"], unquoted(found["server"])) if found else None


def _is_safe_class(statement: str) -> bool:
    found = _CLASS.match(statement)
    if found is None:
        return False
    items = re.split(r",\s+(?=OPERATOR|FUNCTION)", found["items"])
    for item in map(str.strip, items):
        function = _CLASS_FUNCTION.fullmatch(item)
        if function:
            same = (function["left"], function["right"]) == (function["one"], function["two"])
            if not same or function["schema"] == "pg_catalog":
                return False
        elif not _CLASS_OPERATOR.fullmatch(item):
            return False
    return True


def unquoted(name: str) -> str:
    """Return an identifier as the catalog has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


_SESSION = re.compile(rf"SET SESSION AUTHORIZATION (?:({_STRING})|({_IDENT}));\Z")
_RIGHTS = re.compile(
    rf"(?P<head>(?:GRANT|REVOKE) .+ (?:TO|FROM)) (?P<role>{_IDENT})(?P<rest>(?: WITH GRANT OPTION)?;)\Z", re.DOTALL
)
_DEFAULT = re.compile(rf"ALTER DEFAULT PRIVILEGES FOR ROLE (?P<role>{_IDENT}) (?P<rest>.+)\Z", re.DOTALL)


def session_role(statement: str) -> str | None:
    """Return the role of SET SESSION AUTHORIZATION, "" for its RESET (DEFAULT), None for anything else."""
    if statement == "RESET SESSION AUTHORIZATION;" or statement == "SET SESSION AUTHORIZATION DEFAULT;":
        return ""
    found = _SESSION.match(statement)
    if found is None:
        return None
    return found[1][1:-1].replace("''", "'") if found[1] else unquoted(found[2])


def with_roles(statement: str, names: dict[str, str]) -> str:
    """Return a GRANT, REVOKE or ALTER DEFAULT PRIVILEGES with other roles in the places of these."""
    if found := _DEFAULT.match(statement):
        role = names.get(unquoted(found["role"]))
        head = f"ALTER DEFAULT PRIVILEGES FOR ROLE {role or found['role']} "
        return head + _with_grantee(found["rest"], names)
    return _with_grantee(statement, names)


def _with_grantee(statement: str, names: dict[str, str]) -> str:
    found = re.match(rf"(?P<before>(?:IN SCHEMA {_IDENT} )?)", statement)
    before = found["before"] if found else ""
    rights = _RIGHTS.match(statement[len(before) :])
    if rights is None or unquoted(rights["role"]) not in names:
        return statement
    return f"{before}{rights['head']} {names[unquoted(rights['role'])]}{rights['rest']}"
