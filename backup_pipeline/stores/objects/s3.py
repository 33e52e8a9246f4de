"""S3 and compatible services: data by obstore; locks of objects, and objects with versions, by botocore.

Whether the bucket locks at all is asked without botocore, which takes half a second of processor time to be loaded.

Object Lock: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html. A bucket that has it keeps
versions: what is deleted without naming one only gets a marker and stays paid for, so `delete` removes the versions.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from obstore.store import S3Store

from backup_pipeline.stores.objects.cloud import CloudPlace, client_options
from backup_pipeline.stores.objects.cloud_errors import error_of_answer, locked, unreachable
from backup_pipeline.stores.objects.contract import BucketLock, DataView, LockState, ObjectVersion
from backup_pipeline.stores.objects.errors import ObjectNotFoundError, PlaceRefusedError
from backup_pipeline.stores.objects.names import checked_name
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.objects.signed_requests import S3Keys, s3_headers
from backup_pipeline.stores.objects.single_requests import ask

if TYPE_CHECKING:
    from obstore.store import S3Credential

T = TypeVar("T")
_DEFAULT_REGION = "us-east-1"
_DAYS_A_YEAR = 365
_NO_LOCK_CODES = {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"}


class S3Place(CloudPlace):
    """A bucket, or a prefix of it.

    Args:
        bucket: its name.
        prefix: without slashes at its ends; "" for the whole bucket.
        label: the URL of the settings.
        options: credentials, endpoint, region, limits.
    """

    def __init__(self, bucket: str, prefix: str, *, label: str, options: PlaceOptions) -> None:
        self._bucket = bucket
        self._key_prefix = f"{prefix}/" if prefix else ""
        self._region = options.region or _DEFAULT_REGION
        self._endpoint = options.endpoint()
        self._access_key = options.required_credential("access_key")
        self._secret_key = options.required_credential("secret_key")
        self._session_token = options.credential("session_token")
        super().__init__(
            self._data_store(prefix, options),
            label=label,
            address=self._endpoint or f"https://s3.{self._region}.amazonaws.com",
            options=options,
        )

    def delete(self, name: str) -> None:
        """Remove an object; where the bucket has Object Lock, all its versions.

        The oldest first: when a lock keeps it, what readers get has not changed.
        """
        if not self._has_locks:
            super().delete(name)
            return
        for found in reversed([one for one in self.versions(checked_name(name)) if one.name == name]):
            version = found.version
            try:
                self._locking(name, functools.partial(self._delete_version, name, version))
            except PlaceRefusedError:
                if not found.marker and (until := self._locked_until(name, version)) is not None:
                    raise locked(f"{self._label}/{name}", until) from None
                raise

    def lock_state(self, name: str) -> LockState:
        """Ask for the object's retention."""
        if not self._has_locks:
            return LockState(supported=False, until=None, mode=None)
        return self._retention(name)

    def extend_lock(self, name: str, until: datetime) -> None:
        """Set a later date; the object's mode stays."""
        if not self._has_locks:
            raise PlaceRefusedError(
                "This bucket has no Object Lock.",
                where=self._label,
                remedy="Make a bucket with Object Lock and a new vault in it, or remove lock_days.",
            )
        state = self._retention(name)
        if state.until is not None and state.until >= until:
            return
        retention = {"Mode": state.mode or self._options.lock_mode, "RetainUntilDate": _whole_second(until)}
        self._locking(name, lambda: self._client.put_object_retention(**self._key(name), Retention=retention))

    def bucket_lock(self) -> BucketLock:
        """Ask for the bucket's Object Lock and its default retention."""
        try:
            answer = self._repeater.run(lambda _: self._lock_configuration())
        except PlaceRefusedError as error:
            if "HTTP 403" not in error.what and "HTTP 501" not in error.what and "HTTP 405" not in error.what:
                raise
            supported = "HTTP 403" in error.what
            return BucketLock(supported, False, None, None, f"The bucket's Object Lock cannot be read: {error.what}")
        if _element(answer, "ObjectLockEnabled") != "Enabled":
            return BucketLock(True, False, None, None, "The bucket has no Object Lock.")
        days = int(_element(answer, "Days") or 0) or int(_element(answer, "Years") or 0) * _DAYS_A_YEAR or None
        mode = _element(answer, "Mode") if days else None
        detail = (
            f"Every new object is locked for {days} days ({mode})."
            if days
            else "The bucket has Object Lock, but locks no object by itself."
        )
        return BucketLock(True, True, days, mode, detail, extendable=True)

    def _lock_configuration(self) -> str:
        """Return the document ObjectLockConfiguration ("GetObjectLockConfiguration"); "" where there is none."""
        keys = S3Keys(self._access_key, self._secret_key, self._session_token, self._region)
        url = self._address_of_data(self._options.path_style)
        if self._options.path_style:
            url = f"{url}/{quote(self._bucket, safe='')}"
        headers = s3_headers("GET", url, {"object-lock": ""}, keys)
        answer = ask("GET", f"{url}?object-lock=", headers, self._options.limits, self._label)
        text = answer.body.decode(errors="replace")
        if answer.status < 300:
            return text
        code = _element(text, "Code") or ""
        if code in _NO_LOCK_CODES:
            return ""
        raise error_of_answer(answer.status, code, self._label)

    def close(self) -> None:
        """End pauses and the connections for locks."""
        super().close()
        if "_client" in self.__dict__:
            self._client.close()

    def _write(self, name: str, data: DataView, lock_until: datetime | None, *, only_new: bool) -> bool:
        if lock_until is None or not self._has_locks or self._default_lock_holds(lock_until):
            return super()._write(name, data, None, only_new=only_new)
        condition = {"IfNoneMatch": "*"} if only_new else {}
        try:
            self._once_locking(
                name,
                lambda: self._client.put_object(
                    **self._key(name),
                    Body=bytes(data),
                    # Named by ourselves: botocore's own would be sent as a trailer, which few services understand.
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=base64.b64encode(hashlib.sha256(data).digest()).decode(),
                    ObjectLockMode=self._options.lock_mode,
                    ObjectLockRetainUntilDate=_whole_second(lock_until),
                    **condition,
                ),
            )
        except _NameTakenError:
            return False
        return True

    def _data_store(self, prefix: str, options: PlaceOptions) -> S3Store:
        config: Any = {
            "region": self._region,
            # Said although it is the default: obstore would take what AWS_* variables of the environment say.
            "skip_signature": False,
            "endpoint": self._address_of_data(options.path_style),
            "virtual_hosted_style_request": not options.path_style,
        }
        if options.checksums:
            config["checksum_algorithm"] = "SHA256"
        return S3Store(
            self._bucket,
            prefix=prefix or None,
            config=config,
            credential_provider=self._credential,
            **client_options(options, self._endpoint),
        )

    def _address_of_data(self, path_style: bool) -> str:
        """Return the address for obstore: with the bucket in the host's name it stands in there already."""
        address = self._endpoint or f"https://s3.{self._region}.amazonaws.com"
        scheme, _, host = address.partition("://")
        return address if path_style else f"{scheme}://{self._bucket}.{host}"

    def _credential(self) -> S3Credential:
        return {
            "access_key_id": self._access_key,
            "secret_access_key": self._secret_key,
            "token": self._session_token or None,
            "expires_at": None,
        }

    @functools.cached_property
    def _client(self) -> Any:
        from botocore.config import Config
        from botocore.session import Session

        limits = self._options.limits
        # Neither AWS_PROFILE nor a file in the user's home has a say: the settings name everything.
        session = Session({"profile": (None, None, None, None), "config_file": (None, None, os.devnull, None)})
        session.register_component("data_loader", _descriptions())
        return session.create_client(
            "s3",
            region_name=self._region,
            endpoint_url=self._endpoint or None,
            aws_access_key_id=self._access_key,
            aws_secret_access_key=self._secret_key,
            aws_session_token=self._session_token or None,
            config=Config(
                signature_version="s3v4",
                connect_timeout=limits.connect,
                read_timeout=limits.read,
                retries={"total_max_attempts": 1},
                max_pool_connections=self._options.connections,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path" if self._options.path_style else "virtual"},
            ),
        )

    @functools.cached_property
    def _bucket_lock(self) -> BucketLock:
        return self.bucket_lock()

    @property
    def _has_locks(self) -> bool:
        return self._bucket_lock.enabled

    def _default_lock_holds(self, until: datetime) -> bool:
        days = self._bucket_lock.default_days
        return days is not None and datetime.now(UTC) + timedelta(days=days) >= until

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key_prefix + checked_name(name)}

    def versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """Read the pages of the list of versions, where the bucket has Object Lock."""
        after: dict[str, str] = {}
        waiting: list[ObjectVersion] = []
        while self._has_locks:
            page = self._locking(prefix, functools.partial(self._version_page, self._key_prefix + prefix, after))
            waiting += [self._version(one, marker=False) for one in page.get("Versions", [])]
            waiting += [self._version(one, marker=True) for one in page.get("DeleteMarkers", [])]
            # A name's versions may go on in the next page.
            whole = page["NextKeyMarker"].removeprefix(self._key_prefix) if page.get("IsTruncated") else None
            done = [one for one in waiting if whole is None or one.name.encode() < whole.encode()]
            yield from sorted(done, key=lambda one: (one.name.encode(), not one.latest, -one.modified.timestamp()))
            if whole is None:
                return
            waiting = [one for one in waiting if one.name.encode() >= whole.encode()]
            after = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}

    def get_version(self, name: str, version: str) -> bytes:
        """Read one version of an object."""
        return self._locking(name, lambda: self._read_version(name, version))

    def _read_version(self, name: str, version: str) -> bytes:
        body: bytes = self._client.get_object(**self._key(name), VersionId=version)["Body"].read()
        return body

    def _version_page(self, key: str, after: dict[str, str]) -> Any:
        return self._client.list_object_versions(Bucket=self._bucket, Prefix=key, **after)

    def _version(self, entry: Any, *, marker: bool) -> ObjectVersion:
        name = str(entry["Key"]).removeprefix(self._key_prefix)
        modified = entry["LastModified"].astimezone(UTC)
        return ObjectVersion(name, entry["VersionId"], entry.get("Size", 0), modified, entry["IsLatest"], marker)

    def _delete_version(self, name: str, version: str) -> None:
        self._client.delete_object(**self._key(name), VersionId=version)

    def _locked_until(self, name: str, version: str) -> str | None:
        """Return until when a version is locked, for people; None when it is not."""
        until = self._retention(name, VersionId=version).until
        if until is not None and until > datetime.now(UTC):
            return until.isoformat()
        try:
            hold = self._locking(name, lambda: self._client.get_object_legal_hold(**self._key(name), VersionId=version))
        except (_NoLockError, PlaceRefusedError, ObjectNotFoundError):
            return None
        return "its legal hold is taken away" if hold.get("LegalHold", {}).get("Status") == "ON" else None

    def _retention(self, name: str, **version: str) -> LockState:
        try:
            # A question, of which many follow: a service that answers each with an error is not asked for minutes.
            answer = self._locking(
                name,
                lambda: self._client.get_object_retention(**self._key(name), **version),
                at_most=self._options.limits.first_answer,
            )
        except _NoLockError:
            return LockState(supported=True, until=None, mode=None)
        retention = answer.get("Retention", {})
        until = retention.get("RetainUntilDate")
        return LockState(True, until.astimezone(UTC) if until else None, retention.get("Mode") if until else None)

    def _locking(self, name: str, call: Callable[[], T], *, at_most: float = math.inf) -> T:
        return self._repeater.run(lambda _: self._once_locking(name, call), at_most=at_most)

    def _once_locking(self, name: str, call: Callable[[], T]) -> T:
        """Call and translate what botocore raises."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self._label}/{name}" if name else self._label
        try:
            return call()
        except ClientError as error:
            answer: Any = error.response
            code = answer.get("Error", {}).get("Code", "")
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _NO_LOCK_CODES:
                raise _NoLockError from None
            if code == "PreconditionFailed" or status == 412:
                raise _NameTakenError from None
            raise error_of_answer(status, code, where) from None
        except BotoCoreError:
            raise unreachable(None, where) from None


class _NoLockError(Exception):
    """The bucket has no Object Lock, or the object no retention."""


class _NameTakenError(Exception):
    """An object of that name exists."""


@functools.cache
def _descriptions() -> Any:
    """Return botocore's descriptions of services, which it would read anew for each client, in 0.1 s."""
    from botocore.loaders import create_loader

    return create_loader()


def _element(document: str, name: str) -> str | None:
    """Return the text of the first XML element of a name in a small answer of S3."""
    found = re.search(rf"<(?:\w+:)?{name}\s*>\s*([\w.-]+)\s*</", document)
    return found.group(1) if found else None


def _whole_second(moment: datetime) -> datetime:
    """Return the next whole second: services drop fractions, which would shorten the lock."""
    return (moment + timedelta(seconds=1)).astimezone(UTC).replace(microsecond=0)
