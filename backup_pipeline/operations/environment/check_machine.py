"""What this machine itself must offer: `.env`, stores, disk space, sources on disk, programs, Dagster's folder."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from backup_pipeline.artefacts.types import artefact_types
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.record import ArtefactRecord, Severity
from backup_pipeline.model.set_id import set_time
from backup_pipeline.operations.sites.state import state_database
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.loader import ENV_NAME
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of
from backup_pipeline.stores.contract import PlanStore
from backup_pipeline.system.processes import find_program


def machine_faults(site: Site, now: datetime) -> list[EnvironmentFault]:
    """Return everything on this machine that is not as a backup needs it, at `now` by its clock."""
    return [
        *_env_file(site.folder / ENV_NAME),
        *_time_zone(site, now),
        *_stores(site, now),
        *_state(site),
        *_sources(site),
        *_programs(site),
        *_dagster_home(site),
    ]


def readable_by_others(path: Path) -> bool:
    """Return whether a file is there that its group or others may use; never on Windows, whose modes say nothing."""
    return sys.platform != "win32" and path.is_file() and bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def _env_file(path: Path) -> Iterator[EnvironmentFault]:
    if not path.is_file():
        yield EnvironmentFault(
            str(path), "there is no such file", "backup-pipeline env setup writes it.", Severity.WARN
        )
        return
    if readable_by_others(path):
        yield EnvironmentFault(str(path), "readable by others", f"chmod 600 {path}", Severity.WARN, lax=True)
    from dotenv.parser import parse_stream

    lines: dict[str, int] = {}
    with path.open(encoding="utf-8") as file:
        for binding in parse_stream(file):
            # A binding begins with the empty lines and comments before it.
            before = len(binding.original.string) - len(binding.original.string.lstrip())
            line = binding.original.line + binding.original.string[:before].count("\n")
            if binding.error:
                yield EnvironmentFault(f"{path}:{line}", "this line cannot be understood", "Write NAME=value.")
            elif binding.key in lines:
                yield EnvironmentFault(
                    f"{path}:{line}",
                    f"{binding.key} stands twice (first in line {lines[binding.key]}); the last one counts",
                    "Remove one of them.",
                    Severity.WARN,
                )
            elif binding.key:
                lines[binding.key] = line


def _time_zone(site: Site, now: datetime) -> Iterator[EnvironmentFault]:
    """Yield that the site's schedules do not mean this machine's time, where that may surprise."""
    plans = site.settings.plans.values()
    here, there = now.astimezone(), now.astimezone(ZoneInfo(site.settings.timezone))
    if here.utcoffset() == there.utcoffset() or not any(plan.schedule or plan.verify or plan.drill for plan in plans):
        return
    yield EnvironmentFault(
        "timezone",
        f"schedules count in {site.settings.timezone} (now {there:%H:%M}), this machine's clock shows {here:%H:%M %Z}",
        "Set timezone in backup.yaml if you meant that one; cron lines and systemd timers count in the machine's.",
        Severity.WARN,
    )


def _from_the_future(store: PlanStore, plan: str, now: datetime) -> Iterator[EnvironmentFault]:
    newest = next(iter(reversed(store.ids())), None)
    if newest is not None and set_time(newest) > now:
        yield EnvironmentFault(
            store.label,
            f"set {newest} of plan {plan} is newer than this machine's clock ({now:%Y-%m-%d %H:%M} UTC)",
            "Set the clock by NTP. Until it is right again no set is removed.",
        )


def _stores(site: Site, now: datetime) -> Iterator[EnvironmentFault]:
    # The stores of a fleet's members stand in one folder.
    first = [fleet.members[0].plan for fleet in site.fleets.values() if fleet.members]
    for plan in (*site.single_plans, *first):
        store = open_store(site, plan)
        yield from _writable(store.folder, plan)
        if store.folder.is_dir():
            yield from _modes(site, store.folder, plan)
            with contextlib.suppress(BackupSystemError):
                yield from _from_the_future(store, plan, now)
        yield from _space_to_send(store, plan) if store.artefacts_elsewhere else _space(store, plan)


def _state(site: Site) -> Iterator[EnvironmentFault]:
    """Yield what keeps workers that share no disk from their database."""
    try:
        if (database := state_database(site)) is not None:
            database.check()
    except BackupSystemError as error:
        yield EnvironmentFault(f"state_env ({error.where})", error.what, error.remedy)


def _writable(folder: Path, plan: str) -> Iterator[EnvironmentFault]:
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    probe = place / f".backup-pipeline-{uuid.uuid4().hex}"
    try:
        # Only writing shows it: mode bits say nothing on network mounts, on read-only ones, and of root.
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        probe.unlink()
    except OSError as error:
        yield EnvironmentFault(
            str(folder),
            f"the store of plan {plan} cannot be written: {error.strerror}",
            f"Give this user the right to write in {place}, or name another store in backup.yaml.",
        )


def _modes(site: Site, folder: Path, plan: str) -> Iterator[EnvironmentFault]:
    allowed = int(site.settings.folder_mode, 8)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if sys.platform != "win32" and mode & ~allowed & 0o077:
        yield EnvironmentFault(
            str(folder),
            f"the store of plan {plan} is open to others (mode {mode:04o})",
            f"chmod {site.settings.folder_mode} {folder}",
            Severity.WARN,
            lax=True,
        )


def _last_sealed(store: PlanStore) -> BackupSet | None:
    for set_id in reversed(store.ids()):
        known = store.read(set_id)
        if known.state is SetState.COMPLETE:
            return known
    return None


def _space(store: PlanStore, plan: str) -> Iterator[EnvironmentFault]:
    try:
        free, last = store.free_bytes(), _last_sealed(store)
    except (BackupSystemError, OSError):
        return  # that it cannot be read is reported already
    if free is None:
        return
    needed = last.size if last else 0
    remedy = "Free space, move the store, or keep fewer sets (backup-pipeline cleanup --dry-run)."
    if free < max(needed, 100_000_000):
        yield EnvironmentFault(
            store.label, f"{free / 1e9:.1f} GB free; plan {plan} needs {max(needed, 100_000_000) / 1e9:.1f} GB", remedy
        )
    elif free < 3 * needed:
        yield EnvironmentFault(
            store.label,
            f"{free / 1e9:.1f} GB free: room for fewer than three more sets of plan {plan}",
            remedy,
            Severity.WARN,
        )


def _room_to_send(record: ArtefactRecord) -> int:
    """Return the bytes that lie here until they were read again and a vault that is the only store has got them."""
    known = artefact_types().get(record.kind)
    whole, unpacked = (known.sent_whole, known.unpacked_first) if known else (False, False)
    read_again = [file for file in record.files if whole or file.path.endswith(".parquet")]
    pages = sum(file.content_size or 0 for file in read_again) if unpacked else 0
    return pages + sum(file.size for file in read_again)


def _space_to_send(store: PlanStore, plan: str) -> Iterator[EnvironmentFault]:
    try:
        free, last = store.free_here(), _last_sealed(store)
    except (BackupSystemError, OSError):
        return  # that it cannot be read is reported already
    records = last.manifest.artefacts if last and last.manifest else ()
    largest = max(records, key=_room_to_send, default=None)
    room = _room_to_send(largest) if largest else 0
    needed = max(room, 100_000_000)
    if free < needed:
        path = largest.files[0].path if largest and room == needed else "what is not sent yet"
        yield EnvironmentFault(
            str(store.folder),
            f"{free / 1e9:.1f} GB free; plan {plan} needs {needed / 1e9:.1f} GB: {path} lies there until it is sent",
            "Free space there, or name a `store` of the site on another disk. Dumps, tarballs, JSON and CSV need no "
            "room; Parquet, copies of SQLite, ZIP and bundle of a repository do (docs/vaults.md).",
        )


def _sources(site: Site) -> Iterator[EnvironmentFault]:
    used = {name for plan in site.settings.plans.values() for name in plan.sources}
    for name in site.settings.sources:
        if name not in used and site.server_of(name):
            continue  # a database that is gone, or that is not selected any more
        if name not in used:
            yield EnvironmentFault(
                f"sources.{name}", "no plan captures this source", "Add it to a plan of backup.yaml.", Severity.WARN
            )
            continue
        kind, configured = kind_of(site, name)
        yield from kind.environment_faults(configured)


def _programs(site: Site) -> Iterator[EnvironmentFault]:
    programs: dict[str, str] = {}
    for name in site.settings.sources:
        programs.update(kind_of(site, name)[0].programs)
    for program, remedy in programs.items():
        try:
            find_program(program, remedy=remedy)
        except BackupSystemError as error:
            yield EnvironmentFault(error.where, error.what, error.remedy)


def _dagster_home(site: Site) -> Iterator[EnvironmentFault]:
    named = site.value("DAGSTER_HOME")
    if not named:
        return
    home = Path(named)
    # In a container all of it but `storage` is read-only.
    storage = home / "storage"
    place = storage if storage.is_dir() and (home / "dagster.yaml").is_file() else home
    if not home.is_absolute():
        yield EnvironmentFault("DAGSTER_HOME", "not an absolute path", "Write the whole path, beginning with /.")
    elif not home.is_dir():
        yield EnvironmentFault("DAGSTER_HOME", f"there is no folder {home}", f"mkdir -p {home}", Severity.WARN)
    elif not os.access(place, os.W_OK | os.X_OK):
        yield EnvironmentFault("DAGSTER_HOME", f"{place} cannot be written", "Give this user the right to write there.")
