"""The Supabase-backed service on the day after its old tool: JSON per table, list, clean-up, 30 days, checksums.

It comes with what it has: API keys in `.env`, folders of the old tool in `./backups`, modes 644 and 755.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.model.manifest import Purpose
from backup_pipeline.operations.sites.stores import open_store, plan_lock
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.dagster_runs import instance_in
from backup_pipeline_tests.support.invented_sets import make_set
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn

SETTINGS = """
store: ./backups
environment: production
file_mode: "0644"
folder_mode: "0755"
sources:
  service:
    kind: postgres
    dsn_env: DATABASE_URL
    tables: {include: ["public.*"], formats: [json, parquet]}
plans:
  export:
    sources: [service]
    store: ./backups
    schedule: "30 1 * * *"
    retention: {keep_within: 30d}
"""
KEYS = {
    "SUPABASE_URL": "https://abcdefghijklmnop.supabase.co",
    "SUPABASE_API_KEY": "eyJhbGciOiJIUzI1NiJ9.anon",
    "SUPABASE_SERVICE_ROLE_KEY": "eyJhbGciOiJIUzI1NiJ9.service",
}
OLD = "backup_20250119_143022"


@pytest.fixture
def service(tmp_path: Path) -> TestSite:
    old = tmp_path / "backups" / OLD
    old.mkdir(parents=True)
    (tmp_path / "backups").chmod(0o755)
    (old / "customers.json").write_text('[{"id": 1}]')
    (old / "metadata.json").write_text("{}")
    site = TestSite(tmp_path, dict(KEYS))
    site.write(SETTINGS)
    return site


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def wrong_modes(folder: Path) -> list[str]:
    """Every entry of the store that has not the mode of the settings; the old tool's own are not looked at."""
    return [
        f"{path.relative_to(folder)} {stat.S_IMODE(path.stat().st_mode):o}"
        for path in sorted(folder.rglob("*"))
        if OLD not in path.parts and stat.S_IMODE(path.stat().st_mode) != (0o755 if path.is_dir() else 0o644)
    ]


def test_api_keys_alone_are_answered_with_where_the_connection_string_is(service: TestSite) -> None:
    failed = service.run("backup", "export")
    assert failed.code == 3
    assert "DATABASE_URL: not set" in failed.err
    assert "SUPABASE_API_KEY, SUPABASE_SERVICE_ROLE_KEY, SUPABASE_URL open Supabase's API only" in failed.err
    assert "Connect, Session pooler (port 5432)" in failed.err
    assert all(value not in failed.text for name, value in KEYS.items() if name != "SUPABASE_URL")
    assert not list((service.folder / "backups").glob("*Z"))
    checked = json.loads(service.run("env", "check", "--json").out)
    assert any("Session pooler" in fault["remedy"] for fault in checked["faults"])


def test_every_statement_of_the_old_tool_holds(
    service: TestSite, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> None:
    service.variables["DATABASE_URL"] = dsn(database(template("shop", SHOP)))
    service.write_env()
    with umask(0o077):
        assert service.run("backup", "export").code == 0
        a_json_array_for_each_table_with_its_checksum(service)
        lists_and_leaves_the_old_backups_alone(service)
        verifies_and_names_what_was_changed(service)
        cleans_up_after_thirty_days(service)
        assert the_same_run_in_dagster(service).success
        with plan_lock(service.site, "export", "test"):
            assert wrong_modes(service.folder / "backups") == []
    assert wrong_modes(service.folder / "backups") == []


def newest(service: TestSite) -> Path:
    return max(path.parent for path in (service.folder / "backups").glob("*Z/manifest.json"))


def a_json_array_for_each_table_with_its_checksum(service: TestSite) -> None:
    manifest = json.loads((newest(service) / "manifest.json").read_text())
    assert manifest["environment"] == "production"
    files = {file["path"]: file for record in manifest["artefacts"] for file in record["files"]}
    rows = {}
    for table in ("customers", "orders"):
        path = f"tables/service/public.{table}.json"
        content = (newest(service) / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == files[path]["sha256"]
        rows[table] = json.loads(content)
    assert len(rows["customers"]) == 40
    assert len(rows["orders"]) == 300
    assert rows["orders"][4] == {"id": 5, "customer_id": 6, "total": 6.25, "note": None}
    shown = json.loads(service.run("show", "latest", "--json").out)
    assert shown["environment"] == "production"
    checks = {check["name"] for artefact in shown["artefacts"] for check in artefact["checks"] if check["passed"]}
    assert "json_rows_match_snapshot" in checks


def lists_and_leaves_the_old_backups_alone(service: TestSite) -> None:
    listed = json.loads(service.run("list", "--json").out)
    assert [one["state"] for one in listed["sets"]] == ["complete"]
    assert listed["foreign"] == [{"plan": "export", "path": OLD, "dated": "2025-01-19 14:30:00"}]
    assert f"of another tool, left alone: {OLD}" in service.run("list").out


def verifies_and_names_what_was_changed(service: TestSite) -> None:
    assert service.run("verify", "latest").code == 0
    file = newest(service) / "tables" / "service" / "public.orders.json"
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"id":7,', b'"id":8,'))
    assert "public.orders.json" in service.run("verify", "latest").text
    file.write_bytes(content)
    assert service.run("verify", "latest").code == 0


def cleans_up_after_thirty_days(service: TestSite) -> None:
    store = open_store(service.site, "export")
    now = datetime.now(UTC).replace(microsecond=0)
    ages = (timedelta(days=29), timedelta(days=31), timedelta(days=40))
    kept, *gone = (make_set(store, now - age, purpose=Purpose.BACKUP) for age in ages)
    failed = make_set(store, now - timedelta(days=5), sealed=False, failed="disk full")
    dry = service.run("cleanup", "export", "--dry-run").out
    assert all(one in dry for one in (*gone, kept))
    assert service.run("cleanup", "export", "--yes").code == 0
    left = {path.name for path in (service.folder / "backups").iterdir()}
    assert {kept, failed, OLD} <= left
    assert not left & set(gone)


def the_same_run_in_dagster(service: TestSite) -> dg.ExecuteInProcessResult:
    with instance_in(service.folder) as instance:
        job = build_definitions(service.site).resolve_job_def("export_backup")
        done = job.execute_in_process(instance=instance, raise_on_error=False)
    keys = {event.asset_key.to_user_string() for event in done.get_asset_materialization_events() if event.asset_key}
    assert {"export/service/public/customers", "export/service/public/orders", "export/manifest"} <= keys
    assert json.loads((newest(service) / "tables" / "service" / "public.orders.json").read_text())
    return done
