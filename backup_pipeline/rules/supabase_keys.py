"""Supabase's API keys: JSON Web Tokens with a role, signed HS256 with the project's JWT secret (RFC 7515, 7519).

Pure: the time is passed in. Five lines of HMAC instead of a dependency, since only this one form is ever made or read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime, timedelta
from typing import Any

KEY_LIFETIME = timedelta(days=5 * 365)
"""As long as Supabase's own generator makes them valid."""
ROLES = {"ANON_KEY": "anon", "SERVICE_ROLE_KEY": "service_role"}
DEMO_ISSUER = "supabase-demo"
DEMO_JWT_SECRET = "your-super-secret-jwt-token-with-at-least-32-characters-long"  # noqa: S105 - published, to be refused


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signature(signed: str, secret: str) -> bytes:
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()


def make_key(role: str, secret: str, now: datetime) -> str:
    """Return a key for `role` ("anon" or "service_role"), valid from `now` for KEY_LIFETIME."""
    claims = {
        "role": role,
        "iss": "supabase",
        "iat": int(now.timestamp()),
        "exp": int((now + KEY_LIFETIME).timestamp()),
    }
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = ".".join(_encoded(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return f"{signed}.{_encoded(_signature(signed, secret))}"


def read_key(token: str) -> dict[str, Any] | None:
    """Return a token's claims without judging its signature; None when it is no HS256 token."""
    try:
        head, body, _ = token.split(".")
        header, claims = json.loads(_decoded(head)), json.loads(_decoded(body))
    except (ValueError, RecursionError):
        return None
    if not isinstance(claims, dict) or not isinstance(header, dict) or header.get("alg") != "HS256":
        return None
    return claims


def is_signed_with(token: str, secret: str) -> bool:
    """Return whether the token's signature was made with `secret`."""
    signed, _, signature = token.rpartition(".")
    try:
        return hmac.compare_digest(_decoded(signature), _signature(signed, secret))
    except ValueError:
        return False


def key_problem(name: str, token: str, secret: str, now: datetime) -> tuple[str, str] | None:
    """Return what is wrong with one of the two keys, and the remedy; None when it is right.

    Args:
        name: ANON_KEY or SERVICE_ROLE_KEY.
        token: its value.
        secret: the JWT secret, "" when not known here.
        now: the present moment.
    """
    anew = "Have it made anew from JWT_SECRET and give it to every application (docs/security.md, Rotating secrets)."
    claims = read_key(token)
    if claims is None:
        return "not a token of the form that Supabase uses (HS256)", anew
    if is_signed_with(token, DEMO_JWT_SECRET) or claims.get("iss") == DEMO_ISSUER:
        return "Supabase's published demo key: everybody has it", (
            "Replace JWT_SECRET, ANON_KEY and SERVICE_ROLE_KEY together (docs/security.md, Rotating secrets)."
        )
    if claims.get("role") != ROLES[name]:
        return f"holds another role than {ROLES[name]}", anew
    if secret and not is_signed_with(token, secret):
        return "not signed with JWT_SECRET, so Supabase refuses it", anew
    expires = claims.get("exp")
    if not isinstance(expires, int | float):
        return "never expires", anew
    if expires <= now.timestamp():
        return "expired", anew
    return None
