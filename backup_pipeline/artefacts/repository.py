"""Git repositories: a ZIP of HEAD, a bundle of all history, and `.env` and volumes only when asked for.

Writes `<source>_repo_YYYY-MM-DD_HHMM_<commit>.zip` (the set's UTC time, seven digits of the commit),
`<source>_repo.bundle`, and where asked for `<source>_extras.tar.gz` with its listing (`env/.env`, `volumes/<name>/…`).

Not captured: untracked files, uncommitted changes (counted, and a warning), content of submodules and of Git LFS (both
warned of), the repository's own configuration and hooks. A tracked `.env` is part of HEAD and of the history, so it
stays in both, with a warning that secrets are committed. How git is called safely is `tools.git`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.folder_tarball import NAMED_AT_MOST, Root, capture_tarball, inspect_tarball
from backup_pipeline.artefacts.repository_inspection import inspect_archive, inspect_bundle
from backup_pipeline.errors import SourceError, ToolError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, CheckResult, FileRecord, Severity, ToolRecord
from backup_pipeline.model.set_id import set_time
from backup_pipeline.settings.types import RepositorySource
from backup_pipeline.tools.git import Commit, Repository, TreeEntry, is_environment_file, is_lfs_pointer
from backup_pipeline.tools.git_bundle import bundle_heads
from backup_pipeline.tools.tarball import shown
from backup_pipeline.tools.zipfiles import ZipWriter

_LINK_MODE = 0o120777


@dataclass(frozen=True)
class _Seen:
    """What the repository looked like when the capture began."""

    head: Commit
    branch: str | None
    tags: list[str]
    tree: list[TreeEntry]
    uncommitted: list[str]
    shallow: list[str]


def capture_repository(context: CaptureContext, settings: RepositorySource) -> Iterator[ArtefactRecord]:
    """Capture a repository; yields records with keys (source, "archive"), (source, "bundle") and (source, "extras").

    Raises:
        SourceError: not a repository, no commit yet, or an asked-for `.env` or volume is missing.
        ToolError: git is missing or cannot read the repository.
    """
    repository = Repository(settings.path)
    extras = _extras(settings)
    head = repository.head()
    if head is None:
        raise SourceError(
            "The repository has no commit yet.", where=str(settings.path), remedy="Commit something, then run again."
        )
    seen = _Seen(
        head, repository.branch, repository.tags(), repository.tree(head.commit), repository.uncommitted(),
        repository.shallow(),
    )  # fmt: skip
    yield _capture_archive(context, settings, repository, seen)
    yield _capture_bundle(context, settings, repository, seen)
    if extras:
        volumes: dict[str, JsonValue] = {name: str(path) for name, path in volume_names(settings.volumes).items()}
        yield capture_tarball(
            context,
            key=(context.source, "extras"),
            stem=f"{context.source}_extras",
            roots=extras,
            label=str(settings.path),
            details={"env": settings.include_env, "volumes": volumes},
            collapse=settings.collapse,
        )


def volume_names(volumes: tuple[Path, ...]) -> dict[str, Path]:
    """Return the name under which each volume stands in the extras: its folder's, numbered where two are the same."""
    names: dict[str, Path] = {}
    for path in volumes:
        name, number = path.name or "root", 2
        while name in names:
            name, number = f"{path.name or 'root'}-{number}", number + 1
        names[name] = path
    return names


def _extras(settings: RepositorySource) -> tuple[Root, ...]:
    roots = []
    if settings.include_env:
        roots.append(Root("env/.env", settings.path / ".env"))
    roots += [Root(f"volumes/{name}", path) for name, path in volume_names(settings.volumes).items()]
    missing = [root.place for root in roots if not (root.place.is_dir() or root.place.is_file())]
    if missing:
        raise SourceError(
            f"Asked for, but missing: {', '.join(map(str, missing))}.",
            where=str(settings.path),
            remedy="Correct `include_env` and `volumes`, or mount what is missing.",
        )
    return tuple(roots)


def archive_name(source: str, moment: datetime, commit: str) -> str:
    """Return the ZIP's file name."""
    return f"{source}_repo_{moment:%Y-%m-%d_%H%M}_{commit[:7]}.zip"


def _capture_archive(
    context: CaptureContext, settings: RepositorySource, repository: Repository, seen: _Seen
) -> ArtefactRecord:
    started_at = context.now()
    writer = context.writer
    path = archive_name(context.source, set_time(writer.draft.set_id), seen.head.commit)
    pointers = []
    total = 0
    files = [entry for entry in seen.tree if not entry.is_submodule]
    with (
        writer.create(path) as file,
        repository.blobs() as blobs,
        ZipWriter(file, comment=seen.head.commit, moment=seen.head.authored_at) as archive,
    ):
        for number, entry in enumerate(files, 1):
            size, pieces = blobs.stream(entry.blob)
            total += size
            mode = _LINK_MODE if entry.is_link else int(entry.mode, 8)
            start = archive.add(entry.path, mode, size, pieces)
            if is_lfs_pointer(start):
                pointers.append(entry.path)
            if number % 200 == 0:
                context.progress(Progress(f"{context.source} archive", number, len(files), "files"))
    context.progress(Progress(f"{context.source} archive", len(files), len(files), "files", finished=True))
    record = _record(context, settings, repository, "archive", writer.file_record(path, file), started_at)
    record = record.model_copy(update={"details": {**_details(repository, seen), "bytes": total}})
    problems = tuple(inspect_archive(writer.open, record, tree=seen.tree))
    checks = (
        _outcome("archive_complete", problems, f"{len(files)} files equal the tree of HEAD."),
        *_warnings(seen, pointers),
    )
    record = record.model_copy(update={"checks": checks, "finished_at": context.now()})
    writer.write_record(record)
    return record


def _capture_bundle(
    context: CaptureContext, settings: RepositorySource, repository: Repository, seen: _Seen
) -> ArtefactRecord:
    started_at = context.now()
    writer = context.writer
    path = f"{context.source}_repo.bundle"
    with writer.create(path) as file:
        with repository.bundle() as process:
            while piece := process.stdout.read(1 << 20):
                file.write(piece)
                context.progress(Progress(f"{context.source} bundle", file.size))
            code, messages = process.finish()
        if code:
            lines = " | ".join(messages.strip().splitlines()[-3:])
            raise ToolError(
                f"git bundle failed: {lines}.", where=str(settings.path), remedy="Look at it with `git fsck`."
            )
    context.progress(Progress(f"{context.source} bundle", file.size, finished=True))
    record = _record(context, settings, repository, "bundle", writer.file_record(path, file), started_at)
    with writer.open(path) as written:
        # From the bundle itself: somebody may have committed since the archive was made.
        refs = bundle_heads(written, path)
    details: dict[str, JsonValue] = {
        "commit": refs.pop("HEAD", ""),
        "branch": seen.branch,
        "refs": dict(refs),
        "bare": repository.bare,
        "shallow": list(seen.shallow),
        "remotes": dict(repository.remotes()),
        "commit_count": repository.commit_count(),
    }
    record = record.model_copy(update={"details": details})
    problems = tuple(inspect_bundle(writer.open, record))
    checks = (_outcome("bundle_verified", problems, f"{len(refs)} references and every object behind them."),)
    record = record.model_copy(update={"checks": checks, "finished_at": context.now()})
    writer.write_record(record)
    return record


def _record(
    context: CaptureContext,
    settings: RepositorySource,
    repository: Repository,
    what: str,
    file: FileRecord,
    started_at: datetime,
) -> ArtefactRecord:
    kind = ArtefactKind.REPOSITORY_ARCHIVE if what == "archive" else ArtefactKind.REPOSITORY_BUNDLE
    return ArtefactRecord(
        key=(context.source, what),
        source=context.source,
        kind=kind,
        set_id=context.writer.draft.set_id,
        files=(file,),
        source_label=str(settings.path),
        tool=ToolRecord(name="git", version=repository.version),
        started_at=started_at,
        finished_at=context.now(),
    )


def _details(repository: Repository, seen: _Seen) -> dict[str, JsonValue]:
    named: list[JsonValue] = [shown(path) for path in seen.uncommitted[:NAMED_AT_MOST]]
    return {
        "branch": seen.branch,
        "commit": seen.head.commit,
        "message": seen.head.message,
        "author": seen.head.author,
        "date": seen.head.authored_at.isoformat(),
        "remotes": dict(repository.remotes()),
        "commit_count": repository.commit_count(),
        "files": sum(not entry.is_submodule for entry in seen.tree),
        "tags": list(seen.tags),
        "submodules": [shown(entry.path) for entry in seen.tree if entry.is_submodule],
        "uncommitted": {"count": len(seen.uncommitted), "paths": named},
        "bare": repository.bare,
        "shallow": bool(seen.shallow),
    }


def _outcome(name: str, problems: tuple[Finding, ...], well: str) -> CheckResult:
    return CheckResult(
        name=name,
        passed=not problems,
        summary=problems[0].problem if problems else well,
        table=tuple({"file": each.subject, "problem": each.problem} for each in problems[:NAMED_AT_MOST]),
    )


def _warnings(seen: _Seen, pointers: list[str]) -> tuple[CheckResult, ...]:
    secrets = [entry.path for entry in seen.tree if is_environment_file(entry.path)]
    submodules = [entry.path for entry in seen.tree if entry.is_submodule]
    return (
        _paths("everything_committed", seen.uncommitted, "{} paths differ from HEAD or are untracked: not captured."),
        _paths("no_secrets_tracked", secrets, "{} .env files are tracked by git: their secrets are in the history."),
        _paths("no_submodules", submodules, "{} submodules are not captured; make each a source of its own."),
        _paths("no_lfs_pointers", pointers, "{} files are Git LFS pointers: their content is not in the repository."),
        _paths("history_complete", seen.shallow, "A shallow clone, cut at {} commits; `git fetch --unshallow`."),
    )  # fmt: skip


def _paths(name: str, paths: list[str], summary: str) -> CheckResult:
    return CheckResult(
        name=name,
        passed=not paths,
        severity=Severity.WARN,
        summary=summary.format(len(paths)) if paths else "None.",
        table=tuple({"path": shown(path)} for path in paths[:NAMED_AT_MOST]),
        numbers={"count": len(paths)},
    )


def inspect_repository(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with a ZIP, bundle or extras of a repository."""
    if record.kind is ArtefactKind.REPOSITORY_ARCHIVE:
        yield from inspect_archive(open_file, record)
    elif record.kind is ArtefactKind.REPOSITORY_BUNDLE:
        yield from inspect_bundle(open_file, record)
    else:
        yield from inspect_tarball(open_file, record)
