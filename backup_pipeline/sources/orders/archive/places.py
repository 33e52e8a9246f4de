"""Which folder of an archive an order's row means: what the disk holds decides between those that it can mean.

The folder in which the order's own file lies; else the first that is there; else the one that the path says. An order
whose folder was moved by hand is found below the folders of the archive's first level. Nothing is written here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.orders.archive.folder import ArchiveTree, read_file
from backup_pipeline.sources.orders.format.order import DATA_NAME, FILE_PATH, META_NAME, OrderRow
from backup_pipeline.sources.orders.format.place import Ground, Places, places_of, plain_folder, year_of
from backup_pipeline.sources.orders.format.text import parse_data, parse_meta


def ground_of(archive: Path, database: Path | None) -> Ground:
    """Return where an archive and the folder of its database lie, as they are named and with links followed."""
    folder = None if database is None else str(database.resolve())
    return Ground((str(archive.absolute()), str(archive.resolve())), folder)


class OrderPlaces:
    """Finds the folders of an archive's orders.

    Args:
        tree: the archive; stays open as long as this is used.
        database: folder of the database file; None where it is no file or not known.
    """

    def __init__(self, tree: ArchiveTree, database: Path | None) -> None:
        self._tree = tree
        self._ground = ground_of(tree.path, database)
        self._tops: list[str] | None = None

    def folder(self, row: OrderRow) -> str:
        """Return the order's folder, relative to the archive; it need not be there yet.

        Raises:
            ValidationError: the row names none that the archive can have; the text names the column.
        """
        if (plain := plain_folder(row, self._ground)) is not None:
            return plain
        places = places_of(row, year_of(row), self._ground)
        if places.certain:
            return places.default
        return self._selected(places)

    def _selected(self, places: Places) -> str:
        for folder in places.folders:
            if self._is_there(folder, places.file):
                return folder
        if not places.default:
            raise ValidationError(places.refused)
        if places.from_year and not self._is_there(places.first):
            return places.from_year
        likely = places.folders if not places.from_year else places.folders[:1]
        return next((folder for folder in likely if self._is_there(folder)), places.default)

    def _is_there(self, folder: str, file: str = "") -> bool:
        try:
            above, name = self._tree.parent(folder, create=False)
            os.stat(f"{name}/{file}" if file else name, dir_fd=above, follow_symlinks=False)
        except (OSError, ValidationError):
            return False
        return True

    def holds_file(self, folder: str, row: OrderRow) -> bool | None:
        """Return whether the order's own file lies in a folder; None where its row names no file."""
        file = file_of(row)
        return self._is_there(folder, file) if file else None

    def misplaced(self, path: str, row: OrderRow) -> str:
        """Return the folder with the order's own file where that is another than its pair's; "" where it is not.

        The disk is asked only where the row's path says something else than the pair's folder.
        """
        named = row[FILE_PATH]
        if not isinstance(named, str) or not named or named.startswith(f"{path}/"):
            return ""
        try:
            folder = self.folder(row)
        except ValidationError:
            return ""
        elsewhere = folder != path and self.holds_file(folder, row)
        return folder if elsewhere and not self.holds_file(path, row) else ""

    def is_there(self, folder: str) -> bool:
        """Return whether there is such a folder."""
        return self._is_there(folder)

    def moved_to(self, folder: str, record_id: int, row: OrderRow | None = None) -> str | None:
        """Return where the folder of an order was moved to within the archive's first level; None when nowhere.

        Args:
            folder: where it was; nothing is there any more.
            record_id: the order.
            row: its row, where it is known: what lies elsewhere with another `file_path` was not moved by hand, the
                row was changed. With it an order is also known by its own file, where it has no pair yet.
        """
        name = folder.rpartition("/")[2]
        if self._tops is None:
            self._tops = self._first_level()
        for top in self._tops:
            there = f"{top}/{name}"
            if there != folder and self._is_order(there, record_id, row):
                return there
        return None

    def _is_order(self, folder: str, record_id: int, row: OrderRow | None) -> bool:
        if not self._is_there(folder):
            return False
        try:
            opened, _ = self._tree.enter(folder, create=False)
        except (OSError, ValidationError):
            return False
        try:
            meta, data = read_file(META_NAME, opened), read_file(DATA_NAME, opened)
            if meta is not None and data is not None:
                same = parse_meta(meta).record_id == record_id
                return same and (row is None or parse_data(data)[1][FILE_PATH] == row[FILE_PATH])
            file = "" if row is None else file_of(row)
            return bool(file) and meta is None and data is None and _has(opened, file)
        except (OSError, ValidationError, IndexError):
            return False
        finally:
            os.close(opened)

    def _first_level(self) -> list[str]:
        with os.scandir(self._tree.path) as entries:
            return sorted(e.name for e in entries if e.name[0] != "." and e.is_dir(follow_symlinks=False))


def _has(opened: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode)
    except OSError:
        return False


def file_of(row: OrderRow) -> str:
    """Return the name of the order's own file; "" where the row names none."""
    path = row[FILE_PATH]
    if not isinstance(path, str):
        return ""
    name = path.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return name if stem and dot and suffix.isalnum() and suffix.isascii() and len(suffix) <= 5 else ""
