"""`env check` finds what is wrong with variables, servers and disks; a run refuses to begin with unusable variables."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.errors import ExitCode, SettingsError
from backup_pipeline.model.record import ArtefactKind, FileRecord, Severity
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.operations.environment import check_machine
from backup_pipeline.operations.environment.check import check_environment, environment_faults, require_environment
from backup_pipeline.operations.environment.check_servers import clock_fault, row_security_fault
from backup_pipeline.postgres.server.clients import installed_clients
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.settings.loader import load_site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.sites import NOW, SECRET

SITE = """\
sources:
  supabase: {kind: postgres, dsn_env: [SESSION_DATABASE_URL, DATABASE_URL]}
  keycloak: {kind: postgres, dsn_env: KC_DB_URL, user_env: KC_DB_USERNAME, password_env: KC_DB_PASSWORD}
  files: {kind: folder, path: files}
plans:
  nightly: {sources: [supabase, keycloak, files]}
  small: {sources: [files]}
"""


@pytest.fixture
def site(tmp_path):
    """Return a function that gives the site with these variables."""
    (tmp_path / "files").mkdir()
    (tmp_path / "backup.yaml").write_text(SITE)

    def make(**variables: str):
        return load_site(tmp_path, environment=variables)

    return make


def test_a_run_names_all_unusable_variables_at_once(site):
    with pytest.raises(SettingsError) as raised:
        require_environment(
            site(KC_DB_URL="jdbc:postgresql://h/kc", KC_DB_USERNAME="", KC_DB_PASSWORD="changeme"), "nightly"
        )
    assert raised.value.exit_code is ExitCode.SETTINGS
    assert raised.value.what.splitlines() == [
        "3 variables of plan nightly are not usable.",
        "SESSION_DATABASE_URL or DATABASE_URL: not set (needed by source supabase)",
        "KC_DB_USERNAME: empty (needed by source keycloak)",
        "KC_DB_PASSWORD: still a placeholder (needed by source keycloak)",
    ]


def test_what_completes_a_connection_string_is_named_while_that_is_still_missing_too(site):
    with pytest.raises(SettingsError) as raised:
        require_environment(
            site(
                DATABASE_URL="postgresql://u:p@h/d",
                KC_DB_URL="<jdbc:postgresql://HOST/DATABASE>",
                KC_DB_USERNAME="<USER>",
            ),
            "nightly",
        )
    assert raised.value.what.splitlines()[1:] == [
        "KC_DB_URL: still a placeholder (needed by source keycloak)",
        "KC_DB_USERNAME: still a placeholder (needed by source keycloak, unless KC_DB_URL holds it)",
        "KC_DB_PASSWORD: not set (needed by source keycloak, unless KC_DB_URL holds it)",
    ]


def test_a_plan_without_databases_needs_no_variables(site):
    assert environment_faults(site(), ["small"]) == []
    require_environment(site(), "small")


def test_good_variables_let_the_run_begin(site):
    good = site(DATABASE_URL="postgresql://u:p@h/d", KC_DB_URL="jdbc:postgresql://h/kc?user=kc&password=x")
    assert environment_faults(good, ["nightly"]) == []
    require_environment(good, "nightly")


@pytest.mark.parametrize(
    ("value", "reported"),
    [
        ("postgresql://u:geheim@h:6543/d", "transaction pooler"),
        ("mysql://u:geheim@h/d", "Not a PostgreSQL connection string"),
        ("postgresql://u:ge/heim@h/d", "Not a PostgreSQL connection string"),
        ("geheim", "Not a PostgreSQL connection string"),
    ],
)
def test_a_connection_string_of_the_wrong_form_stops_the_run_and_is_not_quoted(site, value, reported):
    with pytest.raises(SettingsError, match=reported) as raised:
        require_environment(site(DATABASE_URL=value, KC_DB_URL="postgresql://u:p@h/kc"), "nightly")
    assert "DATABASE_URL" in str(raised.value)
    assert "geheim" not in str(raised.value)


def _reported(faults) -> dict[str, str]:
    return {fault.where: fault.what for fault in faults}


@pytest.fixture
def reachable(site, server, tmp_path):
    target = server.target()
    dsn = f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}"

    def make(**variables: str):
        (tmp_path / ".env").touch(mode=0o600)
        return site(
            **{
                "DATABASE_URL": dsn,
                "KC_DB_URL": dsn,
                "KC_DB_USERNAME": "u",
                "KC_DB_PASSWORD": SECRET,
                **variables,
            }
        )

    return make


def test_a_healthy_site_has_no_errors(reachable):
    faults = check_environment(reachable(), now=NOW)
    assert [fault for fault in faults if fault.severity is Severity.ERROR] == []


def test_a_server_on_this_machine_is_a_warning_in_production_too(reachable):
    faults = check_environment(reachable(), now=NOW, production=True)
    # Said once for all of them.
    (reported,) = [fault for fault in faults if "on this machine" in fault.what]
    assert reported.where == "DATABASE_URL, KC_DB_URL"
    assert "sources supabase, keycloak are on this machine" in reported.what
    assert [fault for fault in faults if fault.severity is Severity.ERROR] == []


def test_a_server_that_does_not_answer_is_named_without_its_password(reachable):
    faults = check_environment(reachable(DATABASE_URL=f"postgresql://u:{SECRET}@127.0.0.1:1/d"), now=NOW)
    reported = _reported(faults)
    assert "cannot be reached" in reported["u@127.0.0.1:1/d"]
    assert SECRET not in str(faults)


def test_a_refused_login_is_told_apart_from_a_dead_server(reachable, server):
    target = server.target()
    dsn = f"postgresql://{target.user}:wrong-{SECRET}@{target.host}:{target.port}/postgres"
    assert "refused the login" in str(_reported(check_environment(reachable(DATABASE_URL=dsn), now=NOW)))


def test_drills_on_a_live_server_are_warned_of(reachable, server):
    target = server.target()
    dsn = f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}/drill"
    assert (
        "live server" in _reported(check_environment(reachable(DRILL_DATABASE_URL=dsn), now=NOW))["DRILL_DATABASE_URL"]
    )


def test_open_modes_are_warnings_and_errors_in_production(reachable, tmp_path):
    site = reachable()
    (tmp_path / ".env").chmod(0o644)
    store = tmp_path / "backups" / "nightly"
    store.mkdir(parents=True)
    store.chmod(0o755)
    wheres = {str(tmp_path / ".env"), str(store)}
    mild = [fault for fault in check_environment(site, now=NOW) if fault.where in wheres]
    strict = [fault for fault in check_environment(site, now=NOW, production=True) if fault.where in wheres]
    assert {fault.severity for fault in mild} == {Severity.WARN}
    assert {fault.severity for fault in strict} == {Severity.ERROR}
    assert {fault.where for fault in strict} == wheres


def test_a_store_that_cannot_be_written_is_found_by_writing(reachable, tmp_path):
    (tmp_path / "backups").write_text("a file where a folder should be")
    reported = _reported(check_environment(reachable(), now=NOW))
    assert "cannot be written" in reported[str(tmp_path / "backups" / "nightly")]


def test_checking_leaves_nothing_behind(reachable, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    check_environment(reachable(), now=NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*before, ".env"})


def test_a_missing_source_folder_and_an_unused_source_are_named(reachable, tmp_path):
    (tmp_path / "files").rmdir()
    (tmp_path / "backup.yaml").write_text(SITE.replace("plans:", "  spare: {kind: folder, path: .venv}\nplans:"))
    reported = _reported(check_environment(reachable(), now=NOW))
    assert reported[str(tmp_path / "files")] == "source files does not exist there"
    assert reported["sources.spare"] == "no plan captures this source"


def test_lines_of_the_env_file_that_mean_nothing_or_stand_twice_are_named(reachable, tmp_path):
    site = reachable()
    (tmp_path / ".env").write_text("# c\nA=1\n\nthis is = not a line\nA=2\n'broken\n")
    reported = _reported(check_environment(site, now=NOW))
    assert "stands twice (first in line 2)" in reported[f"{tmp_path / '.env'}:5"]
    assert f"{tmp_path / '.env'}:6" in reported


def test_sources_at_once_that_their_server_or_this_machine_has_no_room_for_are_named(reachable, tmp_path, monkeypatch):
    many = ", ".join(f"one{number}" for number in range(3))
    sources = "".join(
        f"  {name}: {{kind: postgres, dsn_env: DATABASE_URL, connections: 32}}\n" for name in many.split(", ")
    )
    text = SITE.replace("plans:", f"{sources}plans:\n  wide: {{sources: [{many}], parallel_sources: 3}}")
    (tmp_path / "backup.yaml").write_text(text)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=700_000_000))
    found = [fault for fault in check_environment(reachable(), now=NOW) if "parallel_sources" in fault.where]
    assert [(fault.where, fault.severity) for fault in found] == [("plans.wide.parallel_sources", Severity.WARN)] * 2
    assert "3 of its sources at once take up to 102 connections" in found[0].what
    assert "may need 990.00 MB of memory; this machine has 700.00 MB free" in found[1].what


def test_limits_that_hold_for_no_step_on_celery_are_named(reachable, tmp_path):
    (tmp_path / "backup.yaml").write_text(SITE.replace("files]}\n  small", "files], parallel_sources: 3}\n  small"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("concurrency: {pools: {default_limit: 2}}\n")
    spread = reachable(DAGSTER_HOME=str(home), BACKUP_PIPELINE_EXECUTOR="celery")
    reported = _reported(check_environment(spread, now=NOW))
    assert "has no effect" in reported["plans.nightly.parallel_sources"]
    assert "limits nothing" in reported[f"{home / 'dagster.yaml'}: concurrency.pools"]
    alone = _reported(check_environment(reachable(DAGSTER_HOME=str(home)), now=NOW))
    assert not any("parallel_sources" in where or "concurrency" in where for where in alone)


def test_a_relative_dagster_home_is_an_error(reachable):
    assert "absolute" in _reported(check_environment(reachable(DAGSTER_HOME="home"), now=NOW))["DAGSTER_HOME"]


def test_only_the_storage_of_dagsters_home_must_be_writable(reachable, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "storage").mkdir(parents=True)
    (home / "dagster.yaml").touch()
    # Root may write everywhere: the answer of the system is given here.
    closed = {home}
    monkeypatch.setattr("os.access", lambda path, mode: path not in closed)
    assert "DAGSTER_HOME" not in _reported(check_environment(reachable(DAGSTER_HOME=str(home)), now=NOW))
    closed.add(home / "storage")
    assert (
        "cannot be written" in _reported(check_environment(reachable(DAGSTER_HOME=str(home)), now=NOW))["DAGSTER_HOME"]
    )
    closed.remove(home / "storage")
    (home / "dagster.yaml").unlink()
    assert (
        "cannot be written" in _reported(check_environment(reachable(DAGSTER_HOME=str(home)), now=NOW))["DAGSTER_HOME"]
    )


def test_git_missing_is_an_error_for_a_site_with_a_repository(reachable, tmp_path, monkeypatch):
    text = SITE.replace("plans:", "  code: {kind: repository, path: files}\nplans:").replace("[files]", "[files, code]")
    (tmp_path / "backup.yaml").write_text(text)
    site = reachable()
    assert "git" not in str(_reported(check_environment(site, now=NOW)))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git was not found" in _reported(check_environment(site, now=NOW))["PATH"]


def test_a_clock_that_differs_is_a_warning_and_by_a_minute_an_error():
    assert clock_fault("h", 1.0) is None
    assert clock_fault("h", -10.0).severity is Severity.WARN
    assert "10 s behind" in clock_fault("h", -10.0).what
    assert clock_fault("h", 90.0).severity is Severity.ERROR


def test_a_role_from_which_row_level_security_hides_rows_is_named_with_the_tables(
    reachable, database, template, server
):
    sql = "create table seen (id int); create table secret (id int); alter table secret enable row level security;"
    target = database(template("hiding", sql))
    role = f"reader_{target.database}"
    with connected(target, pinned=False) as connection:
        connection.execute(f"create role {role} login password '{SECRET}' in role pg_read_all_data".encode())
    dsn = f"postgresql://{role}:{SECRET}@{target.host}:{target.port}/{target.database}"
    try:
        reported = str(check_environment(reachable(DATABASE_URL=dsn), now=NOW))
        assert f"hides rows of public.secret from the role {role}" in reported
        assert f'alter role "{role}" bypassrls' in reported
        assert "public.seen" not in reported
        with connected(target, pinned=False) as connection:
            connection.execute(f"alter role {role} bypassrls".encode())
        assert "hides rows" not in str(check_environment(reachable(DATABASE_URL=dsn), now=NOW))
    finally:
        with connected(target, pinned=False) as connection:
            connection.execute(f"drop role {role}".encode())


def test_many_hidden_tables_are_counted():
    assert "a, b, c, d, e and 2 more" in row_security_fault("s", "source x", "r", list("abcdefg")).what


def test_an_address_that_apprise_does_not_know_is_an_error_that_does_not_quote_it(reachable, tmp_path):
    (tmp_path / "backup.yaml").write_text(SITE + "alerts: {urls_env: ALERT_URLS}\n")
    good = "ntfys://ntfy.sh/topic"
    assert "ALERT_URLS" not in _reported(check_environment(reachable(ALERT_URLS=good), now=NOW))
    faults = check_environment(reachable(ALERT_URLS=f"{good} slak://{SECRET}/b/c"), now=NOW)
    (fault,) = [fault for fault in faults if fault.where == "ALERT_URLS"]
    assert fault.severity is Severity.ERROR
    assert fault.what.startswith("address 2 is none that Apprise knows")
    assert SECRET not in str(faults)


def test_a_server_newer_than_every_client_is_an_error_that_names_what_to_install(reachable, monkeypatch):
    old = [client for client in installed_clients() if client.major < 18]
    assert old
    monkeypatch.setattr("backup_pipeline.postgres.server.clients.installed_clients", lambda: old)
    faults = check_environment(reachable(), now=NOW)
    found = [fault for fault in faults if "No PostgreSQL client of version 18 or newer" in fault.what]
    assert found
    assert "postgresql-client-18" in found[0].remedy


@pytest.mark.parametrize(
    ("name", "value", "reported"),
    [
        ("DATABASE_URL", "postgresql://u:postgres@db.example.net:5432/d", "placeholder"),
        ("DATABASE_URL", "postgresql://u:postgres@127.0.0.1:1/d", "its password is weak"),
        ("DATABASE_URL", "", "empty (needed by source supabase)"),
        ("DATABASE_URL", "postgresql://u:geheim@127.0.0.1:6543/d", "transaction pooler"),
        ("KC_DB_URL", "jdbc:mysql://127.0.0.1/kc", "Not a PostgreSQL connection string"),
        ("KC_DB_URL", "jdbc:postgresql:kc", ""),
        ("KC_DB_PASSWORD", "keycloak", "weak"),
        ("JWT_SECRET", "your-super-secret-jwt-token-with-at-least-32-characters-long", "demo secret"),
        ("UI_URL", "ui.example", "not a URL"),
    ],
)
def test_what_is_wrong_with_a_variable_is_said_with_its_name(reachable, tmp_path, name, value, reported):
    (tmp_path / "backup.yaml").write_text(SITE + "alerts: {ui_url_env: UI_URL}\n")
    found = [fault for fault in check_environment(reachable(**{name: value}), now=NOW) if name in fault.where]
    assert reported in " | ".join(fault.what for fault in found)
    assert all(fault.remedy for fault in found)


def test_a_disk_without_room_for_another_set_is_an_error_and_for_three_a_warning(reachable, monkeypatch):
    def reported(free: int) -> list[tuple[Severity, str]]:
        monkeypatch.setattr("backup_pipeline.stores.local.LocalStore.free_bytes", lambda _: free)
        return [(f.severity, f.what) for f in check_environment(reachable(), now=NOW) if "GB free" in f.what]

    assert reported(10**12) == []
    assert {severity for severity, _ in reported(50_000_000)} == {Severity.ERROR}
    last = SimpleNamespace(size=400_000_000)
    monkeypatch.setattr("backup_pipeline.operations.environment.check_machine._last_sealed", lambda _: last)
    assert {severity for severity, _ in reported(300_000_000)} == {Severity.ERROR}
    ((severity, what), *_) = reported(900_000_000)
    assert severity is Severity.WARN
    assert "fewer than three more sets" in what


def test_a_vault_as_only_store_needs_room_for_what_is_read_again_before_it_is_sent(tmp_path, monkeypatch):
    def file(path: str, size: int, plain: int = 0) -> FileRecord:
        return FileRecord(path=path, size=size, sha256="0" * 64, content_size=plain)

    records = [
        SimpleNamespace(kind=ArtefactKind.POSTGRES_DUMP, files=(file("s_db.sql.gz", 900_000_000),)),
        SimpleNamespace(kind=ArtefactKind.TABLE_EXPORT, files=(file("t.csv", 800_000_000), file("t.parquet", 5))),
        SimpleNamespace(kind=ArtefactKind.SQLITE_COPY, files=(file("s.sqlite.gz", 100_000_000, 200_000_000),)),
    ]
    last = SimpleNamespace(manifest=SimpleNamespace(artefacts=records))
    monkeypatch.setattr(check_machine, "_last_sealed", lambda _: last)
    store = LocalStore(tmp_path / "store", "nightly")
    monkeypatch.setattr(store, "free_here", lambda: 300_000_000)
    assert list(check_machine._space_to_send(store, "nightly")) == []
    monkeypatch.setattr(store, "free_here", lambda: 299_000_000)
    [fault] = check_machine._space_to_send(store, "nightly")
    assert fault.severity is Severity.ERROR
    assert "0.3 GB: s.sqlite.gz lies there" in fault.what


def test_schedules_in_another_zone_than_the_machines_are_warned_of(reachable, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert "timezone" not in _reported(check_environment(reachable(), now=NOW))
        (tmp_path / "backup.yaml").write_text(SITE.replace("files]}", 'files], schedule: "0 2 * * *"}', 1))
        assert "schedules count in UTC" in _reported(check_environment(reachable(), now=NOW))["timezone"]
        (tmp_path / "backup.yaml").write_text(
            "timezone: America/New_York\n" + SITE.replace("files]}", 'files], schedule: "0 2 * * *"}', 1)
        )
        assert "timezone" not in _reported(check_environment(reachable(), now=NOW))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_clock_behind_the_newest_set_is_an_error(reachable, tmp_path):
    folder = tmp_path / "backups" / "small" / set_id_at(NOW + timedelta(hours=1))
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    reported = _reported(check_environment(reachable(), now=NOW))
    assert "newer than this machine's clock" in reported[str(folder.parent)]
    assert "newer than" not in str(check_environment(reachable(), now=NOW + timedelta(hours=2)))


def test_a_plan_that_nothing_starts_is_warned_of_once_and_one_that_is_watched_is_not(reachable, tmp_path):
    plans = '  nightly: {sources: [supabase], schedule: "0 2 * * *"}\n  small: {sources: [files]}\n'
    plans += "  watched: {sources: [files], overdue_after: 30h}\n"
    (tmp_path / "backup.yaml").write_text(SITE.partition("plans:")[0] + "plans:\n" + plans)
    (fault,) = [one for one in check_environment(reachable(), now=NOW) if "nothing starts" in one.what]
    assert (fault.where, fault.severity) == ("plans.small", "WARN")
    assert "overdue_after: 30h" in fault.remedy


def test_what_was_not_inspected_is_counted_as_skipped(site, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p-of-some-length@127.0.0.1:1/d")
    settings = (
        "embedded_postgres: {data: pg}\nsources: {shop: {kind: postgres, dsn_env: DATABASE_URL}}\n"
        'plans: {nightly: {sources: [shop], schedule: "0 2 * * *"}}\n'
    )
    (tmp_path / "backup.yaml").write_text(settings)
    run_app(build_app(), ["env", "check", "--config", str(tmp_path)])
    assert ", 1 skipped" in capsys.readouterr().out


def test_the_command_ends_with_the_exit_code_of_settings_and_lists_every_fault(site, tmp_path, capsys, monkeypatch):
    for name in ("SESSION_DATABASE_URL", "DATABASE_URL", "KC_DB_URL"):
        monkeypatch.delenv(name, raising=False)
    site()
    assert run_app(build_app(), ["env", "check", "--config", str(tmp_path), "--json"]) == ExitCode.SETTINGS
    reported = json.loads(capsys.readouterr().out)
    assert reported["ok"] is False
    assert {"SESSION_DATABASE_URL or DATABASE_URL", "KC_DB_URL"} <= {fault["where"] for fault in reported["faults"]}
    assert all(fault["remedy"] for fault in reported["faults"])


def test_faults_of_the_settings_file_are_in_the_same_form(tmp_path, capsys):
    (tmp_path / "backup.yaml").write_text(SITE.replace("kind: folder", "kind: foldr"))
    assert run_app(build_app(), ["env", "check", "--config", str(tmp_path), "--json"]) == ExitCode.SETTINGS
    reported = json.loads(capsys.readouterr().out)
    assert "foldr" in reported["faults"][0]["what"]
