"""Where a PostgreSQL database is: connection strings of every accepted form, checked, with the password kept apart.

Accepted: `postgresql://…`, `postgres://…`, SQLAlchemy's `postgresql+driver://…`, JDBC's `jdbc:postgresql://…`, and
libpq's `key=value` form, with several hosts, services, password files and PG* variables as libpq knows them. No
connection is made here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from backup_pipeline.errors import SettingsError
from backup_pipeline.postgres.server.libpq_defaults import with_defaults

TRANSACTION_POOLER_PORT = 6543
_PORT = 5432
# Only what concerns the way to the server is taken over; the rest of a JDBC or application URL is not libpq's.
_LIBPQ_OPTIONS = frozenset(
    """
    sslmode sslrootcert sslcert sslkey sslcrl sslcrldir sslsni sslcertmode sslnegotiation ssl_min_protocol_version
    ssl_max_protocol_version channel_binding gssencmode gsslib gssdelegation krbsrvname requirepeer require_auth
    passfile target_session_attrs load_balance_hosts options hostaddr connect_timeout application_name keepalives
    keepalives_idle keepalives_interval keepalives_count tcp_user_timeout
    """.split()
)
# A connection that they ask for could not be made, or not by PostgreSQL's programs without a secret in their arguments.
_REFUSED_OPTIONS = {
    "sslpassword": "PostgreSQL's programs take it only in their arguments; use a key without a password, mode 0600",
    "replication": "a replication connection serves no dump",
    "oauth_issuer": "use a password, a certificate or a password file",
}
# Noticed within two minutes: a server that has vanished, or a network between that drops everything. A server that is
# alive and does not take what it is sent may be at work (a COPY into an index), and is given longer.
_KEEPALIVES = {
    "keepalives_idle": "60",
    "keepalives_interval": "10",
    "keepalives_count": "6",
    "tcp_user_timeout": "600000",
}
_CONNECT_SECONDS = "15"
_JDBC_OPTIONS = {
    "connectTimeout": "connect_timeout",
    "ApplicationName": "application_name",
    "sslMode": "sslmode",
    "targetServerType": "target_session_attrs",
}
_JDBC_SERVERS = {
    "master": "primary",
    "slave": "standby",
    "secondary": "standby",
    "preferSecondary": "prefer-standby",
    "preferSlave": "prefer-standby",
    "preferPrimary": "any",
}
_JDBC_SSL_TRUE = {"true", ""}


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """A database that can be connected to. `repr` and `label` never hold the password.

    Where several servers are named, `host` and `port` are the first's and `others` those that libpq tries after it.
    """

    host: str
    port: int
    database: str
    user: str
    password: str = field(default="", repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    others: tuple[tuple[str, int], ...] = ()

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of every server, in the order in which they are tried."""
        return ((self.host, self.port), *self.others)

    @property
    def label(self) -> str:
        """`user@host:port/database`, for people, logs and manifests."""
        servers = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"{self.user}@{servers}/{self.database}" if self.user else f"{servers}/{self.database}"

    def at(self, host: str, port: int) -> PostgresTarget:
        """Return the same database of the one server that answered."""
        return replace(self, host=host, port=port, others=()) if self.others else self

    def with_database(self, database: str) -> PostgresTarget:
        """Return the same server with another database."""
        return replace(self, database=database)

    def connect_arguments(self) -> dict[str, str | int]:
        """Return keyword arguments for psycopg.connect; no string is parsed again on the way."""
        arguments: dict[str, str | int] = {
            "host": ",".join(host for host, _ in self.addresses),
            "port": ",".join(str(port) for _, port in self.addresses),
            "dbname": self.database,
        }
        if self.user:
            arguments["user"] = self.user
        if self.password:
            arguments["password"] = self.password
        return {**arguments, "connect_timeout": _CONNECT_SECONDS, **_KEEPALIVES, **dict(self.options)}

    def program_arguments(self) -> list[str]:
        """Return `--dbname=…` for PostgreSQL's own programs: a URI built from checked parts, without secrets."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        servers = ",".join(
            f"{f'[{host}]' if ':' in host else quote(host, safe='')}:{port}" for host, port in self.addresses
        )
        options = {**_KEEPALIVES, **dict(self.options)}
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in options.items())
        return [f"--dbname=postgresql://{user}{servers}/{quote(self.database, safe='')}?{query}"]

    def program_environment(self) -> dict[str, str]:
        """Return the variables that hold what must not stand in arguments."""
        env = {"PGCONNECT_TIMEOUT": _CONNECT_SECONDS}
        if self.password:
            env["PGPASSWORD"] = self.password
        return env


def parse_target(
    text: str, *, variable: str, user: str = "", password: str = "", environment: Mapping[str, str] | None = None
) -> PostgresTarget:
    """Read a connection string.

    Args:
        text: the string, in any accepted form.
        variable: name of the environment variable it came from, for messages.
        user: used when the string names none.
        password: used when the string holds none.
        environment: PG* variables, which stand for what neither the string nor its service says.

    Raises:
        SettingsError: not understood, incomplete, with an option that is not supported, or Supabase's transaction
            pooler; the text itself is never quoted.
    """
    raw = text.strip()
    jdbc = raw.startswith("jdbc:")
    if jdbc:
        raw = raw.removeprefix("jdbc:")
    try:
        pairs = _pairs_of_url(raw, jdbc) if "://" in raw else _pairs_of_text(raw)
        given = {key: value for key, value in {"user": user, "password": password}.items() if value}
        pairs = {**given, **{key: value for key, value in pairs.items() if value}}
        target = _target(with_defaults(pairs, environment or {}, variable))
    except ValueError as error:
        raise SettingsError(
            f"Not a PostgreSQL connection string ({error}).",
            where=variable,
            remedy="Write postgresql://user:password@host:5432/database (or jdbc:postgresql://host:5432/database).",
        ) from None
    if target.port == TRANSACTION_POOLER_PORT:
        raise SettingsError(
            "Port 6543 is Supabase's transaction pooler: it keeps no session, so it cannot serve pg_dump "
            "or a snapshot.",
            where=variable,
            remedy="Use the session pooler (port 5432) or the direct connection.",
        )
    return target


def _pairs_of_url(raw: str, jdbc: bool) -> dict[str, str]:
    """Return what a URL says by libpq's keywords; hosts and ports as libpq's lists with commas."""
    scheme, _, rest = raw.partition("://")
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme):
        raise ValueError("the scheme is not postgresql")
    if re.search(r"[\t\r\n]", rest):
        raise ValueError("a tab or line break in it; percent-encode it where it belongs to the password")
    try:
        # '#' means nothing in these URLs.
        parts = urlsplit("postgresql://" + rest, allow_fragments=False)
    except ValueError:
        raise ValueError("a character of the password is not percent-encoded") from None
    if "@" not in parts.netloc and "@" in parts.path:
        # A password with '/' or '#' would else be taken for the port and the database, which are shown.
        raise ValueError("a character of the password, such as '/' or '#', is not percent-encoded")
    login, _, servers = parts.netloc.rpartition("@")
    # '+' stands for a space to JDBC and to SQLAlchemy, for itself to libpq.
    text = parts.query if jdbc or "+" in scheme else parts.query.replace("+", "%2B")
    query = dict(parse_qsl(text, keep_blank_values=True))
    if jdbc and query.pop("ssl", "false") in _JDBC_SSL_TRUE:
        query.setdefault("sslmode", "require")
    options = {_JDBC_OPTIONS.get(key, key): value for key, value in query.items()}
    if jdbc and "target_session_attrs" in options:
        wanted = options["target_session_attrs"]
        options["target_session_attrs"] = _JDBC_SERVERS.get(wanted, wanted)
    user, _, password = login.partition(":")
    hosts, ports = _servers(servers)
    named = {
        "host": hosts,
        "port": ports,
        "dbname": unquote(parts.path.lstrip("/")),
        "user": unquote(user),
        "password": unquote(password),
    }
    # In libpq's URLs what stands after '?' wins.
    return {**{key: value for key, value in named.items() if value}, **options}


def _servers(text: str) -> tuple[str, str]:
    """Return the hosts and the ports of the middle of a URL, each with commas; "" where none is named."""
    hosts, ports = [], []
    for server in text.split(","):
        found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([^:]*))?", server)
        if found is None or (found[2] or "0").strip("0123456789"):
            # Python's own message would quote this part, password included.
            raise ValueError("the port is not a number, or a character of the password is not percent-encoded")
        hosts.append(unquote(found[1].strip("[]")))
        ports.append(found[2] or "")
    return ",".join(hosts) if any(hosts) else "", ",".join(ports) if any(ports) else ""


def _pairs_of_text(raw: str) -> dict[str, str]:
    # A tenth of a second, which is spared where there is no database.
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        return {key: str(value) for key, value in conninfo_to_dict(raw).items() if value is not None}
    except ProgrammingError:
        # libpq's message quotes the string, password included.
        raise ValueError("neither a URL nor key=value pairs") from None


def _port(text: str) -> int:
    if not text:
        return _PORT
    # `int` would also take spaces, signs and digits of other scripts.
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("the port is not a number")
    if not 0 < int(text) < 65536:
        raise ValueError("the port is out of range")
    return int(text)


def _target(pairs: dict[str, str]) -> PostgresTarget:
    """Return the target that complete options mean."""
    for option, why in _REFUSED_OPTIONS.items():
        if option in pairs:
            raise ValueError(f"the option {option} is not supported: {why}")
    hosts = (pairs.get("host") or pairs.get("hostaddr", "")).split(",")
    ports = pairs.get("port", "").split(",")
    if not all(hosts):
        raise ValueError("no host; that of a socket is its folder, as in host=/var/run/postgresql")
    if len(ports) not in (1, len(hosts)):
        raise ValueError(f"{len(ports)} ports for {len(hosts)} hosts")
    user = pairs.get("user", "")
    database = pairs.get("dbname", "") or user
    if not database:
        raise ValueError("no database")
    password = pairs.get("password", "")
    for name, value in (("host", ",".join(hosts)), ("database", database), ("user", user), ("password", password)):
        if "\0" in value:
            raise ValueError(f"a NUL character in the {name}")
    numbers = [_port(port) for port in (ports if len(ports) > 1 else ports * len(hosts))]
    (host, port), *others = zip(hosts, numbers, strict=True)
    kept = tuple(sorted((key, value) for key, value in pairs.items() if key in _LIBPQ_OPTIONS))
    return PostgresTarget(host, port, database, user, password, kept, tuple(others))
