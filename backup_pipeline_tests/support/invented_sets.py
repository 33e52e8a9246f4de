"""Backup sets for tests of what is done with sets: written by the real store, with invented content."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup_pipeline.model.manifest import Draft, Failure, Manifest, Purpose
from backup_pipeline.model.proof import Finding, Proof, ProofKind
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, CheckResult
from backup_pipeline.model.set_id import SetId, set_id_at
from backup_pipeline.stores.local import LocalStore

SITE = """\
store: ./backups
sources:
  files: {kind: folder, path: files}
  more: {kind: folder, path: more}
plans:
  nightly:
    sources: [files, more]
    schedule: "0 2 * * *"
    retention: {keep_last: 2}
"""
HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(1)</script>"
"""What must be shown as it is, and never be markup."""


def at(text: str) -> datetime:
    """Return a moment in UTC from `2026-11-21 02:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def make_set(
    store: LocalStore,
    start: datetime,
    *,
    size: int = 1000,
    rows: int = 10,
    tables: int = 1,
    sealed: bool = True,
    partial: bool = False,
    purpose: Purpose = Purpose.BACKUP,
    failed: str = "",
    bad_checks: int = 0,
) -> SetId:
    """Write a set with one dump of `size` bytes and `tables` exports of `rows` rows; `failed` is why one is missing."""
    set_id = set_id_at(start)
    writer = store.begin(
        Draft(
            set_id=set_id,
            plan=store.plan,
            root_run_id=f"run-{set_id}",
            purpose=purpose,
            partial=partial,
            sources=("files",) if partial else ("files", "more"),
            started_at=start,
        )
    )
    for number in range(tables + 1):
        path = f"tables/files/public.t{number}.parquet" if number else "files_db.sql.gz"
        with writer.create(path) as file:
            file.write(b"x" * (size if number == 0 else 10))
        writer.write_record(
            ArtefactRecord(
                key=("files", "public", f"t{number}") if number else ("files", "dump"),
                source="files",
                kind=ArtefactKind.TABLE_EXPORT if number else ArtefactKind.POSTGRES_DUMP,
                set_id=set_id,
                files=(writer.file_record(path, file),),
                rows=rows if number else None,
                source_label="u@h:5432/d",
                started_at=start,
                finished_at=start + timedelta(seconds=20),
                checks=tuple(
                    CheckResult(name=f"c{n}", passed=n >= bad_checks, severity="WARN", summary="looks odd")
                    for n in range(3)
                ),
            )
        )
    if failed:
        writer.write_failure(
            Failure(key=("more", "tarball"), what=failed, remedy="Look at it.", at=start + timedelta(minutes=1))
        )
    if sealed:
        writer.seal(
            Manifest(
                set_id=set_id,
                plan=store.plan,
                purpose=purpose,
                sources=writer.draft.sources,
                partial=partial,
                started_at=start,
                sealed_at=start + timedelta(minutes=2),
                run_id=f"run-{set_id}",
                root_run_id=f"run-{set_id}",
                pipeline_version="1.0.0",
                artefacts=writer.records(),
            )
        )
    return set_id


def add_proof(
    store: LocalStore,
    set_id: SetId,
    kind: ProofKind,
    moment: datetime,
    *,
    passed: bool = True,
    findings: Iterable[str] = (),
    skipped: Iterable[str] = (),
    **numbers: float,
) -> None:
    """Add a verification's or drill's result."""
    store.add_proof(
        set_id,
        Proof(
            kind=kind,
            set_id=set_id,
            plan=store.plan,
            manifest_sha256="0" * 64,
            started_at=moment,
            finished_at=moment,
            passed=passed,
            findings=tuple(Finding(subject="a", problem=p) for p in findings),
            skipped=tuple(Finding(subject="b", problem=p) for p in skipped),
            numbers=numbers,
        ),
    )


def write_every_state(folder: Path) -> Path:
    """Write a site with every state of a day in November 2026, a failed set whose reason is HTML, and an empty plan."""
    settings = SITE.replace("keep_last: 2", "keep_last: 90") + "  weekly: {sources: [files]}\n"
    (folder / "backup.yaml").write_text(settings, "utf-8")
    store = LocalStore(folder / "backups" / "nightly", "nightly")
    for day in range(1, 21):
        moment = at(f"2026-11-{day:02} 02:00")
        made = make_set(store, moment, size=1000 * day, tables=3)
        if day % 3 == 0:
            add_proof(store, made, ProofKind.DRILL, moment + timedelta(hours=2), rto_seconds=30 + day)
        elif day % 3 == 1:
            add_proof(store, made, ProofKind.VERIFICATION, moment + timedelta(hours=1))
    make_set(store, at("2026-11-18 09:00"), sealed=False, failed=HOSTILE)
    last = make_set(store, at("2026-11-21 02:00"), tables=4, bad_checks=1)
    add_proof(store, last, ProofKind.DRILL, at("2026-11-21 05:00"), passed=False, findings=[HOSTILE])
    return folder
