"""Git repositories, read as data: nothing that a repository's own configuration names is ever run.

Every call has an environment in which system and user configuration are absent, hooks, file-system monitors and
transports are off, and the filters that the repository configures are emptied: a captured repository may belong to
somebody else, and `safe.directory` is lifted for it. Content comes from `cat-file`, not from `git archive`: the archive
then holds each blob as it was committed (no filter, no `export-subst`, no line ends changed) and can be compared with
the tree object by object.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit, urlunsplit

from backup_pipeline.errors import SourceError, ToolError
from backup_pipeline.system.processes import Finished, Running, find_program, last_lines, run, running

_SETTINGS = {
    "safe.directory": "*",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.quotePath": "false",
    "protocol.allow": "never",
    "log.showSignature": "false",
    "log.showRoot": "true",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "advice.detachedHead": "false",
    "advice.graftFileDeprecated": "false",
}
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    # Grafts would hide the true parents of a commit, which a restored repository then lacks.
    "GIT_GRAFT_FILE": "/dev/null",
    "LC_ALL": "C.UTF-8",
}
_COMMITS_READ = 20_000
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit that HEAD is at.

    `authored_at` is aware; None where no calendar has the commit's date (git takes any number and zone), which then
    stands in `raw_date` as git shows it.
    """

    commit: str
    author: str
    authored_at: datetime | None
    message: str
    raw_date: str = ""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One entry of a commit's tree: `mode` as git writes it (100644, 100755, 120000 link, 160000 submodule)."""

    path: str
    mode: str
    blob: str

    @property
    def is_submodule(self) -> bool:
        """Whether it is another repository's commit, which this one does not hold."""
        return self.mode == "160000"

    @property
    def is_link(self) -> bool:
        """Whether its content is the target of a symbolic link."""
        return self.mode == "120000"


def git_environment(settings: dict[str, str]) -> dict[str, str]:
    """Return the variables that shut out every configuration but `settings` (and the repository's harmless rest)."""
    env = {**_ENVIRONMENT, "GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        env[f"GIT_CONFIG_KEY_{number}"] = name
        env[f"GIT_CONFIG_VALUE_{number}"] = value
    return env


def without_credentials(url: str) -> str:
    """Return a remote's URL without user, password, token, query and fragment; other forms are returned as they are.

    `git@host:path` keeps its user, which is no secret and without which the address is useless.
    """
    if "://" not in url:
        user, at, rest = url.partition("@")
        return f"{user.partition(':')[0]}{at}{rest}" if at and ":" in user else url
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        user = parts.username or ""
    except ValueError:
        return "(not readable)"
    keep = f"{user}@" if user and parts.scheme in ("ssh", "git+ssh") else ""
    return urlunsplit((parts.scheme, keep + host, parts.path, "", ""))


class Repository:
    """A repository on this machine: a working tree or a bare one, read without changing it.

    Raises:
        SourceError: `path` is missing or no repository.
        ToolError: git is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._git: str | Path = find_program("git", remedy="Install git.")
        self._env = git_environment(_SETTINGS)
        if not path.is_dir():
            raise SourceError(
                "The folder of the repository is missing.", where=str(path), remedy="Correct `path` of the source."
            )
        found = self.call("rev-parse", "--absolute-git-dir", check=False)
        top = self.call("rev-parse", "--show-prefix", check=False)
        if found.exit_code or top.stdout.strip():
            why = "It lies inside a repository but is not its top." if not found.exit_code else ""
            raise SourceError(
                f"Not a git repository. {why}".strip(),
                where=str(path),
                remedy="Set `path` to the folder that holds .git (or to a bare repository), or run `git init` there.",
            )
        self.git_folder = Path(found.stdout.decode("utf-8", "surrogateescape").rstrip("\n"))
        self._env = git_environment({**_SETTINGS, **self._emptied_filters()})

    def call(self, *arguments: str, check: bool = True, stdin: bytes | None = None) -> Finished:
        """Run git on this repository; ToolError where it fails and `check` is true."""
        command: list[str | Path] = [self._git, "-C", str(self.path), "--no-pager", *arguments]
        done = run(command, env=self._env, check=False, stdin=stdin)
        if check and done.exit_code:
            what = next((argument for argument in arguments if not argument.startswith("-")), "")
            raise ToolError(
                f"git {what} failed: {last_lines(done.stderr)}.",
                where=str(self.path),
                remedy="Check the repository with `git fsck`.",
            )
        return done

    def _text(self, *arguments: str, check: bool = True) -> str:
        return self.call(*arguments, check=check).stdout.decode("utf-8", "replace").rstrip("\n")

    def _emptied_filters(self) -> dict[str, str]:
        names = self.call("config", "--null", "--name-only", "--get-regexp", r"^filter\.", check=False).stdout
        emptied = {}
        for name in names.decode("utf-8", "surrogateescape").split("\0"):
            driver, _, what = name.rpartition(".")
            if what in ("clean", "smudge", "process"):
                emptied[name] = ""
                emptied[f"{driver}.required"] = "false"
        return emptied

    @property
    def version(self) -> str:
        """The version of git."""
        return self._text("--version").removeprefix("git version ")

    @property
    def bare(self) -> bool:
        """Whether there is no working tree."""
        return self._text("rev-parse", "--is-bare-repository") == "true"

    @property
    def common_folder(self) -> Path:
        """The folder that all worktrees share: `.git` of the main one."""
        found = self.call("rev-parse", "--git-common-dir").stdout.decode("utf-8", "surrogateescape").rstrip("\n")
        return self.path / found

    @property
    def object_format(self) -> str:
        """The hash of its object ids: `sha1` or `sha256`."""
        return self._text("rev-parse", "--show-object-format")

    def symbolic(self, name: str, *, git_folder: Path | None = None) -> str | None:
        """Return the full name of the reference that a symbolic one names; None when it is detached."""
        where = [f"--git-dir={git_folder}"] if git_folder else []
        done = self.call(*where, "symbolic-ref", "--quiet", name, check=False)
        return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n") or None

    def object_id(self, name: str, *, git_folder: Path | None = None) -> str | None:
        """Return the object that a name means; None when there is none."""
        where = [f"--git-dir={git_folder}"] if git_folder else []
        done = self.call(*where, "rev-parse", "--verify", "--quiet", name, check=False)
        return None if done.exit_code else done.stdout.decode().strip()

    def commit(self, commit: str) -> Commit:
        """Return who made a commit, when, and what its message says."""
        form = "--format=%H%n%an <%ae>%n%aI%n%ad%n%B"
        text = self._text("log", "-1", "--no-show-signature", "--date=raw", form, commit, "--")
        found, author, iso, raw, *message = text.split("\n")
        moment = None
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(iso)
        return Commit(found, author, moment, "\n".join(message).strip(), "" if moment else raw or "none")

    def last_changes(self, commit: str, paths: Iterable[str]) -> dict[str, datetime]:
        """Return when each file was changed last on the way to a commit, by the authors' clocks (UTC).

        Only the last 20,000 commits of the main line are read: files that are older, or whose date is impossible, are
        absent.
        """
        wanted = set(paths)
        options = ("-z", "--format=%x01%at", "--name-only", "--no-renames", "--first-parent", "--no-show-signature")
        command: list[str | Path] = [self._git, "-C", str(self.path), "--no-pager", "log", *options]
        changes: dict[str, datetime] = {}
        moment: datetime | None = None
        with running(
            [*command, "--diff-merges=first-parent", f"--max-count={_COMMITS_READ}", commit, "--"], env=self._env
        ) as process:
            for entry in _ended_by_null(process.stdout):
                if entry.startswith("\x01"):
                    moment = _moment(entry[1:])
                elif (path := entry.removeprefix("\n")) in wanted:
                    wanted.discard(path)
                    if moment is not None:
                        changes[path] = moment
                    if not wanted:
                        break
        return changes

    def commit_count(self, tips: Iterable[str]) -> int:
        """Return how many commits are reached from these objects."""
        names = "".join(f"{tip}\n" for tip in sorted(set(tips))).encode()
        return int(self.call("rev-list", "--count", "--stdin", stdin=names).stdout)

    @property
    def partial(self) -> bool:
        """Whether it is a partial clone, which need not have every object."""
        settings = (r"^extensions\.partialclone$", r"^remote\..*\.(promisor|partialclonefilter)$")
        return any(not self.call("config", "--get-regexp", each, check=False).exit_code for each in settings)

    def missing_objects(self, tips: Iterable[str]) -> int:
        """Return how many objects behind these are not here."""
        command: list[str | Path] = [self._git, "-C", str(self.path), "--no-pager", "rev-list", "--objects"]
        with running([*command, "--missing=print", "--stdin"], env=self._env, with_stdin=True) as process:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("".join(f"{tip}\n" for tip in sorted(set(tips))).encode())
                process.stdin.close()
            lines = io.BufferedReader(cast(io.RawIOBase, process.stdout), 1 << 17)
            return sum(line.startswith(b"?") for line in lines)

    def remotes(self) -> dict[str, str]:
        """Return the remotes' addresses by name, without credentials."""
        found = self.call("config", "--null", "--get-regexp", r"^remote\..*\.url$", check=False).stdout
        remotes = {}
        for entry in found.decode("utf-8", "replace").split("\0"):
            name, _, url = entry.partition("\n")
            if url:
                remotes[name.removeprefix("remote.").removesuffix(".url")] = without_credentials(url)
        return remotes

    def uncommitted(self) -> tuple[list[str], list[str]]:
        """Return the paths that differ from HEAD or are untracked, and those that `.gitignore` hides.

        A folder of only such files is one path.
        """
        if self.bare:
            return [], []
        options = ("--porcelain=v1", "-z", "--untracked-files=normal", "--ignored", "--ignore-submodules=all")
        found = self.call("status", *options, "--no-renames").stdout.decode("utf-8", "surrogateescape")
        entries = [entry for entry in found.split("\0") if entry]
        ignored = [entry[3:] for entry in entries if entry.startswith("!!")]
        return [entry[3:] for entry in entries if not entry.startswith("!!")], ignored

    def shallow(self) -> list[str]:
        """Return the commits at which a shallow clone's history is cut; empty when it is whole."""
        with contextlib.suppress(FileNotFoundError):
            return (self.common_folder / "shallow").read_text().split()
        return []

    def tree(self, commit: str) -> list[TreeEntry]:
        """Return every file, link and submodule of a commit, by path."""
        found = self.call("ls-tree", "-r", "-z", "--full-tree", commit).stdout.decode("utf-8", "surrogateescape")
        entries = []
        for line in found.split("\0"):
            if line:
                meta, _, path = line.partition("\t")
                mode, _, blob = meta.split(" ")
                entries.append(TreeEntry(path, mode, blob))
        return entries

    @contextlib.contextmanager
    def blobs(self) -> Iterator[Blobs]:
        """Give a reader of file contents."""
        command: list[str | Path] = [self._git, "-C", str(self.path), "--no-pager", "cat-file", "--batch"]
        with running(command, env=self._env, with_stdin=True) as process:
            yield Blobs(process)

    @contextlib.contextmanager
    def pack(self, tips: Iterable[str]) -> Iterator[Running]:
        """Give the stream of a pack of these objects and everything behind them; judge it by `finish()`.

        `git bundle create` itself is not used: it skips references whose name could also mean another one.
        """
        command: list[str | Path] = [self._git, "-C", str(self.path), "--no-pager", "pack-objects"]
        options = ("--stdout", "--revs", "--delta-base-offset", "--quiet")
        with running([*command, *options], env=self._env, with_stdin=True) as process:
            # It reads all of this before it writes anything. Where it has ended already, `finish()` says why.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("".join(f"{tip}\n" for tip in sorted(set(tips))).encode())
                process.stdin.close()
            yield process


def _moment(seconds: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _ended_by_null(stream: Any) -> Iterator[str]:
    rest = b""
    while piece := stream.read(1 << 17):
        *whole, rest = (rest + piece).split(b"\0")
        yield from (entry.decode("utf-8", "surrogateescape") for entry in whole)


class Blobs:
    """File contents, one after the other, from one process of `git cat-file --batch`."""

    def __init__(self, process: Running) -> None:
        self._process = process
        self._out: IO[bytes] = io.BufferedReader(cast(io.RawIOBase, process.stdout), 1 << 17)

    def stream(self, blob: str) -> tuple[int, Iterator[bytes]]:
        """Return the size of an object and its content in pieces, to be read to the end before the next call."""
        self._process.stdin.write(blob.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._out.readline().split()
        if len(answer) != 3:
            raise ToolError(f"Object {blob} cannot be read.", where="git", remedy="Check it with `git fsck`.")
        size = int(answer[2])
        return size, self._pieces(size)

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._out.read(min(size, 1 << 20))
            if not piece:
                raise ToolError("git cat-file ended too early.", where="git", remedy="Check it with `git fsck`.")
            size -= len(piece)
            yield piece
        self._out.read(1)


def is_lfs_pointer(start: bytes) -> bool:
    """Return whether a small file is Git LFS's pointer to content that git does not hold."""
    return start.startswith(_LFS_POINTER)


def is_environment_file(path: str) -> bool:
    """Return whether a path is an `.env` file that may hold secrets (not a template or example)."""
    name = path.rsplit("/", 1)[-1].lower()
    found = re.fullmatch(r"\.env(\..+)?|.+\.env", name)
    return bool(found) and not re.search(r"(example|template|sample|dist|defaults?)$", name)
