"""A process of its own that reads chunks of order folders: `python -m backup_pipeline.sources.orders.archive.worker`.

Pickled questions (archive, folders) come on standard input, pickled answers leave on standard output. Not
`multiprocessing`: its children import the caller's main program again, which is not ours to judge.
"""

from __future__ import annotations

import gc
import io
import pickle
import queue
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.sources.orders.archive.reading import OrderRead, read_chunk
from backup_pipeline.system.processes import Running, last_lines, running
from backup_pipeline.system.threads import ContextThreadPool


class Worker:
    """One such process, asked and answering in turn."""

    def __init__(self, process: Running) -> None:
        self._process = process
        assert isinstance(process.stdout, io.RawIOBase)
        self._answers = io.BufferedReader(process.stdout, 1 << 16)

    def ask(self, archive: str, folders: list[str]) -> list[OrderRead]:
        """Return what `read_chunk` finds; BackupSystemError when the process is gone."""
        try:
            self._process.stdin.write(pickle.dumps((archive, folders)))
            found = pickle.load(self._answers)  # noqa: S301 - from our own process
        except (OSError, EOFError) as error:
            raise BackupSystemError(
                f"A reading process ended early: {last_lines(self._process.finish(5)[1])}.",
                where=archive,
                remedy="Was it killed, or is memory short? Run again.",
            ) from error
        return list(map(OrderRead._make, found))


def read_in_processes(archive: str, chunks: Iterator[list[str]], count: int) -> Iterator[list[OrderRead]]:
    """Yield the orders of each chunk, in the chunks' order, read by `count` processes; a few chunks are on the way."""
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def ask(chunk: list[str]) -> list[OrderRead]:
        worker = idle.get()
        try:
            return worker.ask(archive, chunk)
        finally:
            idle.put(worker)

    command = [sys.executable, "-m", "backup_pipeline.sources.orders.archive.worker"]
    with ExitStack() as stack:
        for _ in range(count):
            idle.put(Worker(stack.enter_context(running(command, with_stdin=True))))
        pool = stack.enter_context(ContextThreadPool(count, thread_name_prefix="orders"))
        waiting: deque[Future[list[OrderRead]]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(ask, chunk))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> None:
    """Answer until the questions end."""
    # What is read holds no cycles: counting references frees it, and looking for some would be a tenth of the work.
    gc.freeze()
    gc.set_threshold(100_000)
    while True:
        try:
            archive, folders = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
        except EOFError:
            return
        # Plain tuples: they cost half of what named ones do on this way.
        found = list(map(tuple, read_chunk(archive, folders)))
        pickle.dump(found, sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
