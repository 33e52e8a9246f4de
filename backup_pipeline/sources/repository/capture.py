"""Git repositories: a ZIP of HEAD, a bundle of all history, and `.env` and volumes only when asked for.

Writes `<source>_repo_YYYY-MM-DD_HHMM_<commit>.zip` (the set's time in the site's zone, seven digits of the
commit; `file_name` is the pattern),
`<source>_repo.bundle`, and where asked for `<source>_extras.tar.gz` with its listing (`env/.env`, `volumes/<name>/…`).

The bundle holds every reference by its full name, all stashes, and what linked worktrees hold apart
(`sources.repository.git_refs`). Where HEAD names a branch that does not exist there is no ZIP, and a warning.

Not captured: untracked files, uncommitted changes (counted, and a warning), ignored files (counted), content of
submodules and of Git LFS (both warned of), the repository's own configuration and hooks, logs of references other than
the stashes'. A tracked `.env` is part of HEAD and of the history, so it stays in both, with a warning that secrets are
committed. How git is called safely is `sources.repository.git`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.archives.tarball import shown
from backup_pipeline.archives.zipfiles import ZipWriter
from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.artefacts.tree_tarball import NAMED_AT_MOST, Root, capture_tarball, inspect_tarball
from backup_pipeline.errors import SourceError, ToolError
from backup_pipeline.model.base import JsonValue
from backup_pipeline.model.file_name import name_from
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, FileRecord, ToolRecord
from backup_pipeline.sources.repository.checks import archive_checks, outcome, repository_checks, volume_check
from backup_pipeline.sources.repository.git import Commit, Repository, TreeEntry, is_lfs_pointer
from backup_pipeline.sources.repository.git_bundle import bundle_header
from backup_pipeline.sources.repository.git_refs import References, read_references
from backup_pipeline.sources.repository.inspect import inspect_archive, inspect_bundle, written_name
from backup_pipeline.sources.repository.settings import RepositorySource
from backup_pipeline.system.docker import copy_volume, require_volumes
from backup_pipeline.system.processes import last_lines

_LINK_MODE = 0o120777


@dataclass(frozen=True)
class RepositoryState:
    """The state of the repository when the capture began.

    Attributes:
        refs: every reference; archive and bundle are made from these, whatever is committed meanwhile.
        head: the commit that HEAD is at; None where its branch does not exist.
        tree: the files of that commit.
        uncommitted: paths that differ from it or are untracked.
        ignored: paths that `.gitignore` hides.
        shallow: commits at which the history is cut.
    """

    refs: References
    head: Commit | None
    tree: list[TreeEntry]
    uncommitted: list[str]
    ignored: list[str]
    shallow: list[str]


def capture_repository(context: CaptureContext, settings: RepositorySource) -> Iterator[ArtefactRecord]:
    """Capture a repository; yields records with keys (source, "archive"), (source, "bundle") and (source, "extras").

    Raises:
        SourceError: not a repository, no commit yet, objects that a partial clone never fetched, or an asked-for `.env`
            or volume is missing.
        ToolError: Docker's client cannot read a named volume; git is missing or cannot read the repository.
    """
    repository = Repository(settings.path)
    extras = _extras(settings)
    require_volumes(settings.captured_docker_volumes)
    state = _read_state(repository)
    if state.head is not None:
        yield _capture_archive(context, settings, repository, state, state.head)
    yield _capture_bundle(context, settings, repository, state)
    if extras:
        volumes: dict[str, JsonValue] = {
            name: str(path) for name, path in volume_names(settings.captured_volumes).items()
        }
        yield capture_tarball(
            context,
            key=(context.source, "extras"),
            stem=f"{context.source}_extras",
            roots=extras,
            label=str(settings.path),
            details={"env": settings.include_env, "volumes": volumes},
            collapse=settings.collapse,
        )
    for name in settings.captured_docker_volumes:
        yield _capture_docker_volume(context, settings, name)


def _capture_docker_volume(context: CaptureContext, settings: RepositorySource, name: str) -> ArtefactRecord:
    with context.writer.scratch() as folder:
        place = folder / "volume"
        place.mkdir(mode=0o700)
        skipped = copy_volume(name, place)
        record = capture_tarball(
            context,
            key=(context.source, f"volume_{name}"),
            stem=f"{context.source}_volume_{name}",
            roots=(Root("", place),),
            label=f"docker volume {name}",
            details={"docker_volume": name, "left_out": skipped},
            collapse=settings.collapse,
        )
    record = record.model_copy(update={"checks": (*record.checks, volume_check(record.details.get("files"), skipped))})
    context.writer.write_record(record)
    return record


def _read_state(repository: Repository) -> RepositoryState:
    where = str(repository.path)
    refs = read_references(repository)
    if not refs.bundled:
        raise SourceError("The repository has no commit yet.", where=where, remedy="Commit something, then run again.")
    if repository.partial and (missing := repository.missing_objects(refs.bundled.values())):
        raise SourceError(
            f"A partial clone: {missing} objects of its history were never fetched, so it cannot be backed up whole.",
            where=where,
            remedy="Fetch them once: `git fetch --refetch --no-filter` for each remote; or set `path` to a full clone.",
        )
    head = repository.commit(refs.head) if refs.head else None
    uncommitted, ignored = repository.uncommitted()
    tree = repository.tree(refs.head) if refs.head else []
    return RepositoryState(refs, head, tree, uncommitted, ignored, repository.shallow())


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
    roots += [Root(f"volumes/{name}", path) for name, path in volume_names(settings.captured_volumes).items()]
    missing = [root.place for root in roots if not (root.place.is_dir() or root.place.is_file())]
    if missing:
        raise SourceError(
            f"Asked for, but missing: {', '.join(map(str, missing))}.",
            where=str(settings.path),
            remedy="Correct `include_env` and `volumes`, or mount what is missing.",
        )
    return tuple(roots)


def _capture_archive(
    context: CaptureContext, settings: RepositorySource, repository: Repository, state: RepositoryState, head: Commit
) -> ArtefactRecord:
    started_at = context.now()
    writer = context.writer
    branch = _branch(state.refs) or "detached"
    path = name_from(settings.file_name, context.moment, source=context.source, commit=head.commit[:7], branch=branch)
    pointers = []
    total = 0
    files = [entry for entry in state.tree if not entry.is_submodule]
    changes = repository.last_changes(head.commit, (entry.path for entry in files))
    with (
        writer.create(path) as file,
        repository.blobs() as blobs,
        ZipWriter(file, comment=head.commit) as archive,
    ):
        for number, entry in enumerate(files, 1):
            size, pieces = blobs.stream(entry.blob)
            total += size
            mode = _LINK_MODE if entry.is_link else int(entry.mode, 8)
            start = archive.add(entry.path, mode, size, pieces, changed=changes.get(entry.path))
            if is_lfs_pointer(start):
                pointers.append(entry.path)
            if number % 200 == 0:
                context.progress(Progress(f"{context.source} archive", number, len(files), "files"))
    context.progress(Progress(f"{context.source} archive", len(files), len(files), "files", finished=True))
    record = _record(context, settings, repository, "archive", writer.file_record(path, file), started_at)
    details = {**_commit_details(repository, state, head), **_state_details(state), "bytes": total}
    record = record.model_copy(update={"details": details})
    problems = tuple(inspect_archive(writer.open, record, tree=state.tree))
    checks = (
        outcome("archive_complete", problems, f"{len(files)} files equal the tree of HEAD."),
        *archive_checks(state.tree, pointers),
        *repository_checks(state.refs, state.uncommitted, state.ignored, state.shallow),
    )
    record = record.model_copy(update={"checks": checks, "finished_at": context.now()})
    writer.write_record(record)
    return record


def _capture_bundle(
    context: CaptureContext, settings: RepositorySource, repository: Repository, state: RepositoryState
) -> ArtefactRecord:
    started_at = context.now()
    writer = context.writer
    path = f"{context.source}_repo.bundle"
    refs = state.refs.bundled
    with writer.create(path) as file:
        file.write(bundle_header(refs, repository.object_format))
        with repository.pack(refs.values()) as process:
            while piece := process.stdout.read(1 << 20):
                file.write(piece)
                context.progress(Progress(f"{context.source} bundle", file.size))
            code, messages = process.finish()
        if code:
            missing = repository.missing_objects(refs.values())
            damage = f" {missing} objects of its history are missing: the repository is damaged." if missing else ""
            raise ToolError(
                f"git pack-objects failed: {last_lines(messages)}.{damage}",
                where=str(settings.path),
                remedy="`git fsck --full` names what is missing; `git fetch --refetch` brings it back from a remote.",
            )
    context.progress(Progress(f"{context.source} bundle", file.size, finished=True))
    record = _record(context, settings, repository, "bundle", writer.file_record(path, file), started_at)
    record = record.model_copy(update={"details": _bundle_details(repository, state), "facts": _facts(settings, state)})
    problems = tuple(inspect_bundle(writer.open, record))
    checks = [outcome("bundle_verified", problems, f"{len(refs)} references and every object behind them.")]
    if state.head is None:
        # There is no archive that could carry them.
        checks += repository_checks(state.refs, state.uncommitted, state.ignored, state.shallow)
    record = record.model_copy(update={"checks": tuple(checks), "finished_at": context.now()})
    writer.write_record(record)
    return record


def _bundle_details(repository: Repository, state: RepositoryState) -> dict[str, JsonValue]:
    refs = state.refs
    utf8 = {name: target for name, target in refs.symbolic.items() if written_name(name + target) == name + target}
    return {
        "commit": refs.head or "",
        "branch": _branch(refs),
        "head_ref": written_name(refs.head_ref) if refs.head_ref else None,
        "refs": {written_name(name): target for name, target in refs.bundled.items() if name != "HEAD"},
        "symbolic": dict(utf8),
        "kept": {written_name(name): target for name, target in refs.kept.items()},
        "stashes": [
            {
                "ref": stash.ref,
                "commit": stash.commit,
                "message": stash.message,
                "name": stash.name,
                "email": stash.email,
                "date": stash.date,
            }
            for stash in refs.stashes
        ],
        "object_format": repository.object_format,
        "bare": repository.bare,
        "shallow": list(state.shallow),
        "remotes": dict(repository.remotes()),
        "commit_count": repository.commit_count(state.refs.bundled.values()),
        **({} if state.head else _state_details(state)),
    }


def _facts(settings: RepositorySource, state: RepositoryState) -> dict[str, str]:
    return {
        "branch": _branch(state.refs) or "detached",
        "commit": state.head.commit[:7] if state.head else "none",
        "env": "yes" if settings.include_env else "no",
        "volumes": "yes" if settings.captured_volumes or settings.captured_docker_volumes else "no",
    }


def _branch(refs: References) -> str | None:
    return written_name(refs.branch) if refs.branch else None


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


def _commit_details(repository: Repository, state: RepositoryState, head: Commit) -> dict[str, JsonValue]:
    return {
        "branch": _branch(state.refs),
        "commit": head.commit,
        "message": head.message,
        "author": head.author,
        "date": head.authored_at.isoformat() if head.authored_at else None,
        **({} if head.authored_at else {"date_unreadable": head.raw_date}),
        "remotes": dict(repository.remotes()),
        "commit_count": repository.commit_count(state.refs.bundled.values()),
        "files": sum(not entry.is_submodule for entry in state.tree),
        "tags": [written_name(tag) for tag in state.refs.tags],
        "submodules": [shown(entry.path) for entry in state.tree if entry.is_submodule],
        "bare": repository.bare,
        "shallow": bool(state.shallow),
    }


def _state_details(state: RepositoryState) -> dict[str, JsonValue]:
    def counted(paths: list[str]) -> JsonValue:
        return {"count": len(paths), "paths": [shown(path) for path in paths[:NAMED_AT_MOST]]}

    return {"uncommitted": counted(state.uncommitted), "ignored": counted(state.ignored)}


def inspect_repository(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with a ZIP, bundle or extras of a repository."""
    if record.kind is ArtefactKind.REPOSITORY_ARCHIVE:
        yield from inspect_archive(open_file, record)
    elif record.kind is ArtefactKind.REPOSITORY_BUNDLE:
        yield from inspect_bundle(open_file, record)
    else:
        yield from inspect_tarball(open_file, record)
