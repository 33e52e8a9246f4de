"""Locale differences: by what the order of texts in a restored database may differ from the backup's. Pure."""

from __future__ import annotations

from backup_pipeline.model.catalog import Catalog, DatabaseLocale
from backup_pipeline.model.proof import Finding


def locale_difference(expected: Catalog, found: Catalog) -> list[Finding]:
    """Return at most one note: another provider, locale or rules, or another version of the same.

    A catalog that was recorded before locales were has only the name of its collation.
    """
    wanted, have = expected.locale, found.locale
    if wanted is None or have is None:
        if expected.collation in ("", found.collation):
            return []
        return [_note(f"{found.collation}", f"{expected.collation}")]
    if _essential(wanted) != _essential(have):
        return [_note(have.label, wanted.label)]
    if wanted.version and have.version and wanted.version != have.version:
        return [
            Finding(
                subject="locale",
                problem=f"texts are sorted by version {have.version} of {have.label}, those of the backup by version "
                f"{wanted.version}: their order may differ in places",
                remedy="Indexes were built anew, so nothing is broken; the order of rows may have changed.",
            )
        ]
    return []


def _essential(locale: DatabaseLocale) -> tuple[str, ...]:
    # Where another provider sorts, libc's names only classify what that provider leaves to it.
    sorted_by = locale.name if locale.provider != "libc" else locale.collate
    return locale.provider, sorted_by, locale.rules, locale.ctype if locale.provider == "libc" else ""


def _note(have: str, wanted: str) -> Finding:
    return Finding(
        subject="locale",
        problem=f"texts are sorted by {have}, those of the backup by {wanted}: the order of rows differs",
        remedy="Restore on a server that has it (`locale -a`, a build with ICU), or make the database with it first.",
    )
