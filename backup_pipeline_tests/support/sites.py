"""Sites for tests: a folder with backup.yaml, `.env` and real sources, and the command line run against it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock
from urllib.parse import quote

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRET = "q8ZrT2vLk0XbN5mWc7YdJ4hGf1sPa9Ue"
SHOP = """
create table customers (id bigint generated always as identity primary key, name text not null, vip boolean);
create table orders (id bigint generated always as identity primary key,
                     customer_id bigint not null references customers (id), total numeric(12, 2) not null, note text);
insert into customers (name, vip) select 'Customer ' || n, n % 3 = 0 from generate_series(1, 40) n;
insert into orders (customer_id, total, note)
select 1 + n % 40, n * 1.25, nullif('note ' || n % 5, 'note 0') from generate_series(1, 300) n;
"""
IDENTITIES = """
create table realm (id varchar(36) primary key, name varchar(255) unique);
create table user_entity (id varchar(36) primary key, email varchar(255), realm_id varchar(36) references realm (id));
insert into realm values ('1', 'master'), ('2', 'shop');
insert into user_entity select n::text, 'person' || n || '@example.org', '2' from generate_series(1, 50) n;
"""


def dsn(target: PostgresTarget) -> str:
    """The target as a connection string, password included."""
    return (
        f"postgresql://{quote(target.user)}:{quote(target.password, safe='')}"
        f"@{target.host}:{target.port}/{quote(target.database, safe='')}"
    )


@dataclass
class Output:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class TestSite:
    """A site in a folder of its own."""

    __test__ = False

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def write(self, settings: str) -> None:
        (self.folder / "backup.yaml").write_text(settings, "utf-8")
        self.write_env()

    def write_env(self) -> None:
        lines = [f"{name}='{value}'" for name, value in self.variables.items()]
        (self.folder / ".env").write_text("\n".join(lines) + "\n", "utf-8")
        (self.folder / ".env").chmod(0o600)

    @property
    def site(self) -> Site:
        return load_site(self.folder, environment={})

    def store(self, plan: str) -> LocalStore:
        return LocalStore(self.site.store_folder(plan), plan)

    def environment(self) -> dict[str, str]:
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
        return {name: os.environ[name] for name in kept if name in os.environ} | {"COLUMNS": "200"}

    def run(self, *arguments: str) -> Output:
        """Run the command line in this process."""
        return self.run_alone(*arguments, "--config", str(self.folder))

    def run_alone(self, *arguments: str) -> Output:
        """Run a command in this process that takes no settings."""
        from backup_pipeline.cli.main import build_app, run_app

        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment(), clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run_app(build_app(), list(arguments))
        return Output(code, out.getvalue(), err.getvalue())

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the command line as a process of its own."""
        command = [sys.executable, "-c", "from backup_pipeline.cli.main import main; main()"]
        return subprocess.Popen(
            [*command, *arguments, "--config", str(self.folder)],
            env=self.environment(),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )

    def digests(self, plan: str) -> dict[str, str]:
        """SHA-256 of every file of every set of a plan."""
        import hashlib

        root = self.site.store_folder(plan)
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.glob("*T*Z/**/*"))
            if path.is_file()
        }


GUSTAV = """
store: backups
sources:
  supabase: {kind: postgres, dsn_env: [SESSION_DATABASE_URL, DATABASE_URL]}
  storage: {kind: folder, path: storage, buckets: [materials, submissions], after: [supabase]}
  keycloak:
    {kind: postgres, dsn_env: KC_DB_URL, user_env: KC_DB_USERNAME, password_env: KC_DB_PASSWORD, after: [supabase]}
plans:
  nightly: {sources: [supabase, storage, keycloak], store: sets, wait_seconds: 0.5}
"""


def gustav_variables(supabase: PostgresTarget, keycloak: PostgresTarget) -> dict[str, str]:
    """The variables of a GUSTAV site whose databases are these."""
    return {
        "DATABASE_URL": dsn(supabase),
        "KC_DB_URL": f"jdbc:postgresql://{keycloak.host}:{keycloak.port}/{keycloak.database}",
        "KC_DB_USERNAME": keycloak.user,
        "KC_DB_PASSWORD": keycloak.password,
    }


def limited_role(server: PostgresTarget, database: PostgresTarget, name: str, password: str, hidden: str) -> None:
    """Make a login that may read everything in a database but one table, so that a real dump fails."""
    with connected(server) as connection:
        connection.execute(f"create role \"{name}\" login password '{password}'".encode())
    with connected(database, pinned=False) as connection:
        connection.execute(f'grant select on all tables in schema public to "{name}"'.encode())
        connection.execute(f'grant select on all sequences in schema public to "{name}"'.encode())
        connection.execute(f'revoke select on {hidden} from "{name}"'.encode())


def write_storage(root: Path) -> None:
    """The two buckets of a GUSTAV site, with files."""
    for bucket in ("materials", "submissions"):
        for number in range(5):
            place = root / bucket / f"folder {number}" / f"file-{number}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"{bucket} {number}\n" * 50, "utf-8")
