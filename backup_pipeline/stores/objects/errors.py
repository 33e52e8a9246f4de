"""Errors of places of objects. Their texts name places, objects, variables and settings, never values of variables."""

from __future__ import annotations

from backup_pipeline.errors import MissingFileError, RefusedError, StoreError


class ObjectNotFoundError(MissingFileError):
    """No object of that name in the place."""


class ObjectLockedError(RefusedError):
    """The storage itself forbids to overwrite or delete the object (Object Lock, legal hold, immutability policy)."""


class PlaceRefusedError(StoreError):
    """The place does not exist or lets nobody in: credentials, permission, bucket, host key, read-only, unmounted."""


class PlaceFullError(StoreError):
    """The place has no space left, or a quota is used up."""


class PlaceUnreachableError(StoreError):
    """The place did not answer, broke off or throttled (429, 503) until the limit of time was reached."""

    permanent = False
