"""`env setup` makes what can be made, never changes what is set, and keeps comments and order."""

from __future__ import annotations

import json
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dotenv import dotenv_values

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.operations.environment.setup import setup_environment
from backup_pipeline.rules.environment import is_placeholder, secret_faults
from backup_pipeline.rules.supabase_keys import DEMO_JWT_SECRET, is_signed_with, make_key
from backup_pipeline.settings.loader import load_site

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SITE = """\
sources:
  supabase: {kind: postgres, dsn_env: [SESSION_DATABASE_URL, DATABASE_URL]}
  erp: {kind: postgres, dsn_env: ERP_URL}
plans:
  nightly: {sources: [supabase, erp]}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "backup.yaml").write_text(SITE)
    return tmp_path


def _setup(folder: Path, **more):
    """Set up a site that hosts Supabase itself."""
    more = {"supabase": True} | more
    return setup_environment(load_site(folder, environment={}), now=NOW, **more)


def test_a_new_file_is_private_and_its_secrets_are_good(folder):
    done = _setup(folder)
    env = dotenv_values(folder / ".env")
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert done.created
    assert set(done.generated) == {
        "POSTGRES_PASSWORD",
        "DASHBOARD_PASSWORD",
        "JWT_SECRET",
        "ANON_KEY",
        "SERVICE_ROLE_KEY",
    }
    assert secret_faults(env, NOW) == []
    assert is_signed_with(env["SERVICE_ROLE_KEY"], env["JWT_SECRET"])
    assert env["POSTGRES_PASSWORD"].isalnum()


def test_what_a_person_must_fill_in_is_named_and_stays_a_placeholder(folder):
    done = _setup(folder)
    assert [name for name, _ in done.to_fill] == ["SESSION_DATABASE_URL", "ERP_URL"]
    env = dotenv_values(folder / ".env")
    assert is_placeholder(env["SESSION_DATABASE_URL"])
    assert is_placeholder(env["ERP_URL"])


def test_variables_of_sources_that_the_site_lacks_are_commented_out(folder):
    _setup(folder)
    assert "TRADING_DATABASE_URL" not in dotenv_values(folder / ".env")
    assert "# TRADING_DATABASE_URL=<" in (folder / ".env").read_text()


def test_two_sites_never_get_the_same_secrets(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "backup.yaml").write_text(SITE)
    _setup(folder)
    _setup(other)
    one, two = dotenv_values(folder / ".env"), dotenv_values(other / ".env")
    assert all(one[name] != two[name] for name in ("POSTGRES_PASSWORD", "JWT_SECRET", "ANON_KEY", "DASHBOARD_PASSWORD"))


def test_what_is_set_stays_with_comments_and_order(folder):
    old = (
        "# mine\n\nexport POSTGRES_PASSWORD='kept $ecret'\n# before the secret\nJWT_SECRET=   # to be made\n"
        "ANON_KEY=<later>\nSESSION_DATABASE_URL=postgresql://u:p@h/d\nUNKNOWN=x\n"
    )
    (folder / ".env").write_text(old)
    done = _setup(folder)
    text = (folder / ".env").read_text()
    env = dotenv_values(folder / ".env")
    assert text.startswith("# mine\n\nexport POSTGRES_PASSWORD='kept $ecret'\n# before the secret\nJWT_SECRET=")
    assert "   # to be made\nANON_KEY=ey" in text
    assert "SESSION_DATABASE_URL=postgresql://u:p@h/d\nUNKNOWN=x\n" in text
    assert env["POSTGRES_PASSWORD"] == "kept $ecret"
    assert is_signed_with(env["ANON_KEY"], env["JWT_SECRET"])
    assert "POSTGRES_PASSWORD" in done.kept
    assert [name for name, _ in done.to_fill] == ["ERP_URL"]


def test_running_it_twice_changes_nothing(folder):
    _setup(folder)
    first = (folder / ".env").read_bytes()
    again = _setup(folder)
    assert (folder / ".env").read_bytes() == first
    assert again.generated == ()
    assert not again.created


def test_keys_are_made_from_a_jwt_secret_that_is_already_there(folder):
    (folder / ".env").write_text("JWT_SECRET=abcdefghijklmnopqrstuvwxyz0123456789\n")
    _setup(folder)
    env = dotenv_values(folder / ".env")
    assert env["JWT_SECRET"] == "abcdefghijklmnopqrstuvwxyz0123456789"
    assert is_signed_with(env["ANON_KEY"], env["JWT_SECRET"])


def test_no_new_jwt_secret_is_made_beside_keys_that_it_would_not_fit(folder):
    (folder / ".env").write_text(f"ANON_KEY={make_key('anon', 'x' * 40, NOW)}\n")
    done = _setup(folder)
    assert "JWT_SECRET" not in dotenv_values(folder / ".env")
    assert dict(done.left)["JWT_SECRET"].startswith("ANON_KEY")


def test_a_secret_given_by_a_file_is_not_made_again(folder):
    (folder / "pg").write_text("x")
    (folder / ".env").write_text(f"POSTGRES_PASSWORD_FILE={folder / 'pg'}\n")
    _setup(folder)
    assert "POSTGRES_PASSWORD" not in dotenv_values(folder / ".env")


def test_a_dry_run_writes_nothing_and_says_what_it_would_make(folder):
    done = _setup(folder, dry_run=True)
    assert not (folder / ".env").exists()
    assert "JWT_SECRET" in done.generated


def test_an_open_file_is_closed_to_others(folder):
    _setup(folder)
    (folder / ".env").chmod(0o644)
    _setup(folder)
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600


def test_the_command_tells_names_and_never_values(folder, capsys):
    assert run_app(build_app(), ["env", "setup", "--supabase", "--config", str(folder), "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    values = dotenv_values(folder / ".env")
    assert "JWT_SECRET" in reported["generated"]
    assert all(values[name] not in str(reported) for name in reported["generated"])


# As a self-hosted Supabase runs with them in many places: weak, published, or what looks like a placeholder.
RUNNING = {
    "POSTGRES_PASSWORD": "your-super-secret-and-long-postgres-password",
    "JWT_SECRET": DEMO_JWT_SECRET,
    "ANON_KEY": make_key("anon", DEMO_JWT_SECRET, NOW),
    "SERVICE_ROLE_KEY": make_key("service_role", DEMO_JWT_SECRET, NOW),
    "DASHBOARD_PASSWORD": "changeme",
    "KC_DB_PASSWORD": "CHANGE_ME",
    "OPENAI_API_KEY": "your-api-key-here",
}


@pytest.mark.parametrize("supabase", [False, True])
def test_what_a_running_supabase_uses_is_never_changed_however_weak(folder, supabase):
    text = "".join(f"{name}={value}\n" for name, value in RUNNING.items())
    (folder / ".env").write_text(text)
    done = _setup(folder, supabase=supabase)
    assert (folder / ".env").read_text().startswith(text)
    assert {name: dotenv_values(folder / ".env")[name] for name in RUNNING} == RUNNING
    weak = {name: how for name, _, how in done.weak}
    assert set(weak) == set(RUNNING)
    assert "roles the new password first" in weak["POSTGRES_PASSWORD"]
    assert "together" in weak["JWT_SECRET"]
    assert all(RUNNING[name] not in str(done) for name in ("JWT_SECRET", "ANON_KEY"))


def test_the_former_file_is_kept_privately_and_git_does_not_see_it(folder):
    subprocess.run(["git", "init", "-q", folder], check=True)
    (folder / ".gitignore").write_text(".env\n")
    (folder / ".env").write_text("JWT_SECRET=\n# mine\n")
    done = _setup(folder)
    assert done.former is not None
    assert done.former.read_text() == "JWT_SECRET=\n# mine\n"
    assert stat.S_IMODE(done.former.stat().st_mode) == 0o600
    assert stat.S_IMODE(done.former.parent.stat().st_mode) == 0o700
    seen = subprocess.run(["git", "status", "--short", "-uall"], cwd=folder, capture_output=True, text=True).stdout
    assert sorted(seen.split()) == [".gitignore", "??", "??", "backup.yaml"]
    (folder / ".env").write_text("JWT_SECRET=\n# mine again\n")
    again = _setup(folder)
    assert again.former not in (None, done.former)
    assert done.former.read_text().endswith("# mine\n")


def test_a_site_that_hosts_no_supabase_gets_none_of_its_secrets(folder):
    done = _setup(folder, supabase=False)
    assert done.generated == ()
    assert "POSTGRES_PASSWORD" not in (folder / ".env").read_text()
    assert [name for name, _ in done.to_fill] == ["SESSION_DATABASE_URL", "ERP_URL"]


@pytest.mark.parametrize(
    ("compose", "made"), [("password: ${POSTGRES_PASSWORD}", True), ("password: ${POSTGRES_PASSWORD:-x}", False)]
)
def test_a_compose_file_that_waits_for_the_secrets_asks_for_them(folder, compose, made):
    (folder / "docker-compose.base.yml").write_text(f"services: {{db: {{environment: {{{compose}}}}}}}\n")
    assert ("POSTGRES_PASSWORD" in _setup(folder, supabase=False).generated) is made


def test_an_existing_file_gets_no_password_that_may_be_set_elsewhere(folder):
    (folder / ".env").write_text("JWT_SECRET=abcdefghijklmnopqrstuvwxyz0123456789\nANON_KEY=\n")
    done = _setup(folder, supabase=False)
    assert set(done.generated) == {"ANON_KEY", "SERVICE_ROLE_KEY"}


def test_the_next_step_names_the_settings_as_they_were_given(folder, capsys):
    assert run_app(build_app(), ["env", "setup", "--config", str(folder)]) == 0
    assert f"then run backup-pipeline env check --config {folder}" in capsys.readouterr().out
    assert run_app(build_app(), ["show", "nightly/latest", "--config", str(folder)]) != 0
    assert f"--config {folder}" in capsys.readouterr().err


def test_a_folder_without_settings_gets_a_template_that_loads(tmp_path, capsys):
    assert run_app(build_app(), ["env", "setup", "--config", str(tmp_path)]) == 0
    assert "Next: keep what you have" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"backup.yaml", "backup.schema.json", ".env.template"}
    assert load_site(tmp_path, environment={}).settings.plans
    (tmp_path / ".env.template").write_text("mine")
    (tmp_path / "backup.yaml").unlink()
    assert run_app(build_app(), ["env", "setup", "--config", str(tmp_path)]) == 0
    assert (tmp_path / ".env.template").read_text() == "mine"
