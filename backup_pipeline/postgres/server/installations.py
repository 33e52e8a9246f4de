"""The PostgreSQL servers whose programs are on this machine, and what each was built with. Nothing is started here.

Read from control files and `pg_config`. Which of them fits a set is decided in `rules.scratch_server`.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from pathlib import Path

from backup_pipeline.errors import ToolError
from backup_pipeline.model.server_offer import Offer, one_spelling
from backup_pipeline.postgres.server.clients import embedded_folders, program_folders
from backup_pipeline.system import processes

# Feature → configure option, library among `pg_config --libs` (a Meson build lists no options).
_FEATURES = {"xml": ("--with-libxml", "-lxml2"), "icu": ("--with-icu", "-licuuc"), "lz4": ("--with-lz4", "-llz4")}
_ICU_BY_DEFAULT_SINCE = 16
_SECONDS = 20


def server_offers() -> list[Offer]:
    """Return what every installed server offers, lowest major first, then what the embedded ones offer."""
    embedded = [folder for folder in embedded_folders() if _is_server(folder)]
    on_path = shutil.which("postgres")
    named = [*program_folders(), *([Path(on_path).resolve().parent] if on_path else [])]
    installed = dict.fromkeys(folder.resolve() for folder in named if _is_server(folder) and folder not in embedded)
    found = [offer for folder in installed if (offer := _offer(folder, embedded=False))]
    found.sort(key=lambda offer: offer.major)
    rest = [offer for folder in embedded if (offer := _offer(folder, embedded=True))]
    return [*found, *sorted(rest, key=lambda offer: offer.major)]


def _is_server(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres", "pg_ctl"))


@functools.cache
def _offer(folder: Path, *, embedded: bool) -> Offer | None:
    version = _reported(folder / "postgres", "--version")
    number = re.search(r"\) (\d+)", version)
    if number is None:
        return None
    major = int(number[1])
    config = folder / "pg_config"
    options = _reported(config, "--configure") + " " + _reported(config, "--libs")
    share = Path(_reported(config, "--sharedir").strip() or f"/usr/share/postgresql/{major}")
    return Offer(
        folder=folder,
        major=major,
        embedded=embedded,
        extensions=_extensions(share / "extension"),
        # Without pg_config nobody can say; the server itself then does.
        features=_features(options, major) if options.strip() else frozenset(_FEATURES),
        locales=_locales(),
    )


@functools.cache
def _locales() -> frozenset[str]:
    """Return the operating system's locales; none where it has no `locale` (musl)."""
    program = shutil.which("locale")
    return frozenset(map(one_spelling, _reported(Path(program), "-a").split())) if program else frozenset()


def _features(options: str, major: int) -> frozenset[str]:
    found = {name for name, signs in _FEATURES.items() if any(sign in options for sign in signs)}
    if major >= _ICU_BY_DEFAULT_SINCE and "--without-icu" not in options:
        found.add("icu")
    return frozenset(found)


def _extensions(folder: Path) -> dict[str, frozenset[str]]:
    """Return name → versions that can be installed, as far as files say it."""
    found: dict[str, frozenset[str]] = {}
    for control in sorted(folder.glob("*.control")):
        versions = {p.stem.partition("--")[2].rpartition("--")[2] for p in folder.glob(f"{control.stem}--*.sql")}
        found[control.stem] = frozenset(versions)
    return found


def _reported(program: Path, option: str) -> str:
    try:
        return processes.run([program, option], timeout=_SECONDS).stdout.decode("utf-8", "replace")
    except (ToolError, OSError):
        return ""
