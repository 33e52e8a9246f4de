"""Signatures of single requests: Azure's Shared Key, Google's self-signed tokens (JWT, AIP-4111)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any
from urllib.parse import urlsplit

_AZURE_VERSION = "2023-11-03"
_TOKEN_SECONDS = 600


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
