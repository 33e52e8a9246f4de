"""Times and sources in the names of other tools' backups. Pure.

Understood are `backup_20250905_005234.sql.gz`, `cdb_backup_2025-11-25_2227.sql`, `20251101_020000/supabase_db.sql.gz`,
pg_back's `shop_2025-11-25T02:00:05+01:00.dump` and `shop_2025-11-25_02-00-05.dump`, `shop-20251125-020005.sql.gz` and
`shop-20251125.sql.gz` of postgres-backup-local, and what resembles them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

_TIME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?!\d{3})"
    r"(?:[-_T. ]{0,2}([01]\d|2[0-3])[-_:.]?([0-5]\d)(?:[-_:.]?([0-5]\d))?(Z|[+-]\d\d:?\d\d)?)?(?!\d)"
)
_ENDINGS = re.compile(
    r"\.(gz|zst|sql|dump|backup|pgdump|bak|tar|tgz|d|custom|dir)$|[-_.]?(db|backup|dump|buckets|backups)$",
    re.IGNORECASE,
)
_BEGINNINGS = re.compile(r"^(backup|dump|pg_dump|pgdump)[-_.]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BackupTime:
    """When a backup was made.

    Attributes:
        at: the moment, in UTC.
        origin: "name" or "file time".
        exact: whether the name says hours and minutes.
        zone: the time zone that was assumed for it; "" where it is said.
    """

    at: datetime
    origin: str
    exact: bool
    zone: str


def time_of(names: Iterable[str], modified: float, zone: tzinfo) -> BackupTime:
    """Return the time of a backup by the first of the names that has one, else by the file's own time.

    Args:
        names: of the file and of the folders above it, the nearest first.
        modified: the file's time of modification, as a timestamp.
        zone: for names that say none.
    """
    dated: BackupTime | None = None
    for name in names:
        found = _in_name(name, zone)
        if found is not None and found.exact:
            return found
        dated = dated or found
    if dated is not None:
        return dated
    return BackupTime(datetime.fromtimestamp(modified, UTC).replace(microsecond=0), "file time", exact=True, zone="")


def _in_name(name: str, zone: tzinfo) -> BackupTime | None:
    for found in _TIME.finditer(name):
        year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
        said = found[7] or ""
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
            if said:
                moment = moment.replace(tzinfo=UTC) - _offset(said)
            return BackupTime(
                moment.astimezone(UTC), "name", exact=found[4] is not None, zone="" if said else str(zone)
            )
        except (ValueError, OverflowError):
            continue
    return None


def _offset(said: str) -> timedelta:
    if said == "Z":
        return timedelta()
    digits = said[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return -offset if said[0] == "-" else offset


def stem_of(name: str) -> str:
    """Return what a backup's name says beside its time and its form: `shop` of `shop_2025-11-25_02-00-05.dump`."""
    stem = _TIME.sub("", name)
    while (shorter := _ENDINGS.sub("", stem).strip("-_. ")) != stem:
        stem = shorter
    return _BEGINNINGS.sub("", stem)


@dataclass(frozen=True, slots=True)
class NamedSource:
    """The source that a backup is taken for, and why; "" where a name is the source's own."""

    source: str
    why: str = ""


def source_of(stems: Iterable[str], known: Mapping[str, Iterable[str]]) -> NamedSource | None:
    """Return the source that one of the stems names; the only one where there is one; None where it is not clear.

    A name that only one source has within the name of the file or of a folder above it is enough (`pg_shop_prod`).

    Args:
        stems: of the file's name and of the folders above it.
        known: source → its other names, as of its database.
    """
    names = {source: {source.lower(), *(other.lower() for other in others)} for source, others in known.items()}
    lowered = [stem.lower() for stem in stems if stem]
    for stem in lowered:
        if found := [source for source, own in names.items() if stem in own]:
            return NamedSource(found[0]) if len(found) == 1 else None
    for stem in lowered[:1]:
        near = [source for source, own in names.items() if any(stem.startswith(one) for one in own)]
        if len(near) == 1:
            return NamedSource(near[0], "its name begins so")
    if len(names) == 1:
        return NamedSource(next(iter(names)), "the plan has no other source of its kind")
    for stem in lowered:
        within = {source: one for source, own in names.items() for one in own if _is_within(one, stem)}
        if within:
            [(source, one)] = list(within.items())[:1]
            return NamedSource(source, f"{one!r} stands in {stem!r}") if len(within) == 1 else None
    return None


def _is_within(name: str, stem: str) -> bool:
    """Return whether a name stands in a stem as words of it: `shop` in `pg_shop_prod`, and not in `workshop`."""
    return bool(name) and re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", stem) is not None
