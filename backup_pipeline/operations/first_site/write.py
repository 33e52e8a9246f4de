"""The files of a first site: backup.yaml, its schema and `.env`, written whole or not at all; none is overwritten."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from backup_pipeline.errors import RefusedError, SettingsError
from backup_pipeline.operations.environment.site_files import SCHEMA_NAME
from backup_pipeline.operations.first_site.found import FoundSource
from backup_pipeline.settings.loader import DEFAULT_NAME, ENV_NAME, check_settings
from backup_pipeline.settings.variables import read_env_file
from backup_pipeline.system.files import write_atomically
from backup_pipeline.system.former_files import keep_former
from backup_pipeline.system.packaged_files import packaged_file

PLAN = "nightly"
_SCHEMA_LINE = f"# yaml-language-server: $schema=./{SCHEMA_NAME}"


@dataclass(frozen=True, slots=True)
class WrittenSite:
    """What was, or would be, written, and the copy of a former `.env` that got lines."""

    files: tuple[Path, ...]
    former: Path | None = None


def settings_text(sources: Sequence[FoundSource], timezone: str, now: datetime) -> str:
    """Return backup.yaml for these sources: one plan, nightly, with retention, verification and drill."""
    described = {one.name: {"kind": one.kind, **one.settings} for one in sources}
    plan = {
        "sources": [one.name for one in sources],
        "schedule": "0 2 * * *",
        "retention": {"keep_daily": 7, "keep_weekly": 4, "keep_monthly": 12, "keep_last": 3},
        "verify": "0 4 * * 0",
        "drill": "0 5 * * 0",
    }
    document = {"store": "./backups", "timezone": timezone, "sources": described, "plans": {PLAN: plan}}
    body = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return (
        f"{_SCHEMA_LINE}\n# Written by backup-pipeline init on {now:%Y-%m-%d}; all settings: docs/settings.md.\n"
        f"# Secrets stand in .env, whose variables are named here.\n{body}"
    )


def env_lines(variables: Mapping[str, str]) -> str:
    """Return lines of `.env`; in single quotes nothing of a value is read as anything else."""
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in variables.items()}
    return "".join(f"{name}='{value}'\n" for name, value in quoted.items())


def write_site(
    folder: Path, sources: Sequence[FoundSource], timezone: str, now: datetime, *, dry_run: bool = False
) -> WrittenSite:
    """Write the files of a site that has none; backup.yaml comes last, so that what has it has the others.

    Args:
        folder: an existing folder without backup.yaml.
        sources: what it protects.
        timezone: of its schedules.
        now: for the note in backup.yaml, and the name of a former `.env`.
        dry_run: check all, write nothing.

    Raises:
        RefusedError: backup.yaml exists. StoreError: a file cannot be written; what was new is removed again.
    """
    settings, schema, env = (folder / name for name in (DEFAULT_NAME, SCHEMA_NAME, ENV_NAME))
    if os.path.lexists(settings):
        raise RefusedError(
            "It exists, and is not overwritten.", where=str(settings), remedy="Edit it, or move it out of the way."
        )
    text = settings_text(sources, timezone, now).encode()
    _check(text)
    present = read_env_file(env)
    needed = {name: value for one in sources for name, value in one.variables.items() if present.get(name) != value}
    wanted = [path for path, due in ((schema, not schema.exists()), (env, bool(needed)), (settings, True)) if due]
    if dry_run:
        return WrittenSite(tuple(wanted))
    new = [path for path in wanted if not path.exists()]
    former = None
    try:
        if schema in wanted:
            write_atomically(schema, packaged_file(SCHEMA_NAME).read_bytes(), mode=0o644)
        if needed:
            former = _add_to_env(env, needed, now)
        write_atomically(settings, text, mode=0o644)
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise
    return WrittenSite(tuple(wanted), former)


def _add_to_env(env: Path, needed: Mapping[str, str], now: datetime) -> Path | None:
    """Add lines at the end of `.env`, which keeps its mode; a new one is 0600. Return the copy of the former one."""
    if not env.exists():
        write_atomically(env, env_lines(needed).encode())
        return None
    former = keep_former(env, now)
    old = env.read_text("utf-8")
    joined = old if not old or old.endswith("\n") else old + "\n"
    write_atomically(env, (joined + env_lines(needed)).encode(), mode=stat.S_IMODE(env.stat().st_mode))
    return former


def _check(text: bytes) -> None:
    """Read the settings back as every command will."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / DEFAULT_NAME
        file.write_bytes(text)
        faults = [fault for fault in check_settings(file) if "store" not in fault.path]
    if faults:
        raise SettingsError(
            "; ".join(fault.what for fault in faults),
            where="the settings that init would write",
            remedy="Please report this, with the names of the databases and folders; nothing was written.",
        )
