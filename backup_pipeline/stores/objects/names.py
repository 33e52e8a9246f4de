"""Names of objects: relative, plain enough for every place (object storage, SFTP, file systems)."""

from __future__ import annotations

from backup_pipeline.errors import StoreError

# S3 and Google Cloud Storage take 1024 bytes, most file systems 255 bytes a part.
_LONGEST_NAME = 900
_LONGEST_PART = 240


def checked_name(name: str) -> str:
    """Return the name as it is.

    Raises:
        StoreError: it is empty, absolute or too long, or a part of it is empty, begins with a dot or holds a backslash
            or a control character.
    """
    parts = name.split("/")
    if (
        any(not part or part.startswith(".") or len(part.encode()) > _LONGEST_PART for part in parts)
        or len(name.encode()) > _LONGEST_NAME
        or not name.isprintable()
        or "\\" in name
    ):
        raise StoreError(
            "This cannot be the name of an object.",
            where=repr(name),
            remedy="Names are relative, with forward slashes; no part is empty or begins with a dot.",
        )
    return name
