"""Object storage as a place of objects, by obstore (Rust's object_store): S3, Google Cloud Storage, Azure Blob.

Each object is one request (no multipart uploads, which would leave parts behind when a writer is killed).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from backup_pipeline.stores.objects.cloud_errors import (
    TRANSIENT_STATUS,
    OutOfRangeError,
    error_of_answer,
    error_of_text,
)
from backup_pipeline.stores.objects.contract import DataView, ObjectInfo
from backup_pipeline.stores.objects.errors import ObjectNotFoundError
from backup_pipeline.stores.objects.names import checked_name
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.objects.repeating import Repeater
from backup_pipeline.stores.objects.single_requests import ask
from backup_pipeline.stores.objects.unlocked import UnlockedPlace

if TYPE_CHECKING:
    from obstore import ListStream, ObjectMeta
    from obstore.store import ObjectStore

T = TypeVar("T")
_BUCKET_CHECK_SECONDS = 30.0
_PAGE = 1000


class CloudPlace(UnlockedPlace):
    """A bucket or container, or a prefix of it.

    Args:
        store: obstore's client, without repetition of its own.
        label: where it is, for people.
        address: what answers a plain HTTP request with its clock; "" when nothing does.
        options: limits of time, and whether the service can create only what is absent.
    """

    no_lock = (
        "Objects of this kind of place are not locked one by one.",
        "Give the bucket or container a retention policy, or use S3 with Object Lock.",
    )
    no_bucket_lock = "A retention policy of this kind of place is obeyed, but it is not read."

    def __init__(self, store: ObjectStore, *, label: str, address: str, options: PlaceOptions) -> None:
        self._store = store
        self._label = label
        self._address = address
        self._options = options
        self._repeater = Repeater(options.limits)
        self._bucket_found = 0.0

    @property
    def label(self) -> str:
        """The URL of the settings."""
        return self._label

    @property
    def conditional_create(self) -> bool:
        """What the settings say; true of S3 itself, Google and Azure."""
        return self._options.conditional_create

    def create(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> bool:
        """Write an object with the condition that there is none of that name."""
        checked_name(name)
        return self._repeater.run(lambda attempt: self._create(name, data, lock_until, attempt))

    def put(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> None:
        """Write an object, replacing one."""
        checked_name(name)
        self._repeater.run(lambda _: self._write(name, data, lock_until, only_new=False))

    def get(self, name: str) -> bytes:
        """Read a whole object."""
        return self._call(checked_name(name), lambda: bytes(obstore.get(self._store, name).bytes()))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of an object."""

        if length <= 0:
            self._call(checked_name(name), lambda: obstore.head(self._store, name))
            return b""
        try:
            return self._call(
                checked_name(name), lambda: bytes(obstore.get_range(self._store, name, start=start, length=length))
            )
        except OutOfRangeError:
            return b""

    def info(self, name: str) -> ObjectInfo | None:
        """Ask for an object's head."""
        try:
            return _info(self._call(checked_name(name), lambda: obstore.head(self._store, name)))
        except ObjectNotFoundError:
            self._check_bucket()
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Read the pages of the list from the folder in which the prefix ends."""
        folder = prefix.rpartition("/")[0]
        last = ""
        pages: Iterator[Sequence[ObjectMeta]] | None = None

        def next_page(attempt: int) -> Sequence[ObjectMeta]:
            nonlocal pages
            if pages is None or attempt > 1:
                pages = iter(self._pages(folder, last))
            return self._once(prefix, lambda: next(pages, ()))

        while page := self._repeater.run(next_page):
            for info in map(_info, page):
                last = info.name
                if last.startswith(prefix):
                    yield info

    def delete(self, name: str) -> None:
        """Remove an object."""
        try:
            self._call(checked_name(name), lambda: obstore.delete(self._store, name))
        except ObjectNotFoundError:
            return

    def server_time(self) -> datetime | None:
        """Return the `Date` of an answer to a request without credentials."""
        if not self._address:
            return None
        return self._repeater.run(lambda _: self._date())

    def _date(self) -> datetime | None:
        answer = ask("HEAD", self._address, {}, self._options.limits, self._label)
        date = answer.headers.get("date")
        if date is None and answer.status in TRANSIENT_STATUS:
            # Something before the service answered: this machine's clock is no stand-in.
            raise error_of_answer(answer.status, "", self._label)
        return parsedate_to_datetime(date).astimezone(UTC) if date else None

    def close(self) -> None:
        """End pauses; connections are ended when they have been idle."""
        self._repeater.close()

    def _create(self, name: str, data: DataView, lock_until: datetime | None, attempt: int) -> bool:
        if not self._options.conditional_create:
            if self.info(name) is not None:
                return attempt > 1 and self.get(name) == data
            self._write(name, data, lock_until, only_new=False)
            return True
        if self._write(name, data, lock_until, only_new=True):
            return True
        # An earlier attempt may have arrived although its answer was lost.
        return attempt > 1 and self.get(name) == data

    def _write(self, name: str, data: DataView, lock_until: datetime | None, *, only_new: bool) -> bool:
        """Write once; False when `only_new` and the name is taken."""
        del lock_until  # Only S3 locks objects one by one.
        mode: Literal["create", "overwrite"] = "create" if only_new else "overwrite"
        try:
            self._once(name, lambda: obstore.put(self._store, name, data, mode=mode, use_multipart=False))
        except AlreadyExistsError:
            return False
        return True

    def _pages(self, folder: str, after: str) -> ListStream[Sequence[ObjectMeta]]:
        return obstore.list(self._store, folder or None, offset=after or None, chunk_size=_PAGE)

    def _check_bucket(self) -> None:
        """Raise PlaceRefusedError when the bucket is gone: an answer to HEAD has no body that could say so."""
        if time.monotonic() - self._bucket_found > _BUCKET_CHECK_SECONDS:
            self._call("", lambda: next(iter(self._pages("", "")), ()))
            self._bucket_found = time.monotonic()

    def _call(self, name: str, call: Callable[[], T]) -> T:
        return self._repeater.run(lambda _: self._once(name, call))

    def _once(self, name: str, call: Callable[[], T]) -> T:
        """Call and translate what the client raises, a name that is taken apart."""
        try:
            return call()
        except AlreadyExistsError:
            raise
        except (BaseError, FileNotFoundError, OSError) as error:
            raise error_of_text(str(error), f"{self._label}/{name}") from None


def client_options(options: PlaceOptions, endpoint: str) -> dict[str, Any]:
    """Return obstore's limits of time; repetition is ours, so that every place repeats alike."""
    limits = options.limits
    return {
        "client_options": {
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=limits.connect),
            "read_timeout": timedelta(seconds=limits.read),
            "timeout": timedelta(seconds=limits.total),
        },
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
    }


def _info(meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["last_modified"].astimezone(UTC))
