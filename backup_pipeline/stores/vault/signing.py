"""Ed25519 signatures (RFC 8032): who wrote what is in a vault. Public keys are written `ed25519:<base64>`."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PREFIX = "ed25519:"


class Signer:
    """Signs with a site's private key (32 bytes)."""

    def __init__(self, private: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public = PREFIX + base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, purpose: str, data: bytes) -> str:
        """Return the signature in base64 over `purpose`, a line feed and `data`."""
        return self.sign_bytes(purpose.encode() + b"\n" + data)

    def sign_bytes(self, data: bytes) -> str:
        """Return the signature in base64 over `data` alone, which must say of itself what it is for."""
        return base64.b64encode(self._key.sign(data)).decode()


def new_private_key() -> bytes:
    """Return a new private key, 32 random bytes."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def is_public_key(text: str) -> bool:
    """Return whether `text` is a public key as this project writes it."""
    try:
        return text.startswith(PREFIX) and len(base64.b64decode(text[len(PREFIX) :], validate=True)) == 32
    except (ValueError, binascii.Error):
        return False


def is_signed(public: str, purpose: str, data: bytes, signature: str) -> bool:
    """Return whether `signature` is that key's over `purpose` and `data`; False for anything malformed."""
    return are_signed_bytes(public, purpose.encode() + b"\n" + data, signature)


def are_signed_bytes(public: str, data: bytes, signature: str) -> bool:
    """Return whether `signature` is that key's over `data` alone; False for anything malformed."""
    try:
        raw = base64.b64decode(public.removeprefix(PREFIX), validate=True)
        Ed25519PublicKey.from_public_bytes(raw).verify(base64.b64decode(signature, validate=True), data)
    except (ValueError, InvalidSignature, binascii.Error):
        return False
    return True
