"""Extensions that a scratch copy excludes: those that act on their own, or that the server lacks.

Pure: it decides which parts of a dump are skipped; quieting what was restored is `postgres.load.check`'s.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from backup_pipeline.model.proof import Finding
from backup_pipeline.postgres.load.stream import CopyBlock, Statement

# Extensions that no table's columns depend on, and the schema that each fills. A copy without them is whole as far as
# a site's own rows and objects go; the first two act by themselves (jobs, requests) and never live in a copy.
APART: dict[str, str] = {
    "pg_cron": "cron",
    "pg_net": "net",
    "pg_stat_statements": "",
    "pg_stat_monitor": "",
    "pgaudit": "",
    "plpgsql_check": "",
    "supabase_vault": "vault",
    "pgsodium": "pgsodium",
    "pg_graphql": "graphql",
    "pgjwt": "",
    "pg_prewarm": "",
    "pg_buffercache": "",
    "auto_explain": "",
    "hypopg": "",
    "index_advisor": "",
    "amcheck": "",
}
_EXTENSION = re.compile(rb'(?:CREATE EXTENSION IF NOT EXISTS|COMMENT ON EXTENSION) (?:"((?:[^"]|"")+)"|(\S+?))[ ;]')
_ABOUT = re.compile(
    rb"(?:GRANT|REVOKE) [^;]* ON (?:(?:FUNCTION|PROCEDURE|SCHEMA|TABLE|SEQUENCE|TYPE) )?([a-z_0-9]+)[.\s]"
    rb"|SELECT pg_catalog\.setval\('([a-z_0-9]+)\."
    rb"|ALTER DEFAULT PRIVILEGES FOR ROLE \S+ IN SCHEMA ([a-z_0-9]+) "
)
# What a copy can do without where the server has not got it.
WITHOUT = frozenset(APART)
ACTING_ALONE = frozenset({"pg_cron", "pg_net"})


@dataclass(frozen=True)
class ExcludedExtensions:
    """Extensions that a copy does without, and the schemas that go with them."""

    extensions: frozenset[str]

    @property
    def schemas(self) -> frozenset[str]:
        """Schemas that belong to what is skipped."""
        return frozenset(APART[name] for name in self.extensions if APART.get(name))

    def __call__(self, part: Statement | CopyBlock) -> bool:
        """Return whether this part of the dump is skipped."""
        if isinstance(part, CopyBlock):
            return part.table[0] in self.schemas
        if found := _EXTENSION.match(part.body):
            return (found[1] or found[2]).decode() in self.extensions
        if found := _ABOUT.match(part.body):
            return next(g for g in found.groups() if g).decode() in self.schemas
        return False

    def as_skipped(self) -> list[Finding]:
        """Return one note per extension for the proof."""
        return [
            Finding(subject=f"extension {name}", problem="skipped in the copy: it acts by itself or is not available")
            for name in sorted(self.extensions)
        ]


def exclude_extensions(needed: Collection[str], available: Collection[str]) -> tuple[ExcludedExtensions, list[str]]:
    """Return what a scratch copy does without, and the extensions that are missing and cannot be skipped."""
    apart = {name for name in needed if name in ACTING_ALONE or (name in APART and name not in available)}
    missing = sorted(name for name in needed if name not in available and name not in APART)
    return ExcludedExtensions(frozenset(apart)), missing
