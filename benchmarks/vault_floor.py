"""The least that a copy into a vault has to do: read, cut, hash three times, encrypt, write and sync, or send.

Bare calls of the libraries in threads, without records, checks, signatures, notes or locks; `benchmarks.vault` measures
them beside copies. By what a copy is slower than this, our own code is; by what this misses a promise, the libraries,
the disk and the server do.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from pyfastcdc import FastCDC

from backup_pipeline.stores.vault.encryption import Sealer

_READ = 16 << 20
_WORKERS = 8
_KEY = b"k" * 32
_Update = Callable[[bytes], None]


def bare_copy(source: Path, url: str, environment: Mapping[str, str], recipient: str, known_file: Path) -> None:
    """Do the least for one set.

    Args:
        source: the set's folder.
        url: where to, `file://` or `s3://`.
        environment: of an S3 server: ENDPOINT, KEY, SECRET.
        recipient: public key of age.
        known_file: names of what was stored by earlier calls, which is only read, hashed and cut; written again.
    """
    known = set(json.loads(known_file.read_text())) if known_file.exists() else set()
    names: list[str] = []
    sealer, store = Sealer([recipient]), _storing(url, environment)

    def send(data: bytes) -> str:
        name = hmac.new(_KEY, data, hashlib.sha256).hexdigest()
        if name not in known:
            sealed = sealer.seal(data)
            hashlib.sha256(sealed).hexdigest()
            store(name, bytes(sealed) if url.startswith("s3:") else sealed)
        return name

    cutter = FastCDC(1 << 20, min_size=128 << 10, max_size=4 << 20, normalized_chunking=1, seed=1)
    with ThreadPoolExecutor(_WORKERS) as pool, ThreadPoolExecutor(1) as hashing:
        sent = []
        for block in _blocks(source, lambda update, data: hashing.submit(update, data)):
            start = 0
            for chunk in cutter.cut_buf(block):
                sent.append(pool.submit(send, block[start : start + chunk.length]))
                start += chunk.length
        names = [one.result() for one in sent]
    known_file.write_text(json.dumps(sorted(known | set(names))))


def _blocks(source: Path, hashed: Callable[[_Update, bytes], object]) -> Iterator[bytes]:
    """Yield the files' bytes one after the other; what is large is handed to be hashed, what is small is hashed."""
    small: list[bytes] = []
    waiting = 0
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while block := file.read(_READ):
                if len(block) == _READ:
                    hashed(digest.update, block)
                    yield block
                    continue
                digest.update(block)
                small.append(block)
                waiting += len(block)
                if waiting >= _READ:
                    yield b"".join(small)
                    small, waiting = [], 0
    if small:
        yield b"".join(small)


def _storing(url: str, environment: Mapping[str, str]) -> Callable[[str, bytes | bytearray], None]:
    parts = urlsplit(url)
    if parts.scheme == "s3":
        import obstore
        from obstore.store import S3Store

        store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/"),
            config={
                "endpoint": environment["ENDPOINT"],
                "region": "us-east-1",
                "access_key_id": environment["KEY"],
                "secret_access_key": environment["SECRET"],
                "virtual_hosted_style_request": False,
                "checksum_algorithm": "SHA256",
            },
            client_options={"allow_http": True},
        )

        def put(name: str, data: bytes | bytearray) -> None:
            obstore.put(store, name, data, mode="create", use_multipart=False)

        return put
    folder = Path(parts.path)
    folder.mkdir(exist_ok=True)

    def write(name: str, data: bytes | bytearray) -> None:
        with (folder / name).open("wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())

    return write
