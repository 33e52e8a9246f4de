"""What libpq adds to a connection string: a service's entries and the PG* variables, read as libpq reads them.

They are written into the target, so that our own connections and PostgreSQL's programs, which get no PG* variables,
always mean the same. Passwords in password files are libpq's own matter, of which only the file's place is kept here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from backup_pipeline.errors import SettingsError

_SYSTEM_FOLDER = "/etc/postgresql-common"
# Ours in every connection, or without effect here.
_NOT_FROM_VARIABLES = {"application_name", "client_encoding", "service"}


def with_defaults(pairs: Mapping[str, str], environment: Mapping[str, str], variable: str) -> dict[str, str]:
    """Return a connection's options with those of its service, and of the environment, that it does not name itself.

    Args:
        pairs: what the connection string says, by libpq's keywords.
        environment: the variables PGHOST, PGSERVICE, PGPASSFILE, ….
        variable: where the string comes from, for messages.

    Raises:
        SettingsError: there is no such service, or its file has another form.
    """
    from psycopg import pq

    merged = {key: value for key, value in pairs.items() if key != "service"}
    if service := pairs.get("service") or environment.get("PGSERVICE", ""):
        merged = {**_service(service, environment, variable), **merged}
    for option in pq.Conninfo.get_defaults():
        keyword = option.keyword.decode()
        value = environment.get(option.envvar.decode(), "") if option.envvar else ""
        if value and keyword not in _NOT_FROM_VARIABLES:
            merged.setdefault(keyword, value)
    return merged


def _service(name: str, environment: Mapping[str, str], variable: str) -> dict[str, str]:
    files = [
        Path(environment.get("PGSERVICEFILE", "") or Path.home() / ".pg_service.conf"),
        Path(environment.get("PGSYSCONFDIR", "") or _SYSTEM_FOLDER) / "pg_service.conf",
    ]
    for file in files:
        found = False
        entries: dict[str, str] = {}
        for section, key, value in _lines(file, variable):
            if section == name:
                found = True
                if key:
                    entries.setdefault(key, value)
        if found:
            return entries
    raise SettingsError(
        f"There is no service {name!r} in {' or '.join(map(str, files))}.",
        where=variable,
        remedy="Write the service there, name the file in PGSERVICEFILE, or write host, user and database out.",
    )


def _lines(file: Path, variable: str) -> Iterator[tuple[str, str, str]]:
    """Yield section, key and value of each line of a service file; the head of a section comes with an empty key."""
    try:
        text = file.read_text("utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The service file {file} cannot be read: {error}.", where=variable, remedy="Correct the file or its mode."
        ) from None
    section = ""
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line[1 : line.find("]")]
            yield section, "", ""
            continue
        key, equals, value = line.partition("=")
        if not equals or key == "service" or line.startswith("ldap"):
            # Not quoted: it may be a password.
            raise SettingsError(
                f"Line {number} of the service file {file} is not of the form key=value; LDAP and services within "
                "services are not supported.",
                where=variable,
                remedy="Correct the line.",
            )
        yield section, key.strip(), value.strip()
