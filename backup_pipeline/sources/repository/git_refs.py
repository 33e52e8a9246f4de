"""Every reference of a repository by its full name, with all stashes and what other worktrees hold apart.

Short names are never used: a tag may be called like a branch, and a branch `HEAD`. Three things are no references of
the repository itself, or not all of them, and are kept under names of our own below `refs/backup/`:

- stashes: only the newest is a reference (`refs/stash`), the older ones are entries of its log;
- a detached HEAD of another worktree, and its references of its own (`refs/bisect`, `refs/worktree`, `refs/rewritten`).

Source: https://git-scm.com/docs/git-worktree (section REFS), https://git-scm.com/docs/git-stash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.sources.repository.git import Repository

KEPT = "refs/backup/"
STASH = "refs/stash"
_OWN = ("refs/bisect", "refs/worktree", "refs/rewritten")
_IGNORED = re.compile(r"^warning: ignoring (?:broken ref|dangling symref) (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stash:
    """One stash: under which reference the bundle holds it, and the entry of the log that makes it a stash again.

    Attributes:
        ref: the reference in the bundle.
        commit: its object id.
        message: as `git stash list` shows it.
        name: who stashed.
        email: their address.
        date: seconds since 1970 and the zone, as git writes them (`1764108000 +0100`).
    """

    ref: str
    commit: str
    message: str
    name: str
    email: str
    date: str


@dataclass(frozen=True, slots=True)
class References:
    """What the references of a repository were at one moment.

    Attributes:
        head: the commit that HEAD is at; None where its branch does not exist (yet).
        head_ref: full name of the branch that HEAD names; None when HEAD is detached.
        refs: full name → object id.
        symbolic: full name → the reference that it names, as in `refs/remotes/origin/HEAD`.
        stashes: all stashes, the newest first.
        kept: names below `refs/backup/` → object id: stashes, and what other worktrees hold apart.
        worktrees: folders of the other worktrees of the same repository.
        linked: whether the captured folder is itself a linked worktree.
        ignored: references that git cannot read, or that name one which does not exist.
    """

    head: str | None
    head_ref: str | None
    refs: dict[str, str]
    symbolic: dict[str, str]
    stashes: tuple[Stash, ...]
    kept: dict[str, str]
    worktrees: tuple[str, ...]
    linked: bool
    ignored: tuple[str, ...]

    @property
    def branch(self) -> str | None:
        """The branch that is checked out, without `refs/heads/`; None when HEAD is detached."""
        return self.head_ref.removeprefix("refs/heads/") if self.head_ref else None

    @property
    def bundled(self) -> dict[str, str]:
        """Everything that a bundle is to hold: HEAD where it is at a commit, then every reference."""
        return {**({"HEAD": self.head} if self.head else {}), **self.refs, **self.kept}

    @property
    def tags(self) -> list[str]:
        """The names of all tags."""
        return [name.removeprefix("refs/tags/") for name in self.refs if name.startswith("refs/tags/")]


def read_references(repository: Repository) -> References:
    """Return every reference; SourceError and ToolError as git says."""
    refs, symbolic, ignored = _refs(repository)
    common = repository.common_folder
    kept: dict[str, str] = {}
    worktrees = []
    for name, folder in _other_worktrees(repository, common).items():
        worktrees.append(_place(folder, common))
        for ref, target in _apart(repository, folder).items():
            kept[_free(f"{KEPT}{name}/{ref}", refs, target)] = target
    stashes = []
    for number, (commit, *entry) in enumerate(_stash_log(repository) if STASH in refs else []):
        ref = STASH if number == 0 and commit == refs[STASH] else _free(f"{KEPT}stashes/{number}", refs, commit)
        if ref not in refs:
            kept[ref] = commit
        stashes.append(Stash(ref, commit, entry[3], entry[0], entry[1], entry[2]))
    return References(
        head=repository.object_id("HEAD^{commit}"),
        head_ref=repository.symbolic("HEAD"),
        refs=refs,
        symbolic=symbolic,
        stashes=tuple(stashes),
        kept=kept,
        worktrees=tuple(worktrees),
        linked=repository.git_folder.resolve() != common.resolve(),
        ignored=ignored,
    )


def _refs(
    repository: Repository, *below: str, git_folder: Path | None = None
) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Return the references, the symbolic ones among them, and those that git warns that it skips."""
    where = [f"--git-dir={git_folder}"] if git_folder else []
    form = "--format=%(refname)%00%(objectname)%00%(symref)"
    done = repository.call(*where, "for-each-ref", form, *below)
    refs, symbolic = {}, {}
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        name, target, points_at = line.split("\0")
        refs[name] = target
        if points_at:
            symbolic[name] = points_at
    return refs, symbolic, tuple(_IGNORED.findall(done.stderr))


def _other_worktrees(repository: Repository, common: Path) -> dict[str, Path]:
    """Return the folders inside `.git` of all worktrees but the captured one, by the name that they get here."""
    found = {f"worktrees/{place.name}": place for place in sorted((common / "worktrees").glob("*")) if place.is_dir()}
    found["main-worktree"] = common
    here = repository.git_folder.resolve()
    return {name: place for name, place in found.items() if place.resolve() != here}


def _place(folder: Path, common: Path) -> str:
    """Return where the working tree of a worktree is."""
    if folder == common:
        return str(common.parent if common.name == ".git" else common)
    try:
        return str(Path((folder / "gitdir").read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")).parent)
    except OSError:
        return str(folder)


def _apart(repository: Repository, folder: Path) -> dict[str, str]:
    """Return what only this worktree holds: its HEAD where it is detached, and its own references."""
    refs = {
        name.removeprefix("refs/"): target for name, target in _refs(repository, *_OWN, git_folder=folder)[0].items()
    }
    if repository.symbolic("HEAD", git_folder=folder) is None:
        head = repository.object_id("HEAD^{commit}", git_folder=folder)
        if head:
            refs["HEAD"] = head
    return refs


def _stash_log(repository: Repository) -> list[list[str]]:
    form = "--format=%H%x00%gn%x00%ge%x00%gd%x00%gs"
    done = repository.call("log", "-g", "--no-show-signature", "--date=raw", form, STASH, "--", check=False)
    entries = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        commit, name, email, selector, message = line.split("\0", 4)
        entries.append([commit, name, email, selector.partition("{")[2].rstrip("}"), message])
    return entries


def _free(name: str, refs: dict[str, str], target: str) -> str:
    """Return the name, numbered where the repository itself has another reference of that name."""
    number, free = 2, name
    while refs.get(free, target) != target:
        free, number = f"{name}-{number}", number + 1
    return free
