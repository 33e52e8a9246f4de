"""Supabase platforms: what the platform owns, and which rows may be written there. Pure.

The platform creates and migrates the schemas below; a project's backup holds their content too, but nobody else may
create tables or functions there. So rows of `auth` and `storage` go into the tables that the platform made, when its
own migrations tables say the same as in the backup; everything else of the platform is left alone.
"""

from __future__ import annotations

TableName = tuple[str, str]

PLATFORM_ROLES = ("supabase_admin", "supabase_auth_admin")
DATA_ONLY_SCHEMAS = frozenset({"auth", "storage"})
LEFT_ALONE = frozenset(
    {
        "realtime",
        "_realtime",
        "extensions",
        "vault",
        "cron",
        "net",
        "graphql",
        "graphql_public",
        "pgsodium",
        "pgsodium_masks",
        "pgbouncer",
        "supabase_functions",
        "supabase_migrations",
        "_analytics",
        "pgtle",
        "_supavisor",
    }
)
OWNED = DATA_ONLY_SCHEMAS | LEFT_ALONE
VERSION_TABLES = frozenset({("auth", "schema_migrations"), ("storage", "migrations")})
# What the platform writes by itself and what means nothing elsewhere.
PASSING = frozenset(
    {
        ("storage", "s3_multipart_uploads"),
        ("storage", "s3_multipart_uploads_parts"),
        ("auth", "audit_log_entries"),
        ("auth", "instances"),
    }
)


def is_platform(owner_of_auth: str) -> bool:
    """Return whether a database is one that the platform made: its schema `auth` belongs to the platform.

    The cluster's roles say nothing of it: one server may have a platform's database and others beside it.

    Args:
        owner_of_auth: the role that owns the schema `auth` in that database; "" where there is no such schema.
    """
    return owner_of_auth in PLATFORM_ROLES


def may_be_written(table: TableName) -> bool:
    """Return whether rows of this table may be brought back into a platform's database."""
    return table[0] not in LEFT_ALONE and table not in VERSION_TABLES and table not in PASSING
