"""A dump's definitions as a server prints them after reading them: the form that a restored copy is in.

PostgreSQL does not always print a definition as it prints the same one after a dump and restore: `NULL` in a UNION
comes back with an alias, `extract('YEAR' from …)` with the field in small letters, a cast or a pair of parentheses is
added or skipped. So texts that differ are held against the dump's own, read by the same server: its statements,
without rows, are loaded into a database of their own, which is dropped again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.catalog import Catalog
from backup_pipeline.postgres.load.check import catalog_of
from backup_pipeline.postgres.load.load import Skip
from backup_pipeline.postgres.load.loading_role import LoadingRole
from backup_pipeline.postgres.load.rebuild import DumpOrigin, LoadOptions, OpenDump, rebuild_database
from backup_pipeline.postgres.load.scratch import scratch_database
from backup_pipeline.postgres.load.stream import CopyBlock, Statement
from backup_pipeline.postgres.server.target import PostgresTarget

_LARGE_OBJECT = re.compile(
    rb"SELECT pg_catalog\.(?:lo_|lowrite)|ALTER LARGE OBJECT |COMMENT ON LARGE OBJECT |SECURITY LABEL [^;]* ON LARGE"
    rb"|(?:GRANT|REVOKE) [^;]* ON LARGE OBJECT "
)


def reparsed_by(
    server: PostgresTarget,
    open_dump: OpenDump,
    origin: DumpOrigin,
    *,
    skip: Skip | None = None,
    loading: Callable[[PostgresTarget], LoadingRole] | None = None,
    only_pg_dumps: bool = False,
) -> Callable[[], Catalog | None]:
    """Return a function that reads the dump's definitions on this server and returns their catalog.

    It is called only when texts differ. It returns None where the definitions cannot be loaded without their rows.

    Args:
        server: any database of the server that the restored copy is on.
        open_dump: opens the dump.
        origin: what is known of the database that it is of.
        skip: what was skipped in the copy.
        loading: makes the role that loads, where the server's own must not run what a dump brings along.
        only_pg_dumps: see `rebuild_database`.
    """

    def without_rows(part: Statement | CopyBlock) -> bool:
        return isinstance(part, CopyBlock) or bool(_LARGE_OBJECT.match(part.body)) or (skip is not None and skip(part))

    def read() -> Catalog | None:
        try:
            with scratch_database(server) as target:
                role = loading(target) if loading is not None else None
                options = LoadOptions(jobs=2, skip=without_rows, loading=role, only_pg_dumps=only_pg_dumps)
                # How a definition is printed does not hang on the locale.
                rebuild_database(open_dump, target, replace(origin, locale=None), options)
                return catalog_of(role.target if role is not None else target)
        except BackupSystemError as error:
            if not error.permanent:
                raise
            return None

    return read
