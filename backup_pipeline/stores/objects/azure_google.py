"""Azure Blob Storage and Google Cloud Storage as places of objects: credentials and addresses, and what they lock.

Data goes by obstore. Locks are read by plain requests: "Buckets: get" and "Objects: get" of Google's JSON API
(retentionPolicy, objectRetention, retentionExpirationTime, retention, holds), "Get Container Properties" and "Get Blob
Properties" of Azure (x-ms-has-immutability-policy, x-ms-immutable-storage-with-versioning-enabled,
x-ms-immutability-policy-until-date, x-ms-legal-hold).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from obstore.store import AzureStore, GCSStore

from backup_pipeline.errors import SettingsError
from backup_pipeline.stores.objects.cloud import CloudPlace, client_options
from backup_pipeline.stores.objects.cloud_errors import error_of_answer
from backup_pipeline.stores.objects.contract import BucketLock, LockState
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.objects.signed_requests import azure_headers, google_token
from backup_pipeline.stores.objects.single_requests import Answer, ask

HELD = datetime(9999, 1, 1, tzinfo=UTC)
"""The end of a lock that has none: it ends when somebody with the right for it releases the object."""
_AZURE_BY_VERSION = "x-ms-immutable-storage-with-versioning-enabled"
_GOOGLE = "https://storage.googleapis.com"


class AzurePlace(CloudPlace):
    """A container, or a prefix of it; credentials are an account and its key or a shared access signature.

    Raises:
        SettingsError: the settings name no account, or neither key nor sas.
    """

    def __init__(self, container: str, prefix: str, *, label: str, options: PlaceOptions) -> None:
        self._account = options.required_credential("account")
        self._endpoint = options.endpoint() or f"https://{self._account}.blob.core.windows.net"
        self._container = container
        self._prefix = f"{prefix}/" if prefix else ""
        self._sas = options.credential("sas").lstrip("?")
        self._key = "" if self._sas else options.credential("key")
        if not self._sas and not self._key:
            raise SettingsError(
                "The settings name neither a key nor a shared access signature.",
                where="credentials_env",
                remedy="Write credentials_env: {account: …, key: …} or {account: …, sas: …}.",
            )
        config: Any = {"account_name": self._account, "endpoint": self._endpoint}
        config |= {"sas_key": self._sas} if self._sas else {"account_key": self._key}
        store = AzureStore(container, prefix=prefix or None, config=config, **client_options(options, self._endpoint))
        super().__init__(store, label=label, address=self._endpoint, options=options)

    def bucket_lock(self) -> BucketLock:
        """Ask for the container's immutability policy; for how many days is shown to administrators only."""
        answer = self._repeater.run(lambda _: self._asked("", {"restype": "container"}))
        if isinstance(answer, str):
            return BucketLock(True, False, None, None, f"The container's immutability cannot be read: {answer}")
        if _says(answer, "x-ms-has-immutability-policy"):
            return BucketLock(
                True, True, None, None, "The container has an immutability policy; for how many days is not shown here."
            )
        if _says(answer, _AZURE_BY_VERSION):
            return BucketLock(
                True, True, None, None, "The container can lock each version; which are locked is asked one by one."
            )
        hold = " It has a legal hold." if _says(answer, "x-ms-has-legal-hold") else ""
        return BucketLock(True, False, None, None, f"The container has no immutability policy.{hold}")

    def lock_state(self, name: str) -> LockState:
        """Ask for the object's own immutability and legal hold; that of a container's policy is not shown by object."""
        answer = self._repeater.run(lambda _: self._asked(self._prefix + name, {}))
        if isinstance(answer, str):
            return LockState(supported=False, until=None, mode=None)
        until = answer.get("x-ms-immutability-policy-until-date")
        if _says(answer, "x-ms-legal-hold"):
            return LockState(True, HELD, "GOVERNANCE")
        if until is None:
            return LockState(supported=self._locks_versions, until=None, mode=None)
        locked = answer.get("x-ms-immutability-policy-mode", "").lower() == "locked"
        return LockState(True, parsedate_to_datetime(until), "COMPLIANCE" if locked else "GOVERNANCE")

    @functools.cached_property
    def _locks_versions(self) -> bool:
        """Whether the container can lock each version, so that one without a policy of its own is not locked."""
        answer = self._repeater.run(lambda _: self._asked("", {"restype": "container"}))
        return (
            not isinstance(answer, str)
            and _says(answer, _AZURE_BY_VERSION)
            and not _says(answer, "x-ms-has-immutability-policy")
        )

    def _asked(self, name: str, query: dict[str, str]) -> Mapping[str, str] | str:
        """Return the headers of an answer, or what the service says of a right that is missing."""
        path = "/".join(filter(None, (f"/{self._container}", quote(name))))
        given = "&".join(filter(None, ("&".join(f"{key}={value}" for key, value in query.items()), self._sas)))
        headers = {} if self._sas else azure_headers("HEAD", self._account, self._key, self._endpoint + path, query)
        answer = _request("HEAD", f"{self._endpoint}{path}?{given}", headers, self._options, self._label)
        return answer.headers if isinstance(answer, Answer) else answer


class GooglePlace(CloudPlace):
    """A bucket, or a prefix of it; the credential is a service account: its JSON, or the path of its file.

    Raises:
        SettingsError: the settings name no service account.
    """

    def __init__(self, bucket: str, prefix: str, *, label: str, options: PlaceOptions) -> None:
        self._account = options.required_credential("service_account")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        endpoint = options.endpoint()
        config: Any = {"service_account_key" if self._account.startswith("{") else "service_account": self._account}
        if endpoint:
            config["base_url"] = endpoint
        self._base = endpoint or _GOOGLE
        store = GCSStore(bucket, prefix=prefix or None, config=config, **client_options(options, endpoint))
        super().__init__(store, label=label, address=self._base, options=options)

    def bucket_lock(self) -> BucketLock:
        """Ask for the bucket's retention policy."""
        answer = self._repeater.run(lambda _: self._asked("", "retentionPolicy,objectRetention,defaultEventBasedHold"))
        if isinstance(answer, str):
            right = "give the service account the right storage.buckets.get (role Storage Legacy Bucket Reader)"
            return BucketLock(True, False, None, None, f"The retention policy cannot be read ({answer}); {right}.")
        return google_lock(answer)

    def lock_state(self, name: str) -> LockState:
        """Ask until when the object is retained, by the bucket's policy or its own, and whether it is held."""
        fields = "retentionExpirationTime,retention,temporaryHold,eventBasedHold"
        answer = self._repeater.run(lambda _: self._asked(f"/o/{quote(self._prefix + name, safe='')}", fields))
        if isinstance(answer, str):
            return LockState(supported=False, until=None, mode=None)
        return google_state(answer)

    def _asked(self, path: str, fields: str) -> Mapping[str, Any] | str:
        url = f"{self._base}/storage/v1/b/{quote(self._bucket, safe='')}{path}?fields={fields}"
        account = self._service_account()
        token = "" if account.get("disable_oauth") else google_token(account, _GOOGLE)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = _request("GET", url, headers, self._options, self._label)
        if isinstance(answer, str):
            return answer
        document: Mapping[str, Any] = json.loads(answer.body)
        return document

    def _service_account(self) -> dict[str, Any]:
        try:
            text = self._account if self._account.startswith("{") else Path(self._account).read_text(encoding="utf-8")
            document: dict[str, Any] = json.loads(text)
        except (OSError, ValueError):
            raise SettingsError(
                "The service account cannot be read.",
                where="credentials_env.service_account",
                remedy="Name a variable that holds the path of its JSON file, or the JSON.",
            ) from None
        return document


def google_lock(bucket: Mapping[str, Any]) -> BucketLock:
    """Return what a bucket's `retentionPolicy` promises; who may change the bucket shortens one that is not locked."""
    policy = bucket.get("retentionPolicy") or {}
    days = timedelta(seconds=int(policy.get("retentionPeriod", 0))).days
    if not days:
        more = ""
        if (bucket.get("objectRetention") or {}).get("mode") == "Enabled":
            more = " Its objects can have a retention of their own, which is not set here."
        if bucket.get("defaultEventBasedHold"):
            more += " Each new object is held until somebody releases it: `vault clean` cannot remove it before."
        return BucketLock(True, False, None, None, f"The bucket has no retention policy of a day or more.{more}")
    locked = bool(policy.get("isLocked"))
    how = "the policy is locked" if locked else "the policy is not locked: who may change the bucket can shorten it"
    mode = "COMPLIANCE" if locked else "GOVERNANCE"
    return BucketLock(True, True, days, mode, f"Every object is retained for {days} days; {how}.")


def google_state(answer: Mapping[str, Any]) -> LockState:
    """Return what an object's resource says; its own retention counts beside the bucket's, the later of both."""
    if answer.get("temporaryHold") or answer.get("eventBasedHold"):
        return LockState(True, HELD, "GOVERNANCE")
    own = answer.get("retention") or {}
    ends = [
        datetime.fromisoformat(text)
        for text in (answer.get("retentionExpirationTime"), own.get("retainUntilTime"))
        if text
    ]
    mode = {"Locked": "COMPLIANCE", "Unlocked": "GOVERNANCE"}.get(str(own.get("mode")))
    return LockState(True, max(ends, default=None), mode)


def _says(headers: Mapping[str, str], name: str) -> bool:
    return headers.get(name, "").lower() == "true"


def _request(method: str, url: str, headers: Mapping[str, str], options: PlaceOptions, label: str) -> Answer | str:
    """Return the answer; as text what is said of a right that is missing.

    Raises:
        StoreError: as other calls of a place.
    """
    answer = ask(method, url, headers, options.limits, label)
    if answer.status in (401, 403):
        return f"HTTP {answer.status}"
    if answer.status >= 300:
        raise error_of_answer(answer.status, answer.headers.get("x-ms-error-code", ""), label)
    return answer
