"""A fitting site for each document: built as the document says, with its own backup.yaml and the variables of its .env.

One function per document that has commands, which checks what they leave behind; `WALKTHROUGHS` lists them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from backup_pipeline.postgres.server.clients import choose_client, embedded_folders
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.settings.loader import load_site
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.support.documents.blocks import ROOT, Block, blocks, commands
from backup_pipeline_tests.support.documents.shell import Shell
from backup_pipeline_tests.support.object_servers import weed_server
from backup_pipeline_tests.support.receivers import http_server
from backup_pipeline_tests.support.sites import IDENTITIES, SHOP, dsn, write_storage

SUPABASE = (
    SHOP
    + """
alter table orders add state text not null default 'open', add updated_at timestamptz not null default now();
alter table customers add updated_at timestamptz not null default now();
create table audit_log (id bigint primary key, what text);
create schema auth;
create table auth.users (id uuid primary key default gen_random_uuid(), email text unique);
insert into auth.users (email) select 'person' || n || '@example.org' from generate_series(1, 20) n;
"""
)
TRADING = ";".join(
    f"create table {name} (id bigint primary key, at timestamptz default now()); "
    f"insert into {name} select generate_series(1, 50)"
    for name in ("signals", "orders", "trades", "positions", "portfolio_snapshots")
)
AUFTRAEGE = """create table auftraege (record_id integer primary key, auftrag_nr text, kunde_name text, kunden_nr text,
kennzeichen text, vin text, datum text, formular_version text, keywords_json text, file_path text, hash text,
data_complete integer, created_at text, updated_at text)"""


@dataclass
class Stage:
    """What a walkthrough is made with: a folder of its own, real databases."""

    root: Path
    database: Callable[..., PostgresTarget]
    template: Callable[[str, str], str]
    server: EmbeddedServer
    shells: list[Shell] = field(default_factory=list)

    def made(self, name: str, sql: str) -> PostgresTarget:
        return self.database(self.template(name, sql))

    @property
    def site(self) -> Path:
        folder = self.root / "site"
        folder.mkdir(exist_ok=True)
        return folder

    def keycloak(self) -> dict[str, str]:
        target = self.made("identities", IDENTITIES)
        return {
            "KC_DB_URL": f"jdbc:postgresql://{target.host}:{target.port}/{target.database}",
            "KC_DB_USERNAME": target.user,
            "KC_DB_PASSWORD": target.password,
        }

    def shell(self, **variables: str) -> Shell:
        shell = Shell(self.site, variables)
        shell.names["/srv/backup"] = str(self.site)
        self.shells.append(shell)
        return shell


def document(name: str) -> Path:
    return ROOT / ("README.md" if name == "README" else f"docs/{name}.md")


def block_of(name: str, kind: str, beginning: str = "") -> Block:
    """Return the one block of a document of this kind (whose text holds `beginning`)."""
    (found,) = [b for b in blocks(document(name)) if b.kind == kind and beginning in b.text]
    return found


def write_env(folder: Path, values: dict[str, str]) -> None:
    file = folder / ".env"
    file.write_text("".join(f"{name}='{value}'\n" for name, value in values.items()), "utf-8")
    file.chmod(0o600)


def as_the_guide_says(stage: Stage, name: str, values: dict[str, str], names: dict[str, str] | None = None) -> Shell:
    """Write the guide's own backup.yaml and .env; only what its .env shows the form of gets a value."""
    shell = stage.shell()
    shell.names |= names or {}
    (shell.folder / "backup.yaml").write_text(shell.here(block_of(name, "yaml", "sources:").text), "utf-8")
    shown = [b for b in blocks(document(name)) if b.kind == "env"]
    wanted = re.findall(r"^(\w+)=", "\n".join(b.text for b in shown), re.MULTILINE) if shown else list(values)
    write_env(shell.folder, {variable: values[variable] for variable in wanted})
    return shell


def fill_in(file: Path, values: dict[str, str]) -> None:
    """Do what a person does with the `.env` that `env setup` wrote: replace what is in angle brackets."""
    from dotenv import set_key

    for name, value in values.items():
        set_key(file, name, value, quote_mode="always")


def keep_only(file: Path, *plans: str) -> None:
    """Do what the sample's first lines say: keep what you have, delete the rest."""
    settings = yaml.safe_load(file.read_text("utf-8"))
    settings["plans"] = {name: settings["plans"][name] for name in plans}
    used = {source for plan in settings["plans"].values() for source in plan["sources"]}
    settings["sources"] = {name: source for name, source in settings["sources"].items() if name in used}
    file.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")


def a_checkout(stage: Stage) -> Path:
    """The files of the project that documents copy, so that their commands change nothing in the real ones."""
    folder = stage.root / "checkout"
    folder.mkdir()
    for name in (".env.template", "backup.schema.json", "backup.yaml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    shutil.copytree(ROOT / "docker", folder / "docker", ignore=shutil.ignore_patterns("secrets"))
    return folder


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def sealed(store: Path) -> list[Path]:
    return sorted(path.parent for path in store.glob("*T*Z/manifest.json"))


# --- one per document -------------------------------------------------------------------------------------------------


def readme(stage: Stage) -> None:
    shell = stage.shell()
    shell.cwd = a_checkout(stage)

    def edit() -> None:
        keep_only(stage.site / "backup.yaml", "nightly")
        write_storage(stage.site / "supabase" / "storage")

    def fill() -> None:
        fill_in(
            stage.site / ".env",
            {"SESSION_DATABASE_URL": dsn(stage.made("supabase", SUPABASE)), **stage.keycloak()},
        )

    shell.before = {
        "backup-pipeline env setup --config /srv/backup/backup.yaml": edit,
        "backup-pipeline env check": fill,
    }
    shell.follow(document("README"))
    assert len(sealed(stage.site / "backups" / "nightly")) == 1


def supabase_guide(stage: Stage) -> None:
    values = {
        "SESSION_DATABASE_URL": dsn(stage.made("supabase", SUPABASE)),
        "ALERT_URLS": "json://127.0.0.1:9/",
        **stage.keycloak(),
    }
    name = "guide-supabase-keycloak-storage"
    write_storage(stage.site / "supabase" / "storage")
    as_the_guide_says(stage, name, values).follow(document(name))
    (made,) = sealed(stage.site / "backups" / "nightly")
    text = document(name).read_text("utf-8")
    for file in ("supabase_db.sql.gz", "keycloak_db.sql.gz", "storage_buckets.tar.gz", "manifest.json"):
        assert f"`{file}`" in text
        assert (made / file).stat().st_size > 0


def json_guide(stage: Stage) -> None:
    name = "guide-supabase-json-export"
    values = {"DATABASE_URL": dsn(stage.made("supabase", SUPABASE))}
    shell = as_the_guide_says(stage, name, values)
    shell.follow(document(name))
    lines = next(done.out for text, done in shell.printed.items() if text.startswith("gzip")).splitlines()
    assert len(lines) == 10
    assert {"id", "name", "vip", "updated_at"} == set(json.loads(lines[0]))
    (made,) = sealed(stage.site / "backups" / "export")
    assert not list((made / "tables" / "service").glob("public.audit_*"))


def trading_guide(stage: Stage) -> None:
    name = "guide-trading-and-repository"
    repository = stage.site
    git(repository, "init", "-q", "-b", "main")
    (repository / "trade.py").write_text("print(1)\n")
    (repository / ".gitignore").write_text(".env\n.dagster\n")
    git(repository, "add", ".")
    assert git(repository, "commit", "-q", "-m", "first").returncode == 0
    target = stage.made("trading", TRADING)
    values = {
        "TRADING_DATABASE_URL": f"postgresql://{target.host}:{target.port}/{target.database}",
        "POSTGRES_DB": target.database,
        "POSTGRES_USER": target.user,
        "POSTGRES_PASSWORD": target.password,
    }
    as_the_guide_says(stage, name, values).follow(document(name))
    (made,) = sealed(stage.root / "Claire_Backups")
    assert list((made / "PostgreSQL").glob("cdb_backup_*.sql"))
    assert list((made / "Repository").glob("claire_repo_*.zip"))


def cron_guide(stage: Stage) -> None:
    name = "guide-from-cron"
    url = dsn(stage.made("shop", SHOP))
    old = stage.root / "backups"
    old.mkdir()
    shell = as_the_guide_says(stage, name, {"DATABASE_URL": url}, {"/backups": str(old)})
    shell.environment["DATABASE_URL"] = url
    shell.follow(document(name))
    assert len(sealed(old / "nightly")) == 2
    assert len(list(old.glob("db_*.sql.gz"))) == 1
    lines = [line for line in (ROOT / "deploy" / "crontab").read_text("utf-8").splitlines() if line[0] != "#"]
    assert lines == block_of(name, "crontab", "alerts check").text.splitlines()


def workshop_guide(stage: Stage) -> None:
    name = "guide-workshop-archive"
    archive = stage.site / "test_archiv"
    rows = [
        (n, f"{n:06}", f"Kunde {n}", str(n), f"B-AB {n}", None, f"{2022 + n % 3}-03-01", "1", "{}")
        + (f"{2022 + n % 3}/{n:06}", "", 1)
        + ("2024-03-01T10:00:00",) * 2
        for n in range(1, 31)
    ]
    for row in rows:
        (archive / str(row[9])).mkdir(parents=True)
    with closing(sqlite3.connect(archive / "werkstatt.db")) as connection, connection:
        connection.execute(AUFTRAEGE)
        connection.executemany(f"insert into auftraege values ({','.join('?' * 14)})", rows)
    mounted = stage.root / "mnt" / "archiv"
    shell = as_the_guide_says(stage, name, {}, {"/mnt/archiv": str(mounted)})

    def mount() -> None:
        """The archive on another server, where there are neither settings nor the database that is lost."""
        (stage.site / "backup.yaml").unlink()
        shutil.copytree(archive, mounted, ignore=shutil.ignore_patterns("werkstatt.db*"))

    shell.before = {"mount -t cifs": mount}
    shell.follow(document(name))
    with closing(sqlite3.connect(mounted / "werkstatt.db")) as connection:
        assert connection.execute("select * from auftraege order by record_id").fetchall() == rows
    assert len(list(archive.rglob("meta.json"))) == 30
    with closing(sqlite3.connect(archive / "werkstatt.db")) as connection:
        assert connection.execute("select * from auftraege order by record_id").fetchall() == rows


def restore(stage: Stage) -> None:
    target = stage.made("supabase", SUPABASE)
    (stage.site / "backup.yaml").write_text(
        "sources:\n"
        "  supabase: {kind: postgres, dsn_env: DATABASE_URL, master_tables: [public.customers]}\n"
        "  storage: {kind: folder, path: storage}\n"
        "plans: {nightly: {sources: [supabase, storage]}}\n"
    )
    contract, logo = stage.site / "storage/materials/contracts/a.txt", stage.site / "storage/materials/logo.svg"
    contract.parent.mkdir(parents=True)
    contract.write_text("signed")
    logo.write_text("<svg/>")
    write_env(stage.site, {"DATABASE_URL": dsn(target)})
    shell = stage.shell()
    store = stage.site / "backups" / "nightly"
    assert shell.call(["backup", "nightly"]).code == 0
    shell.names["2026-11-20T020000Z"] = sealed(store)[0].name
    with connected(target) as connection:
        connection.execute("update public.orders set total = 0 where id < 5")
    assert shell.call(["backup", "nightly"]).code == 0
    shell.codes["backup-pipeline diff nightly/2026-11-20T020000Z nightly/latest public.orders"] = {0, 6}
    shell.codes["backup-pipeline diff nightly/latest live --source supabase"] = {0, 6}
    contract.unlink()
    logo.write_text("overwritten")
    shell.follow(document("restore"))


def alerts(stage: Stage) -> None:
    (stage.site / "files").mkdir()
    (stage.site / "backup.yaml").write_text(
        "sources: {supabase: {kind: folder, path: files}}\n"
        + block_of("alerts", "yaml", "plans:").text
        + "\n"
        + block_of("alerts", "yaml", "alerts:").text
    )
    with http_server() as web:
        values = {"ALERT_URLS": web.url.replace("http", "json"), "UI_URL": web.url, "NIGHTLY_PING_URL": web.url}
        write_env(stage.site, values)
        shell = stage.shell()
        # Nothing is wrong there.
        shell.codes['backup-pipeline incidents ack overdue:nightly --days 3 --reason "the disk is ordered"'] = {7}
        shell.follow(document("alerts"))
        assert [json.loads(body)["title"] for _, body in web.seen] == ["[site] test"]


def exit_codes(stage: Stage) -> None:
    site_of_files(stage)
    shell = stage.shell()
    shell.follow(document("exit-codes"))
    (stage.site / "files").rename(stage.site / "away")
    shell.codes = {" ".join(command.text.split()): {1} for command in commands(block_of("exit-codes", "sh"))}
    shell.follow(document("exit-codes"))


def site_of_files(stage: Stage, plan: str = "nightly") -> None:
    (stage.site / "files").mkdir()
    (stage.site / "files" / "a.txt").write_text("a")
    (stage.site / "backup.yaml").write_text(
        f"sources: {{files: {{kind: folder, path: files}}}}\nplans: {{{plan}: {{sources: [files]}}}}\n"
    )
    write_env(stage.site, {})


def security(stage: Stage) -> None:
    site_of_files(stage)
    stage.shell().follow(document("security"))


def evidence(stage: Stage) -> None:
    site_of_files(stage)
    assert stage.shell().call(["backup", "nightly"]).code == 0
    stage.shell().follow(document("evidence"))
    (signed,) = (stage.site / "backups" / "nightly" / "evidence").glob("*.dsse.json")
    assert signed.name.startswith("0001_")


def contributing(stage: Stage) -> None:
    stage.shell().follow(document("contributing"))


def how_it_works(stage: Stage) -> None:
    site_of_files(stage)
    shell = stage.shell()
    # Nothing has been backed up yet.
    shell.codes["backup-pipeline status --html status.html"] = {6}
    shell.follow(document("how-it-works"))
    assert "<svg" in (stage.site / "status.html").read_text("utf-8")


def settings(stage: Stage) -> None:
    stage.shell().follow(document("settings"))


def deployment(stage: Stage) -> None:
    checkout = a_checkout(stage)
    units = stage.root / "units"
    units.mkdir()
    shell = stage.shell()
    shell.names |= {"/etc/systemd/system/": f"{units}/", "-o backup-pipeline -g backup-pipeline ": ""}
    if os.geteuid() != 0:
        shell.codes["chown -R 10001:10001 /srv/backup/backups"] = {1}

    def edit_both_files() -> None:
        keep_only(stage.site / "backup.yaml", "nightly", "session")
        text = (stage.site / "backup.yaml").read_text("utf-8").replace("- claire", "").replace("path: .", "path: code")
        settings = yaml.safe_load(text)
        settings["plans"]["session"]["sources"] = ["trading"]
        settings["sources"].pop("claire", None)
        (stage.site / "backup.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
        write_storage(stage.site / "supabase" / "storage")
        values = {
            "SESSION_DATABASE_URL": dsn(stage.made("supabase", SUPABASE)),
            "TRADING_DATABASE_URL": dsn(stage.made("trading", TRADING)),
            **stage.keycloak(),
        }
        fill_in(stage.site / ".env", values)

    shell.before = {"backup-pipeline env setup": edit_both_files}
    for block in blocks(document("deployment")):
        for command in commands(block) if block.kind == "sh" else ():
            inside = command.text.startswith("backup-pipeline") or " exec code " in command.text
            shell.cwd = stage.site if inside else checkout
            shell.do(command)
    assert len(sealed(stage.site / "backups" / "nightly")) == 2
    the_secrets_fit(checkout / "docker")
    the_units_run(shell, units)
    the_hooks_stop_what_they_guard(stage, shell)


def kubernetes(stage: Stage) -> None:
    shell = stage.shell()
    shell.cwd = a_checkout(stage)
    shell.follow(document("kubernetes"))
    ours = shell.cwd / "deploy" / "kubernetes" / "ours"
    generators = yaml.safe_load((ours / "kustomization.yaml").read_text("utf-8"))["secretGenerator"]
    made = {f"secrets/{path.name}" for path in (ours / "secrets").iterdir()} - {"secrets/.gitignore"}
    assert {file for generator in generators for file in generator["files"]} == made
    password = (ours / "secrets" / "dagster_postgres_password").read_text("utf-8").strip()
    url = (ours / "secrets" / "dagster_postgres_url").read_text("utf-8").strip()
    assert url == f"postgresql://dagster:{password}@postgres:5432/dagster"


def the_secrets_fit(docker: Path) -> None:
    """Every secret that compose names but the site's own connection strings has been made, closed to others."""
    made = {path.name for path in (docker / "secrets").iterdir()}
    named = set()
    for name in ("compose.yaml", "compose.site.yaml"):
        named |= set(yaml.safe_load((docker / name).read_text("utf-8"))["secrets"])
    assert named - made == {"session_database_url"}
    assert (docker / "secrets").stat().st_mode & 0o077 == 0
    url = (docker / "secrets" / "dagster_postgres_url").read_text("utf-8").strip()
    password = (docker / "secrets" / "dagster_postgres_password").read_text("utf-8").strip()
    assert url == f"postgresql://dagster:{password}@postgres:5432/dagster"


def the_units_run(shell: Shell, units: Path) -> None:
    assert len(list(units.iterdir())) == 5
    for unit in sorted(units.glob("*.service")):
        (line,) = re.findall(r"^ExecStart=(.+)$", unit.read_text("utf-8"), re.MULTILINE)
        words = shell.here(line).replace("%i", "nightly").split()[1:]
        if words[0] == "up":
            continue  # runs until it is stopped
        done = shell.call(words)
        assert done.code == 0, f"{unit.name}: {done.text}"


def the_hooks_stop_what_they_guard(stage: Stage, shell: Shell) -> None:
    """The pre-push hook and the target `migrate`: a backup is made first, and one that fails stops them."""
    store = stage.site / "backups" / "session"
    work = stage.root / "work"
    work.mkdir()
    git(stage.root, "init", "-q", "--bare", "there.git")
    git(work, "init", "-q", "-b", "main")
    git(work, "commit", "-q", "--allow-empty", "-m", "first")
    hook = work / ".git" / "hooks" / "pre-push"
    hook.write_text(shell.here(block_of("deployment", "script").text) + "\n")
    hook.chmod(0o755)
    (work / "Makefile").write_text(block_of("deployment", "makefile").text + "\n")
    alembic = stage.root / "bin" / "alembic"
    alembic.write_text(f"#!/bin/sh\necho $* >> {stage.root}/migrated\n")
    alembic.chmod(0o755)
    shell.environment["BACKUP_PIPELINE_CONFIG"] = str(stage.site / "backup.yaml")
    shell.cwd = work
    assert shell.bash("git push -q ../there.git main").code == 0
    assert shell.bash("make -s migrate").code == 0
    assert len(sealed(store)) == 2
    fill_in(stage.site / ".env", {"TRADING_DATABASE_URL": "postgresql://u:p@127.0.0.1:1/trading"})
    git(work, "commit", "-q", "--allow-empty", "-m", "second")
    assert shell.bash("git push -q ../there.git main").code != 0
    assert shell.bash("make -s migrate").code != 0
    assert (stage.root / "migrated").read_text().splitlines() == ["upgrade head"]
    assert git(stage.root / "there.git", "log", "--format=%s", "main").stdout.split() == ["first"]


VAULT_SITE = """
sources:
  shop: {{kind: postgres, dsn_env: SHOP_URL}}
  files: {{kind: folder, path: files}}
plans: {{nightly: {{sources: [shop, files]}}}}
vaults: {{offsite: {{url: "file://{vault}", recipients: [{recipient}]}}}}
"""


def a_site_with_a_vault(stage: Stage) -> tuple[Path, str, str]:
    """A site with a sealed set in a vault; returns the folder of the vault, its identity and the site's public key."""
    vault = stage.root / "nas"
    vault.mkdir()
    (stage.site / "files").mkdir()
    (stage.site / "files" / "order.txt").write_text("an order\n" * 100)
    identity, recipient = new_identity()
    (stage.site / "backup.yaml").write_text(VAULT_SITE.format(vault=vault, recipient=recipient))
    write_env(stage.site, {"SHOP_URL": dsn(stage.made("shop", SHOP))})
    shell = stage.shell()
    made = shell.call(["vault", "init", "offsite", "--json"])
    assert made.code == 0, made.text
    for words in (["backup", "nightly"], ["vault", "copy", "offsite", "nightly/latest"]):
        assert (done := shell.call(words)).code == 0, done.text
    stage.shells.remove(shell)
    return vault, identity, json.loads(made.out)["signed_by"][0]


def vaults(stage: Stage) -> None:
    _, identity, _ = a_site_with_a_vault(stage)
    shell = stage.shell()
    (stage.site / "key.txt").write_text(f"{identity}\n")
    store = stage.site / "backups" / "nightly"
    shell.names["nightly/<set>"] = f"nightly/{sealed(store)[0].name}"
    shell.follow(document("vaults"))
    assert len(sealed(store)) == 1, "nothing came into the local store"


def vault_places(stage: Stage) -> None:
    """The commands on a vault in a folder; every section's settings are read as they stand there."""
    _, recipient = new_identity()
    for block in blocks(document("vault-places")):
        if block.kind == "yaml":
            given = yaml.safe_load(block.text.replace("age1…", recipient))
            base = yaml.safe_load(VAULT_SITE.format(vault=stage.root / "nas", recipient=recipient))
            (stage.site / "backup.yaml").write_text(yaml.safe_dump({**base, "vaults": given["vaults"]}))
            assert load_site(stage.site, environment={}).settings.vaults
    (stage.root / "nas").mkdir()
    (stage.site / "files").mkdir()
    (stage.site / "files" / "order.txt").write_text("an order\n" * 100)

    def settle(recipients: str) -> None:
        text = VAULT_SITE.format(vault=stage.root / "nas", recipient=recipients)
        (stage.site / "backup.yaml").write_text(text)

    settle("")
    write_env(stage.site, {"SHOP_URL": dsn(stage.made("shop", SHOP))})
    shell = stage.shell()
    assert shell.call(["backup", "nightly"]).code == 0

    def write_the_recipient() -> None:
        settle(json.loads((stage.root / "nas" / "vault.json").read_text())["recipients"][0])

    shell.before["backup-pipeline vault copy"] = write_the_recipient
    shell.follow(document("vault-places"))
    assert "yes" in shell.printed["backup-pipeline list offsite:"].out
    assert (stage.site / "kit.html").is_file()


def recover_from_a_vault(stage: Stage) -> None:
    vault, identity, signer = a_site_with_a_vault(stage)
    (set_id,) = (path.name for path in sealed(stage.site / "backups" / "nightly"))
    (copy,) = (path.name for path in (vault / "copies").iterdir())
    target = stage.database()
    # The old machine is gone; the new one has a few programs, and neither this project nor a library of Python.
    shutil.rmtree(stage.site)
    bare = stage.root / "bare"
    bare.mkdir()
    for program in ("age", "age-keygen", "bash", "cat", "cp", "gunzip", "gzip", "install", "mkdir", "sha256sum", "tar"):
        (bare / program).symlink_to(shutil.which(program) or pytest.skip(f"{program} is not installed"))
    (bare / "psql").symlink_to(embedded_folders()[0] / "psql")
    (bare / "python3").write_text(f'#!/bin/bash\nexec {os.path.realpath(sys.executable)} -I -S "$@"\n')
    (bare / "python3").chmod(0o755)
    shell = stage.shell()
    shell.environment["PATH"] = str(bare)
    shell.environment |= {
        "PGHOST": target.host,
        "PGPORT": str(target.port),
        "PGUSER": target.user,
        "PGPASSWORD": target.password,
        "PGDATABASE": "postgres",
    }
    named = f"shop_{set_id[-5:-1]}"
    shell.names |= {
        "/mnt/nas/backups": str(vault),
        "ed25519:KEY": signer,
        "COPY": copy,
        "nightly/SET": f"nightly/{set_id}",
        "database shop": f"database {named}",
        "-d shop": f"-d {named}",
        "shop_again": f"{named}_again",
    }
    blocks_there = [block for block in blocks(document("recover-from-a-vault")) if block.kind == "sh"]
    for block in blocks_there:
        for command in commands(block):
            if command.text.startswith("backup-pipeline env check"):
                live = replace(target, database=named)
                write_env(shell.cwd, {"SHOP_URL": dsn(live)})
                (shell.cwd / "files").mkdir()
                (shell.cwd / "files" / "order.txt").write_text("back\n")
            done = shell.do(command)
            if command.text.startswith("install"):
                (shell.cwd / "identity.txt").write_text(f"{identity}\n")
            if "select count" in command.text:
                assert "40" in done.out
    with connected(replace(target, database=f"{named}_again")) as connection:
        assert connection.execute("select count(*) from public.orders").fetchone() == (300,)
    assert len(list((vault / "copies").iterdir())) >= 1


def first_hour(stage: Stage) -> None:
    stage.shell(DATABASE_URL=dsn(stage.made("shop", SHOP))).follow(document("first-hour"))
    assert len(sealed(stage.site / "backups" / "nightly")) == 1


def import_guide(stage: Stage) -> None:
    target = stage.made("shop", SHOP)
    (stage.site / "backup.yaml").write_text(
        "sources: {shop: {kind: postgres, dsn_env: SHOP_URL}}\nplans: {nightly: {sources: [shop]}}\n", "utf-8"
    )
    write_env(stage.site, {"SHOP_URL": dsn(target)})
    old = stage.root / "old"
    old.mkdir()
    client = choose_client(server_facts(target).major)
    command = [client.program("pg_dump"), f"--file={old / 'shop_20250905_005234.sql'}", *target.program_arguments()]
    subprocess.run(command, env={**os.environ, **target.program_environment()}, check=True)
    shell = stage.shell()
    shell.names["/srv/old"] = str(old)
    shell.follow(document("import"))
    assert len(sealed(stage.site / "backups" / "nightly")) == 1


def fleets(stage: Stage) -> None:
    target = stage.made("shop", SHOP)
    (stage.site / "backup.yaml").write_text(block_of("fleets", "yaml", "fleets:").text.replace("backup@", "{user}@"))
    row = f"acme,{target.user},{target.host},{target.port},{target.database}"
    (stage.site / "tenants.csv").write_text(f"name,user,host,port,database\n{row}\n")
    write_env(stage.site, {"TENANT_ACME_PASSWORD": target.password})
    stage.shell().follow(document("fleets"))
    assert len(sealed(stage.site / "backups" / "tenants" / "tenants_acme")) == 1


def scaling_out(stage: Stage) -> None:
    """The machine that makes the vault, the worker that backs up and the one that restores have a folder each."""
    folders = {name: stage.root / name for name in ("storage", "files", "office", "first", "second")}
    for folder in folders.values():
        folder.mkdir()
    (folders["files"] / "order.txt").write_text("an order\n" * 100)
    identity, recipient = new_identity()
    (stage.root / "identity").write_text(identity)
    with weed_server(folders["storage"]) as server:
        server.client.create_bucket(Bucket="bucket")
        given = block_of("scaling-out", "yaml", "state_env:").text
        for text, value in {"age1…": recipient, "/srv/files": str(folders["files"])}.items():
            given = given.replace(text, value)
        settings = yaml.safe_load(given)
        settings["vaults"]["offsite"]["endpoint_env"] = "OFFSITE_ENDPOINT"
        values = {
            "SHOP_URL": dsn(stage.made("shop", SHOP)),
            "DAGSTER_POSTGRES_URL": dsn(stage.database()),
            "OFFSITE_ENDPOINT": server.address,
            "VAULT_IDENTITY_FILE": str(stage.root / "identity"),
            **server.credentials("OFFSITE_ACCESS_KEY", "OFFSITE_SECRET_KEY"),
        }
        shell = Shell(folders["office"], names={"keys.txt": str(stage.root / "keys.txt")})
        stage.shells.append(shell)

        def at(name: str) -> None:
            shell.cwd = folders[name]
            (shell.cwd / "backup.yaml").write_text(yaml.safe_dump(settings), "utf-8")
            keys = {"OFFSITE_KEYS_FILE": str(stage.root / "keys.txt")} if name != "office" else {}
            write_env(shell.cwd, values | keys)

        at("office")
        shell.before |= {
            "backup-pipeline env check": lambda: at("first"),
            "backup-pipeline list": lambda: at("second"),
        }
        shell.follow(document("scaling-out"))
    assert "complete" in shell.printed["backup-pipeline list"].out


WALKTHROUGHS: dict[str, Callable[[Stage], None]] = {
    "README": readme,
    "alerts": alerts,
    "evidence": evidence,
    "contributing": contributing,
    "deployment": deployment,
    "exit-codes": exit_codes,
    "first-hour": first_hour,
    "fleets": fleets,
    "guide-from-cron": cron_guide,
    "guide-supabase-json-export": json_guide,
    "guide-supabase-keycloak-storage": supabase_guide,
    "guide-trading-and-repository": trading_guide,
    "guide-workshop-archive": workshop_guide,
    "vault-places": vault_places,
    "how-it-works": how_it_works,
    "import": import_guide,
    "kubernetes": kubernetes,
    "recover-from-a-vault": recover_from_a_vault,
    "restore": restore,
    "scaling-out": scaling_out,
    "security": security,
    "settings": settings,
    "vaults": vaults,
}
