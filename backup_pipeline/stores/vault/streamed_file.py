"""A file of a set that leaves the machine while it is written: its beginning is held in memory, the rest never is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from backup_pipeline.stores.contract import ArtefactFile
from backup_pipeline.stores.vault.cutting import ChunkSource
from backup_pipeline.stores.vault.sending import SentChunk
from backup_pipeline.system import limits
from backup_pipeline.system.conveyor import Conveyor
from backup_pipeline.system.threads import ContextThreadPool

_ENDING_SECONDS = 10.0


class StreamedFile:
    """Bytes in, hashed; see `contract.ArtefactFile`. What is smaller than `large_from` becomes a local file at its end.

    Args:
        large_from: bytes from which on it is streamed, so that it is cut as a file whose size is known.
        local: opens the local file.
        send: sends a stream's chunks, reading it to its end; called in a thread beside.
        sent: called with size, SHA-256 and chunks of what was streamed, when it is whole in the vault.
    """

    def __init__(
        self,
        large_from: int,
        local: Callable[[], AbstractContextManager[ArtefactFile]],
        send: Callable[[ChunkSource], Iterable[SentChunk]],
        sent: Callable[[int, str, tuple[SentChunk, ...]], None],
    ) -> None:
        self._large_from = large_from
        self._local = local
        self._send = send
        self._note = sent
        self._held = bytearray()
        self._digest = hashlib.sha256()
        self._stream: Conveyor | None = None
        self._pool = ContextThreadPool(1, "vault-stream")
        self._done: Future[tuple[SentChunk, ...]] = Future()
        self.size = 0

    @property
    def sha256(self) -> str:
        """SHA-256 in hex of the bytes written so far."""
        return self._digest.hexdigest()

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.size

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of `data`; raises what the sending has raised."""
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self.size += len(view)
        limits.progressed()
        if self._stream is not None:
            self._stream.put(view)
            return len(view)
        self._held += view
        if len(self._held) >= self._large_from:
            self._stream = self._begin()
            self._stream.put(self._held)
            self._held = bytearray()
        return len(view)

    def _begin(self) -> Conveyor:
        stream = Conveyor()
        self._done = self._pool.submit(lambda: tuple(self._send(stream)))

        def tell(done: Future[tuple[SentChunk, ...]]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                stream.break_off(error)

        self._done.add_done_callback(tell)
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is None:
            if value is None:
                with self._local() as file:
                    file.write(self._held)
            return
        if value is not None:
            self._break_off(value)
            return
        try:
            self._stream.end()
            while not wait([self._done], 1.0).done:
                limits.check()
            chunks = self._done.result()
        except BaseException as error:
            self._break_off(error)
            raise
        self._pool.shutdown()
        self._note(self.size, self.sha256, chunks)

    def _break_off(self, error: BaseException) -> None:
        """End the sending. What was sent stays, named by no copy: a retry finds it, cleaning removes it."""
        assert self._stream is not None
        self._stream.break_off(error)
        self._pool.shutdown(wait=False)
        wait([self._done], _ENDING_SECONDS)
