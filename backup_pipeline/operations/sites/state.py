"""The database in which a site whose workers share no disk keeps what is known (docs/scaling-out.md)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backup_pipeline.errors import SettingsError
from backup_pipeline.settings.site import Site

if TYPE_CHECKING:
    # A site without such a database loads no client of PostgreSQL.
    from backup_pipeline.stores.state.database import StateDatabase

# As SQLAlchemy, and with it Dagster's history, names a driver.
_DRIVER = re.compile(r"^(postgres(?:ql)?)\+\w+://")
_OPENED: dict[str, StateDatabase] = {}


def state_database(site: Site) -> StateDatabase | None:
    """Return the database of a site, None for one whose state is in its folders.

    Raises:
        SettingsError: none of the variables is set, or its value is no address.
    """
    if not site.settings.state_env:
        return None
    from backup_pipeline.postgres.server.target import parse_target
    from backup_pipeline.stores.state.database import StateDatabase

    for name in site.settings.state_env:
        if value := site.value(name):
            url = _DRIVER.sub(r"\1://", value)
            if url not in _OPENED:
                _OPENED[url] = StateDatabase(parse_target(url, variable=name, environment=site.environment))
            return _OPENED[url]
    raise SettingsError(
        f"{' or '.join(site.settings.state_env)} is not set.",
        where=f"{site.file}: state_env",
        remedy="Set it to the address of the PostgreSQL database that all workers reach.",
    )
