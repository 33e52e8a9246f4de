"""Where a PostgreSQL database is: connection strings of every accepted form, checked, with the password kept apart.

Accepted: `postgresql://…`, `postgres://…`, SQLAlchemy's `postgresql+driver://…`, JDBC's `jdbc:postgresql://…`, and
libpq's `key=value` form. No connection is made here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from backup_pipeline.errors import SettingsError

TRANSACTION_POOLER_PORT = 6543
# Only what concerns the way to the server is taken over; the rest of a JDBC or application URL is not libpq's.
_LIBPQ_OPTIONS = frozenset(
    {
        "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation", "channel_binding",
        "gssencmode", "krbsrvname", "target_session_attrs", "options", "hostaddr", "connect_timeout",
        "require_auth", "application_name",
    }
)  # fmt: skip
_SECRET_OPTIONS = frozenset({"sslpassword"})
_JDBC_OPTIONS = {"connectTimeout": "connect_timeout", "ApplicationName": "application_name"}
_JDBC_SSL_TRUE = {"true", ""}


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """A database that can be connected to. `repr` and `label` never hold the password."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(default="", repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """`user@host:port/database`, for people, logs and manifests."""
        return (
            f"{self.user}@{self.host}:{self.port}/{self.database}"
            if self.user
            else f"{self.host}:{self.port}/{self.database}"
        )

    def with_database(self, database: str) -> PostgresTarget:
        """Return the same server with another database."""
        return replace(self, database=database)

    def connect_arguments(self) -> dict[str, str | int]:
        """Return keyword arguments for psycopg.connect; no string is parsed again on the way."""
        arguments: dict[str, str | int] = {"host": self.host, "port": self.port, "dbname": self.database}
        if self.user:
            arguments["user"] = self.user
        if self.password:
            arguments["password"] = self.password
        arguments.setdefault("connect_timeout", 15)
        arguments.update(self.options)
        return arguments

    def program_arguments(self) -> list[str]:
        """Return `--dbname=…` for PostgreSQL's own programs: a URI built from checked parts, without secrets."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        address = f"postgresql://{user}{host}:{self.port}/{quote(self.database, safe='')}"
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in self.options if key not in _SECRET_OPTIONS)
        return [f"--dbname={address}?{query}" if query else f"--dbname={address}"]

    def program_environment(self) -> dict[str, str]:
        """Return the variables that hold what must not stand in arguments."""
        env = {"PGCONNECT_TIMEOUT": "15"}
        if self.password:
            env["PGPASSWORD"] = self.password
        return env


def parse_target(text: str, *, variable: str, user: str = "", password: str = "") -> PostgresTarget:
    """Read a connection string.

    Args:
        text: the string, in any accepted form.
        variable: name of the environment variable it came from, for messages.
        user: used when the string names none.
        password: used when the string holds none.

    Raises:
        SettingsError: not understood, incomplete, or Supabase's transaction pooler; the text itself is never quoted.
    """
    raw = text.strip()
    jdbc = raw.startswith("jdbc:")
    if jdbc:
        raw = raw.removeprefix("jdbc:")
    try:
        target = _from_url(raw, jdbc) if "://" in raw else _from_pairs(raw)
    except ValueError as error:
        raise SettingsError(
            f"Not a PostgreSQL connection string ({error}).",
            where=variable,
            remedy="Write postgresql://user:password@host:5432/database (or jdbc:postgresql://host:5432/database).",
        ) from None
    target = replace(target, user=target.user or user, password=target.password or password)
    if target.port == TRANSACTION_POOLER_PORT:
        raise SettingsError(
            "Port 6543 is Supabase's transaction pooler: it keeps no session, so it cannot serve pg_dump "
            "or a snapshot.",
            where=variable,
            remedy="Use the session pooler (port 5432) or the direct connection.",
        )
    return target


def _from_url(raw: str, jdbc: bool) -> PostgresTarget:
    scheme, _, rest = raw.partition("://")
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme):
        raise ValueError("the scheme is not postgresql")
    if re.search(r"[\t\r\n]", rest):
        raise ValueError("a tab or line break in it; percent-encode it where it belongs to the password")
    try:
        # '#' means nothing in these URLs.
        parts = urlsplit("postgresql://" + rest, allow_fragments=False)
        port = parts.port or 5432
    except ValueError:
        # Python's message quotes the part before the path, password included.
        raise ValueError("the port is not a number, or a character of the password is not percent-encoded") from None
    if "@" not in parts.netloc and "@" in parts.path:
        # A password with '/' or '#' would else be taken for the port and the database, which are shown.
        raise ValueError("a character of the password, such as '/' or '#', is not percent-encoded")
    # '+' stands for a space to JDBC and to SQLAlchemy, for itself to libpq.
    pairs = parts.query if jdbc or "+" in scheme else parts.query.replace("+", "%2B")
    query = dict(parse_qsl(pairs, keep_blank_values=True))
    if not parts.hostname and not query.get("host"):
        raise ValueError("no host")
    if "," in (parts.hostname or ""):
        raise ValueError("several hosts; name one")
    if jdbc and query.pop("ssl", "false") in _JDBC_SSL_TRUE:
        query.setdefault("sslmode", "require")
    options = {_JDBC_OPTIONS.get(key, key): value for key, value in query.items()}
    database = unquote(parts.path.lstrip("/")) or options.get("dbname", "")
    user = unquote(parts.username or "") or options.get("user", "")
    if not (database or user):
        raise ValueError("no database")
    return _checked(
        host=unquote(parts.hostname or "") or query["host"],
        port=_port(query["port"]) if "port" in query else port,
        database=database or user,
        user=user,
        password=unquote(parts.password or "") or options.get("password", ""),
        options=options,
    )


def _port(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("the port is not a number") from None


def _from_pairs(raw: str) -> PostgresTarget:
    try:
        pairs = {key: str(value) for key, value in conninfo_to_dict(raw).items() if value is not None}
    except ProgrammingError:
        # libpq's message quotes the string, password included.
        raise ValueError("neither a URL nor key=value pairs") from None
    if "host" not in pairs:
        raise ValueError("no host")
    return _checked(
        host=pairs["host"],
        port=_port(pairs.get("port", "5432")),
        database=pairs.get("dbname", "") or pairs.get("user", ""),
        user=pairs.get("user", ""),
        password=pairs.get("password", ""),
        options=pairs,
    )


def _checked(
    *, host: str, port: int, database: str, user: str, password: str, options: dict[str, str]
) -> PostgresTarget:
    if not database:
        raise ValueError("no database")
    for name, value in (("host", host), ("database", database), ("user", user), ("password", password)):
        if "\0" in value:
            raise ValueError(f"a NUL character in the {name}")
    if not 0 < port < 65536:
        raise ValueError("the port is out of range")
    kept = tuple(sorted((key, value) for key, value in options.items() if key in _LIBPQ_OPTIONS))
    return PostgresTarget(host, port, database, user, password, kept)
