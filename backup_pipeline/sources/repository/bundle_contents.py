"""Contents of a git bundle: the files of each branch, tag and stash, below the reference's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from backup_pipeline.artefacts.contents import Entry, no_such_file
from backup_pipeline.artefacts.types import OpenFile
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.sources.repository.git_bundle import TreeLine, bundle_heads, file_pieces, tree_lines
from backup_pipeline.sources.repository.inspect import open_bundle
from backup_pipeline.system.scratch_folders import scratch_folder

ENTRIES = 100_000
"""So many entries are listed in all; references beyond are named without their files."""
_SCRATCH = "backup-pipeline-bundle-"
_KINDS: dict[str, Literal["file", "link", "other"]] = {"100644": "file", "100755": "file", "120000": "link"}


class BundleContents:
    """The bundle of a repository: its objects are unpacked into a scratch repository, where nothing is checked out."""

    def entries(self, open_file: OpenFile, record: ArtefactRecord) -> Iterator[Entry]:
        """Yield the files of every reference: branches first, then tags and the others."""
        left = ENTRIES
        with _unpacked(open_file, record) as (folder, refs):
            for name, commit in _by_use(refs).items():
                # A branch of millions of files leaves room for the others.
                room, listed = left // 2, 0
                for line in tree_lines(folder, commit):
                    if listed == room:
                        yield Entry(f"{name}/…", "other", note="more files than are listed here: restore it beside")
                        break
                    listed += 1
                    yield _entry(name, line)
                left -= listed

    def read(self, open_file: OpenFile, record: ArtefactRecord, path: str) -> Iterator[bytes]:
        """Yield a file's content as it is in a reference."""
        name = record.files[0].path
        with open_file(name) as bundle:
            refs = _by_use(bundle_heads(bundle, name))
        found = max((ref for ref in refs if path.startswith(f"{ref}/")), key=len, default="")
        if not found:
            raise no_such_file(record, path)
        with _unpacked(open_file, record) as (folder, _):
            pieces = file_pieces(folder, refs[found], path.removeprefix(f"{found}/"))
            if pieces is None:
                raise no_such_file(record, path)
            yield from pieces


@contextmanager
def _unpacked(open_file: OpenFile, record: ArtefactRecord) -> Iterator[tuple[Path, dict[str, str]]]:
    with scratch_folder(_SCRATCH) as scratch:
        folder = scratch / "repository"
        yield folder, open_bundle(open_file, record, folder, bare=True, whole=False)


def _by_use(refs: Mapping[str, str]) -> dict[str, str]:
    """Return references by the names that they are listed under: at HEAD's commit first, then branches, then tags.

    HEAD itself only where no branch is at its commit.
    """
    order, head = ("HEAD", "refs/heads/", "refs/tags/", ""), refs.get("HEAD")
    begins = {ref: next(n for n, begin in enumerate(order) if ref.startswith(begin)) for ref in refs}
    listed = sorted(refs, key=lambda ref: (refs[ref] != head, begins[ref], ref))
    at_head = any(ref.startswith("refs/heads/") and target == head for ref, target in refs.items())
    return {ref.removeprefix("refs/"): refs[ref] for ref in listed if ref != "HEAD" or not at_head}


def _entry(ref: str, line: TreeLine) -> Entry:
    kind = _KINDS.get(line.mode, "other")
    note = "submodule, whose files are not in the bundle" if line.mode == "160000" else ""
    return Entry(f"{ref}/{line.path}", kind, line.size, note=note, mark=f"git {line.object_id}")
