"""Settings of a source of the kind `orders`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from backup_pipeline.settings.raw_values import FoundFaults
from backup_pipeline.settings.types import Connection, Names, Settings, SourceSettings


class OrdersLog(Settings):
    """The log file of an order archive, for monitors that read one."""

    file: Path = Path("backup_system.log")
    """The file; relative paths count from backup.yaml."""
    max_megabytes: float = Field(default=10.0, ge=0)
    """From this size on it is put aside as `<file>.1` when the next run begins; 0 leaves that to logrotate."""
    keep: int = Field(default=5, ge=0, le=1000)
    """How many files that were put aside stay."""


class OrdersSource(SourceSettings):
    """A workshop's order archive: a database with the table `auftraege` and one folder per order."""

    variable_fields: ClassVar[tuple[str, ...]] = ("dsn_env",)
    secret_fields: ClassVar[tuple[str, ...]] = ("dsn_env",)
    groups: ClassVar[Mapping[str, type[Settings]]] = {"The order archive's log: `log`": OrdersLog}

    kind: Literal["orders"]
    database: Path | None = None
    """SQLite file with the table `auftraege`."""
    dsn_env: Names = ()
    """Variables with the connection string, when `auftraege` lives in PostgreSQL instead."""
    archive: Path
    """Folder of the archive: `<year>/<auftrag_nr>/`."""
    first_year: int = Field(default=2015, ge=1970, le=2100)
    """First year of the yearly partitions."""
    lock_wait_seconds: float = Field(default=30.0, ge=0)
    """How long to wait for another process that works on the archive."""
    export_schedule: str | None = None
    """Cron expression of exports into the folders beside those that each backup makes."""
    log: OrdersLog | None = None
    """A log file with a line for each order and the summary `Export abgeschlossen: … erfolgreich, … Fehler`."""

    @classmethod
    def cross_field_faults(cls, source: Mapping[str, Any]) -> FoundFaults:
        """Yield that it has no database, or two."""
        if not source.get("database") and not source.get("dsn_env"):
            yield (), "needs database (a SQLite file) or dsn_env (PostgreSQL); neither is given"
        if source.get("database") and source.get("dsn_env"):
            yield ("dsn_env",), "database is given too; an order archive has one database"

    @property
    def connection(self) -> Connection | None:
        """How the database is reached, when the orders' table is in PostgreSQL."""
        return Connection(self.dsn_env) if self.dsn_env else None
