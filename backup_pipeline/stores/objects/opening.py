"""From a URL to the place of objects that it names. Each library is imported only when its place is opened."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from backup_pipeline.errors import SettingsError, ToolError
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.objects.folder import FolderPlace
from backup_pipeline.stores.objects.names import checked_name
from backup_pipeline.stores.objects.options import PlaceOptions

SCHEMES = ("s3", "gs", "az", "sftp", "file")


def open_place(url: str, options: PlaceOptions | None = None) -> ObjectPlace:
    """Return the place that a URL names; nothing is sent to object storage before its first call.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `sftp://user@host:port/path` or
            `file:///path`.
        options: credentials, endpoint, limits.

    Raises:
        SettingsError: the URL names no place, a part of it belongs elsewhere, or a named variable is not set.
        PlaceRefusedError: the folder does not exist, or the SFTP server does not let us in.
        ToolError: the library for this kind of place is not installed.
    """
    options = options or PlaceOptions()
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or parts.query or parts.fragment or parts.password:
        raise SettingsError(
            "The URL does not name a place for copies, or holds a password or parameters.",
            where=f"url of the scheme {parts.scheme!r}",
            remedy="Write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, sftp://user@host/path or "
            "file:///path; credentials are named by credentials_env.",
        )
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or parts.path.strip("/") == "":
            raise SettingsError("The URL holds no absolute path.", where=url, remedy="Write file:///absolute/path")
        return FolderPlace(Path(unquote(parts.path)), options)
    if parts.scheme == "sftp":
        return _open_sftp(parts, url, options)
    if not parts.netloc or "@" in parts.netloc:
        raise SettingsError("The URL names no bucket.", where=url, remedy=f"Write {parts.scheme}://bucket/prefix")
    prefix = "/".join(checked_name(part) for part in unquote(parts.path).split("/") if part)
    with _library("obstore"):
        from backup_pipeline.stores.objects.azure_google import AzurePlace, GooglePlace
        from backup_pipeline.stores.objects.s3 import S3Place

        kinds = {"s3": S3Place, "az": AzurePlace, "gs": GooglePlace}
        return kinds[parts.scheme](parts.netloc, prefix, label=url.rstrip("/"), options=options)


def _open_sftp(parts: SplitResult, url: str, options: PlaceOptions) -> ObjectPlace:
    if not parts.hostname or not parts.username or parts.path.strip("/") == "":
        raise SettingsError(
            "The URL names no user, server or folder.", where=url, remedy="Write sftp://user@host:port/path"
        )
    with _library("asyncssh"):
        from backup_pipeline.stores.objects.sftp import SftpPlace

        return SftpPlace(
            parts.hostname, parts.port or 22, unquote(parts.username), unquote(parts.path), options=options
        )


@contextlib.contextmanager
def _library(name: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ToolError(
            "The library for this kind of place is not installed.",
            where=error.name or name,
            remedy="Install it with: pip install 'backup-pipeline[vault]'",
        ) from error
