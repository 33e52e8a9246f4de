"""age's file format, version 1, for X25519 recipients: https://github.com/C2SP/C2SP/blob/main/age.md.

Written with OpenSSL's ChaCha20-Poly1305 (`cryptography`), which encrypts three times as fast as `pyrage`. What is read
and is anything but a whole file of this form is left to `pyrage`, which knows the whole format and its errors.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from backup_pipeline.stores.objects.contract import Data, DataView

_VERSION = b"age-encryption.org/v1\n"
_WRAPPING = b"age-encryption.org/v1/X25519"
_STANZA = b"-> X25519 "
_END = b"---"
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_KEY = 32
_FILE_KEY = 16
_NONCE = 16
_TAG = 16
_PIECE = 64 << 10
_SEALED_PIECE = _PIECE + _TAG
_NO_NONCE = bytes(12)
_LARGEST_HEADER = 16 << 10
_IN_BASE64 = 43
"""Characters of 32 bytes in base64 without padding."""


def key_bytes(text: str) -> bytes:
    """Return the 32 bytes of a key (`age1…`, `AGE-SECRET-KEY-1…`) whose checksum was verified: Bech32, BIP 173."""
    value = 0
    for letter in text.lower().rpartition("1")[2][:-6]:
        value = value << 5 | _ALPHABET.index(letter)
    return (value >> 4).to_bytes(_KEY, "big")


class AgeRecipients:
    """Encrypts to public keys.

    Args:
        keys: each key's 32 bytes.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = [(key, X25519PublicKey.from_public_bytes(key)) for key in keys]

    def sealed_size(self, size: int) -> int:
        """Return how many bytes a file of age with so many plain bytes has."""
        stanzas = len(self._keys) * (len(_STANZA) + 2 * (_IN_BASE64 + 1))
        head = len(_VERSION) + stanzas + len(_END) + 1 + _IN_BASE64 + 1 + _NONCE
        return head + size + (_last_piece(size, _PIECE) + 1) * _TAG

    def encrypt(self, data: DataView) -> bytearray:
        """Return a file of age with these bytes, under a new file key."""
        out = bytearray(self.sealed_size(len(data)))
        self.encrypt_into(memoryview(out), data)
        return out

    def encrypt_into(self, out: memoryview, data: DataView) -> None:
        """Write a file of age with these bytes, under a new file key, into `sealed_size` bytes of memory."""
        file_key = os.urandom(_FILE_KEY)
        header = _VERSION
        for raw, key in self._keys:
            ephemeral = X25519PrivateKey.generate()
            share = ephemeral.public_key().public_bytes_raw()
            wrapping = _hkdf(ephemeral.exchange(key), share + raw, _WRAPPING)
            wrapped = ChaCha20Poly1305(wrapping).encrypt(_NO_NONCE, file_key, None)
            header += _STANZA + _base64(share) + b"\n" + _base64(wrapped) + b"\n"
        header += _END
        header += b" " + _base64(_header_mac(file_key, header)) + b"\n"
        nonce = os.urandom(_NONCE)
        cipher = ChaCha20Poly1305(_payload_key(file_key, nonce))
        last = _last_piece(len(data), _PIECE)
        head = header + nonce
        out[: len(head)] = head
        plain, sealed = memoryview(data), out[len(head) :]
        for number in range(last + 1):
            piece = plain[number * _PIECE : (number + 1) * _PIECE]
            into = sealed[number * _SEALED_PIECE : (number + 1) * _SEALED_PIECE]
            cipher.encrypt_into(_piece_nonce(number, last=number == last), piece, None, into)


class AgeIdentities:
    """Decrypts with secret keys.

    Args:
        keys: each key's 32 bytes.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        secrets = [X25519PrivateKey.from_private_bytes(key) for key in keys]
        self._keys = [(key.public_key().public_bytes_raw(), key) for key in secrets]

    def decrypt(self, data: Data) -> bytearray | None:
        """Return the plain bytes; None where the data is not whole, not for these keys, or of another form."""
        try:
            return self._decrypt(data)
        except (InvalidTag, ValueError):  # binascii's errors among them
            return None

    def _decrypt(self, data: Data) -> bytearray | None:
        end = data.find(b"\n" + _END + b" ", 0, _LARGEST_HEADER)
        stop = data.find(b"\n", end + 1, _LARGEST_HEADER)
        if end < 0 or stop < 0 or not data.startswith(_VERSION):
            return None
        head = bytes(data[: stop + 1 + _NONCE])
        file_key = self._file_key(head[len(_VERSION) : end].split(b"\n"))
        mac_from = end + 1 + len(_END)
        if file_key is None or _base64(_header_mac(file_key, head[:mac_from])) != head[mac_from + 1 : stop]:
            return None
        cipher = ChaCha20Poly1305(_payload_key(file_key, head[stop + 1 :]))
        last = _last_piece(len(data) - len(head), _SEALED_PIECE)
        size = len(data) - len(head) - (last + 1) * _TAG
        if size < 0 or (last and size == last * _PIECE):  # Only an empty file may end with an empty piece.
            return None
        out = bytearray(size)
        sealed, plain = memoryview(data)[len(head) :], memoryview(out)
        for number in range(last + 1):
            piece = sealed[number * _SEALED_PIECE : (number + 1) * _SEALED_PIECE]
            into = plain[number * _PIECE : (number + 1) * _PIECE]
            cipher.decrypt_into(_piece_nonce(number, last=number == last), piece, None, into)
        return out

    def _file_key(self, lines: list[bytes]) -> bytes | None:
        for stanza, body in zip(lines[::2], lines[1::2], strict=True):
            if not stanza.startswith(_STANZA):
                return None
            share, wrapped = _unbase64(stanza.removeprefix(_STANZA)), _unbase64(body)
            if len(share) != _KEY or len(wrapped) != _FILE_KEY + _TAG:
                return None
            for raw, key in self._keys:
                wrapping = _hkdf(key.exchange(X25519PublicKey.from_public_bytes(share)), share + raw, _WRAPPING)
                try:
                    return ChaCha20Poly1305(wrapping).decrypt(_NO_NONCE, wrapped, None)
                except InvalidTag:
                    continue
        return None


def _last_piece(size: int, piece: int) -> int:
    """Return the number of the last piece, which is never empty but in an empty file."""
    return max(0, (size - 1) // piece)


def _piece_nonce(number: int, *, last: bool = False) -> bytes:
    return (number << 8 | last).to_bytes(12, "big")


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256 (RFC 5869): one block, so that extraction and expansion are one HMAC each."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\1", "sha256")


def _header_mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(_hkdf(file_key, b"", b"header"), header, "sha256")


def _payload_key(file_key: bytes, nonce: bytes) -> bytes:
    return _hkdf(file_key, nonce, b"payload")


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    """Decode base64 without padding; binascii.Error where it is not canonical."""
    data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    if _base64(data) != text:
        raise binascii.Error("not canonical")
    return data
