"""A source that stands for all databases of a server: found, captured, reported, restored one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.incident import IncidentState
from backup_pipeline.model.record import left_undone
from backup_pipeline.model.restore import RestoreOptions
from backup_pipeline.operations.alerts.observe import observe_site
from backup_pipeline.operations.backup.schema_watch import compare_schemas
from backup_pipeline.operations.environment.check_databases import found_database_faults
from backup_pipeline.operations.importing.run import ImportRequest, import_backups
from backup_pipeline.operations.restore.run import plan_restore
from backup_pipeline.operations.sites.known_databases import refresh_databases
from backup_pipeline.orchestration.build import build_definitions, plan_definitions
from backup_pipeline.orchestration.names import artefact_key, manifest_key, restored_key, source_key
from backup_pipeline.orchestration.restore_assets import restorable
from backup_pipeline.orchestration.restore_runs import Wanted, submit_plan
from backup_pipeline.orchestration.run_resource import selected_sources
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.settings.server_databases import sources_for_retention
from backup_pipeline_tests.support.dagster_runs import loaded
from backup_pipeline_tests.support.front_pages import pages_of
from backup_pipeline_tests.support.server_sites import ServerSite, check_of, server_site

CAPTURED, AS_BEFORE = "every_database_captured", "databases_as_before"


@pytest.fixture
def databases(tmp_path: Path, server: EmbeddedServer) -> Iterator[ServerSite]:
    with server_site(tmp_path, server.target(), '["PREFIXscratch*"]') as made:
        yield made


def refresh(databases: ServerSite) -> list[tuple[str, str]]:
    """Ask the server; return each change as the database and whether it is gone."""
    found = refresh_databases(databases.site.site, ["nightly"])
    assert not found.silent
    return [
        (one.database.removeprefix(databases.prefix), (one.absent_because and "gone") or "new") for one in found.changes
    ]


def sources(databases: ServerSite) -> list[str]:
    """The sources of the plan without the prefix of their databases."""
    plan = databases.site.site.plan("nightly")
    return [name.replace(f"server_{databases.prefix}", "") for name in plan.sources]


def test_the_databases_of_a_server_become_sources_and_need_no_server_to_load(
    databases: ServerSite, tmp_path: Path
) -> None:
    for name in ("shop", "wiki", "scratch_1"):
        databases.create(name)
    assert sources(databases) == ["server"]
    assert refresh(databases) == [("shop", "new"), ("wiki", "new")]
    databases.site.variables["SERVER_URL"] = "postgresql://nobody@127.0.0.1:1/postgres"
    databases.site.write_env()
    assert sources(databases) == ["server", "shop", "wiki"]
    site = databases.site.site
    source = site.source(databases.source("shop"))
    assert (source.after, site.settings.sources["server"].after) == (("server",), ())
    build_definitions(site)


def test_what_is_no_database_to_capture_is_skipped_with_its_reason(databases: ServerSite) -> None:
    databases.create("shop")
    for name in ("closed", "model", "shop__before_20260101T000000"):
        databases.create(name)
    databases.execute(f'alter database "{databases.prefix}closed" allow_connections false')
    databases.execute(f'alter database "{databases.prefix}model" is_template true')
    try:
        assert refresh(databases) == [("shop", "new")]
        manifest, errors = databases.back_up()
        assert errors == []
        assert manifest is not None
        document = json.loads(
            (databases.site.site.store_folder("nightly") / manifest.set_id / "server_databases.json").read_text()
        )
        skipped = {
            one["name"].removeprefix(databases.prefix): one["skipped"]
            for one in document["databases"]
            if one["skipped"]
        }
        assert skipped["closed"] == "it allows no connections"
        assert skipped["model"] == "it is a template"
        assert skipped["shop__before_20260101T000000"] == "a restore or an undo put it aside"
        assert skipped["template1"] == "it is a template"
        assert skipped["postgres"] == "the settings do not select it"
        assert check_of(manifest, CAPTURED).passed
    finally:
        databases.execute(f'alter database "{databases.prefix}model" is_template false')


def test_new_and_vanished_databases_are_reported_once_and_stop_no_backup(databases: ServerSite) -> None:
    databases.create("shop")
    databases.create("wiki")
    refresh(databases)
    manifest, errors = databases.back_up()
    assert (errors, manifest is not None and check_of(manifest, AS_BEFORE).passed) == ([], True)
    databases.create("later")
    databases.drop("wiki")
    [gone, new] = compare_schemas(databases.site.site, "nightly").changes
    assert (new.table, new.change) == (f"{databases.prefix}later", "new database")
    assert (gone.table, gone.change) == (f"{databases.prefix}wiki", "gone: it was dropped or renamed")
    assert sources(databases) == ["server", "shop", "later"]
    manifest, errors = databases.back_up()
    assert errors == []
    assert manifest is not None
    said = check_of(manifest, AS_BEFORE)
    assert (said.passed, said.summary) == (False, f"new {databases.prefix}later, gone {databases.prefix}wiki")
    now = datetime.now(UTC)
    alerts = [
        one.incident.what
        for one in observe_site(databases.site.site, IncidentState(), {"nightly": now}, now)
        if one.incident
    ]
    assert "Check databases_as_before of server.databases failed (WARN)." in alerts
    manifest, errors = databases.back_up()
    assert (errors, manifest is not None and check_of(manifest, AS_BEFORE).passed) == ([], True)


def test_a_database_that_vanishes_after_the_definitions_were_loaded_fails_no_run(
    databases: ServerSite, instance: dg.DagsterInstance
) -> None:
    databases.create("shop")
    databases.create("wiki")
    refresh(databases)
    # As long as it was asked a moment ago it is not asked again.
    [path] = databases.site.site.store_folder("nightly").glob(".known/server.databases.json")
    path.write_text(path.read_text().replace(f'"asked_at": "{datetime.now(UTC):%Y}', '"asked_at": "2020'))
    databases.drop("wiki")
    databases.create("later")
    job = build_definitions(databases.site.site).resolve_job_def("nightly_backup")
    done = job.execute_in_process(instance=instance)
    assert done.success
    store = databases.site.store("nightly")
    [set_id] = store.sealed_ids()
    manifest = store.read(set_id).manifest
    assert manifest is not None
    assert manifest.sources == ("server", databases.source("shop"))
    assert not manifest.partial
    assert sources(databases) == ["server", "shop", "later"]


def test_assets_selected_before_a_database_was_dropped_are_found_and_passed_over(
    databases: ServerSite, instance: dg.DagsterInstance
) -> None:
    databases.create("shop")
    databases.create("wiki")
    refresh(databases)
    # As *Materialize all* has them on a page that was loaded now.
    keys = [key for asset in plan_definitions(databases.site.site, "nightly").assets or () for key in _captured(asset)]
    assert artefact_key("nightly", (databases.source("wiki"), "dump")) in keys
    databases.drop("wiki")
    assert refresh(databases) == [("wiki", "gone")]
    job = build_definitions(databases.site.site).resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, asset_selection=[*keys, manifest_key("nightly")])
    assert done.success
    [manifest] = [databases.site.store("nightly").read(each).manifest for each in databases.site.store("nightly").ids()]
    assert manifest is not None
    assert (manifest.sources, manifest.partial) == (("server", databases.source("shop")), False)
    gone = source_key("nightly", f"server_{databases.prefix}wiki")
    assert restorable(databases.site.site, "nightly") == [databases.source("shop"), gone.path[1]]
    [check] = [one for one in done.get_asset_check_evaluations() if one.asset_key == gone]
    assert (check.passed, "gone" in str(check.description)) == (False, True)


def test_assets_selected_before_a_database_was_made_are_a_partial_set_without_it(
    databases: ServerSite, instance: dg.DagsterInstance
) -> None:
    databases.create("shop")
    refresh(databases)
    keys = [key for asset in plan_definitions(databases.site.site, "nightly").assets or () for key in _captured(asset)]
    databases.create("later")
    assert refresh(databases) == [("later", "new")]
    job = build_definitions(databases.site.site).resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, asset_selection=[*keys, manifest_key("nightly")])
    assert done.success
    [manifest] = [databases.site.store("nightly").read(each).manifest for each in databases.site.store("nightly").ids()]
    assert manifest is not None
    # Partial: no restore takes it for the latest, and retention does not count it.
    assert (manifest.sources, manifest.partial) == (("server", databases.source("shop")), True)


def _captured(asset: object) -> Iterator[dg.AssetKey]:
    if isinstance(asset, dg.AssetsDefinition):
        yield from (spec.key for spec in asset.specs if spec.group_name == "nightly" and "source" in spec.tags)


@pytest.mark.story
def test_a_dropped_database_and_one_found_since_are_restored_from_the_pages(
    databases: ServerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases.create("shop")
    refresh(databases)
    folder = databases.site.folder
    settings = (folder / "backup.yaml").read_text()
    with loaded(folder, settings, monkeypatch, code_server=True) as (instance, workspace):
        databases.create("later")
        refresh(databases)
        manifest, errors = databases.back_up()
        assert errors == []
        assert manifest is not None
        databases.drop("shop")
        refresh(databases)
        for name in ("later", "shop"):
            source = f"server_{databases.prefix}{name}"
            wanted = Wanted("nightly", manifest.set_id, source, RestoreOptions())
            run = instance.get_run_by_id(submit_plan(workspace, wanted, asked_by="a test"))
            assert run is not None
            assert run.asset_selection == {restored_key("nightly", source)}


def test_a_run_that_began_before_any_database_was_found_is_no_backup(databases: ServerSite) -> None:
    databases.create("shop")
    manifest, errors = databases.back_up()
    assert manifest is None
    assert "No database of the server is in this run: 1 were found when it had begun" in errors[0]
    manifest, errors = databases.back_up()
    assert (errors, manifest is not None) == ([], True)


def test_a_database_that_lets_nobody_in_keeps_no_other_from_its_backup(
    databases: ServerSite, server: EmbeddedServer
) -> None:
    role = databases.role("backup", "login superuser password 'geheim'")
    databases.execute(f'alter role "{role}" nosuperuser')
    databases.execute(f'grant pg_read_all_data to "{role}"')
    databases.create("shop")
    databases.create("private")
    databases.execute(f'revoke connect on database "{databases.prefix}private" from public')
    address = server.target()
    databases.site.variables["SERVER_URL"] = f"postgresql://{role}:geheim@{address.host}:{address.port}/postgres"
    databases.site.write_env()
    assert refresh(databases) == [("shop", "new")]
    [fault] = found_database_faults(databases.site.site, ["nightly"])
    assert f"database {databases.prefix}private is not captured: the role {role} has no right" in fault.what
    manifest, errors = databases.back_up()
    assert errors == []
    assert manifest is not None
    assert manifest.sources == ("server", databases.source("shop"))
    [undone] = left_undone(manifest.artefacts)
    assert f"not captured: {databases.prefix}private: the role {role} has no right to connect" in undone
    databases.execute(f'grant connect on database "{databases.prefix}private" to "{role}"')
    assert refresh(databases) == [("private", "new")]


def test_a_name_with_the_end_of_a_line_is_reported_on_one_line_and_not_captured(databases: ServerSite) -> None:
    databases.create("shop")
    databases.create("a\nerror: all is lost")
    assert refresh(databases) == [("shop", "new")]
    [fault] = found_database_faults(databases.site.site, ["nightly"])
    name = f"{databases.prefix}a\\nerror: all is lost"
    assert fault.what == f"database {name} is not captured: its name holds control characters"
    manifest, errors = databases.back_up()
    assert errors == []
    assert manifest is not None
    assert check_of(manifest, CAPTURED).summary == f"not captured: {name}: its name holds control characters"


def test_a_pattern_that_means_no_database_is_named(databases: ServerSite) -> None:
    databases.create("shop")
    text = (databases.site.folder / "backup.yaml").read_text()
    databases.site.write(text.replace(f'"{databases.prefix}*"]', f'"{databases.prefix}*", "{databases.prefix}shpo"]'))
    refresh(databases)
    [fault] = found_database_faults(databases.site.site, ["nightly"])
    assert fault.what == f"{databases.prefix}shpo: the server has no such database"
    manifest, _ = databases.back_up()
    assert manifest is not None
    assert f"{databases.prefix}shpo: the server has no such database" in check_of(manifest, CAPTURED).summary
    databases.site.write(text.replace(f'"{databases.prefix}*"]', f'"{databases.prefix}shpo"]'))
    refresh(databases)
    manifest, errors = databases.back_up()
    assert manifest is None
    assert "No database of the server is captured" in errors[0]


def test_a_renamed_database_is_a_new_one_and_its_sets_stay_restorable(databases: ServerSite) -> None:
    databases.create("shop")
    databases.create("wiki")
    refresh(databases)
    databases.back_up()
    databases.execute(f'alter database "{databases.prefix}shop" rename to "{databases.prefix}store"')
    assert refresh(databases) == [("shop", "gone"), ("store", "new")]
    assert sources(databases) == ["server", "wiki", "store"]
    assert databases.site.site.source(f"server_{databases.prefix}shop").connection is not None
    databases.execute(f'alter database "{databases.prefix}store" rename to "{databases.prefix}shop"')
    assert refresh(databases) == [("shop", "new"), ("store", "gone")]


def test_a_plan_and_after_name_one_database_whether_its_server_was_asked_or_not(databases: ServerSite) -> None:
    databases.create("shop")
    databases.create("wiki")
    text = (databases.site.folder / "backup.yaml").read_text().replace("plans:", _ALONE + "plans:")
    named = f"server/{databases.prefix}"
    (databases.site.folder / "files").mkdir()
    (databases.site.folder / "files" / "a.txt").write_text("content")
    databases.site.write(text.replace("SHOP", f"{named}shop") + f"  hourly: {{sources: [{named}shop, files]}}\n")
    shop = f"server_{databases.prefix}shop"
    for _ in range(2):
        site = databases.site.site
        assert site.plan("hourly").sources == (shop, "files")
        assert (site.source("files").after, site.source(shop).after) == ((shop,), ())
        build_definitions(site)
        refresh(databases)
    assert sources(databases) == ["server", "shop", "wiki"]
    assert selected_sources(databases.site.site, "hourly", None) == ((shop, "files"), False)
    done = databases.site.run("backup", "hourly")
    assert done.code == 0, done.text
    databases.drop("shop")
    assert refresh(databases) == [("shop", "gone")]
    build_definitions(databases.site.site)
    assert databases.site.run("backup", "hourly").code not in (0, 11)
    assert sources(databases) == ["server", "wiki"]


_ALONE = """  files: {kind: folder, path: files, after: [SHOP]}
"""


def test_a_list_that_somebody_else_wrote_gives_no_source(databases: ServerSite) -> None:
    databases.create("shop")
    refresh(databases)
    [path] = databases.site.site.store_folder("nightly").glob(".known/server.databases.json")
    document = json.loads(path.read_text())
    for source in ("other", "server_../../etc", "server_", "server_" + "x" * 80):
        document["databases"].append({**document["databases"][0], "source": source})
    path.write_text(json.dumps(document))
    assert sources(databases) == ["server", "shop"]
    path.write_text("[]")
    assert sources(databases) == ["server"]
    path.unlink()
    path.symlink_to("/dev/zero")
    assert sources(databases) == ["server"]


def test_what_another_process_has_found_is_not_forgotten(databases: ServerSite) -> None:
    databases.create("shop")
    old = databases.site.site
    databases.create("wiki")
    refresh(databases)
    databases.drop("wiki")
    refresh_databases(old, ["nightly"])
    [wiki] = [one for one in databases.site.site.databases["server"].databases if one.name.endswith("wiki")]
    assert wiki.absent_because == "it was dropped or renamed"


def test_the_last_set_of_a_database_that_is_gone_is_kept_for_90_days(databases: ServerSite) -> None:
    databases.create("shop")
    databases.create("wiki")
    refresh(databases)
    databases.back_up()
    databases.drop("wiki")
    refresh(databases)
    site, now = databases.site.site, datetime.now(UTC)
    gone = f"server_{databases.prefix}wiki"
    assert gone not in sources_for_retention(site, "nightly", now + timedelta(days=89))
    assert gone in sources_for_retention(site, "nightly", now + timedelta(days=91))


def test_a_new_machine_knows_the_databases_from_a_set(databases: ServerSite) -> None:
    databases.create("shop")
    refresh(databases)
    manifest, _ = databases.back_up()
    assert manifest is not None
    [path] = databases.site.site.store_folder("nightly").glob(".known/server.databases.json")
    path.unlink()
    page = pages_of(databases.site.folder)
    shop = f"server_{databases.prefix}shop"
    text = page.get(f"/backups/restore/nightly/{manifest.set_id}/server").text
    assert "each of which is restored by itself" in text
    assert f"/backups/restore/nightly/{manifest.set_id}/{shop}" in text
    path.unlink()
    with pytest.raises(RefusedError, match=r"It stands for the databases of a server"):
        plan_restore(databases.site.site, "nightly", manifest.set_id, "server")
    plan = plan_restore(databases.site.site, "nightly", manifest.set_id, shop)
    assert plan.confirm == f"{databases.prefix}shop"
    assert databases.site.site.source(shop).connection is not None


def test_a_dump_is_imported_as_one_of_the_databases_and_never_as_their_list(
    databases: ServerSite, tmp_path: Path
) -> None:
    databases.create("shop")
    refresh(databases)
    manifest, _ = databases.back_up()
    assert manifest is not None
    shop = f"server_{databases.prefix}shop"
    dump = databases.site.site.store_folder("nightly") / manifest.set_id / f"{shop}_db.sql.gz"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / f"{databases.prefix}shop_2025-09-05_005234.sql.gz").write_bytes(dump.read_bytes())
    request = ImportRequest("nightly", (tmp_path / "old",), dry_run=True)
    [one] = import_backups(databases.site.site, request).made
    assert (one.partial, list(one.parts)) == (False, [shop])


@pytest.mark.takes(seconds=60)
def test_one_database_goes_from_backup_to_drill_to_restore_and_undo(
    tmp_path: Path, installed_server: EmbeddedServer
) -> None:
    with server_site(tmp_path, installed_server.target()) as databases:
        owners = [databases.role("anna"), databases.role("bert")]
        for name, owner in (("shop", owners[0]), ("a/b", owners[1]), ("Ünïcode " + "x" * 20, owners[0])):
            databases.create(name, owner=owner)
        _round_trip(databases)


def _round_trip(databases: ServerSite) -> None:
    site = databases.site
    done = site.run("backup", "nightly")
    assert done.code == 0, done.text
    assert f"server: database {databases.prefix}a/b is new; its source is {databases.source('a/b')}" in done.err
    assert site.run("drill", "nightly").code == 0
    odd = databases.source("a/b")
    databases.create("later", rows=9)
    databases.drop("a/b")
    done = site.run("backup", "nightly", "--json")
    document = json.loads(done.out)
    assert (done.code, [(one["database"], one["change"]) for one in document["databases"]]) == (
        0,
        [(f"{databases.prefix}a/b", "gone"), (f"{databases.prefix}later", "new")],
    )
    first = databases.site.store("nightly").sealed_ids()[0]
    _restore(databases, f"nightly/{first}", odd, "a/b")
    assert databases.rows("a/b") == 5
    shop = databases.source("shop")
    with connected(databases.server.with_database(f"{databases.prefix}shop")) as connection:
        connection.execute("insert into public.t values (100, 'more')")
    _restore(databases, f"nightly/{first}", shop, "shop")
    assert databases.rows("shop") == 5
    done = site.run("undo", f"nightly/{shop}", "--apply", "--confirm", f"{databases.prefix}shop")
    assert (done.code, databases.rows("shop")) == (0, 6), done.text
    # What restores and undos put aside is no database to capture.
    assert refresh(databases) == [("a/b", "new")]


def _restore(databases: ServerSite, name: str, source: str, database: str) -> None:
    planned = json.loads(databases.site.run("restore", name, source, "--json").out)
    confirm = f"{databases.prefix}{database}"
    done = databases.site.run("restore", name, source, "--apply", "--plan-id", planned["plan_id"], "--confirm", confirm)
    assert done.code == 0, done.text
