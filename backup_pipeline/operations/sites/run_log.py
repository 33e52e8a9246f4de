"""`backup_log.txt` beside the sets: one line per run, in the usual form, appended and never rewritten."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from backup_pipeline.errors import StoreError
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.record import facts_of, facts_text, left_undone
from backup_pipeline.model.set_id import SetId
from backup_pipeline.system.files import append_line, make_folders

RUN_LOG_NAME = "backup_log.txt"
LOG = logging.getLogger("backup")


def run_line(
    *,
    plan: str,
    set_id: SetId | None,
    manifest: Manifest | None,
    failures: tuple[str, ...],
    began: datetime,
    now: datetime,
    timezone: tzinfo = UTC,
) -> str:
    """Return the line of one run: time in the site's zone, level, set, outcome, counts, bytes, seconds, facts."""
    name = f"{plan}/{set_id}" if set_id else plan
    seconds = (now - began).total_seconds()
    if manifest is not None:
        broken = manifest.broken_data
        undone = left_undone(manifest.artefacts)
        level = "ERROR" if broken or undone else "INFO"
        outcome = (
            f"complete{' (partial)' if manifest.partial else ''}, {len(manifest.artefacts)} artefacts, "
            f"{manifest.rows} rows, {manifest.size} bytes{', broken data: ' + '; '.join(broken) if broken else ''}"
        )
    else:
        reason = "; ".join(failures) or "ended before the seal"
        level, outcome = "ERROR", "incomplete: " + reason if set_id else "not begun: " + reason
    reported = ""
    if manifest is not None:
        facts = facts_of(manifest.artefacts)
        reported = "".join(f"; {source}: {facts_text(facts[source])}" for source in manifest.sources if source in facts)
        reported += "".join(f"; {each}" for each in undone)
    moment = now.astimezone(timezone)
    return f"{moment:%Y-%m-%d %H:%M:%S} - backup - {level} - {name} {outcome}, {seconds:.1f} s{reported}"


def append_run_line(folder: Path, line: str, *, file_mode: int = 0o600, folder_mode: int = 0o700) -> None:
    """Append a run's line; a store that cannot be written has been reported already and is only logged."""
    try:
        make_folders(folder, folder_mode)
        append_line(folder / RUN_LOG_NAME, " ".join(line.split()) + "\n", mode=file_mode)
    except (OSError, StoreError) as error:
        LOG.error("the run's line could not be written: %s", error)
