"""Locks of what is in a vault: how long, and what they keep when somebody deleted or replaced it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.stores.objects.contract import ObjectPlace, ObjectVersion
from backup_pipeline.stores.objects.errors import PlaceRefusedError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def lock_end(now: datetime, days: int) -> datetime:
    """Return until when what is written now is locked: `days` at least, and up to a quarter more.

    Rounded up to whole steps of a quarter of `days`: the copies of one step end their locks together, so that a chunk
    which they share has its lock made longer once in a step and not with every copy.
    """
    step = timedelta(days=max(1, days // 4))
    wanted = now + timedelta(days=days) - _EPOCH
    return _EPOCH + -(-wanted // step) * step


def earlier_versions(place: ObjectPlace, name: str) -> Iterator[tuple[ObjectVersion, bytes]]:
    """Yield the versions below a name that its readers do not get, the newest first, with their bytes.

    Nothing where the place keeps none, or does not let these credentials list them.
    """
    try:
        found = [one for one in place.versions(name) if one.name == name and not (one.marker or one.latest)]
        for one in found:
            yield one, place.get_version(name, one.version)
    except PlaceRefusedError:
        return
    except BackupSystemError as error:
        if not error.permanent:
            raise


def hidden_objects(place: ObjectPlace, prefix: str, *, replaced: bool) -> dict[str, ObjectVersion]:
    """Return by name the newest version that readers of the name do not get.

    Args:
        place: where.
        prefix: of the names.
        replaced: whether names count that have an object above it; names under a deletion marker always do.
    """
    found: dict[str, ObjectVersion] = {}
    shown: set[str] = set()
    for one in place.versions(prefix):
        if one.latest and not one.marker:
            shown.add(one.name)
        elif not one.marker and (replaced or one.name not in shown):
            found.setdefault(one.name, one)
    return found
