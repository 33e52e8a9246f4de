"""The databases of a PostgreSQL server as they were last found: which source each has, and since when it is absent."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime

from backup_pipeline.model.base import Frozen


def name_on_one_line(name: str) -> str:
    """Return a database's name with its control characters written out: one may hold the end of a line."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)


class KnownDatabase(Frozen):
    """One database of a server.

    Attributes:
        name: as PostgreSQL has it.
        source: the name of its source.
        found_at: when it was found first.
        absent_since: when it was found to be gone, or not to be captured any more; None while it is there.
        absent_because: why ("it was dropped or renamed").
    """

    name: str
    source: str
    found_at: AwareDatetime
    absent_since: AwareDatetime | None = None
    absent_because: str = ""


class KnownDatabases(Frozen):
    """What is known of a server. A database that was found once stays listed, so that its sets can be restored.

    Attributes:
        asked_at: when the server was last asked.
    """

    list_version: Literal[1] = 1
    asked_at: AwareDatetime
    databases: tuple[KnownDatabase, ...] = ()

    def source_of(self, database: str) -> str:
        """Return the name of a database's source, "" for one that is not known."""
        return next((one.source for one in self.databases if one.name == database), "")
