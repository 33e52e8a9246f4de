"""Checks of a captured repository."""

from __future__ import annotations

from collections.abc import Sequence

from backup_pipeline.archives.tarball import shown
from backup_pipeline.artefacts.tree_tarball import NAMED_AT_MOST
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import CheckResult, Severity
from backup_pipeline.sources.repository.git import TreeEntry, is_environment_file
from backup_pipeline.sources.repository.git_refs import References


def outcome(name: str, problems: tuple[Finding, ...], well: str) -> CheckResult:
    """Return a check that passes where nothing was found; `well` is then its summary."""
    return CheckResult(
        name=name,
        passed=not problems,
        summary=problems[0].problem if problems else well,
        table=tuple({"file": each.subject, "problem": each.problem} for each in problems[:NAMED_AT_MOST]),
    )


def archive_checks(tree: list[TreeEntry], pointers: list[str]) -> tuple[CheckResult, ...]:
    """Return what the files of HEAD show: tracked secrets, submodules, Git LFS pointers."""
    secrets = [entry.path for entry in tree if is_environment_file(entry.path)]
    submodules = [entry.path for entry in tree if entry.is_submodule]
    return (
        _paths("no_secrets_tracked", secrets, "{} .env files are tracked by git: their secrets are in the history."),
        _paths("no_submodules", submodules, "{} submodules are not captured; make each a source of its own."),
        _paths("no_lfs_pointers", pointers, "{} files are Git LFS pointers: their content is not in the repository."),
    )


def repository_checks(
    refs: References, uncommitted: list[str], ignored: list[str], shallow: list[str]
) -> tuple[CheckResult, ...]:
    """Return what references and working tree show; each is a warning."""
    committed = _paths("everything_committed", uncommitted, "{} paths differ from HEAD or are untracked: not captured.")
    if ignored:
        text = f"{'' if uncommitted else 'Everything is committed. '}{len(ignored)} ignored paths are not captured."
        summary = f"{committed.summary} {text}" if uncommitted else text
        committed = committed.model_copy(update={"summary": summary})
    committed = committed.model_copy(update={"numbers": {**committed.numbers, "ignored": len(ignored)}})
    return (
        committed,
        _paths("history_complete", shallow, "A shallow clone, cut at {} commits; `git fetch --unshallow`."),
        _head(refs),
        _worktrees(refs),
        _paths("all_refs_readable", refs.ignored, "{} references are broken or name one that is gone: not captured."),
    )


def _head(refs: References) -> CheckResult:
    gone = f"HEAD names {shown(refs.head_ref or '')}, which does not exist: there is no ZIP. "
    return CheckResult(
        name="head_exists",
        passed=refs.head is not None,
        severity=Severity.WARN,
        summary=f"{gone}All {len(refs.refs)} references are in the bundle." if refs.head is None else "",
    )


def _worktrees(refs: References) -> CheckResult:
    reported = []
    if refs.linked:
        reported.append("This is a linked worktree; it is restored as a repository of its own.")
    if refs.worktrees:
        reported.append(
            f"{len(refs.worktrees)} other worktrees share this repository: their branches and commits are captured "
            "(a detached HEAD under refs/backup/), what is not committed in them is not."
        )
    return CheckResult(
        name="one_worktree",
        passed=not reported,
        severity=Severity.WARN,
        summary=" ".join(reported) or "None but this one.",
        table=tuple({"path": shown(path)} for path in refs.worktrees[:NAMED_AT_MOST]),
        numbers={"count": len(refs.worktrees)},
    )


def volume_check(files: object, skipped: int) -> CheckResult:
    """Return the check on a Docker volume: it holds files, and nothing but files and folders."""
    reported = [] if files else ["The volume is empty."]
    if skipped:
        reported.append(f"{skipped} links, sockets or devices are not captured.")
    return CheckResult(
        name="volume_captured_whole",
        passed=not reported,
        severity=Severity.WARN,
        summary=" ".join(reported) or f"{files} files.",
        numbers={"left_out": skipped},
    )


def _paths(name: str, paths: Sequence[str], summary: str) -> CheckResult:
    return CheckResult(
        name=name,
        passed=not paths,
        severity=Severity.WARN,
        summary=summary.format(len(paths)) if paths else "None.",
        table=tuple({"path": shown(path)} for path in paths[:NAMED_AT_MOST]),
        numbers={"count": len(paths)},
    )
