"""Building the demo's site: real databases, files, an order archive, a repository and a vault, in one folder.

What is made here is content; it is backed up by the same commands as any other site. A second call keeps what exists.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from backup_pipeline.errors import RefusedError
from backup_pipeline.operations.copies.vaults import make_vault
from backup_pipeline.operations.demo import files as demo_files
from backup_pipeline.operations.demo.recovery import IDENTITY_NAME, VAULT
from backup_pipeline.postgres.server.embedded import EmbeddedServer, free_port
from backup_pipeline.postgres.server.script import create_database, create_login, database_exists, run_script
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.settings.loader import load_site
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline.system.files import write_atomically

_MARK = ".backup-pipeline-demo"
_VAULT_FOLDER = "vault"
# Database, script, variables of the connection string.
_DATABASES = (
    ("supabase", "supabase.sql"),
    ("keycloak", "keycloak.sql"),
    ("trading", "trading.sql"),
    ("dagster", None),
)

Report = Callable[[str], None]


def _content(name: str) -> str:
    return (resources.files("backup_pipeline.operations.demo") / "content" / name).read_text("utf-8")


def build_demo_site(folder: Path, report: Report, *, orders: int = 1000) -> Path:
    """Make the demo's site in `folder` where it is not there yet, and return its backup.yaml.

    The embedded server is started and left running; the caller ends it through the site's settings.

    Raises:
        RefusedError: the folder holds something that is not a demo site.
    """
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise RefusedError(
            "The folder is not empty and is no demo site.",
            where=str(folder),
            remedy="Name another one with --folder.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    settings = folder / "backup.yaml"
    if not settings.exists():
        _write_settings(folder, settings)
    server = _server(folder, settings)
    report("starting the embedded PostgreSQL")
    server.start()
    if not (folder / ".env").exists():
        _write_env(folder, server)
    for name, script in _DATABASES:
        if not database_exists(server.target(), name):
            report(f"filling the database {name}")
            _fill(server, name, script)
    if not (folder / "supabase" / "storage").exists():
        report("writing the storage buckets")
        demo_files.write_buckets(folder / "supabase" / "storage")
    if not (folder / "werkstatt.db").exists():
        report(f"writing the workshop's archive of {orders} orders")
        demo_files.write_workshop(folder / "werkstatt.db", folder / "Archiv", orders)
    if (folder / IDENTITY_NAME).exists() and not (folder / _VAULT_FOLDER / "vault.json").exists():
        report("making a vault for copies, with an identity of its own")
        (folder / _VAULT_FOLDER).mkdir(mode=0o700, exist_ok=True)
        make_vault(load_site(settings), VAULT, None)
    if not (folder / "claire").exists():
        report("making the git repository")
        demo_files.write_repository(folder / "claire")
    return settings


def _write_settings(folder: Path, settings: Path) -> None:
    """Write backup.yaml, and before it the identity of the vault that it names."""
    identity, recipient = new_identity()
    text = f"# The demo's own; a real one is kept off the machine.\n# public key: {recipient}\n{identity}\n"
    write_atomically(folder / IDENTITY_NAME, text.encode())
    values = {
        "@PORT@": str(free_port()),
        "@VAULT@": f"file://{quote(str(folder / _VAULT_FOLDER))}",
        "@RECIPIENT@": recipient,
    }
    content = _content("backup.yaml")
    for mark, value in values.items():
        content = content.replace(mark, value)
    write_atomically(settings, content.encode(), mode=0o644)


def remove_demo_site(folder: Path) -> None:
    """Stop the demo's server and delete its folder.

    Raises:
        RefusedError: the folder is no demo site.
    """
    folder = folder.absolute()
    if not (folder / _MARK).exists():
        raise RefusedError("This is no demo site.", where=str(folder), remedy="Name the demo's folder with --folder.")
    EmbeddedServer(folder / "postgres").remove()
    shutil.rmtree(folder)


def _server(folder: Path, settings: Path) -> EmbeddedServer:
    import yaml

    port = int(yaml.safe_load(settings.read_text("utf-8"))["embedded_postgres"]["port"])
    return EmbeddedServer(folder / "postgres", port=port)


def _fill(server: EmbeddedServer, name: str, script: str | None) -> None:
    """Fill a database under another name first, so that a killed demo never takes half of one for whole."""
    if script is None:
        create_database(server.target(), name, owner="dagster")
        return
    building = f"{name}_building"
    run_script_alone(server.target(), f'drop database if exists "{building}"')
    create_database(server.target(), building)
    run_script(server.target(building), _content(script))
    run_script_alone(server.target(), f'alter database "{building}" rename to "{name}"')


def run_script_alone(target: PostgresTarget, statement: str) -> None:
    """Run one statement that cannot stand in a transaction."""
    from backup_pipeline.postgres.server.connection import connected

    with connected(target) as connection:
        connection.execute(statement.encode())


def _write_env(folder: Path, server: EmbeddedServer) -> None:
    admin = server.target()
    dagster = secrets.token_urlsafe(18)
    create_login(admin, "dagster", dagster)
    address = f"127.0.0.1:{server.port}"
    password = quote(admin.password, safe="")
    lines = [
        "# Made by `backup-pipeline demo`; these passwords open only the demo's own server.",
        f"DATABASE_URL=postgresql://postgres:{password}@{address}/supabase",
        f"KC_DB_URL=jdbc:postgresql://{address}/keycloak",
        "KC_DB_USERNAME=postgres",
        f"KC_DB_PASSWORD={admin.password}",
        f"TRADING_DATABASE_URL=postgresql://postgres:{password}@{address}/trading",
        f"DAGSTER_DATABASE_URL=postgresql://postgres:{password}@{address}/dagster",
        f"DAGSTER_POSTGRES_URL=postgresql://dagster:{dagster}@{address}/dagster",
    ]
    write_atomically(folder / ".env", ("\n".join(lines) + "\n").encode())
