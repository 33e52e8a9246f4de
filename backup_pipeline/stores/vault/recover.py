#!/usr/bin/env python3
"""Brings backup sets back from a vault with Python's standard library and the program `age`. See RECOVERY.md.

It lies in every vault and imports nothing of the project that wrote it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

# Ed25519 (RFC 8032, section 5.1): signatures can be checked without any library.
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
Point = tuple[int, int, int, int]


_PLAN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")
_SET = re.compile(r"\d{4}-\d{2}-\d{2}T\d{6}Z")
_CHUNK = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8})?")
_LATEST_COPY = 2
_LARGEST_OBJECT = 2 << 30
_LARGEST_ACCOUNT = 4 << 30


class BadVaultError(Exception):
    """What is wrong, and where."""


def _read(path: Path) -> bytes:
    """Return an object's bytes; a link, a pipe or a device in its place is neither followed nor waited for."""
    more = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | more)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_OBJECT:
            raise BadVaultError(f"{path}: no object of a vault")
        return file.read()


def _unpacked(pieces: Iterable[bytes], name: str) -> Any:
    """Return the JSON whose pieces were packed with gzip, unless they are larger than any account of a set."""
    found, room = [], _LARGEST_ACCOUNT
    for data in pieces:
        unpacking = zlib.decompressobj(wbits=31)
        found.append(unpacking.decompress(data, room))
        room -= len(found[-1])
        if not unpacking.eof or room <= 0:
            raise BadVaultError(f"{name}: cut short, or larger than any account of a set")
    return json.loads(b"".join(found))


def _add(a: Point, b: Point) -> Point:
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % _P, (a[1] + a[0]) * (b[1] + b[0]) % _P
    g, h = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    e, f, g, h = f - e, h - g, h + g, f + e
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _times(count: int, point: Point) -> Point:
    result: Point = (0, 1, 1, 0)
    while count:
        if count & 1:
            result = _add(result, point)
        point = _add(point, point)
        count >>= 1
    return result


def _point(data: bytes) -> Point:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or y >= _P or (x == 0 and sign):
        raise ValueError("not a point")
    if x & 1 != sign:
        x = _P - x
    return (x, y, 1, x * y % _P)


_BASE = _point((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little"))


def is_signed(public: str, message: bytes, signature: str) -> bool:
    """Return whether `signature` (base64) is that of `public` (`ed25519:<base64>`) over `message`."""
    try:
        key = base64.b64decode(public.split(":", 1)[1], validate=True)
        sig = base64.b64decode(signature, validate=True)
        if len(key) != 32 or len(sig) != 64 or int.from_bytes(sig[32:], "little") >= _L:
            return False
        a, r = _point(key), _point(sig[:32])
    except (ValueError, IndexError):
        return False
    h = int.from_bytes(hashlib.sha512(sig[:32] + key + message).digest(), "little") % _L
    left, right = _times(int.from_bytes(sig[32:], "little"), _BASE), _add(r, _times(h, a))
    return not ((left[0] * right[2] - right[0] * left[2]) % _P or (left[1] * right[2] - right[1] * left[2]) % _P)


class OpenedVault:
    """A vault in a folder, with an identity."""

    def __init__(self, folder: Path, identity: str, age: str, signers: Sequence[str]) -> None:
        self.folder, self._identity, self._age = folder, identity, age
        self.description: dict[str, Any] = json.loads(_read(folder / "vault.json"))
        if self.description.get("vault_version") != 1:
            raise BadVaultError("vault.json: not of version 1")
        unsigned = {key: value for key, value in self.description.items() if key != "signature"}
        text = json.dumps(unsigned, sort_keys=True, separators=(",", ":")).encode()
        first = self.description["signed_by"][0]
        signed = b"backup-pipeline vault description 1\n" + text
        if not is_signed(first, signed, self.description["signature"]):
            raise BadVaultError("vault.json: not signed by the key that it names")
        if signers and first not in signers:
            # Another machine has joined since the kit was printed, or somebody replaced it: the copies' own signatures,
            # which name the vault, say which of them are the kit's.
            sys.stderr.write("vault.json is signed by another key than the kit's: only the kit's own copies count\n")
        self.signers = list(signers or self.description["signed_by"])
        self.key = self.decrypt(base64.b64decode(self.description["id_key"]), "vault.json")

    def decrypt(self, data: bytes, name: str) -> bytes:
        """Return the plain bytes."""
        if self.description["encryption"] == "none":
            return data
        done = subprocess.run([self._age, "-d", "-i", self._identity], input=data, capture_output=True, check=False)
        if done.returncode:
            raise BadVaultError(f"{name}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def names(self) -> list[str]:
        """Return the names of the copies, oldest first."""
        return sorted(path.name for path in (self.folder / "copies").iterdir() if not path.name.startswith("."))

    def copy(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a copy's header and its account, both checked."""
        data = _read(self.folder / "copies" / name)
        first, _, rest = data.partition(b"\n")
        fields = first.split(b" ")
        if len(fields) != 6 or fields[:3] != [b"backup-pipeline", b"vault", b"copy"]:
            raise BadVaultError(f"copies/{name}: not a copy")
        version = fields[3].decode()
        if version not in ("1", "2"):
            raise BadVaultError(f"copies/{name}: of version {version}; this program reads up to {_LATEST_COPY}")
        line, rest = rest[: int(fields[-2])], rest[int(fields[-2]) + 1 :]
        signature, _, sealed = rest.partition(b"\n")
        proof = json.loads(signature)
        if proof["key"] not in self.signers or not is_signed(
            proof["key"], f"backup-pipeline vault copy {version}\n".encode() + line, proof["signature"]
        ):
            raise BadVaultError(f"copies/{name}: not signed by this site")
        header: dict[str, Any] = json.loads(line)
        if header["vault"] != self.description["vault"] or header["copy_name"] != name:
            raise BadVaultError(f"copies/{name}: it belongs elsewhere")
        if hashlib.sha256(sealed).hexdigest() != header["content_sha256"]:
            raise BadVaultError(f"copies/{name}: changed or cut short")
        content: dict[str, Any] = _unpacked([self.decrypt(sealed, f"copies/{name}")], f"copies/{name}")
        if version == "2":
            lists = _unpacked(self.chunks(header["list_chunks"]), f"copies/{name}")
            content = {**lists, "plan": content["plan"], "set_id": content["set_id"]}
        return header, content

    def chunks(self, refs: list[Any]) -> Iterator[bytes]:
        """Yield the plain chunks of a copy's data or lists in order, each checked."""
        for name, size, sha256 in refs:
            if not _CHUNK.fullmatch(name):
                raise BadVaultError(f"{name!r}: no chunk's name")
            path = self.folder / "chunks" / name[:2] / name
            data = _read(path)
            if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
                raise BadVaultError(f"{path}: changed or cut short")
            plain = self.decrypt(data, str(path))
            if hmac.new(self.key, plain, hashlib.sha256).hexdigest() != name[:64]:
                raise BadVaultError(f"{path}: other bytes than its name stands for")
            yield plain


def _private(path: Path) -> BinaryIO:
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def fetch(vault: OpenedVault, name: str, target: Path) -> Path:
    """Bring a set back into `target/<plan>/<set>`, with `backup.yaml` in `target`; it appears whole, last."""
    header, content = vault.copy(name)
    if not _PLAN.fullmatch(content["plan"]) or not _SET.fullmatch(content["set_id"]):
        raise BadVaultError(f"copies/{name}: its plan or set is no name")
    whole: Path = target / content["plan"] / content["set_id"]
    if whole.exists():
        raise BadVaultError(f"{whole}: it is there already")
    folder = whole.with_name(f".{whole.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    source, rest = vault.chunks(header["chunks"]), b""
    for entry in content["files"]:
        path = PurePosixPath(entry["path"])
        if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0] == "proofs":
            raise BadVaultError(f"{path}: not a path inside a set")
        if entry["size"] < 0:
            raise BadVaultError(f"{path}: of a negative size")
        (folder / path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        digest, left = hashlib.sha256(), entry["size"]
        with _private(folder / path) as file:
            while left:
                rest = rest or next(source)
                piece, rest = rest[:left], rest[left:]
                file.write(piece)
                digest.update(piece)
                left -= len(piece)
        if digest.hexdigest() != entry["sha256"]:
            raise BadVaultError(f"{path}: not what was copied")
    with _private(folder / "manifest.json") as file:
        file.write(content["manifest"].encode())
    if content["settings"] and not (target / "backup.yaml").exists():
        (target / ".backup.yaml.part").unlink(missing_ok=True)
        with _private(target / ".backup.yaml.part") as file:
            file.write(content["settings"].encode())
        (target / ".backup.yaml.part").rename(target / "backup.yaml")
    folder.rename(whole)
    return whole


_PROBLEMS = (
    BadVaultError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    StopIteration,
    RecursionError,
    MemoryError,
    OverflowError,
    zlib.error,
)
"""Whoever can write to a vault can put anything there: each of these is one line, and no other copy's end."""


def _report(error: BaseException) -> None:
    text = f"{error}" if isinstance(error, (BadVaultError, OSError)) else f"{type(error).__name__}: {error}"
    sys.stderr.write("error: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + "\n")


def list_copies(vault: OpenedVault) -> int:
    """Write a line per copy, oldest first; one that is bad is named, and the others are listed."""
    bad = 0
    for name in vault.names():
        try:
            content = vault.copy(name)[1]
            size = sum(entry["size"] for entry in content["files"])
            if not _PLAN.fullmatch(content["plan"]) or not _SET.fullmatch(content["set_id"]):
                raise BadVaultError(f"copies/{name}: its plan or set is no name")
            sys.stdout.write(f"{name}  {content['plan']}/{content['set_id']}  {size:,} bytes\n")
        except _PROBLEMS as error:
            _report(error)
            bad += 1
    return 1 if bad else 0


def main() -> int:
    """List the copies, or bring one back."""
    parser = argparse.ArgumentParser(description="Brings backup sets back from a vault. See RECOVERY.md.")
    parser.add_argument("vault", type=Path, help="the vault's folder, or a copy of its bucket")
    parser.add_argument("--identity", default="", help="file with the line AGE-SECRET-KEY-1…")
    parser.add_argument(
        "--signer", action="append", default=[], help="the site's public key from the kit: ed25519:… (one for each key)"
    )
    parser.add_argument("--copy", help="name of the copy to bring back")
    parser.add_argument("--to", type=Path, help="folder for it")
    parser.add_argument("--age", default=shutil.which("age") or "age", help="the program age")
    given = parser.parse_args()
    if bool(given.copy) != bool(given.to):
        parser.error("--copy and --to go together")
    try:
        vault = OpenedVault(given.vault, given.identity, given.age, [key for key in given.signer if key])
        if not given.signer:
            sys.stderr.write("without --signer nobody knows who wrote this vault: read backup.yaml before you use it\n")
        if not given.copy:
            return list_copies(vault)
        sys.stdout.write(f"{fetch(vault, given.copy, given.to)}\n")
    except _PROBLEMS as error:
        _report(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
