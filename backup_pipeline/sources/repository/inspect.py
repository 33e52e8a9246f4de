"""Inspection of a repository's ZIP and bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.archives.tarball import shown
from backup_pipeline.archives.zipfiles import CHUNK, archive_comment, git_blob_id, read_entries, zip_name
from backup_pipeline.errors import ToolError, ValidationError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.sources.repository.git import TreeEntry
from backup_pipeline.sources.repository.git_bundle import make_repository, unbundle


def inspect_archive(
    open_file: Callable[[str], BinaryIO], record: ArtefactRecord, *, tree: list[TreeEntry] | None = None
) -> Iterator[Finding]:
    """Yield what is wrong with the ZIP: every entry's CRC, their number, the commit.

    With the commit's tree, as at capture, every entry's content is compared with the object that git names for it.
    """
    name = record.files[0].path
    wanted = None if tree is None else {zip_name(entry.path): entry for entry in tree if not entry.is_submodule}
    count = 0
    try:
        with open_file(name) as archive:
            if archive_comment(archive, name) != record.details.get("commit"):
                yield Finding(subject=name, problem="Made from another commit than the record says.")
            for info, content in read_entries(archive, name):
                count += 1
                subject = f"{name}: {shown(info.filename)}"
                if wanted is None:
                    while content.read(CHUNK):
                        pass
                elif (entry := wanted.pop(info.filename, None)) is None:
                    yield Finding(subject=subject, problem="Not in the commit.")
                elif git_blob_id(content, info.file_size, algorithm=_algorithm(entry.blob)) != entry.blob:
                    yield Finding(subject=subject, problem="Its content is not the committed one.")
    except ValidationError as error:
        yield Finding(subject=name, problem=error.what, remedy=error.remedy)
        return
    for path in wanted or {}:
        yield Finding(subject=f"{name}: {shown(path)}", problem="Missing in the archive.")
    if count != record.details.get("files"):
        yield Finding(subject=name, problem=f"{count} files where the record says {record.details.get('files')}.")


def _algorithm(object_id: str) -> str:
    return "sha256" if len(object_id) == 64 else "sha1"


def written_name(ref: str) -> str:
    """Return a reference's name as a record has it: bytes that are not UTF-8 as `\\xff`."""
    return ref.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def inspect_bundle(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with the bundle: its objects are unpacked into an empty repository, its history walked."""
    name = record.files[0].path
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        try:
            refs = open_bundle(open_file, record, Path(folder) / "repository", bare=True)
        except (ValidationError, ToolError) as error:
            yield Finding(subject=name, problem=error.what, remedy=error.remedy)
            return
    recorded = record.details.get("refs")
    wanted = dict(recorded) if isinstance(recorded, dict) else {}
    if refs.pop("HEAD", "") != record.details.get("commit"):
        yield Finding(subject=name, problem="HEAD is another commit than the record says.")
    refs = {written_name(ref): target for ref, target in refs.items()}
    for ref in sorted(wanted.keys() | refs.keys()):
        if wanted.get(ref) != refs.get(ref):
            yield Finding(
                subject=f"{name}: {ref}", problem=f"At {refs.get(ref)} where the record says {wanted.get(ref)}."
            )


def open_bundle(
    open_file: Callable[[str], BinaryIO], record: ArtefactRecord, folder: Path, *, bare: bool, whole: bool = True
) -> dict[str, str]:
    """Make a repository at `folder` with all objects of the bundle; return the bundle's references.

    Args:
        open_file: opens a file of the set.
        record: the bundle's.
        folder: the repository; made here.
        bare: whether it has no working tree.
        whole: whether every object of the history must be there; not needed where single files are read.

    Raises:
        ValidationError: the bundle is damaged or incomplete.
    """
    shallow = record.details.get("shallow")
    make_repository(
        folder,
        bare=bare,
        shallow=map(str, shallow) if isinstance(shallow, list) else (),
        object_format=str(record.details.get("object_format", "sha1")),
    )
    copy = folder.with_name(folder.name + ".bundle")
    try:
        with open_file(record.files[0].path) as bundle, copy.open("wb") as out:
            while piece := bundle.read(CHUNK):
                out.write(piece)
        return unbundle(folder, copy, whole=whole)
    finally:
        copy.unlink(missing_ok=True)
