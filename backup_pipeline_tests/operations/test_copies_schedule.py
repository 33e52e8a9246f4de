"""Checks and drills of copies stand among the site's lines for cron and systemd, each vault's check once."""

from __future__ import annotations

from pathlib import Path

from backup_pipeline.operations.environment.schedule import jobs_of
from backup_pipeline.settings.loader import load_site

SETTINGS = """
sources: {files: {kind: folder, path: files}}
plans:
  nightly:
    sources: [files]
    schedule: "0 2 * * *"
    copies:
      - {to: offsite, check: "0 7 * * 0", drill: "0 6 1 * *"}
      - {to: attic, check: "0 7 * * 0"}
  weekly: {sources: [files], copies: [{to: offsite, check: "0 7 * * 0"}]}
vaults:
  offsite: {url: "s3://b/p", recipients: [age1x]}
  attic: {url: "file:///mnt/attic", recipients: [age1x]}
"""


def test_checks_and_drills_of_copies_are_scheduled_where_no_daemon_runs(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(SETTINGS)
    jobs = {job.name: (job.cron, job.arguments) for job in jobs_of(load_site(tmp_path, environment={}))}
    assert jobs["vault-check-1"] == ("0 7 * * 0", ("vault", "check", "offsite"))
    assert jobs["vault-check-2"] == ("0 7 * * 0", ("vault", "check", "attic"))
    assert jobs["drill-nightly-from-offsite"] == ("0 6 1 * *", ("drill", "offsite:nightly/latest"))
    assert "vault-check-3" not in jobs
