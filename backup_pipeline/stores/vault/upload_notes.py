"""Notes of uploaded chunks that no copy names yet, kept on the machine that sent them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from backup_pipeline.stores.vault.names import is_chunk_name
from backup_pipeline.stores.vault.stored_chunk import ChunkRef
from backup_pipeline.system.files import append_line, make_folders, read_ordinary, translate_os_error

_PRIVATE_MODE = 0o700


class UploadNotes:
    """Which chunks were uploaded by a copy that is not complete yet: a later try does not send them again.

    Only this machine's own notes are believed: what another put there could hold anything, and the machine that writes
    cannot read.

    Args:
        file: the notes.
        earlier: notes of other copies that never became complete; they are read and left alone.
    """

    def __init__(self, file: Path, earlier: Sequence[Path] = ()) -> None:
        self._file = file
        self._earlier = tuple(place for place in earlier if place != file)

    def add(self, chunk: ChunkRef, generation: int) -> None:
        """Note one uploaded chunk."""
        line = json.dumps([*chunk, generation]) + "\n"
        try:
            try:
                append_line(self._file, line)
            except FileNotFoundError:
                make_folders(self._file.parent, _PRIVATE_MODE)
                append_line(self._file, line)
        except OSError as error:
            raise translate_os_error(error, self._file) from error

    def read(self, generation: int) -> Iterator[ChunkRef]:
        """Yield what was noted of this generation; a line that was cut off is passed over."""
        for file in (*self._earlier, self._file):
            yield from _noted(file, generation)

    def clear(self) -> None:
        """Forget them: a copy names them now."""
        self._file.unlink(missing_ok=True)


def _noted(file: Path, generation: int) -> Iterator[ChunkRef]:
    try:
        lines = read_ordinary(file, at_most=1 << 30).splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise translate_os_error(error, file) from error
    for line in lines:
        try:
            name, size, sha256, of = json.loads(line)
        except ValueError:
            continue
        if of == generation and is_chunk_name(str(name)):
            yield ChunkRef(str(name), int(size), str(sha256))
