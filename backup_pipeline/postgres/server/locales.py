"""Locales of databases, from their rows in pg_database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from backup_pipeline.model.catalog import DatabaseLocale


def locale_of(collate: str, ctype: str, details: Mapping[str, Any], money: str = "") -> DatabaseLocale:
    """Return a database's locale from its row in pg_database; `details` is that row as JSON.

    Its columns are not the same in each version: the provider came with 15, ICU's rules with 16, `datlocale` with 17.
    """
    providers: dict[str, Literal["icu", "builtin"]] = {"i": "icu", "b": "builtin"}
    return DatabaseLocale(
        provider=providers.get(str(details.get("datlocprovider")), "libc"),
        collate=collate,
        ctype=ctype,
        name=str(details.get("datlocale") or details.get("daticulocale") or ""),
        rules=str(details.get("daticurules") or ""),
        version=str(details.get("datcollversion") or ""),
        money=money,
    )
