"""Dagster's storage, selected by the environment: SQLite on a laptop, PostgreSQL on a server.

`dagster.yaml` names `EnvironmentStorage` with no configuration at all, so the connection string is read anew by each
process and is in no instance reference, argument list, or page of the UI. What the tables hold is Dagster's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.base_storage import DagsterStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from backup_pipeline.errors import SettingsError, SourceError
from backup_pipeline.orchestration.home import default_home
from backup_pipeline.orchestration.redacted_events import without_secrets

URL_VARIABLE = "DAGSTER_POSTGRES_URL"
URL_FILE_VARIABLE = "DAGSTER_POSTGRES_URL_FILE"
_DRIVER = "postgresql+psycopg2://"
_SCHEME = re.compile(r"^(postgres(?:ql)?)(?:\+\w+)?://")


def postgres_url(environment: Mapping[str, str]) -> str:
    """Return the SQLAlchemy URL of Dagster's database, "" when SQLite is to be used.

    `postgresql://` becomes `postgresql+psycopg2://`: newer SQLAlchemy would take psycopg 3, with which every run fails.

    Raises:
        SettingsError: the variable or its file is wrong; the value itself is never in the message.
    """
    name, value = URL_VARIABLE, environment.get(URL_VARIABLE, "").strip()
    if not value and (file := environment.get(URL_FILE_VARIABLE, "").strip()):
        name = URL_FILE_VARIABLE
        try:
            value = Path(file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not text"
            raise SettingsError(
                f"The file {file} cannot be read: {why}.", where=name, remedy="Name a file that this user can read."
            ) from None
        if not value:
            raise SettingsError(f"The file {file} is empty.", where=name, remedy="Write the connection string into it.")
    if not value:
        return ""
    if not _SCHEME.match(value):
        raise SettingsError(
            "Not a PostgreSQL URL.", where=name, remedy="Use the form postgresql://USER:PASSWORD@HOST:5432/DATABASE."
        )
    return _SCHEME.sub(_DRIVER, value)


def require_history(environment: Mapping[str, str]) -> None:
    """Make sure that the database of Dagster's history answers, where that is PostgreSQL; Dagster would try for ever.

    Raises:
        SourceError: it does not answer; no secret is in the message.
    """
    url = postgres_url(environment)
    if not url:
        return
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.pool import NullPool

    try:
        with create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10}).connect():
            return
    except OperationalError:
        raise SourceError(
            "The database with Dagster's history cannot be reached.",
            where=URL_VARIABLE,
            remedy="Start its server, or correct the address. Keep the history on another server than the one that is "
            "backed up (docs/deployment.md).",
        ) from None


class EnvironmentStorage(DagsterStorage, ConfigurableClass):
    """Stands in dagster.yaml; loading it gives Dagster's own storage for SQLite or PostgreSQL.

    `DAGSTER_POSTGRES_URL`, or `DAGSTER_POSTGRES_URL_FILE` naming a file that holds it, chooses PostgreSQL. Without
    them SQLite is used in `storage` below DAGSTER_HOME.
    """

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the schema of its configuration, which is empty."""
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> DagsterStorage:
        """Return the storage that the environment asks for; SettingsError when its variables are wrong."""
        if url := postgres_url(os.environ):
            from backup_pipeline.orchestration.postgres_storage import PostgresStorage

            return _storing_no_secrets(PostgresStorage(url, inst_data))
        from backup_pipeline.orchestration.sqlite_storage import SqliteStorage

        base = default_home(os.environ) / "storage"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SqliteStorage.from_local(str(base), inst_data=inst_data)


def _storing_no_secrets(storage: DagsterStorage) -> DagsterStorage:
    """Return a storage that takes secrets out of every event before it stores it."""
    events: Any = storage.event_log_storage
    store, store_batch = events.store_event, events.store_event_batch
    events.store_event = lambda event: store(without_secrets(event))
    events.store_event_batch = lambda batch: store_batch([without_secrets(event) for event in batch])
    return storage
