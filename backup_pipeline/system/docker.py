"""Docker's named volumes, read through its client (or Podman's, which takes the same commands).

A volume is mounted read-only into a container that is made, never started, and removed again; `docker cp` gives its
content as a tar stream. So nothing has to be installed in the image, and nobody needs to be root on this machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from backup_pipeline.errors import SourceError, ToolError
from backup_pipeline.system.processes import Finished, last_lines, run, running

ENGINE_VARIABLES = (
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "XDG_RUNTIME_DIR",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "PROGRAMDATA",
    "PATHEXT",
)
"""What clients of container engines ask for."""
_INSIDE = "/volume"
_IMAGE = "busybox"
_SECONDS = 120.0


def _client() -> str:
    for name in ("docker", "podman"):
        if found := shutil.which(name):
            return found
    raise ToolError(
        "Docker's client was not found, and `docker_volumes` names volumes.",
        where="PATH",
        remedy="Install docker (or podman), run this where it is, or name the volume's folder under `volumes`.",
    )


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ENGINE_VARIABLES if name in os.environ}


def _call(*arguments: str, check: bool = True) -> Finished:
    done = run([_client(), *arguments], env=_environment(), check=False, timeout=_SECONDS)
    if check and done.exit_code:
        raise ToolError(
            f"docker {arguments[0]} failed: {last_lines(done.stderr)}.",
            where="docker",
            remedy="Check with `docker info` that the engine runs and this user may use it.",
        )
    return done


def require_volumes(names: tuple[str, ...]) -> None:
    """Raise SourceError naming every volume that does not exist; ToolError where there is no client or engine."""
    if not names:
        return
    known = _call("volume", "ls", "--format", "{{.Name}}").stdout.decode().split()
    if missing := [name for name in names if name not in known]:
        raise SourceError(
            f"Docker has no volume {', '.join(missing)}.",
            where="docker_volumes",
            remedy=f"Compose puts the project before the name. There are: {', '.join(sorted(known)) or 'none'}.",
        )


def copy_volume(name: str, folder: Path) -> int:
    """Copy a volume's folders and files into an existing folder; return how many other entries were skipped.

    Raises:
        ToolError: the engine refused, or the stream ended early.
    """
    users = _call("ps", "--all", "--filter", f"volume={name}", "--format", "{{.Image}}").stdout.decode().split()
    image = users[0] if users else _IMAGE
    made = _call("create", "--volume", f"{name}:{_INSIDE}:ro", image).stdout.decode().split()
    container = made[-1] if made else ""
    try:
        with running([_client(), "cp", f"{container}:{_INSIDE}/.", "-"], env=_environment()) as process:
            skipped = _unpack(process.stdout, folder, name)
            code, messages = process.finish(_SECONDS)
        if code:
            raise ToolError(f"docker cp failed: {last_lines(messages)}.", where=name, remedy="Run the backup again.")
    finally:
        # Without --volumes: the volume itself stays.
        _call("rm", "--force", container, check=False)
    return skipped


def _unpack(stream: IO[bytes], folder: Path, name: str) -> int:
    skipped = 0
    folders = []
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            # Python before 3.11.4 has no filters: there names are all that is checked.
            archive.extraction_filter = getattr(tarfile, "tar_filter", lambda member, _: member)
            for member in _members(archive):
                if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
                    raise tarfile.ExtractError(f"{member.name!r} would be outside of it")
                if not (member.isfile() or member.isdir()):
                    skipped += 1
                    continue
                archive.extract(member, folder, numeric_owner=True)
                if member.isdir():
                    folders.append((folder / member.name, member.mtime))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ToolError(
            f"The volume could not be copied: {error}.", where=name, remedy="Run the backup again."
        ) from error
    for place, moment in reversed(folders):
        with contextlib.suppress(OSError):
            os.utime(place, (moment, moment))
    return skipped


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
