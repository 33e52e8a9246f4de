"""Git bundles: reading one, and making a repository of it again. Works in folders of our own making."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import ToolError, ValidationError
from backup_pipeline.sources.repository.git import git_environment
from backup_pipeline.system.processes import Finished, find_program, last_lines, run

_SETTINGS = {
    "safe.directory": "*",
    "core.hooksPath": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.protectNTFS": "true",
    "core.protectHFS": "true",
    "protocol.allow": "never",
    "transfer.fsckObjects": "false",
    "gc.auto": "0",
    "advice.detachedHead": "false",
    "init.defaultBranch": "main",
}

MAXIMUM_LINE = 1 << 16


def _git(
    folder: Path,
    *arguments: str,
    stdin: bytes | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> Finished:
    git = find_program("git", remedy="Install git.")
    env = {**git_environment(_SETTINGS), **(env or {})}
    done = run([git, "-C", folder, "--no-pager", *arguments], env=env, stdin=stdin, check=False)
    if check and done.exit_code:
        raise ToolError(f"git {arguments[0]} failed: {last_lines(done.stderr)}.", where=str(folder))
    return done


def bundle_header(refs: Mapping[str, str], object_format: str) -> bytes:
    """Return what stands before the pack in a bundle that needs nothing else; HEAD is to be the first of `refs`.

    Source: https://git-scm.com/docs/gitformat-bundle. Version 3 only where another hash than SHA-1 asks for it.
    """
    first = "# v2 git bundle\n" if object_format == "sha1" else f"# v3 git bundle\n@object-format={object_format}\n"
    lines = "".join(f"{target} {name}\n" for name, target in refs.items())
    return f"{first}{lines}\n".encode("utf-8", "surrogateescape")


def bundle_heads(bundle: BinaryIO, name: str) -> dict[str, str]:
    """Return the references that a bundle's header names, HEAD included.

    Source: https://git-scm.com/docs/gitformat-bundle. ValidationError when it is no bundle or needs other commits.
    """
    refs = {}
    line = bundle.readline(MAXIMUM_LINE)
    if not line.startswith(b"# v"):
        raise ValidationError("Not a git bundle.", where=name, remedy="Use another set.")
    while (line := bundle.readline(MAXIMUM_LINE)) not in (b"\n", b""):
        if line.startswith(b"-"):
            raise ValidationError("The bundle needs commits that it does not hold.", where=name)
        if not line.startswith(b"@"):
            target, _, ref = line.decode("utf-8", "surrogateescape").rstrip("\n").partition(" ")
            refs[ref] = target
    return refs


def make_repository(folder: Path, *, bare: bool, shallow: Iterable[str] = (), object_format: str = "sha1") -> None:
    """Make an empty repository without hooks; `shallow` are the commits whose parents will be absent."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    hashing = [f"--object-format={object_format}"] if object_format != "sha1" else []
    _git(folder, "init", "--quiet", "--template=", *hashing, *(["--bare"] if bare else []), ".")
    if cut := list(shallow):
        (folder / ("shallow" if bare else ".git/shallow")).write_text("\n".join(cut) + "\n")


def unbundle(folder: Path, bundle: Path) -> dict[str, str]:
    """Bring a bundle's objects into a repository and return its references (with HEAD); every object is checked.

    Raises:
        ValidationError: the bundle is damaged, needs commits that it does not hold, or lacks objects of its history.
    """
    for arguments in (("bundle", "verify", "--quiet", str(bundle)), ("bundle", "unbundle", str(bundle))):
        done = _git(folder, *arguments, check=False)
        if done.exit_code:
            raise ValidationError(f"git {' '.join(arguments[:2])}: {last_lines(done.stderr)}.", where=bundle.name)
    refs = {}
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        target, _, name = line.partition(" ")
        refs[name] = target
    tips = "\n".join(refs.values()).encode() + b"\n"
    done = _git(folder, "rev-list", "--objects", "--quiet", "--stdin", stdin=tips, check=False)
    if done.exit_code:
        raise ValidationError(f"Objects are missing: {last_lines(done.stderr)}.", where=bundle.name)
    return refs


def set_refs(
    folder: Path, refs: Mapping[str, str], *, head_ref: str | None, symbolic: Mapping[str, str] | None = None
) -> None:
    """Give a repository its references and set HEAD to `head_ref`, or detached where it is None.

    Args:
        folder: the repository.
        refs: full name → object id; `HEAD` among them is where a detached HEAD is put.
        head_ref: full name of the branch that HEAD names; it need not exist.
        symbolic: references that name another one → its full name.
    """
    symbolic = symbolic or {}
    lines = [f"create {name}\0{target}\0" for name, target in refs.items() if name not in ("HEAD", *symbolic)]
    if lines:
        _git(folder, "update-ref", "--stdin", "-z", stdin="".join(lines).encode("utf-8", "surrogateescape"))
    for name, target in symbolic.items():
        _git(folder, "symbolic-ref", name, target)
    if head_ref:
        _git(folder, "symbolic-ref", "HEAD", head_ref)
    elif head := refs.get("HEAD"):
        _git(folder, "update-ref", "--no-deref", "HEAD", head)


def push_stash(folder: Path, commit: str, *, message: str, name: str, email: str, date: str) -> None:
    """Make a commit the newest stash, with the entry of the log that it had. `date` is `<seconds> <zone>`."""
    who = {"GIT_COMMITTER_NAME": name or "unknown", "GIT_COMMITTER_EMAIL": email}
    when = {"GIT_COMMITTER_DATE": f"@{date}"} if date else {}
    _git(folder, "update-ref", "--create-reflog", "-m", message or "stash", "refs/stash", commit, env={**who, **when})


def set_remotes(folder: Path, remotes: Mapping[str, str]) -> None:
    """Give a repository its remotes; nothing is fetched."""
    for name, url in remotes.items():
        _git(folder, "config", f"remote.{name}.url", url)
        _git(folder, "config", f"remote.{name}.fetch", f"+refs/heads/*:refs/remotes/{name}/*")


def check_out(folder: Path) -> None:
    """Write the files of HEAD into the working tree. No filter is configured here, so none runs."""
    _git(folder, "reset", "--quiet", "--hard", "HEAD", "--")


def head_commit(folder: Path) -> str:
    """Return the commit that HEAD is at; "" where its branch does not exist."""
    return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False).stdout.decode().strip()
