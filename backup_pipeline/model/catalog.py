"""What a database consists of, as far as a restore must bring it back: tables, their parts, other objects, sequences.

Definitions that may hold literals of the site's own (function bodies, triggers, views, defaults) stand here as digests:
the catalog is stored beside the dump and must not hold what only the dump may. Names and types are readable.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from backup_pipeline.model.base import Frozen
from backup_pipeline.model.record import ColumnRecord

# Kinds of objects that catalogs of before they were asked for do not hold: see `Catalog.kinds`.
# Indexes, constraints, triggers, rules, statistics and columns of tables that belong to an extension.
ATTACHED = "attached to an extension"
# Releases before recorded these as a "definition" whose name begins with "column ", the server's own marks among them.
COLUMN_OPTIONS = "options of column"
LATER_KINDS = (
    "definition",
    "other owner",
    "other grant",
    "other comment",
    "subscription",
    "published",
    ATTACHED,
    COLUMN_OPTIONS,
)

TableKind = Literal["table", "partitioned", "foreign"]
_CASTS = re.compile(r'::(pg_catalog\.)?(text|character varying|bpchar|character|"char")(\(\d+\))?(\[\])*')


def essence(definition: str) -> str:
    """Return a definition without white space, parentheses and casts to character types.

    PostgreSQL writes an expression back with other casts and parentheses after a dump and restore
    (`(a)::text = ANY ((ARRAY[…])::text[])` becomes `a::text = ANY (ARRAY[…::text])`); nothing is lost by that.
    """
    return re.sub(r"[\s()]+", "", _CASTS.sub("", definition))


def unquoted(name: str) -> str:
    """Return an SQL identifier (or literal) as the catalog holds it: without quotes, doubled ones as one."""
    for quote in ('"', "'"):
        if len(name) > 1 and name.startswith(quote) and name.endswith(quote):
            return name[1:-1].replace(quote * 2, quote)
    return name


Equality = Literal["value", "server", "own"]


class TableKey(Frozen):
    """A primary key, unique constraint or unique index over plain columns and all rows.

    Attributes:
        nulls_distinct: False when a null equals a null (NULLS NOT DISTINCT).
        equality: `value` when keys are equal exactly where their exported values are; `server` when the types or
            collations call more than that equal; `own` when an operator class of the index decides.
        collations: for each column the collation (as SQL) that is not deterministic, else empty; () when there is none.
    """

    columns: tuple[str, ...]
    primary: bool = False
    nulls_distinct: bool = True
    equality: Equality = "value"
    collations: tuple[str, ...] = ()


class ForeignKey(Frozen):
    """A foreign key: `columns` refer to `to_columns` of another (or the same) table."""

    columns: tuple[str, ...]
    to_schema: str
    to_table: str
    to_columns: tuple[str, ...]


class CatalogTable(Frozen):
    """A table with its columns in order and the keys that its rows must keep.

    Attributes:
        other_unique: unique indexes over expressions or over some of the rows, by name.
        leaf_of: parent's (schema, name) when it is a partition.
        row_security: whether row level security is on for it.
        pages: its size in 8 kB pages, TOAST excluded, as the storage says (not an estimate); 0 where unknown.
        bytes: its size with TOAST, without indexes.
    """

    schema_name: str
    name: str
    kind: TableKind = "table"
    columns: tuple[ColumnRecord, ...] = ()
    keys: tuple[TableKey, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    other_unique: tuple[str, ...] = ()
    leaf_of: tuple[str, str] | None = None
    row_security: bool = False
    pages: int = 0
    bytes: int = 0

    @property
    def label(self) -> str:
        """`schema.table`, for people and for patterns."""
        return f"{self.schema_name}.{self.name}"


class SequenceState(Frozen):
    """A sequence: its definition, and how far it is. `last_value` is None when this role may not read it."""

    definition: str
    last_value: int | None = None
    is_called: bool = False
    increment: int = 1


class DatabaseLocale(Frozen):
    """By which rules a database sorts and classifies texts.

    Attributes:
        provider: who implements them.
        collate: LC_COLLATE (libc's name). ctype: LC_CTYPE.
        name: the provider's own name of the locale, where it is not libc ("de-DE").
        rules: ICU's additional rules.
        version: the provider's version of them, by which the order of texts may differ; "" where it names none.
        money: lc_monetary, by which values of the type money are written and read; "" where it was not recorded.
    """

    provider: Literal["libc", "icu", "builtin"] = "libc"
    collate: str
    ctype: str
    name: str = ""
    rules: str = ""
    version: str = ""
    money: str = ""

    @property
    def label(self) -> str:
        """Provider, locale and rules, for people."""
        named = f"{self.provider} {self.name}" if self.name else f"{self.provider} {self.collate}"
        return f"{named} with rules {self.rules!r}" if self.rules else named


class Catalog(Frozen):
    """Everything of one database that is compared after a restore.

    Attributes:
        objects: kind of object → its identity (quoted names, signature) → definition or digest of it.
            Kinds: schema, table, column, constraint, index, view, materialized view, function, trigger, policy, rule,
            type, extension, event trigger, statistics, owner, grant, default privilege, comment, other, and LATER_KINDS
            (`definition`: what an object is beyond its own kind's text; `published`: what a publication holds; what
            is attached to an extension's tables).
        locale: None in catalogs of before it was recorded.
        requirements: what a server needs for it beyond extensions: `xml`, `icu`, `lz4`, `locale de_DE.utf8` (of a
            collation), `xml used by view app.v`, and `superuser used by function app.f(integer)` (in C or a language
            that only superusers may use); empty in catalogs of before it was recorded.
        kinds: of LATER_KINDS those that were asked for; empty in catalogs of before.
        sequences: identity → state. Sequences are not transactional: a restored one may be further, never behind.
        roles: names of the roles that own something or are granted something here.
    """

    catalog_version: Literal[1] = 1
    server_major: int
    server_version: str = ""
    encoding: str = ""
    collation: str = ""
    locale: DatabaseLocale | None = None
    tables: tuple[CatalogTable, ...] = ()
    objects: dict[str, dict[str, str]] = Field(default_factory=dict)
    sequences: dict[str, SequenceState] = Field(default_factory=dict)
    roles: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()

    def table(self, schema: str, name: str) -> CatalogTable | None:
        """Return a table by its names, or None."""
        return next((t for t in self.tables if t.schema_name == schema and t.name == name), None)


class Membership(Frozen):
    """A role is a member of `role`."""

    role: str
    admin: bool = False
    inherit: bool = True
    set_role: bool = True


class RoleEntry(Frozen):
    """A role without its password. `settings` are `name=value`; values of custom settings are skipped (secrets)."""

    name: str
    superuser: bool = False
    login: bool = False
    create_database: bool = False
    create_role: bool = False
    inherit: bool = True
    replication: bool = False
    bypass_row_security: bool = False
    connection_limit: int = -1
    valid_until: str | None = None
    member_of: tuple[Membership, ...] = ()
    settings: tuple[str, ...] = ()


def setting_without_secret(setting: str) -> str:
    """Keep the values of PostgreSQL's own settings; a custom one (`app.jwt_secret=…`) may be a secret."""
    name, _, value = setting.partition("=")
    return f"{name}=…" if "." in name else f"{name}={value}"


class RolesDocument(Frozen):
    """Roles of the server and what this database needs of it: `<source>_roles.json`.

    Attributes:
        needed: roles that own or are granted something in this database; a restore names those that are missing.
        grants: identity of the object → its access rights, one per line as PostgreSQL writes them.
        extensions: name → version. Names that SQL quotes (`"uuid-ossp"`) are quoted: see `extension_names`.
        database_settings: `name=value` of ALTER DATABASE SET; values of custom settings are skipped.
    """

    roles_version: Literal[1] = 1
    server_version: str
    roles: tuple[RoleEntry, ...]
    needed: tuple[str, ...]
    grants: dict[str, str]
    default_privileges: dict[str, str] = Field(default_factory=dict)
    extensions: dict[str, str] = Field(default_factory=dict)
    database_settings: tuple[str, ...] = ()

    @property
    def extension_names(self) -> frozenset[str]:
        """The extensions' names as `pg_available_extensions` and control files have them: without SQL's quotes."""
        return frozenset(unquoted(name) for name in self.extensions)


class DatabaseEntry(Frozen):
    """One database of a server.

    Attributes:
        source: the source that captures it; "" where none does.
        skipped: why none does.
        size: bytes on disk; None where the role may not know.
    """

    name: str
    source: str = ""
    skipped: str = ""
    owner: str
    encoding: str
    collation: str
    ctype: str
    tablespace: str
    connection_limit: int
    size: int | None = None


class ServerDocument(Frozen):
    """All databases and roles of a server, as a set's run found them: `<source>_databases.json`."""

    document_version: Literal[1] = 1
    server_version: str
    databases: tuple[DatabaseEntry, ...]
    roles: tuple[RoleEntry, ...]
