"""Small files of a folder that workers without a shared disk keep alike, by documents in their database.

A file that changed here since it was last alike goes there, one that changed there comes here; of both, what is there
counts. Logs are only ever added to: what was added here is added there. What the files hold is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.system.files import make_folders, read_ordinary, write_atomically

if TYPE_CHECKING:
    from backup_pipeline.stores.state.database import StateDatabase

_ALIKE = ".alike.json"


class SharedFiles:
    """See the module.

    Args:
        database: where the documents are.
        scope: theirs.
        folder: of the files; a document is called as its file's path in it.
        patterns: of paths; a `*` stands for anything.
        logs: paths of files that are only added to.
        taken: names that are only brought from there: another process is the one that writes them.
        modes: of files and folders that are made here.
    """

    def __init__(
        self,
        database: StateDatabase,
        scope: str,
        folder: Path,
        *,
        patterns: Sequence[str],
        logs: Sequence[str] = (),
        taken: Sequence[str] = (),
        modes: tuple[int, int] = (0o600, 0o700),
    ) -> None:
        self._database = database
        self._scope = scope
        self._folder = folder
        self._patterns = (*patterns, *logs)
        self._logs = frozenset(logs)
        self._taken = frozenset(taken)
        self._file_mode, self._folder_mode = modes

    @property
    def met(self) -> bool:
        """Whether the folder was made alike before, as far as there was anything to."""
        return (self._folder / _ALIKE).exists()

    def share(self, there: Mapping[str, int] | None = None) -> None:
        """Make the files alike.

        Args:
            there: the versions of the documents, where they were asked for already.

        Raises:
            SourceError: the database does not answer.
            StoreError: a file cannot be written.
        """
        before, here = self._before(), self._here()
        if self._add_to_logs(before, here) or there is None:
            there = self._database.versions(self._scope)
        there = {name: at for name, at in there.items() if self._is_ours(name)}
        wanted = [name for name, version in there.items() if before.get(name, (0, 0))[0] != version]
        gone = [name for name in before if name not in there]
        changed = {
            name: self._content(name)
            for name in {*here, *(name for name in before if name in there)} - self._logs - self._taken
            if name not in wanted and name not in gone and here.get(name) != before.get(name, (0, None))[1]
        }
        alike = {name: entry for name, entry in before.items() if name in there}
        for name in gone:
            (self._folder / name).unlink(missing_ok=True)
        for name, (version, data) in self._database.read(self._scope, wanted).items() if wanted else ():
            make_folders((self._folder / name).parent, self._folder_mode)
            write_atomically(self._folder / name, data, mode=self._file_mode)
            alike[name] = (version, self._mark(name))
        if changed:
            versions = self._database.write(self._scope, changed)
            alike = {name: entry for name, entry in alike.items() if name not in changed}
            alike |= {name: (version, here[name]) for name, version in versions.items()}
        if alike != before:
            make_folders(self._folder, self._folder_mode)
            write_atomically(self._folder / _ALIKE, json.dumps(alike).encode(), mode=self._file_mode)

    def _add_to_logs(self, before: Mapping[str, tuple[int, int]], here: dict[str, int]) -> bool:
        """Add there what was written to logs here; return whether there was any. It comes back with what others did."""
        added = False
        for name in self._logs & here.keys():
            known = before.get(name, (0, 0))[1]
            if here[name] > known:
                self._database.append(self._scope, name, (self._content(name) or b"")[known:])
                added = True
            del here[name]
        return added

    def _is_ours(self, name: str) -> bool:
        return ".." not in name and any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def _here(self) -> dict[str, int]:
        paths = (path for pattern in self._patterns for path in self._folder.glob(pattern))
        names = (path.relative_to(self._folder).as_posix() for path in paths)
        return {name: self._mark(name) for name in names}

    def _mark(self, name: str) -> int:
        """Return what changes with a file: the size of a log, when another was written."""
        status = (self._folder / name).stat()
        return status.st_size if name in self._logs else status.st_mtime_ns

    def _content(self, name: str) -> bytes | None:
        try:
            return read_ordinary(self._folder / name)
        except FileNotFoundError:
            return None

    def _before(self) -> dict[str, tuple[int, int]]:
        try:
            found = json.loads(read_ordinary(self._folder / _ALIKE))
            return {name: (int(version), int(mark)) for name, (version, mark) in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}
