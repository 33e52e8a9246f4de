"""What object storage answers (status, error code, broken connection) as one of the errors of places.

Neither an answer's text nor its address is passed on: addresses can hold signatures, answers can hold names of keys.
Codes: S3 "Error Responses", Azure "Blob service error codes", Google Cloud Storage "XML API error responses".
"""

from __future__ import annotations

import re

from backup_pipeline.errors import StoreError
from backup_pipeline.stores.objects.errors import (
    ObjectLockedError,
    ObjectNotFoundError,
    PlaceFullError,
    PlaceRefusedError,
    PlaceUnreachableError,
)

_STATUS = re.compile(r"status code: (\d{3})|\bstatus: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
# Of one object in the answer to a request that deletes several (Azure's batch, S3's DeleteObjects).
_CODE_OF_ONE = re.compile(r"\(code: (\w+)\)")
_KIND = re.compile(r"\bkind: (\w+)")
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "OperationTimedOut",
    "RequestTimeout",
    "ServerBusy",
    "ServiceUnavailable",
    "SlowDown",
    "TooManyRequests",
}
_FULL_CODES = {"InsufficientStorage", "InsufficientCapacity", "QuotaExceeded", "XMinioStorageFull"}
_LOCKED_CODES = {"BlobImmutableDueToPolicy", "ObjectUnderActiveHold", "RetentionPolicyNotMet", "ObjectLocked"}
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"}
_REGION_CODES = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_KEY_CODES = {
    "AuthenticationFailed": "The credentials are not accepted.",
    "AuthenticationRequired": "The credentials are not accepted.",
    "InvalidAccessKeyId": "The access key is not known there.",
    "InvalidToken": "The session token is not accepted.",
    "SignatureDoesNotMatch": "The secret key does not belong to the access key.",
}


class OutOfRangeError(StoreError):
    """An object ends before the range that was asked for begins."""


def error_of_text(text: str, where: str) -> StoreError | ObjectLockedError:
    """Return the error that an exception's text of the storage's client says.

    Args:
        text: as object_store formats it: status, body and Rust's debug form of the cause.
        where: place and object, for people.
    """
    head, _, debug = text.partition("Debug source:")
    status = next((int(one or other) for one, other in _STATUS.findall(text)), None)
    code = match.group(1) if (match := _CODE.search(head)) else ""
    if match := _CODE_OF_ONE.search(head):
        found = match.group(1)
        return error_of_answer(int(found), "", where) if found.isdigit() else error_of_answer(403, found, where)
    if "StartTooLarge" in debug:  # Answered with the whole object, which ends before.
        return OutOfRangeError("The object is shorter.", where=where)
    if status is None:
        kind = match.group(1) if (match := _KIND.search(debug)) else ""
        return unreachable(
            {"Connect": "There is no connection.", "Timeout": "There is no answer in time."}.get(kind), where
        )
    return error_of_answer(status, code, where)


def unreachable(what: str | None, where: str) -> PlaceUnreachableError:
    """Return the error of a connection that failed or broke off."""
    return PlaceUnreachableError(
        what or "The connection broke off.",
        where=where,
        remedy="Check whether the service is up and this machine may reach it; the next run goes on.",
    )


def error_of_answer(status: int, code: str, where: str) -> StoreError | ObjectLockedError:
    """Return the error that an HTTP status and the storage's own error code (or "") say."""
    said = f"HTTP {status} {code}".strip()
    if code in _LOCKED_CODES:
        return locked(where)
    if code in _FULL_CODES or status == 507:
        return PlaceFullError(
            f"The storage is full or the quota is used up ({said}).",
            where=where,
            remedy="Make room there, raise the quota, or let `vault clean` remove old copies.",
        )
    if code in _TRANSIENT_CODES or status in TRANSIENT_STATUS:
        return PlaceUnreachableError(
            f"The service is overloaded or asks for fewer requests ({said}).", where=where, remedy="Try again later."
        )
    if code in _NO_BUCKET:
        return PlaceRefusedError(
            f"There is no such bucket or container ({said}).",
            where=where,
            remedy="Correct the name in the vault's url, or make the bucket.",
        )
    if status == 416:
        return OutOfRangeError("The object is shorter.", where=where)
    if status == 404:
        return ObjectNotFoundError("There is no object of this name.", where=where)
    return _refused(status, code, said, where)


def locked(where: str, until: str = "") -> ObjectLockedError:
    """Return the error of an object that the storage keeps from deletion."""
    return ObjectLockedError(
        f"The storage forbids to delete or overwrite this object{f' until {until}' if until else ''}.",
        where=where,
        remedy="Wait until its lock ends; nobody with these credentials can shorten it.",
    )


def _refused(status: int, code: str, said: str, where: str) -> PlaceRefusedError:
    if code == "RequestTimeTooSkewed":
        what = "The clock of this machine and the service's differ too much"
        remedy = "Set this machine's clock (NTP)."
    elif code in _REGION_CODES or status in (301, 307, 308):
        what = "The bucket is in another region, or this is not its address"
        remedy = "Set region to the bucket's, or correct the address in the variable of endpoint_env."
    elif status == 501 or code == "NotImplemented":
        what = "The service cannot do what was asked"
        remedy = (
            "Set conditional_create: false where it cannot create only what is absent (one machine may write then), "
            "checksums: false where it knows no checksums."
        )
    elif code == "ExpiredToken":
        what = "The session token has expired"
        remedy = (
            "Get a new one with its keys, into the variables that credentials_env names; for runs at night use keys "
            "that do not expire."
        )
    elif code in _KEY_CODES or status == 401:
        what = _KEY_CODES.get(code, "The credentials are not accepted.").rstrip(".")
        remedy = "Correct the values of the variables that credentials_env names."
    elif status == 403:
        what = "The credentials do not allow it"
        remedy = "Give them the right to list, read, write and delete objects in this bucket."
    else:
        what = "The service refused the request"
        remedy = "Find this code in the service's documentation."
    return PlaceRefusedError(f"{what} ({said}).", where=where, remedy=remedy)
