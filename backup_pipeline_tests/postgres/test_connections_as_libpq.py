"""Connection strings mean what they mean to libpq: password files, services, several hosts, variables, TLS."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backup_pipeline.errors import SettingsError, SourceError, UnreachableError
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import connected, server_version
from backup_pipeline.postgres.server.embedded import EmbeddedServer, free_port
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target
from backup_pipeline.system import processes


def _reached(target: PostgresTarget) -> None:
    """Connect by psycopg and by PostgreSQL's own program; both must be let in."""
    with connected(target) as connection:
        major = server_version(connection)[0]
    psql = choose_client(major).program("psql")
    command = [psql, "-X", "-At", "--no-password", *target.program_arguments(), "--command=select 'in'"]
    assert processes.run(command, env=target.program_environment()).stdout.strip() == b"in"


def test_password_files_services_and_variables_reach_us_and_the_programs(
    database: Callable[..., PostgresTarget], tmp_path: Path
) -> None:
    known = database()
    words, service = tmp_path / "passwords", tmp_path / "services"
    words.write_text(f"{known.host}:{known.port}:*:{known.user}:{known.password}\n")
    words.chmod(0o600)
    service.write_text(
        f"# ours\n[other]\nhost=nowhere\n[shop]\nhost={known.host}\nport={known.port}\ndbname={known.database}\n"
        f"user={known.user}\n"
    )
    place = f"{known.user}@{known.host}:{known.port}/{known.database}"
    password = {"PGPASSWORD": known.password}
    for text, environment in (
        (f"postgresql://{place}", {"PGPASSFILE": str(words)}),
        (f"postgresql://{place}?passfile={words}", {}),
        (f"host={known.host} port={known.port} user={known.user} dbname={known.database} passfile={words}", {}),
        (f"postgresql://{place}", password),
        ("service=shop", {"PGSERVICEFILE": str(service), **password}),
        ("postgresql:///?service=shop", {"PGSERVICEFILE": str(service), "PGPASSFILE": str(words)}),
        (f"dbname={known.database}", {"PGSERVICE": "shop", "PGSERVICEFILE": str(service), **password}),
        (f"jdbc:postgresql://{place.rpartition('@')[2]}", {"PGUSER": known.user, **password}),
    ):
        target = parse_target(text, variable="SHOP_URL", environment=environment)
        assert target.label == known.label
        _reached(target)


def test_of_several_hosts_the_one_that_answers_and_fits_is_used(database: Callable[..., PostgresTarget]) -> None:
    known = database()
    hosts = f"127.0.0.1:{free_port()},{known.host}:{known.port}"
    start = f"postgresql://{known.user}:{known.password}@{hosts}/{known.database}"
    for text in (start, f"{start}?target_session_attrs=read-write", f"jdbc:{start}?targetServerType=primary"):
        target = parse_target(text, variable="SHOP_URL")
        assert hosts in target.label
        _reached(target)
    standby = parse_target(f"{start}?target_session_attrs=standby", variable="SHOP_URL")
    with (
        pytest.raises(UnreachableError, match="target_session_attrs"),
        connected(replace(standby).at(*known.addresses[0])),
    ):
        pass


def test_what_is_not_supported_or_missing_is_said_and_no_secret_is_quoted(tmp_path: Path) -> None:
    service = tmp_path / "services"
    service.write_text("[shop]\npassword hush\n")
    for text, reported in (
        ("postgresql://db/shop?sslpassword=hush", "sslpassword is not supported"),
        ("host=db dbname=shop replication=database", "replication is not supported"),
        ("service=none", "no service 'none'"),
        ("dbname=shop", "no host"),
        ("host=a,b port=1,2,3 dbname=shop", "3 ports for 2 hosts"),
    ):
        environment = {"PGSERVICEFILE": str(tmp_path / "absent"), "PGSYSCONFDIR": str(tmp_path)}
        with pytest.raises(SettingsError, match=reported) as caught:
            parse_target(text, variable="SHOP_URL", environment=environment)
        assert "hush" not in str(caught.value)
    with pytest.raises(SettingsError, match="Line 2") as caught:
        parse_target("service=shop", variable="SHOP_URL", environment={"PGSERVICEFILE": str(service)})
    assert "hush" not in str(caught.value)


def test_a_missing_password_and_refused_tls_are_named_as_such(database: Callable[..., PostgresTarget]) -> None:
    known = database()
    with (
        pytest.raises(SourceError, match="asks for a password, and none is given") as caught,
        connected(replace(known, password="", options=(("passfile", "/dev/null"),))),
    ):
        pass
    assert "PGPASSFILE" in caught.value.remedy
    for mode in ("require", "verify-full"):
        with (
            pytest.raises(SourceError, match="encrypted connection was not made") as caught,
            connected(replace(known, options=(("sslmode", mode),))),
        ):
            pass
        assert "sslmode" in caught.value.remedy
        assert known.password not in str(caught.value)


@pytest.fixture
def certificate(installed_server: EmbeddedServer, tmp_path: Path) -> Iterator[Path]:
    """Have the installed server speak TLS as `localhost` for the test; give its certificate."""
    key, made = installed_server.data / "tls.key", installed_server.data / "tls.crt"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            str(key),
            "-out",
            str(made),
        ],
        check=True,
        capture_output=True,
    )
    owner = installed_server.data.stat()
    for file in (key, made):
        file.chmod(0o600)
        os.chown(file, owner.st_uid, owner.st_gid)
    copy = tmp_path / "root.crt"
    copy.write_bytes(made.read_bytes())
    with connected(installed_server.target()) as connection:
        for name, value in (("ssl_cert_file", "tls.crt"), ("ssl_key_file", "tls.key"), ("ssl", "on")):
            connection.execute(f"alter system set {name} = '{value}'".encode())
        connection.execute("select pg_reload_conf()")
        while connection.execute("show ssl").fetchone() != ("on",):
            time.sleep(0.02)
        # The server loads the certificate right after it has said so to its sessions.
        time.sleep(0.3)
        yield copy
        connection.execute("alter system reset all")
        connection.execute("select pg_reload_conf()")


def test_certificates_are_verified_as_the_sslmode_says(certificate: Path, installed_server: EmbeddedServer) -> None:
    known = installed_server.target()
    login = f"{known.user}:{known.password}"
    for host, options in (
        ("127.0.0.1", "sslmode=require"),
        ("127.0.0.1", f"sslmode=verify-ca&sslrootcert={certificate}"),
        ("localhost", f"sslmode=verify-full&sslrootcert={certificate}"),
    ):
        target = parse_target(f"postgresql://{login}@{host}:{known.port}/postgres?{options}", variable="SHOP_URL")
        _reached(target)
        with connected(target) as connection:
            row = connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
            assert row == (True,)
    for host, options, reported in (
        ("127.0.0.1", f"sslmode=verify-full&sslrootcert={certificate}", "does not match host name"),
        ("localhost", f"sslmode=verify-ca&sslrootcert={certificate.parent / 'none.crt'}", "does not exist"),
    ):
        target = parse_target(f"postgresql://{login}@{host}:{known.port}/postgres?{options}", variable="SHOP_URL")
        with pytest.raises(SourceError, match=f"encrypted connection was not made.*{reported}"), connected(target):
            pass
