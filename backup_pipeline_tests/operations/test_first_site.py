"""`init`: from an empty folder to a proven backup, without a secret in any place but `.env`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from backup_pipeline.operations.first_site.found import Discovery, free_name
from backup_pipeline.operations.sites.known_databases import refresh_databases
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.sites import IDENTITIES, SECRET, SHOP, Output, TestSite, dsn


def init(folder: Path, *arguments: str, given: str = "", **variables: str) -> Output:
    """Run `init` on a folder, with nothing in the environment that names a server."""
    from backup_pipeline.cli.main import build_app, run_app

    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {**TestSite(folder).environment(), **variables}, clear=True),
        mock.patch("sys.stdin", io.StringIO(given)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run_app(build_app(), ["init", str(folder), *arguments])
    return Output(code, out.getvalue(), err.getvalue())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A server's address that nobody answers at, so that a machine's own servers are not found by a test."""
    made = tmp_path / "nobody"
    made.mkdir()
    return made


@pytest.fixture
def shop(database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> PostgresTarget:
    return database(template("shop", SHOP))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "site"
    made.mkdir()
    return made


def test_an_empty_folder_is_told_what_can_be_named_and_stays_empty(folder: Path, elsewhere: Path) -> None:
    done = init(folder, "--yes", PGHOST=str(elsewhere))
    assert done.code == 3
    assert "Nothing that can be backed up was found" in done.err
    assert "--dsn FILE" in done.err
    assert files_of(folder) == {}


@pytest.mark.takes(seconds=15)
def test_a_connection_string_from_stdin_ends_in_a_proven_backup(folder: Path, shop: PostgresTarget) -> None:
    target = shop
    (folder / "documents").mkdir()
    (folder / "documents" / "a.txt").write_text("a")
    done = init(folder, "--dsn", "-", "--yes", "--json", given=dsn(target) + "\n")
    assert done.code == 0, done.text
    document = json.loads(done.out)
    [backup], [proof] = document["backups"], document["proofs"]
    assert (backup["sealed"], proof["passed"]) == (True, True)
    assert [source["kind"] for source in document["sources"]] == ["postgres"]
    env = folder / ".env"
    assert env.stat().st_mode & 0o777 == 0o600
    assert target.password
    for name, content in files_of(folder).items():
        assert name == ".env" or target.password.encode() not in content, name
    assert target.password not in done.text
    text = (folder / "backup.yaml").read_text("utf-8")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=./backup.schema.json"
    # Files beside it were not named, and are mentioned.
    [note] = [one for one in document["not_taken"] if one["what"] == "folder documents"]
    assert "--add documents takes it" in note["why"]
    before = files_of(folder / "backups")
    again = init(folder, "--yes", "--json")
    assert (again.code, json.loads(again.out)["backups"], json.loads(again.out)["proofs"]) == (0, [], [])
    assert (folder / "backup.yaml").read_text("utf-8") == text
    assert files_of(folder / "backups").keys() == before.keys()


def test_what_an_interrupted_init_left_undone_is_done_by_the_next(folder: Path, elsewhere: Path) -> None:
    (folder / "uploads").mkdir()
    (folder / "uploads" / "a.txt").write_text("a")
    assert init(folder, "--yes", "--no-backup", PGHOST=str(elsewhere)).code == 0
    assert not (folder / "backups").exists()
    document = json.loads(init(folder, "--yes", "--json", PGHOST=str(elsewhere)).out)
    assert [one["sealed"] for one in document["backups"]] == [True]
    assert [one["passed"] for one in document["proofs"]] == [True]
    (folder / "letters").mkdir()
    told = init(folder, "--add", str(folder / "letters"), "--add", str(folder / "uploads"), "--yes", "--no-backup").out
    assert "folder letters is no source yet." in told
    assert 'letters: {"kind": "folder", "path": "letters"}' in told
    assert "uploads" not in told


@pytest.mark.parametrize("given", [f"postgresql://u:{SECRET}@h/d", f"host=h password={SECRET}"])
def test_a_connection_string_as_an_argument_is_refused_without_repeating_it(folder: Path, given: str) -> None:
    done = init(folder, "--dsn", given, "--yes")
    assert done.code == 3
    assert "every user of this machine" in done.err
    assert SECRET not in done.text


def test_variables_of_an_env_file_are_named_and_the_file_stays_as_it_is(
    folder: Path,
    shop: PostgresTarget,
    database: Callable[..., PostgresTarget],
    template: Callable[[str, str], str],
) -> None:
    keycloak = database(template("identities", IDENTITIES))
    lines = [
        "# ours",
        f"DATABASE_URL='{dsn(shop)}'",
        f"SESSION_DATABASE_URL='{dsn(shop)}'",
        f"KC_DB_URL=jdbc:postgresql://{keycloak.host}:{keycloak.port}/{keycloak.database}",
        f"KC_DB_USERNAME={keycloak.user}",
        f"KC_DB_PASSWORD='{keycloak.password}'",
        f"OLD_URL=postgresql://u:{SECRET}@127.0.0.1:1/gone",
    ]
    (folder / ".env").write_text("\n".join(lines), "utf-8")
    (folder / ".env").chmod(0o640)
    done = init(folder, "--yes", "--no-backup", "--json")
    assert done.code == 0, done.text
    document = json.loads(done.out)
    assert [f"chmod 600 {folder / '.env'}" in warning for warning in document["warnings"]] == [True]
    assert [source["dsn_env"] for source in document["sources"]] == ["DATABASE_URL", "KC_DB_URL"]
    assert document["sources"][1]["password_env"] == "KC_DB_PASSWORD"
    assert {"SESSION_DATABASE_URL", "OLD_URL"} <= {one["what"] for one in document["not_taken"]}
    assert (folder / ".env").read_text("utf-8") == "\n".join(lines)
    assert SECRET not in done.text
    site = load_site(folder, environment={})
    assert all(site.dsn(source.connection)[0] for source in site.settings.sources.values() if source.connection)


def test_the_variables_of_a_container_make_a_connection_string_beside_them(folder: Path, shop: PostgresTarget) -> None:
    target = shop
    parts = {"USER": target.user, "PASSWORD": target.password, "DB": target.database, "PORT": target.port}
    old = "".join(f"POSTGRES_{name}='{value}'\n" for name, value in parts.items())
    (folder / ".env").write_text(old, "utf-8")
    (folder / ".env").chmod(0o640)
    done = init(folder, "--yes", "--no-backup", "--json")
    assert done.code == 0, done.text
    assert (folder / ".env").read_text("utf-8").startswith(old)
    assert (folder / ".env").stat().st_mode & 0o777 == 0o640
    assert Path(json.loads(done.out)["former"]).read_text("utf-8") == old


def test_all_databases_of_a_server_are_proposed_as_one_source(
    folder: Path, shop: PostgresTarget, tmp_path: Path
) -> None:
    target = shop
    odd = f"Bücher & Mehr's {target.database}"
    with connected(target) as connection:
        connection.execute(f'create database "{odd}"'.encode())
    try:
        with connected(target.with_database(odd)) as connection:
            connection.execute("create table public.t (a int primary key)")
        (tmp_path / "dsn").write_text(dsn(target))
        done = init(folder, "--dsn", str(tmp_path / "dsn"), "--yes", "--no-backup", "--json")
        assert any(odd in one["what"] for one in json.loads(done.out)["not_taken"])
        (folder / "backup.yaml").unlink()
        done = init(folder, "--dsn", str(tmp_path / "dsn"), "--all-databases", "--yes", "--no-backup", "--json")
        assert done.code == 0, done.text
        [source] = json.loads(done.out)["sources"]
        assert (source["name"], source["databases"], source["dsn_env"]) == (
            "server",
            {"include": ["*"]},
            "SERVER_DATABASE_URL",
        )
        site = load_site(folder, environment={})
        found = refresh_databases(site, site.settings.plans).site
        assert odd in {one.name for one in found.databases["server"].databases}
    finally:
        with connected(target) as connection:
            connection.execute(f'drop database "{odd}" with (force)'.encode())


def test_servers_that_do_not_let_this_user_in_are_named(folder: Path, shop: PostgresTarget) -> None:
    target = shop
    (folder / "uploads").mkdir()
    (folder / "uploads" / "a.txt").write_text("a")
    place = {"PGHOST": target.host, "PGPORT": str(target.port), "PGUSER": "nobody_here", "PGPASSWORD": SECRET}
    done = init(folder, "--yes", "--no-backup", **place)
    assert done.code == 0
    assert f"not taken: PostgreSQL at {target.host}:{target.port}" in done.out
    assert SECRET not in done.text


def test_files_are_found_by_what_they_are(folder: Path, elsewhere: Path) -> None:
    for name in ("app/data.db", "node_modules/cache.db", "uploads/inside.db", "deep/a/b/c/d/far.db"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(folder / name)) as connection:
            connection.execute("create table t (a)")
    (folder / "app" / "text.db").write_text("SQLite is not this")
    (folder / "media").mkdir()
    for name in ("code", "fresh"):
        subprocess.run(["git", "init", "-q", folder / name], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder / "code", *identity, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    done = init(folder, "--yes", "--no-backup", "--json", PGHOST=str(elsewhere))
    found = {(one["kind"], one["path"]) for one in json.loads(done.out)["sources"]}
    assert found == {("sqlite", "app/data.db"), ("folder", "uploads"), ("repository", "code")}
    assert {"media"} <= {one["what"] for one in json.loads(done.out)["not_taken"]}


def test_files_that_exist_are_not_overwritten_and_a_failure_leaves_none_behind(folder: Path, elsewhere: Path) -> None:
    (folder / "uploads").mkdir()
    (folder / "uploads" / "a.txt").write_text("a")
    (folder / "backup.schema.json").write_text("mine")
    (folder / "backup.yaml").symlink_to("nowhere")
    assert init(folder, "--yes", PGHOST=str(elsewhere)).code == 3
    assert not (folder / "nowhere").exists()
    (folder / "backup.yaml").unlink()
    asked = init(folder, PGHOST=str(elsewhere))
    assert (asked.code, "--yes" in asked.err) == (8, True)
    shown = init(folder, "--dry-run", PGHOST=str(elsewhere))
    assert (shown.code, "backup.yaml would be written" in shown.out) == (0, True)
    assert not (folder / "backup.yaml").exists()
    assert init(folder, "--yes", "--no-backup", PGHOST=str(elsewhere)).code == 0
    assert (folder / "backup.schema.json").read_text() == "mine"


def test_a_file_that_cannot_be_written_takes_back_what_was(folder: Path, shop: PostgresTarget) -> None:
    (folder / ".env").mkdir()
    done = init(folder, "--dsn", "-", "--yes", "--no-backup", given=dsn(shop))
    assert done.code == 9, done.text
    assert files_of(folder) == {}


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("Bücher & Mehr", "buecher_mehr"),
        ("yes", "source_yes"),
        ("2024", "source_2024"),
        ("表", "source"),
        ("-shop", "shop"),
        ("a" * 80, "a" * 50),
        ("shop", "shop_2"),
    ],
)
def test_names_of_sources_are_usable_whatever_the_database_is_called(wanted: str, name: str) -> None:
    assert free_name(wanted, {"shop"} if name == "shop_2" else set()) == name


def test_nothing_that_is_found_is_named_as_the_databases_of_a_server_are() -> None:
    findings = Discovery()
    findings.add("server", "postgres", "all databases", {"databases": {"include": ["*"]}})
    assert findings.add("server_data", "folder", "a folder", {"path": "server_data"}).name == "folder_server_data"
