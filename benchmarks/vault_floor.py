"""The least that a copy into a vault has to do: read, cut, hash three times, encrypt, write and sync, or send.

Bare calls of the libraries in threads, in memory that is used again, without records, checks, signatures, notes or
locks; `benchmarks.vault` measures them beside copies. By what a copy is slower than this, our own code is; by what this
misses a promise, the libraries, the disk and the server do.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from pyfastcdc import FastCDC

from backup_pipeline.stores.vault.description import Cutting
from backup_pipeline.stores.vault.encryption import Sealer

_BLOCK = 16 << 20
_BLOCKS = 3
_WORKERS = 8
_HASHED_APART = 1 << 20
_KEY = b"k" * 32
_Update = Callable[[memoryview], None]
_Bytes = bytes | bytearray | memoryview


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
    sealer, store = Sealer([recipient]), _storing(url, environment)

    def send(data: memoryview) -> str:
        name = hmac.new(_KEY, data, hashlib.sha256).hexdigest()
        if name not in known:
            with sealer.sealed(data) as sealed:
                hashlib.sha256(sealed).hexdigest()
                store(name, sealed)
        return name

    blocks = itertools.cycle([memoryview(bytearray(_BLOCK)) for _ in range(_BLOCKS)])
    in_use: list[list[Future[object]]] = [[] for _ in range(_BLOCKS)]
    sent: list[Future[str]] = []
    cutting = Cutting()
    cutter = FastCDC(
        cutting.average,
        min_size=cutting.smallest,
        max_size=cutting.largest,
        normalized_chunking=cutting.normalization,
        seed=1,
    )
    with ThreadPoolExecutor(_WORKERS) as pool, ThreadPoolExecutor(1) as hashing:

        def memory() -> memoryview:
            in_use.append([])
            for one in in_use.pop(0):
                one.result()
            return next(blocks)

        for block in _blocks(source, memory, lambda update, data: in_use[-1].append(hashing.submit(update, data))):
            start = 0
            for chunk in cutter.cut_buf(block):
                sent.append(pool.submit(send, block[start : start + chunk.length]))
                in_use[-1].append(sent[-1])  # type: ignore[arg-type]
                start += chunk.length
        names = {one.result() for one in sent}
    known_file.write_text(json.dumps(sorted(known | names)))


def _blocks(
    source: Path, memory: Callable[[], memoryview], hashed: Callable[[_Update, memoryview], object]
) -> Iterator[memoryview]:
    """Yield the files' bytes one after the other; what is large is handed to be hashed, what is small is hashed."""
    block, filled = memory(), 0
    for path, size in sorted(_files(os.fspath(source))):
        digest = hashlib.sha256()
        descriptor = os.open(path, os.O_RDONLY)
        rest = size
        while rest:
            count = os.readv(descriptor, [block[filled : filled + rest]])
            part = block[filled : filled + count]
            if count < _HASHED_APART:
                digest.update(part)
            else:
                hashed(digest.update, part)
            filled += count
            rest -= count
            if filled == len(block):
                yield block
                block, filled = memory(), 0
        os.close(descriptor)
    if filled:
        yield block[:filled]


def _files(folder: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path)
            else:
                yield entry.path, entry.stat().st_size


def _storing(url: str, environment: Mapping[str, str]) -> Callable[[str, _Bytes], None]:
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

        def put(name: str, data: _Bytes) -> None:
            obstore.put(store, name, data, mode="create", use_multipart=False)

        return put
    folder = Path(parts.path)
    folder.mkdir(exist_ok=True)

    def write(name: str, data: _Bytes) -> None:
        with (folder / name).open("wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())

    return write
