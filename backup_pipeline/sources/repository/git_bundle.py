"""Git bundles: reading one, and making a repository of it again. Works in folders of our own making."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backup_pipeline.errors import ToolError, ValidationError
from backup_pipeline.sources.repository.git import git_environment
from backup_pipeline.system.processes import Finished, Running, find_program, last_lines, run, running

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
_CHUNK = 1 << 18
_OBJECT_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


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


def unbundle(folder: Path, bundle: Path, *, whole: bool = True) -> dict[str, str]:
    """Bring a bundle's objects into a repository and return its references (with HEAD); every object is checked.

    Args:
        folder: the repository.
        bundle: the file.
        whole: whether the history is walked, so that no object of it is missing.

    Raises:
        ValidationError: the bundle is damaged, needs commits that it does not hold, or lacks objects of its history.
    """
    verify = [("bundle", "verify", "--quiet", str(bundle))] if whole else []
    for arguments in (*verify, ("bundle", "unbundle", str(bundle))):
        done = _git(folder, *arguments, check=False)
        if done.exit_code:
            raise ValidationError(f"git {' '.join(arguments[:2])}: {last_lines(done.stderr)}.", where=bundle.name)
    refs = {}
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        target, _, name = line.partition(" ")
        refs[name] = target
    if not whole:
        return refs
    tips = "\n".join(refs.values()).encode() + b"\n"
    done = _git(folder, "rev-list", "--objects", "--quiet", "--stdin", stdin=tips, check=False)
    if done.exit_code:
        raise ValidationError(f"Objects are missing: {last_lines(done.stderr)}.", where=bundle.name)
    return refs


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One entry of a commit's tree: the mode as git writes it, the size of a file, the path, and the object's id."""

    mode: str
    size: int
    path: str
    object_id: str


def tree_lines(folder: Path, target: str) -> Iterator[TreeLine]:
    """Yield the entries of the tree of a commit or tag as they are read, so that a tree without an end can be left.

    What has no tree (a tag of a single file) yields nothing.
    """
    arguments = ("ls-tree", "-r", "-z", "-l", "--full-tree", f"{_object_id(target)}^{{tree}}")
    with _git_running(folder, *arguments) as git:
        rest = b""
        while piece := git.stdout.read(_CHUNK):
            *lines, rest = (rest + piece).split(b"\0")
            if len(rest) > MAXIMUM_LINE:
                raise ValidationError("A path in the bundle is too long.", where=str(folder))
            for line in lines:
                what, _, path = line.partition(b"\t")
                mode, _, object_id, size = what.decode("ascii").split()
                name = path.decode("utf-8", "surrogateescape")
                yield TreeLine(mode, int(size) if size.isdigit() else 0, name, object_id)


def file_pieces(folder: Path, target: str, path: str) -> Iterator[bytes] | None:
    """Return the content of a file in the tree of a commit or tag, in pieces; None where there is no such file."""
    found = _git(folder, "rev-parse", "--verify", "--quiet", f"{_object_id(target)}^{{commit}}:{path}", check=False)
    blob = found.stdout.decode("ascii").strip()
    if found.exit_code or _git(folder, "cat-file", "-t", blob, check=False).stdout.strip() != b"blob":
        return None

    def pieces() -> Iterator[bytes]:
        with _git_running(folder, "cat-file", "blob", blob) as git:
            while piece := git.stdout.read(_CHUNK):
                yield piece
            code, messages = git.finish()
            if code:
                raise ValidationError(f"git cat-file: {last_lines(messages)}.", where=str(folder))

    return pieces()


def _object_id(target: str) -> str:
    if not _OBJECT_ID.fullmatch(target):
        raise ValidationError("A reference of the bundle is no object's id.", where=target[:80])
    return target


def _git_running(folder: Path, *arguments: str) -> AbstractContextManager[Running]:
    git = find_program("git", remedy="Install git.")
    return running([git, "-C", folder, "--no-pager", *arguments], env=git_environment(_SETTINGS))


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
