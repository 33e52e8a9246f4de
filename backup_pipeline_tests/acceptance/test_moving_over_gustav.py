"""GUSTAV on the day after its cron script: its six scenarios, one by one, from the shell and in Dagster.

It comes with what it has: `.env`, `supabase/storage` with two buckets, and the script's `/backups/20251101_020000`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.dagster_runs import instance_in
from backup_pipeline_tests.support.documents.walkthroughs import SUPABASE
from backup_pipeline_tests.support.invented_sets import make_set
from backup_pipeline_tests.support.sites import IDENTITIES, TestSite, gustav_variables, limited_role, write_storage

SETTINGS = """
sources:
  supabase: {kind: postgres, dsn_env: [SESSION_DATABASE_URL, DATABASE_URL]}
  storage: {kind: folder, path: supabase/storage, buckets: [materials, submissions], after: [supabase]}
  keycloak:
    {kind: postgres, dsn_env: KC_DB_URL, user_env: KC_DB_USERNAME, password_env: KC_DB_PASSWORD, after: [supabase]}
plans:
  nightly:
    sources: [supabase, storage, keycloak]
    store: BACKUPS
    schedule: "0 2 * * *"
    retention: {keep_within: 7d}
"""
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
OLD = "20251101_020000"
FILES = ("supabase_db.sql.gz", "keycloak_db.sql.gz", "storage_buckets.tar.gz")


@pytest.fixture
def site(tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> TestSite:
    folder = tmp_path / "gustav"
    folder.mkdir()
    old = tmp_path / "backups" / OLD
    old.mkdir(parents=True)
    for name in FILES:
        (old / name).write_bytes(gzip.compress(b"-- of the old script"))
    made = TestSite(folder)
    supabase, keycloak = database(template("supabase", SUPABASE)), database(template("identities", IDENTITIES))
    made.variables = gustav_variables(supabase, keycloak)
    write_storage(folder / "supabase" / "storage")
    made.write(SETTINGS.replace("BACKUPS", str(tmp_path / "backups")))
    return made


def store_of(site: TestSite) -> Path:
    return site.folder.parent / "backups"


def folders(site: TestSite) -> set[str]:
    return {path.name for path in store_of(site).glob("*T*Z")}


def log(site: TestSite) -> str:
    return (store_of(site) / "backup_log.txt").read_text("utf-8")


def standing(site: TestSite) -> str:
    (plan,) = json.loads(site.run("status", "--json").out)["plans"]
    return str(plan["standing"])


@pytest.mark.story
def test_the_cron_run_writes_logs_and_keeps_seven_days(site: TestSite) -> None:
    """Scenarios 1 and 2, by the shell's command as cron runs it and by the job as the daemon runs it."""
    now = datetime.now(UTC).replace(microsecond=0)
    store = open_store(site.site, "nightly")
    old, recent = (make_set(store, now - timedelta(days=days)) for days in (8, 6))
    failed = make_set(store, now - timedelta(days=5), sealed=False, failed="disk full")
    assert site.run("backup", "nightly").code == 0
    assert old not in folders(site)
    assert {recent, failed} <= folders(site)
    (new,) = folders(site) - {recent, failed}
    a_whole_set(site, store_of(site) / new)
    assert f"{new} complete" in log(site)
    assert json.loads(site.run("list", "--json").out)["foreign"][0]["path"] == OLD
    assert (store_of(site) / OLD / FILES[0]).exists()
    with instance_in(site.folder) as instance:
        job = build_definitions(site.site).resolve_job_def("nightly_backup")
        assert job.execute_in_process(instance=instance, raise_on_error=False).success
    a_whole_set(site, store_of(site) / max(folders(site)))


def test_a_file_that_was_moved_emptied_or_deleted_ends_a_good_standing(site: TestSite) -> None:
    """What is green must be where the owner looks for it, not only where it was when it was sealed."""
    assert site.run("backup", "nightly").code == 0
    (folder,) = folders(site)
    before = standing(site)
    assert before != "failing"
    file = store_of(site) / folder / "storage_buckets.tar.gz"
    content = file.read_bytes()
    for change in (lambda: file.write_bytes(b""), file.unlink, lambda: file.rename(file.with_name("moved"))):
        file.write_bytes(content)
        change()
        assert standing(site) == "failing"
        assert "storage_buckets.tar.gz" in site.run("status").out
        alerts = site.run("alerts", "check")
        assert alerts.code == 6
        assert "storage_buckets.tar.gz" in alerts.text + site.run("alerts", "list").text
    file.write_bytes(content)
    assert standing(site) == before


def in_dagster(site: TestSite, instance: dg.DagsterInstance) -> tuple[bool, str]:
    """Run the job as the daemon does; return whether it succeeded and what its failed steps say."""
    done = (
        build_definitions(site.site)
        .resolve_job_def("nightly_backup")
        .execute_in_process(instance=instance, raise_on_error=False, run_config=QUIET)
    )
    failed = [event.step_failure_data.user_failure_data for event in done.all_events if event.is_step_failure]
    return done.success, " | ".join(str(data.description) for data in failed if data)


@pytest.mark.story
@pytest.mark.takes(seconds=20)
def test_in_dagster_each_failing_scenario_ends_as_from_the_shell(
    site: TestSite, server: EmbeddedServer, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> None:
    """Scenarios 3 to 6 on one site, each mended again before the next."""
    whole, storage = dict(site.variables), site.folder / "supabase" / "storage"
    seen: set[str] = set()

    def run(**changed: str | None) -> tuple[str, set[str]]:
        """Run it with other variables; return what it said and the files of the set that it left, if any."""
        site.variables = {name: value for name, value in (whole | changed).items() if value is not None}
        site.write_env()
        success, reported = in_dagster(site, instance)
        assert not success
        assert standing(site) == "failing"
        new = folders(site) - seen
        seen.update(new)
        return reported, {path.name for one in new for path in (store_of(site) / one).iterdir()}

    with dg.DagsterInstance.ephemeral() as instance:
        for missing in ("DATABASE_URL", "KC_DB_URL"):
            reported, files = run(**{missing: None})
            assert (missing in reported, files) == (True, set())
        reported, files = run(KC_DB_PASSWORD="wrong-but-not-a-placeholder")
        assert {"supabase_db.sql.gz", "storage_buckets.tar.gz"} <= files
        assert not files & {"keycloak_db.sql.gz", "manifest.json"}
        storage.rename(site.folder / "moved")
        reported, files = run()
        assert str(storage) in reported
        assert not files & {"storage_buckets.tar.gz", "manifest.json"}
        (site.folder / "moved").rename(storage)
        live = database(template("supabase", SUPABASE))
        limited_role(server.target(), live, f"limited_{live.database}", "secret-of-limited", "public.orders")
        user = f"limited_{live.database}:secret-of-limited"
        reported, files = run(DATABASE_URL=f"postgresql://{user}@{live.host}:{live.port}/{live.database}")
        assert not files & {"storage_buckets.tar.gz", "keycloak_db.sql.gz", "manifest.json"}
        assert "secret-of-limited" not in reported
        assert log(site).count(" - ERROR - ") == 5
        site.variables = whole
        site.write_env()
        assert in_dagster(site, instance) == (True, "")
    a_whole_set(site, store_of(site) / max(folders(site)))


def a_whole_set(site: TestSite, folder: Path) -> None:
    """The three files under the names that the old script gave them; labels, exit codes and checksums, no secret."""
    for name in FILES:
        assert (folder / name).stat().st_size > 0
    assert b"CREATE TABLE auth.users" in gzip.decompress((folder / FILES[0]).read_bytes())
    assert b"CREATE TABLE public.user_entity" in gzip.decompress((folder / FILES[1]).read_bytes())
    text = (folder / "manifest.json").read_text()
    assert site.variables["KC_DB_PASSWORD"] not in text
    manifest = json.loads(text)
    dump = next(record for record in manifest["artefacts"] if record["key"] == ["supabase", "dump"])
    assert dump["tool"]["exit_code"] == 0
    assert dump["source_label"].startswith("postgres@127.0.0.1")
    assert all(len(file["sha256"]) == 64 for record in manifest["artefacts"] for file in record["files"])


@pytest.mark.parametrize("missing", ["DATABASE_URL", "KC_DB_URL"])
def test_a_missing_variable_is_named_and_makes_no_set(site: TestSite, missing: str) -> None:
    """Scenario 3."""
    del site.variables[missing]
    site.write_env()
    failed = site.run("backup", "nightly")
    assert failed.code == 3
    assert missing in failed.err
    assert folders(site) == set()
    assert standing(site) != "good"


def test_a_failed_supabase_dump_stops_what_comes_after_it(
    site: TestSite, server: EmbeddedServer, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> None:
    """Scenario 4."""
    live = database(template("supabase", SUPABASE))
    limited_role(server.target(), live, f"limited_{live.database}", "secret-of-limited", "public.orders")
    user = f"limited_{live.database}:secret-of-limited"
    site.variables["DATABASE_URL"] = f"postgresql://{user}@{live.host}:{live.port}/{live.database}"
    site.write_env()
    failed = site.run("backup", "nightly")
    assert failed.code != 0
    assert "secret-of-limited" not in failed.text
    (folder,) = folders(site)
    names = {path.name for path in (store_of(site) / folder).iterdir()}
    assert not names & {"storage_buckets.tar.gz", "keycloak_db.sql.gz", "manifest.json"}
    assert "ERROR" in log(site)
    assert standing(site) == "failing"


@pytest.mark.parametrize("emptied", [False, True])
def test_a_storage_path_that_is_missing_or_empty_fails_the_run_and_is_named(site: TestSite, emptied: bool) -> None:
    """Scenario 5."""
    storage = site.folder / "supabase" / "storage"
    storage.rename(site.folder / "moved")
    if emptied:
        storage.mkdir()
    failed = site.run("backup", "nightly")
    assert failed.code != 0
    assert str(storage) in failed.err
    assert str(storage) in log(site)
    assert standing(site) == "failing"
    (folder,) = folders(site)
    assert not (store_of(site) / folder / "manifest.json").exists()


def test_a_failed_keycloak_dump_keeps_the_others_and_fails_the_run(site: TestSite) -> None:
    """Scenario 6, and what completes it."""
    password = site.variables["KC_DB_PASSWORD"]
    site.variables["KC_DB_PASSWORD"] = "wrong-but-not-a-placeholder"
    site.write_env()
    failed = site.run("backup", "nightly")
    assert failed.code != 0
    (folder,) = folders(site)
    for name in ("supabase_db.sql.gz", "storage_buckets.tar.gz"):
        assert (store_of(site) / folder / name).stat().st_size > 0
    (listed,) = json.loads(site.run("list", "--json").out)["sets"]
    assert listed["state"] in ("failed", "incomplete")
    assert any("keycloak" in note for note in listed["notes"])
    assert standing(site) == "failing"
    site.variables["KC_DB_PASSWORD"] = password
    site.write_env()
    assert site.run("backup", "nightly", "--resume").code == 0
    a_whole_set(site, store_of(site) / folder)
