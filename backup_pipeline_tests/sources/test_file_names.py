from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.artefacts.capture import CaptureContext
from backup_pipeline.model.file_name import name_fault, name_from
from backup_pipeline.sources.postgres.dump import dump_path
from backup_pipeline.sources.postgres.settings import PostgresSource
from backup_pipeline.sources.repository.capture import capture_repository
from backup_pipeline.sources.repository.settings import RepositorySource
from backup_pipeline_tests.support.archive_sets import git, new_set, repository

BERLIN = ZoneInfo("Europe/Berlin")
OWNERS = "PostgreSQL/cdb_backup_{time:%Y-%m-%d_%H%M}.sql"


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        (OWNERS, ""),
        ("{source}.sql", ""),
        ("{source}_{time:%H:%M}.sql", "colons"),
        ("../{source}.sql", "no file name"),
        ("/{source}.sql", "no file name"),
        ("records/{source}.sql", "keeps its own files"),
        ("{source}.txt", "must end with"),
        ("{source.x}.sql", "cannot stand here"),
        ("{time.__class__}.sql", "cannot stand here"),
        ("{password}.sql", "cannot stand here"),
        ("{source!r}.sql", "cannot stand here"),
        ("{source", "not a pattern"),
    ],
)
def test_a_pattern_that_gives_no_safe_file_name_is_refused(pattern: str, fault: str) -> None:
    found = name_fault(pattern, ("source",), (".sql", ".sql.gz"))
    assert fault in found
    assert bool(found) is bool(fault)
    if fault:
        with pytest.raises(ValueError, match="file_name"):
            PostgresSource(kind="postgres", dsn_env=("X",), file_name=pattern)


def test_names_say_the_time_of_the_set_in_the_zone_of_the_site(tmp_path: Path) -> None:
    path = repository(tmp_path / "claire")
    context = CaptureContext(new_set(tmp_path), "claire", timezone=BERLIN)
    source = RepositorySource(kind="repository", path=path)
    commit = git(path, "rev-parse", "HEAD")[:7]
    archive, bundle = capture_repository(context, source)
    assert archive.files[0].path == f"claire_repo_2026-11-21_0300_{commit}.zip"
    assert bundle.facts == {"branch": "main", "commit": commit, "env": "no", "volumes": "no"}
    database = PostgresSource(kind="postgres", dsn_env=("X",), file_name=OWNERS)
    assert dump_path(context, database) == "PostgreSQL/cdb_backup_2026-11-21_0300.sql"


@pytest.mark.parametrize(
    ("settings", "path", "compression"),
    [
        ({}, "claire_db.sql.gz", "gzip"),
        ({"compression": "none"}, "claire_db.sql", "none"),
        ({"file_name": "a.sql"}, "a.sql", "none"),
        ({"file_name": "a.sql", "compression": "gzip"}, "a.sql.gz", "gzip"),
        ({"file_name": "a.sql.gz"}, "a.sql.gz", "gzip"),
        ({"file_name": "a.sql.gz", "compression": "none"}, "must end with .sql", ""),
        ({"compression": "zstd"}, "claire_db.sql.zst", "zstd"),
        ({"file_name": "a.sql.zst"}, "a.sql.zst", "zstd"),
        ({"file_name": "a.sql", "compression": "zstd"}, "a.sql.zst", "zstd"),
        ({"file_name": "a.sql.gz", "compression": "zstd"}, "must end with .sql or .sql.zst", ""),
        ({"dump_format": "custom"}, "claire_db.dump", None),
        ({"dump_format": "custom", "compression": "none"}, "claire_db.dump", "none"),
        ({"dump_format": "custom", "compression": "zstd"}, "compression: zstd is of plain dumps", ""),
    ],
)
def test_a_dump_is_compressed_as_the_settings_or_its_name_say(
    tmp_path: Path, settings: dict[str, Any], path: str, compression: str | None
) -> None:
    if compression == "":
        with pytest.raises(ValueError, match=path):
            PostgresSource(kind="postgres", dsn_env=("X",), **settings)
        return
    source = PostgresSource(kind="postgres", dsn_env=("X",), **settings)
    assert dump_path(CaptureContext(new_set(tmp_path), "claire", timezone=BERLIN), source) == path
    assert source.dump_compression == (compression or "gzip")


def test_a_branch_with_slashes_stays_one_name() -> None:
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    assert name_from("R/{branch}_{commit}.zip", moment, branch="a/b", commit="0e4fbd3") == "R/a-b_0e4fbd3.zip"
