"""Imported files: a tarball is read member by member into a scratch folder, exported tables are checked, then captured.

Out of a tarball come ordinary files and folders below the scratch folder only, in a limited number and size.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from backup_pipeline.archives.tarball import EntryKind, Member
from backup_pipeline.archives.tarball_reader import TarContent, read_members
from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.tree_tarball import Root, capture_tarball
from backup_pipeline.errors import RefusedError, ValidationError
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.settings.types import CollapseCheck
from backup_pipeline.sources.kind import BackupToImport
from backup_pipeline.system.files import open_ordinary, read_ordinary, sha256_of

_TARBALLS = (".tar.gz", ".tgz")
_FEWEST_TABLES = 2
_BESIDE_TABLES = (".sha256", ".md5", ".txt", ".log", ".md")
_MOST_MEMBERS = 5_000_000
_LARGEST_SUMS = 64 << 20
"""Bytes of a text that may be one of checksums: more is content."""
_FREE_AT_LEAST = 256 << 20
_SUM_LINE = re.compile(r"^([0-9a-fA-F]{64})[ \t]+\*?(?:\./)?(\S.*)$", re.MULTILINE)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_NAMES = ("file", "filename", "file_name", "path", "name", "table", "table_name")


def backup_form(path: Path) -> str | None:
    """Return "tarball" for a gzipped tarball, "tables" for a folder of exported tables; None for anything else."""
    if path.is_dir():
        return "tables" if _has_tables(path) else None
    return "tarball" if path.name.endswith(_TARBALLS) else None


def _has_tables(folder: Path) -> bool:
    """Return whether a folder holds exported tables: JSON files, and beside them only what describes them."""
    entries = [*folder.iterdir()]
    names = [entry.name for entry in entries if entry.is_file() and not entry.is_symlink()]
    others = [name for name in names if not name.endswith((".json", ".json.gz", *_BESIDE_TABLES))]
    return len(names) == len(entries) and not others and sum(".json" in name for name in names) >= _FEWEST_TABLES


def import_files(context: CaptureContext, backup: BackupToImport, root: Path) -> ArtefactRecord:
    """Capture a tarball's content, or a folder of exported tables, as a tarball with a listing; return its record.

    Args:
        context: the set.
        backup: the tarball or folder.
        root: of the source; a tarball whose one folder has its name holds what is below it.

    Raises:
        ValidationError: damaged, a member leads out of its folder, or a checksum beside the tables does not fit.
    """
    with context.writer.scratch() as scratch:
        place, unknown = backup.path, ["what was in the folder beside these files"]
        if backup.form == "tarball":
            place = scratch / "content"
            place.mkdir(mode=0o700)
            if dropped := _unpack(backup.path, place):
                unknown.append(f"{dropped} links or devices of the archive were not taken")
            inside = [*place.iterdir()]
            if len(inside) == 1 and inside[0].is_dir() and inside[0].name == root.name:
                place = inside[0]
        else:
            checked, tables = check_sums(backup.path)
            unknown = [f"checksums beside the tables fit {checked} of {tables} files"]
            unknown.append("rows are files here: they are restored as files, not into a database")
        captured = capture_tarball(
            context,
            key=(context.source, "tarball"),
            stem=f"{context.source}_files",
            roots=(Root("", place),),
            label=backup.label,
            details={"imported": {**backup.origin, "form": backup.form, "unknown": list(unknown)}},
            collapse=CollapseCheck(),
        )
    facts = {"imported": backup.form, "files": str(captured.details.get("files"))}
    record = captured.model_copy(update={"facts": facts})
    context.writer.write_record(record)
    return record


def _unpack(tarball: Path, place: Path) -> int:
    """Write the ordinary files and folders of a tarball below a folder; return how many members were dropped."""
    dropped = 0
    with open_ordinary(tarball) as file:
        for number, (member, content) in enumerate(read_members(file, tarball.name)):
            parts = PurePosixPath(member.path).parts
            if member.path.startswith("/") or ".." in parts or "\0" in member.path or number >= _MOST_MEMBERS:
                raise ValidationError(
                    "A member of the tarball leads out of its folder, or there are too many.",
                    where=tarball.name,
                    remedy="Nothing of it was imported. Find out who made it.",
                )
            if member.kind is not EntryKind.FOLDER and content is None:
                dropped += 1
                continue
            try:
                _write(place.joinpath(*parts), member, content, tarball)
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                raise ValidationError(
                    "Two members of the tarball stand in each other's way.",
                    where=tarball.name,
                    remedy="Nothing of it was imported. Find out who made it.",
                ) from error
            except OSError as error:
                if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                    raise
                raise ValidationError(
                    "A member of the tarball has a name that this file system cannot have.",
                    where=tarball.name,
                    remedy="Nothing of it was imported. Unpack it on the machine that made it, and import the folder.",
                ) from error
    return dropped


def _write(target: Path, member: Member, content: TarContent | None, tarball: Path) -> None:
    if content is None:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with target.open("wb") as out:
        while piece := content.read():
            out.write(piece)
            _require_room(target.parent, tarball)
    target.chmod(member.mode & 0o777 or 0o600)
    os.utime(target, ns=(member.mtime_ns, member.mtime_ns))


def _require_room(place: Path, tarball: Path) -> None:
    if shutil.disk_usage(place).free < _FREE_AT_LEAST:
        raise RefusedError(
            "Its content does not fit on this disk.", where=tarball.name, remedy="Free space, or import it elsewhere."
        )


def check_sums(folder: Path) -> tuple[int, int]:
    """Compare the files of a folder with the checksums that stand beside them; return how many have one, of how many.

    Raises:
        ValidationError: one does not fit.
    """
    known = dict(_sums(folder))
    tables = [path for path in sorted(folder.iterdir()) if ".json" in path.name and path.is_file()]
    checked = 0
    for path in tables:
        wanted = next((known[name] for name in (path.name, path.name.partition(".")[0]) if name in known), None)
        if wanted is None:
            continue
        checked += 1
        with open_ordinary(path) as file:
            _, digest = sha256_of(file)
        if digest != wanted:
            raise ValidationError(
                f"The checksum beside it does not fit {path.name}: it is damaged, or was changed.",
                where=folder.name,
                remedy="Import another one.",
            )
    return checked, len(tables)


def _sums(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and SHA-256 as texts of sums (`sha256sum`) and as metadata in JSON say them."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST_SUMS:
            continue
        if path.name.endswith((".sha256", ".txt")):
            text = read_ordinary(path).decode("utf-8", "replace")
            yield from ((name.strip(), digest.lower()) for digest, name in _SUM_LINE.findall(text))
            if (alone := _SHA256.fullmatch(text.strip())) and path.name.endswith(".sha256"):
                yield path.name.removesuffix(".sha256"), alone[0].lower()
        elif path.name.endswith(".json") and re.search("meta|manifest|checksum|summary", path.name, re.IGNORECASE):
            try:
                document = json.loads(read_ordinary(path))
            except (ValueError, RecursionError):
                continue
            yield from _in_document(document, 0)


def _in_document(value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if depth > 6:
        return
    if isinstance(value, list):
        for each in value:
            yield from _in_document(each, depth + 1)
    elif isinstance(value, dict):
        digests = [v.removeprefix("sha256:") for v in value.values() if isinstance(v, str)]
        own = [digest.lower() for digest in digests if _SHA256.fullmatch(digest)]
        named = [value[name] for name in _NAMES if isinstance(value.get(name), str) and len(value[name]) < 256]
        if len(own) == 1:
            yield from ((PurePosixPath(name).name, own[0]) for name in named)
        for name, each in value.items():
            if isinstance(each, str) and _SHA256.fullmatch(each.removeprefix("sha256:")):
                yield str(name), each.removeprefix("sha256:").lower()
            elif isinstance(each, dict):
                texts = [v.removeprefix("sha256:") for v in each.values() if isinstance(v, str)]
                inner = [digest for digest in texts if _SHA256.fullmatch(digest)]
                if len(inner) == 1:
                    yield str(name), inner[0].lower()
                yield from _in_document(each, depth + 1)
            else:
                yield from _in_document(each, depth + 1)
