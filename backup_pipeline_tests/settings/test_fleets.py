"""Fleets: a source and a plan for each member of a list, by one template; what is wrong with a row is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from backup_pipeline.artefacts.targets import database_of
from backup_pipeline.errors import SettingsError
from backup_pipeline.model.known_databases import KnownDatabase, KnownDatabases
from backup_pipeline.operations.sites.fleet_record import keep_members
from backup_pipeline.settings.fleet_members import MEMBERS_NAME, network_of
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.server_databases import list_file
from backup_pipeline.settings.site import Site
from backup_pipeline_tests.support.sites import NOW

FLEET = """
store: backups
fleets:
  tenants:
    sources_from: {file: %s}
    source:
      kind: postgres
      dsn: "postgresql://backup@{host}:{port}/{database}"
      password_env: "TENANT_{NAME}_PASSWORD"
    schedule: "0 22 * * *"
    window: 6h
    plan: {retention: {keep_daily: 7}}
"""
ROWS = [
    {"name": "acme", "host": "db1.fra.example.org", "port": 5432, "database": "acme"},
    {"name": "a-b c", "host": "db2.fra.example.org", "port": 5433, "database": "x/y?z"},
]
CSV = "name;host;port;database\nacme;db1.fra.example.org;5432;acme\n\na-b c;db2.fra.example.org;5433;x/y?z\n"
YAML = "tenants:\n  acme: {host: db1.fra.example.org, port: 5432, database: acme}\n" + (
    "  a-b c: {host: db2.fra.example.org, port: 5433, database: x/y?z}\n"
)


def fleet(folder: Path, name: str, text: str, settings: str = FLEET, **environment: str) -> Site:
    (folder / name).write_text(text)
    (folder / "backup.yaml").write_text(settings % name if "%s" in settings else settings)
    return load_site(folder, environment=environment)


@pytest.mark.parametrize(
    ("name", "text", "at"),
    [
        ("tenants.json", json.dumps(ROWS), ""),
        ("tenants.csv", CSV, ""),
        ("tenants.yaml", YAML, "tenants"),
        ("out.json", json.dumps({"databases": {"value": ROWS}}), "databases.value"),
    ],
)
def test_each_row_becomes_a_source_and_a_plan(tmp_path: Path, name: str, text: str, at: str) -> None:
    settings = FLEET.replace("{file: %s}", f"{{file: {name}, at: '{at}'}}")
    site = fleet(tmp_path, name, text, settings, TENANT_A_B_C_PASSWORD="not shown")
    plans = list(site.settings.plans)
    assert (site.fleets["tenants"].faults, len(plans), plans[0]) == ((), 2, "tenants_acme")
    target = database_of(site, plans[1])
    assert (target.host, target.port, target.database, target.password) == (
        "db2.fra.example.org",
        5433,
        "x/y?z",
        "not shown",
    )
    plan = site.plan("tenants_acme")
    assert (plan.retention.keep_daily, plan.schedule) == (7, "0 22 * * *")
    assert site.store_folder("tenants_acme") == tmp_path / "backups" / "tenants" / "tenants_acme"
    member = site.fleets["tenants"].members[0]
    assert (member.server, member.network) == ("db1.fra.example.org:5432", "fra.example.org")
    assert site.single_plans == ()


def test_what_is_wrong_with_a_row_is_named_and_leaves_the_others(tmp_path: Path) -> None:
    text = (
        "name,host,port,database\nacme,db1,5432,acme\nbare,,5432,b\n,db1,5432,c\nacme,db2,5432,d\nodd,db1,many,o\n"
        "last,db1,5432,l\n"
    )
    settings = FLEET.replace("source:\n", 'source:\n      connections: "{port}"\n', 1).replace("%s", "t.csv")
    site = fleet(tmp_path, "t.csv", text.replace("5432", "3"), settings)
    assert list(site.settings.plans) == ["tenants_acme", "tenants_last"]
    assert [where for where, _ in site.fleets["tenants"].faults] == [
        "t.csv, line 3, field host",
        "t.csv, line 4, field name",
        "t.csv, line 5, field name",
        "t.csv, line 6, connections",
    ]
    assert "stands in t.csv, line 2 too" in site.fleets["tenants"].faults[2][1]


def test_a_member_that_is_gone_stays_restorable_and_a_lost_file_changes_nothing(tmp_path: Path) -> None:
    known = tmp_path / "backups" / "tenants" / MEMBERS_NAME
    known.parent.mkdir(parents=True)
    gone = {"name": "gone", "host": "db9", "port": "5432", "database": "gone"}
    known.write_text(json.dumps({"members": [{"name": "gone", "fields": gone}]}))
    site = fleet(tmp_path, "t.json", json.dumps(ROWS))
    assert site.plan("tenants_gone").sources == ("tenants_gone",)
    assert [one.plan for one in site.fleets["tenants"].present] == ["tenants_acme", "tenants_a_b_c_d31b9556"]
    (tmp_path / "t.json").unlink()
    site = load_site(tmp_path, environment={})
    assert [one.plan for one in site.fleets["tenants"].present] == ["tenants_gone"]
    assert "cannot be read (No such file" in site.fleets["tenants"].faults[0][1]


def test_what_a_damaged_list_of_known_members_held_is_kept_aside(tmp_path: Path) -> None:
    known = tmp_path / "backups" / "tenants" / MEMBERS_NAME
    known.parent.mkdir(parents=True)
    known.write_text('{"members": [{"name": "gone"')
    site = fleet(tmp_path, "t.json", json.dumps(ROWS))
    keep_members(site, "tenants", NOW)
    assert len(json.loads(known.read_text())["members"]) == 2
    [former] = (known.parent / ".former").glob(f"{MEMBERS_NAME}.*")
    assert former.read_text() == '{"members": [{"name": "gone"'


def test_the_databases_of_a_server_are_members(tmp_path: Path) -> None:
    settings = """
store: backups
sources:
  cluster: {kind: postgres, dsn_env: CLUSTER_URL, databases: {include: ["*"]}}
fleets:
  tenants: {sources_from: {server: cluster}, schedule: "0 22 * * *"}
"""
    folder = tmp_path / "backups" / "tenants"
    databases = (KnownDatabase(name="shop", source="cluster_shop", found_at=NOW),)
    path = list_file(folder, "cluster")
    path.parent.mkdir(parents=True)
    path.write_text(KnownDatabases(asked_at=NOW, databases=databases).model_dump_json())
    site = fleet(tmp_path, "unused", "", settings, CLUSTER_URL="postgresql://u:p@10.1.2.3/postgres")
    member = site.fleets["tenants"].members[0]
    assert (member.plan, site.plan("tenants_shop").sources) == ("tenants_shop", ("cluster_shop",))
    assert (member.server, member.network) == ("10.1.2.3:5432", "10.1.2.0/24")


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ("dsn: postgresql://u:secret@{host}/x", "fleets.tenants.source.dsn: holds a password"),
        (
            "dsn: postgresql://u@{host}/x\n      dump_fromat: custom",
            "fleets.tenants.source.dump_fromat: unknown setting",
        ),
        ("kind: postgrs", "fleets.tenants.source.kind: names no kind of source"),
        ("password_env: not a name", "fleets.tenants.source.password_env: must be the name of a variable"),
    ],
)
def test_a_wrong_template_is_a_fault_of_the_settings(tmp_path: Path, wrong: str, fault: str) -> None:
    text = f"fleets:\n  tenants:\n    sources_from: {{list: [a]}}\n    source:\n      {wrong}\n"
    text += "" if "kind" in wrong else "      kind: postgres\n"
    (tmp_path / "backup.yaml").write_text(text)
    with pytest.raises(SettingsError) as raised:
        load_site(tmp_path, environment={})
    assert fault in f"{raised.value.where}: {raised.value.what}"
    assert "u:secret" not in str(raised.value)


def test_copies_of_members_name_vaults_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(
        "fleets:\n  tenants:\n    sources_from: {list: [a]}\n    source: {kind: folder, path: 'data/{name}'}\n"
        "    plan: {copies: [{to: nowhere, drill: '0 5 * * 0'}]}\n"
    )
    with pytest.raises(SettingsError, match="there is no vault 'nowhere'") as raised:
        load_site(tmp_path, environment={})
    assert "copies.0.drill: is not run for the members of a fleet" in raised.value.what


@pytest.mark.parametrize(
    ("beginning", "plan", "fault"),
    [
        ("", "store: 'vault:nowhere'", r"fleets\.tenants\.plan\.store: there is no vault 'nowhere'"),
        ("", "store: folder", r"fleets\.tenants\.plan\.store"),
        ("state_env: STATE_URL\n", "", r"fleets\.tenants\.plan: with state_env workers share no disk"),
    ],
)
def test_the_store_of_members_is_a_vault_that_is_there(tmp_path: Path, beginning: str, plan: str, fault: str) -> None:
    (tmp_path / "backup.yaml").write_text(
        f"{beginning}fleets:\n  tenants:\n    sources_from: {{list: [a]}}\n"
        f"    source: {{kind: folder, path: 'data/{{name}}'}}\n    plan: {{{plan}}}\n"
    )
    with pytest.raises(SettingsError) as raised:
        load_site(tmp_path, environment={})
    assert re.search(fault, f"{raised.value.where}: {raised.value.what}")


def test_names_of_plans_may_not_be_taken_for_members(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(
        "sources: {tenants_x: {kind: folder, path: x}}\nplans: {n: {sources: [tenants_x]}}\n"
        "fleets: {tenants: {sources_from: {list: [a]}, source: {kind: folder, path: 'data/{name}'}}}\n"
    )
    with pytest.raises(SettingsError, match="is named as fleet tenants or as its members"):
        load_site(tmp_path, environment={})


@pytest.mark.parametrize(
    ("server", "network"),
    [
        ("10.1.2.3:5432", "10.1.2.0/24"),
        ("2001:db8::5:5432", "2001:db8::/64"),
        ("db1.fra.example.org:5432", "fra.example.org"),
        ("db1", "db1"),
    ],
)
def test_a_servers_network_follows_from_its_address(server: str, network: str) -> None:
    assert network_of(server) == network


RDS = {
    "DBInstances": [
        {
            "DBInstanceIdentifier": "shop",
            "Endpoint": {"Address": "shop.x.rds.amazonaws.com", "Port": 5432},
            "DBName": "s",
        }
    ]
}
OF_RDS = """
fleets:
  rds:
    sources_from: {file: rds.json, at: DBInstances, name: DBInstanceIdentifier}
    source:
      kind: postgres
      dsn: "postgresql://backup@{Endpoint_Address}:{Endpoint_Port}/{DBName}?sslmode=verify-full"
      password_env: "RDS_{NAME}_PASSWORD"
"""


def test_nested_values_are_named_by_their_way(tmp_path: Path) -> None:
    site = fleet(tmp_path, "rds.json", json.dumps(RDS), OF_RDS)
    target = database_of(site, "rds_shop")
    assert (target.host, target.database) == ("shop.x.rds.amazonaws.com", "s")
    assert site.source("rds_shop").connection is not None
    assert site.source("rds_shop").connection.password_env == "RDS_SHOP_PASSWORD"  # type: ignore[union-attr]


def test_values_say_no_more_than_where_a_member_is(tmp_path: Path) -> None:
    settings = """
fleets:
  data:
    sources_from: {file: rows.json}
    source: {kind: folder, path: "data/{name}", run_before: "docker start {box}"}
"""
    rows = [
        {"name": "good", "box": "a; rm -rf / --privileged", "password": "not remembered"},
        {"name": "../../etc", "box": "b"},
        {"name": "line\nend", "box": "c"},
    ]
    site = fleet(tmp_path, "rows.json", json.dumps(rows), settings)
    assert list(site.settings.plans) == ["data_good"]
    assert site.source("data_good").run_before[0].run == ("docker", "start", "a; rm -rf / --privileged")
    assert "password" not in site.fleets["data"].members[0].fields
    assert [where for where, _ in site.fleets["data"].faults] == [
        "rows.json, row 2, template's path",
        "rows.json, row 3, field name",
    ]


def test_an_address_takes_no_options_from_a_value(tmp_path: Path) -> None:
    rows = [{"name": "a", "host": "db", "port": 1, "database": "x?host=evil.example&sslmode=disable"}]
    site = fleet(tmp_path, "t.json", json.dumps(rows))
    target = database_of(site, "tenants_a")
    assert (target.host, target.database) == ("db", "x?host=evil.example&sslmode=disable")
