"""Settings of a source of the kind `postgres`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, model_validator

from backup_pipeline.rules.markdown import code_span
from backup_pipeline.settings.raw_values import FoundFaults, unqualified_patterns
from backup_pipeline.settings.types import (
    Connection,
    DatabaseSelection,
    Names,
    Settings,
    SourceSettings,
    TableSelection,
    check_file_name,
)

Compressed = Literal["gzip", "zstd", "none"]
ENDINGS: Mapping[str, str] = {"gzip": ".gz", "zstd": ".zst"}
"""What the name of a compressed dump ends with."""
_PORT = 5432


_OF_ONE_DATABASE: Mapping[str, str] = {
    "required_tables": "is of one database: make that one a source of its own, and exclude it here",
    "run_before": "would be run for each database; write it at the plan",
    "run_after": "would be run for each database; write it at the plan",
}
"""Fields that a source with `databases` cannot have."""


class PostgresSource(SourceSettings):
    """A PostgreSQL database, or all databases of a server."""

    variable_fields: ClassVar[tuple[str, ...]] = ("dsn_env", "user_env", "password_env")
    secret_fields: ClassVar[tuple[str, ...]] = ("dsn_env", "password_env")
    groups: ClassVar[Mapping[str, type[Settings]]] = {"All databases of a server: `databases`": DatabaseSelection}

    kind: Literal["postgres"]
    dsn_env: Names
    """Variables that may hold the connection string; the first that is set counts. URL, JDBC or key=value form."""
    user_env: str | None = None
    """Variable with the user, where the connection string has none (Keycloak's KC_DB_USERNAME)."""
    password_env: str | None = None
    """Variable with the password, where the connection string has none."""
    databases: DatabaseSelection | None = None
    """All databases of the server instead of the one in the connection string: `{include: ["*"], exclude: [test_*]}`.
    Each becomes a source `<source>_<database>`; new ones are found by themselves and reported."""
    dump_format: Literal["plain", "custom"] = "plain"
    """plain: `<source>_db.sql.gz`, readable everywhere; custom: `<source>_db.dump` for pg_restore."""
    compression: Compressed | None = None
    """gzip; zstd, smaller and as quick; none for `psql < file`, the rule where `file_name` ends with `.sql`, or in a
    custom dump for storage that compresses or deduplicates itself."""
    file_name: str | None = None
    """Name of the dump instead: `cdb_backup_{time:%Y-%m-%d_%H%M}.sql` (or `.sql.gz`, `.sql.zst`, `.dump`), may hold
    folders."""
    tables: TableSelection = TableSelection()
    """Tables exported beside the dump."""
    master_tables: Names = ()
    """Tables of master data (`schema.table`, patterns allowed); all others are transaction tables."""
    required_tables: Names = ()
    """Tables that must exist (`table` means public.table)."""
    lost_keys: Literal["ERROR", "WARN"] = "ERROR"
    """When a table has lost its primary key since the last set: ERROR keeps the set from being sealed."""
    missing_tables: Literal["error", "warning"] = "error"
    """What a missing one of `required_tables` does: fails the source, or warns while the others are captured."""
    connections: int = Field(default=3, ge=1, le=32)
    """Connections used at once for table exports, beside the dump's own."""
    lock_timeout_seconds: float = Field(default=60.0, gt=0)
    """How long to wait for a table that a migration holds."""

    @model_validator(mode="after")
    def _dump_name(self) -> PostgresSource:
        if self.dump_format == "custom":
            if self.compression not in (None, "none"):
                raise ValueError(
                    f"compression: {self.compression} is of plain dumps; pg_dump compresses its custom format itself, "
                    "or not at all (none)"
                )
            return check_file_name(self, self.file_name, ("source",), (".dump",))
        # With `.sql` the ending is added; a name that says gzip for a file that is none would mislead every program.
        known = ENDINGS if self.compression is None else [one for one in ENDINGS if one == self.compression]
        endings = (".sql", *(f".sql{ENDINGS[one]}" for one in known))
        return check_file_name(self, self.file_name, ("source",), endings)

    @classmethod
    def cross_field_faults(cls, source: Mapping[str, Any]) -> FoundFaults:
        """Yield the patterns of tables that name no schema, and what is of one database in a source of several."""
        yield from unqualified_patterns(source, "public")
        if source.get("databases") is None:
            return
        for field, why in _OF_ONE_DATABASE.items():
            if source.get(field):
                yield (field,), why
        if isinstance(name := source.get("file_name"), str) and "{source}" not in name:
            yield ("file_name",), "must hold {source}: each database has a file of its own"

    @property
    def connection(self) -> Connection:
        """How the database is reached."""
        return Connection(self.dsn_env, self.user_env, self.password_env)

    @property
    def connections_at_once(self) -> int:
        """Those of the exports, of the snapshot and of the dump."""
        return self.connections + 2

    @property
    def server_databases(self) -> DatabaseSelection | None:
        """Which databases of its server it stands for."""
        return self.databases

    def of_database(self, server: str, database: str) -> ServerDatabase:
        """Return the settings of one of them, which are this source's."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        about = f"Database {code_span(database)} of {server}. {self.description}".strip()
        return ServerDatabase.model_construct(**{**own, "databases": None, "description": about, "database": database})

    @classmethod
    def of_fleet(cls) -> type[SourceSettings]:
        """Return the model of a database that is a member of a fleet."""
        return FleetDatabase

    @property
    def dump_compression(self) -> Compressed:
        """How a dump is kept: as `compression` says, else as a plain dump's name says, else gzip."""
        if self.compression is not None:
            return self.compression
        name = self.file_name or ""
        return "none" if name.endswith(".sql") else "zstd" if name.endswith(ENDINGS["zstd"]) else "gzip"


class ServerDatabase(PostgresSource):
    """One database of a server whose databases are found by themselves; stands in no file.

    Attributes:
        database: its name.
    """

    database: str

    @property
    def connection(self) -> Connection:
        """How the database is reached: as its server."""
        return Connection(self.dsn_env, self.user_env, self.password_env, self.database)


class FleetDatabase(PostgresSource):
    """A database that is a member of a fleet: its address may stand in the settings, without a password."""

    dsn_env: Names = ()
    dsn: str = ""
    passfile: str = ""

    @model_validator(mode="after")
    def _one_address(self) -> FleetDatabase:
        if bool(self.dsn) == bool(self.dsn_env):
            raise ValueError("name one of dsn and dsn_env")
        if self.databases is not None:
            raise ValueError("databases: a fleet has `sources_from: {server: …}` for them")
        return self

    @property
    def connection(self) -> Connection:
        """How the database is reached."""
        address = self.dsn
        if address and self.passfile:
            address += f"{'&' if '?' in address else '?'}passfile={quote(self.passfile, safe='')}"
        return Connection(self.dsn_env, self.user_env, self.password_env, address=address)

    @property
    def served_by(self) -> str:
        """Host and port of the address."""
        with suppress(ValueError):
            parts = urlsplit(self.dsn)
            return f"{parts.hostname}:{parts.port or _PORT}" if parts.hostname else ""
        return ""
