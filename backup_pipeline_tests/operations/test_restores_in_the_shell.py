"""Restores and undos that fail in the shell: incidents as those of runs, and over when one succeeds."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import pytest

from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.operations.restore.records import failures
from backup_pipeline.operations.restore.shell import reported
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline_tests.support.invented_sets import SITE

FULL = StoreError("The disk is full.", where="/data", remedy="Free some.")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    return load_site(tmp_path, environment={})


def ended(
    site: Site, step: Literal["apply", "undo"], error: BaseException | None = None, source: str = "files"
) -> None:
    with contextlib.suppress(BaseException), reported(site, "nightly", source, step):
        if error is not None:
            raise error


def opened(site: Site) -> list[tuple[str, str]]:
    return [(one.key, one.reason) for one in read_state(site).open]


@pytest.mark.parametrize("good", ["apply", "undo"])
def test_a_restore_that_failed_is_an_incident_until_a_restore_or_undo_is_good(
    site: Site, good: Literal["apply", "undo"]
) -> None:
    ended(site, "apply", FULL)
    assert opened(site) == [("run_failed:nightly:restore of files", "/data: The disk is full.")]
    (incident,) = read_state(site).open
    assert (incident.what, incident.remedy) == ("The restore of files failed.", "Free some.")
    ended(site, "undo", KeyboardInterrupt())
    assert [key for key, _ in opened(site)] == [
        "run_failed:nightly:restore of files",
        "run_failed:nightly:undo of files",
    ]
    ended(site, good, source="more")
    assert len(opened(site)) == 2
    ended(site, good)
    assert opened(site) == []
    assert len(failures(site, "nightly")) == 2


def test_a_restore_that_was_refused_is_evidence_and_no_incident(site: Site) -> None:
    ended(site, "apply", RefusedError("It is not the plan.", where="files"))
    assert opened(site) == []
    assert len(failures(site, "nightly")) == 1


def test_what_a_foreign_error_says_is_in_no_incident(site: Site) -> None:
    ended(site, "apply", ValueError("Key (email)=(a@b.example) exists"))
    assert [reason for _, reason in opened(site)] == ["ValueError"]
