"""Folders (storage buckets): one tarball with a listing of every file's size, time and SHA-256.

Writes `<source>_buckets.tar.gz` and `<source>_buckets.listing.jsonl.gz`. The listing is a file of the set of its own,
not part of the record, because it must hold for 100,000s of files; the record has the counts and the listing's name.

Extended attributes (`user.*`, file capabilities), POSIX ACLs, special mode bits, numbers of owner and group, and holes
are captured with each file. What is not captured: symbolic links, sockets, pipes and devices (each in the listing, and
a warning), hard links as such (each is a file of its own), owners' names, other namespaces of attributes (a warning).
Not decided here: the form of a tarball (`archives.tarball`).

A file that changes while it is read is read again; when it never stands still it stays in the tarball as it was last
read, its line says `changed`, and the check `folder_stable` fails as a warning: one upload in progress must not cost
the night's whole backup. A file that vanishes before it is read is named by the same check.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.tree_tarball import Root, capture_tarball, inspect_tarball, nothing_inside
from backup_pipeline.errors import SourceError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.sources.folder.settings import FolderSource


def capture_folder(context: CaptureContext, settings: FolderSource) -> Iterator[ArtefactRecord]:
    """Capture the tree, or the named buckets of it; yields one record, key (source, "tarball").

    Raises:
        SourceError: the root or a bucket is missing, empty or no folder (all are named at once, nothing is written),
            or a file cannot be read.
    """
    roots = folder_roots(settings)
    yield capture_tarball(
        context,
        key=(context.source, "tarball"),
        stem=f"{context.source}_buckets",
        roots=roots,
        label=str(settings.path),
        details={"root": str(settings.path), "buckets": list(settings.buckets)},
        collapse=settings.collapse,
    )


def folder_roots(settings: FolderSource) -> tuple[Root, ...]:
    """Return what is to be captured, by path; SourceError naming everything that is missing or empty."""
    root = settings.path
    faults = [] if root.is_dir() else [(root, "is missing" if not root.exists() else "is not a folder")]
    roots = [Root("", root)]
    if settings.buckets and not faults:
        roots = []
        for name in sorted(set(settings.buckets)):
            pure = PurePosixPath(name)
            place = root / name
            if pure.is_absolute() or ".." in pure.parts or not pure.parts:
                faults.append((place, "is outside the root"))
            elif not place.is_dir():
                faults.append((place, "is missing" if not place.exists() else "is not a folder"))
            elif not any(pure.is_relative_to(known.prefix) for known in roots):
                roots.append(Root(pure.as_posix(), place))
    unreadable = [(each.place, "cannot be read") for each in roots if not _readable(each.place)] if not faults else []
    faults += unreadable
    if not faults and not settings.allow_empty and nothing_inside(roots):
        faults = [(each.place, "holds no file") for each in roots]
    if faults:
        raise SourceError(
            "; ".join(f"{place} {fault}" for place, fault in faults) + ".",
            where=str(root),
            remedy="Mount or create it, correct `path` and `buckets`, or set `allow_empty: true` if empty is right.",
        )
    return tuple(roots)


def _readable(place: Path) -> bool:
    return os.access(place, os.R_OK | os.X_OK)


def inspect_folder(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with the tarball: every member is read and compared with the listing."""
    yield from inspect_tarball(open_file, record)
