"""A site with one database, for measuring what happens to its sealed sets. No Dagster here."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

# Loaded before the clock runs: what starting costs is measured by `benchmarks.overhead`.
import backup_pipeline.sources.postgres.drill
import backup_pipeline.sources.postgres.table_export  # noqa: F401
from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.backup.run import BackupRun, RunIdentity
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.proof.verify import verify_set
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.settings.loader import load_site

PLAN = "nightly"
_SETTINGS = """
store: backups
sources:
  bench: {kind: postgres, dsn_env: BENCH_URL, @TABLES@}
plans:
  nightly: {sources: [bench]}
"""


def address(target: PostgresTarget) -> str:
    """Return a target as a connection string."""
    return f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}"


def make_site(folder: Path, target: PostgresTarget, scratch: PostgresTarget | None = None, *, tables: str = "") -> Path:
    """Write a site of one plan, whose drills use the server of `scratch`; `tables` is a setting; return its folder."""
    folder.mkdir(parents=True)
    lines = [f"BENCH_URL={address(target)}"]
    if scratch is not None:
        lines.append(f"DRILL_DATABASE_URL={address(scratch)}")
    (folder / ".env").write_text("\n".join(lines) + "\n")
    (folder / "backup.yaml").write_text(_SETTINGS.replace("@TABLES@", tables))
    return folder


def back_up(folder: Path) -> dict[str, Any]:
    """Make a set: captured, sealed; return its id, and how many exports were taken over from the last verified set."""
    site = load_site(folder)
    name = f"bench-{uuid4().hex}"
    run = BackupRun(site, PLAN, RunIdentity(name, name, utc_now()))
    try:
        records = list(run.capture("bench"))
        sealed = run.seal()
    finally:
        run.close()
    failed = [f"{r.name}: {c.name}: {c.summary}" for r in records for c in r.checks if not c.passed]
    if failed:
        raise RuntimeError(f"checks failed: {failed}")
    return {"set_id": sealed.set_id, "reused": sum("reused_from" in record.details for record in records)}


def verify(folder: Path, set_id: SetId) -> None:
    """Verify a set."""
    if not (proof := verify_set(load_site(folder), PLAN, set_id)).passed:
        raise RuntimeError(f"verification failed: {proof.findings}")


def drill(folder: Path, set_id: SetId) -> dict[str, float]:
    """Drill a set; return its seconds: of all, of the restore in it, and of the comparison."""
    proof = drill_set(load_site(folder), PLAN, set_id)
    if not proof.passed:
        raise RuntimeError(f"the drill failed: {proof.findings} {proof.missing_here}")
    return {
        "seconds": (proof.finished_at - proof.started_at).total_seconds(),
        "restore": float(proof.numbers["restore_seconds"]),
        "compare": float(proof.numbers["compare_seconds"]),
    }
