"""Comparing a tarball with its listing while both are written, for a tarball that cannot be opened again afterwards."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from types import TracebackType
from typing import BinaryIO

from backup_pipeline.archives.tarball import CHUNK, EntryKind, Member
from backup_pipeline.archives.tarball_reader import OTHER_CONTENT, Compared, difference, read_members
from backup_pipeline.errors import ValidationError
from backup_pipeline.system.read_beside import ReadBeside
from backup_pipeline.system.streams import Sink


class TarballReadBeside(ReadBeside[None]):
    """Passes a tarball's bytes on to its file, and reads them as a tarball beside.

    Members and lines of the listing are compared in pairs, whichever of the two comes first: neither side waits for the
    other.

    Args:
        file: the tarball's file.
        name: of the file, for what is wrong.

    Attributes:
        compared: how many pairs were compared.
        wrong: members that differ, and what damage was met.
    """

    def __init__(self, file: Sink, name: str) -> None:
        super().__init__(file, self._read_members, "tarball-beside")
        self._name = name
        self._members: deque[tuple[Member, str]] = deque()
        self._expected: deque[Member] = deque()
        self._lock = threading.Lock()
        self.compared = 0
        self.wrong: list[Compared] = []

    def expect(self, member: Member) -> None:
        """Add the listing's line of the next member."""
        with self._lock:
            self._expected.append(member)
            self._compare()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, value, trace)
        except ValidationError as error:
            self.wrong.append(Compared(self._name, error.what))
            return
        if value is None:
            self.wrong += [Compared(one.path, "is in the tarball and not in the listing") for one, _ in self._members]
            self.wrong += [Compared(one.path, "is in the listing and not in the tarball") for one in self._expected]

    def _read_members(self, stream: BinaryIO) -> None:
        try:
            for member, content in read_members(stream, self._name):
                digest = hashlib.sha256()
                while content is not None and (piece := content.read(CHUNK)):
                    digest.update(piece)
                with self._lock:
                    self._members.append((member, digest.hexdigest()))
                    self._compare()
        finally:
            # Whoever writes goes on writing: that the tarball is damaged is said when it ends.
            while stream.read(CHUNK):
                pass

    def _compare(self) -> None:
        while self._members and self._expected:
            (actual, digest), expected = self._members.popleft(), self._expected.popleft()
            wrong = difference(actual, expected)
            if not wrong and expected.kind is EntryKind.FILE and digest != expected.sha256:
                wrong = OTHER_CONTENT
            if wrong:
                self.wrong.append(Compared(expected.path, wrong))
            self.compared += 1
