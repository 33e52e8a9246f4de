"""Signatures of single requests: AWS's Signature Version 4, Azure's Shared Key, Google's tokens (JWT, AIP-4111)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

_AZURE_VERSION = "2023-11-03"
_TOKEN_SECONDS = 600
_NOTHING = hashlib.sha256(b"").hexdigest()


class S3Keys(NamedTuple):
    """What signs for S3: key pair, session token ("" without), region."""

    access_key: str
    secret_key: str
    session_token: str
    region: str


def s3_headers(method: str, url: str, query: Mapping[str, str], keys: S3Keys) -> dict[str, str]:
    """Return the headers that sign a request without a body ("Signature Version 4", AWS's "Authenticating Requests").

    Args:
        method: of the request.
        url: without the query.
        query: its parameters.
        keys: who asks.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    parts = urlsplit(url)
    headers = {"host": parts.netloc, "x-amz-content-sha256": _NOTHING, "x-amz-date": moment}
    if keys.session_token:
        headers["x-amz-security-token"] = keys.session_token
    names = ";".join(headers)
    parameters = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))
    lines = [method, parts.path or "/", parameters, *(f"{name}:{value}" for name, value in headers.items()), ""]
    canonical = "\n".join([*lines, names, _NOTHING])
    scope = f"{moment[:8]}/{keys.region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{keys.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    del headers["host"]  # Whoever sends the request writes it.
    return headers | {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    }


def azure_headers(method: str, account: str, key: str, url: str, query: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that sign a request without a body ("Authorize with Shared Key")."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _AZURE_VERSION}
    lines = [f"{name}:{value}" for name, value in sorted(headers.items())]
    lines.append(f"/{account}{urlsplit(url).path}")
    lines += [f"{name}:{value}" for name, value in sorted(query.items())]
    text = method + "\n" * 12 + "\n".join(lines)
    digest = hmac.digest(base64.b64decode(key), text.encode(), hashlib.sha256)
    return headers | {"Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}"}


def google_token(account: Mapping[str, Any], service: str) -> str:
    """Return a token for a service that a service account signs itself; no request is needed for it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    now = int(time.time())
    head = {"alg": "RS256", "typ": "JWT", "kid": account.get("private_key_id", "")}
    who = account["client_email"]
    claims = {"iss": who, "sub": who, "aud": f"{service}/", "iat": now, "exp": now + _TOKEN_SECONDS}
    signed = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
    key: Any = load_pem_private_key(str(account["private_key"]).encode(), None)
    return f"{signed}.{_base64(key.sign(signed.encode(), PKCS1v15(), hashes.SHA256()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
