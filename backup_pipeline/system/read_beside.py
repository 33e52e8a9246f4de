"""Reading a file in a thread beside while it is written, where it cannot be opened again afterwards."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from types import TracebackType
from typing import BinaryIO, Generic, Self, TypeVar, cast

from backup_pipeline.system import limits
from backup_pipeline.system.conveyor import Conveyor
from backup_pipeline.system.streams import Sink
from backup_pipeline.system.threads import ContextThreadPool

Result = TypeVar("Result")


class ReadBeside(Generic[Result]):
    """Passes bytes on to their file and to a reader. Leaving the block waits for the reader, and raises what it raised.

    Args:
        file: what is written.
        read: reads the stream to its end, in a thread of its own; whoever writes gets its error with the next piece.
        thread: the thread's name.

    Attributes:
        result: what `read` returned, when the block is left.
    """

    result: Result

    def __init__(self, file: Sink, read: Callable[[BinaryIO], Result], thread: str) -> None:
        self._file = file
        self._read = read
        self._stream = Conveyor()
        self._pool = ContextThreadPool(1, thread)
        self._reading: Future[Result] = Future()

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of `data`."""
        count = self._file.write(data)
        self._stream.put(data)
        return count

    def __enter__(self) -> Self:
        self._reading = self._pool.submit(self._run)
        return self

    def _run(self) -> Result:
        try:
            return self._read(cast(BinaryIO, self._stream))
        except BaseException as error:
            self._stream.break_off(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False)
        if value is not None:
            self._stream.break_off(value)
            return
        self._stream.end()
        while not wait([self._reading], 1.0).done:
            limits.check()
        self.result = self._reading.result()
