"""`find`: in which sets a file is, and the command that brings it back."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backup_pipeline.cli.common import (
    ConfigOption,
    ElsewhereOption,
    IdentityOption,
    JsonOption,
    config_argument,
    console,
    exit_with,
    load,
    print_json,
)
from backup_pipeline.cli.completion import complete_set
from backup_pipeline.cli.formatting import age_text
from backup_pipeline.errors import ExitCode, RefusedError
from backup_pipeline.rules.quantities import bytes_text, counted

if TYPE_CHECKING:
    from rich.console import Console

    from backup_pipeline.operations.data.find import FoundFile, Search, Version
    from backup_pipeline.settings.site import Site

_DIGEST = 19
"""Characters of a digest, with its kind, that a person reads; `--json` has all."""


def find(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME…", help="Part of a file's name, or of its path with a slash; * and ? for any."),
    ],
    plan: Annotated[str | None, typer.Option("--plan", help="Only the sets of this plan.")] = None,
    one_set: Annotated[
        str | None, typer.Option("--set", metavar="SET", help="Only this set.", autocompletion=complete_set)
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Write the newest version of the only file to FILE.")
    ] = None,
    store: ElsewhereOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find a file by its name in all sets: in tarballs, ZIP archives and bundles, and in copies in vaults.

    Files that the newest set does not have any more come first, each with its different versions, the newest first, and
    the command that restores or saves it. Upper and lower case are the same. Exit code 7 when there is no such file.

    Examples: `backup-pipeline find invoice_2026` · `backup-pipeline find 'materials/*.pdf' --plan nightly` ·
    `backup-pipeline find letter.txt --set nightly/latest --save letter.txt`
    """
    from backup_pipeline.operations.data.find import find_files, find_in_set
    from backup_pipeline.operations.sites.stores import resolve_set
    from backup_pipeline.rules.file_patterns import path_matcher

    if not any(name.strip() for name in names):
        raise typer.BadParameter("give a part of the file's name", param_hint="NAME")
    site = load(config, store, identity)
    means = path_matcher(names)
    if one_set:
        found = find_in_set(site, *resolve_set(site, one_set), means)
    else:
        found = find_files(site, [plan] if plan else list(site.settings.plans), means)
    if save and found.files:
        _save(site, found, names, save)
    if as_json:
        print_json(_as_dict(found, save))
    else:
        _print(found, save)
    if not found.files:
        exit_with(ExitCode.NOT_FOUND)


def _save(site: Site, found: Search, names: Sequence[str], target: Path) -> None:
    from backup_pipeline.operations.data.find import save_version

    wanted = [file for file in found.files if file.path in names] or found.files
    if len(wanted) > 1:
        raise RefusedError(
            f"{len(wanted)} files are meant.", where="--save", remedy="Give the whole path of one, as `find` shows it."
        )
    file = wanted[0]
    save_version(site, file, file.versions[0], target, who=_user(), now=datetime.now(UTC))


def _user() -> str:
    from backup_pipeline.system.files import user_name

    return f"the shell of {user_name()}"


def _command(file: FoundFile, version: Version) -> str:
    if file.comes_back:
        command, rest = "restore", [version.name, file.source, "--file", file.path]
    else:
        name = "".join(sign if sign.isprintable() else "?" for sign in file.path.rpartition("/")[2])
        path = file.path
        if not path.isprintable():
            # What no terminal shows cannot be copied from it: a pattern finds it all the same.
            path = "".join(glob.escape(sign) if sign.isprintable() else "?" for sign in path)
        first = ["--"] if path.startswith("-") else []
        command, rest = "find", ["--set", version.name, "--save", name, *first, path]
    return f"backup-pipeline {command}{config_argument()} {shlex.join(rest)}"


def _as_dict(found: Search, save: Path | None) -> dict[str, object]:
    return {
        "files": [
            {
                "plan": file.plan,
                "source": file.source,
                "artefact": file.artefact,
                "path": file.path,
                "gone_in": file.gone_in,
                "versions": [
                    {
                        "size": version.entry.size,
                        "modified_at": _moment(version.entry.modified_ns, "seconds"),
                        "digest": version.entry.digest,
                        "sets": ["/".join(place) for place in version.sets],
                        "command": _command(file, version),
                    }
                    for version in file.versions
                ],
            }
            for file in found.files
        ],
        "searched_sets": found.searched,
        "not_searched": list(found.not_searched),
        "saved": str(save) if save and found.files else None,
    }


def _moment(nanoseconds: int | None, precision: str = "minutes") -> str:
    try:
        return datetime.fromtimestamp((nanoseconds or 0) / 1e9, UTC).isoformat(" ", precision) if nanoseconds else ""
    except (OverflowError, ValueError, OSError):
        return ""


def _print(found: Search, save: Path | None) -> None:
    from rich.markup import escape

    out = console()
    for file in found.files:
        _print_file(out, file)
    if save and found.files:
        out.print(f"written: {save}", markup=False, soft_wrap=True)
    for note in found.not_searched:
        out.print(f"[yellow]not searched[/] {escape(note)}")
    if found.files:
        out.print(f"{counted(len(found.files), 'file')}; {counted(found.searched, 'set')} searched")
    else:
        out.print(f"No such file in {counted(found.searched, 'set')}. A folder's name needs its slash, as in letters/")


def _print_file(out: Console, file: FoundFile) -> None:
    from rich.markup import escape

    from backup_pipeline.archives.tarball import shown
    from backup_pipeline.model.set_id import set_time

    newest = file.versions[0]
    out.print(f"[bold]{escape(shown(file.path))}[/]  [dim]{escape(file.artefact)}[/]", soft_wrap=True)
    age = age_text(datetime.now(UTC) - set_time(newest.sets[0][1]))
    if file.gone_in:
        out.print(f"  [yellow]gone[/]: not in {file.gone_in}; last seen in", soft_wrap=True)
        out.print(f"  {newest.name}, {age} ago", soft_wrap=True)
    for version in file.versions:
        _print_version(out, file, version)
    out.print()


def _print_version(out: Console, file: FoundFile, version: Version) -> None:
    from rich.markup import escape

    entry = version.entry
    digest = f"{entry.digest[:_DIGEST]}…" if len(entry.digest) > _DIGEST else entry.digest
    facts: Sequence[str] = [bytes_text(entry.size), _moment(entry.modified_ns)[:16], digest]
    out.print(f"  {'  '.join(filter(None, facts))}", soft_wrap=True, markup=False)
    oldest = f" … {version.sets[-1][1]}" if len(version.sets) > 1 else ""
    out.print(f"    [dim]{counted(len(version.sets), 'set')}: {version.name}{oldest}[/]", soft_wrap=True)
    out.print(f"    {escape(_command(file, version))}", soft_wrap=True)
