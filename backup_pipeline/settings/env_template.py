"""Environment variables: group, purpose, and placeholder until they are set.

The one source of `.env.template` (`python -m backup_pipeline.settings.env_template > .env.template`; a test keeps the
file true), of what `env setup` writes and of what may be given as `X_FILE`. Values are never here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class ValueKind(StrEnum):
    """The form of a variable's value."""

    DSN = "dsn"
    URL = "url"
    URLS = "urls"
    TEXT = "text"
    PATH = "path"
    SECRET = "secret"  # noqa: S105 - the name of a form, not a secret


class Generator(StrEnum):
    """How `env setup` makes a value: a password, Supabase's JWT secret, or one of the two keys signed with it."""

    PASSWORD = "password"  # noqa: S105
    JWT_SECRET = "jwt_secret"  # noqa: S105
    ANON_KEY = "anon_key"
    SERVICE_ROLE_KEY = "service_role_key"


@dataclass(frozen=True, slots=True)
class TemplateVariable:
    """One variable.

    Attributes:
        name: the variable's name.
        group: heading under which it stands.
        required: when it must be set, as text; "" when it is optional and stands commented out.
        kind: the form of its value.
        example: shows the form, in angle brackets so that it can never be taken for a value.
        description: what it is for, one or two sentences.
        generator: how `env setup` makes it; None when only a person can know it.
    """

    name: str
    group: str
    required: str
    kind: ValueKind
    example: str
    description: str
    generator: Generator | None = None


DSN_EXAMPLE = "<postgresql://USER:PASSWORD@HOST:5432/DATABASE>"
_JDBC_EXAMPLE = "<jdbc:postgresql://HOST:5432/DATABASE>"
_SOURCES = "Databases (sources of backup.yaml)"
_SUPABASE = "Supabase, self-hosted"
_ALERTS = "Alerts"
_RUNNING = "Running"
SITE_GROUP = "This site (named in backup.yaml)"

TEMPLATE_VARIABLES: tuple[TemplateVariable, ...] = (
    TemplateVariable(
        "SESSION_DATABASE_URL",
        _SOURCES,
        "this or DATABASE_URL, by source supabase",
        ValueKind.DSN,
        DSN_EXAMPLE,
        "Supabase through the session pooler (port 5432). Works over IPv4.",
    ),
    TemplateVariable(
        "DATABASE_URL",
        _SOURCES,
        "",
        ValueKind.DSN,
        DSN_EXAMPLE,
        "Supabase directly (may be IPv6 only); used when SESSION_DATABASE_URL is not set. Never the transaction "
        "pooler (port 6543): it cannot serve a dump.",
    ),
    TemplateVariable(
        "KC_DB_URL",
        _SOURCES,
        "by source keycloak",
        ValueKind.DSN,
        _JDBC_EXAMPLE,
        "Keycloak's database, in the form that Keycloak itself takes.",
    ),
    TemplateVariable(
        "KC_DB_USERNAME",
        _SOURCES,
        "by source keycloak, unless KC_DB_URL holds the user",
        ValueKind.TEXT,
        "<USER>",
        "Keycloak's database user.",
    ),
    TemplateVariable(
        "KC_DB_PASSWORD",
        _SOURCES,
        "by source keycloak, unless KC_DB_URL holds it",
        ValueKind.SECRET,
        "<PASSWORD>",
        "Its password.",
    ),
    TemplateVariable(
        "TRADING_DATABASE_URL",
        _SOURCES,
        "by source trading",
        ValueKind.DSN,
        DSN_EXAMPLE,
        "The trading database.",
    ),
    TemplateVariable(
        "POSTGRES_PASSWORD",
        _SUPABASE,
        "by Supabase's own containers",
        ValueKind.SECRET,
        "<LETTERS AND DIGITS>",
        "Password of Supabase's database users. Letters and digits only: it also stands in URLs.",
        Generator.PASSWORD,
    ),
    TemplateVariable(
        "JWT_SECRET",
        _SUPABASE,
        "by Supabase's own containers",
        ValueKind.SECRET,
        "<AT LEAST 32 CHARACTERS>",
        "Signs all of Supabase's tokens.",
        Generator.JWT_SECRET,
    ),
    TemplateVariable(
        "ANON_KEY",
        _SUPABASE,
        "by Supabase's own containers",
        ValueKind.SECRET,
        "<TOKEN SIGNED WITH JWT_SECRET>",
        "Token with the role anon, for browsers.",
        Generator.ANON_KEY,
    ),
    TemplateVariable(
        "SERVICE_ROLE_KEY",
        _SUPABASE,
        "by Supabase's own containers",
        ValueKind.SECRET,
        "<TOKEN SIGNED WITH JWT_SECRET>",
        "Token with the role service_role, which passes row level security: for servers only.",
        Generator.SERVICE_ROLE_KEY,
    ),
    TemplateVariable(
        "DASHBOARD_USERNAME",
        _SUPABASE,
        "by Supabase's own containers",
        ValueKind.TEXT,
        "<USER>",
        "Login of Supabase Studio.",
    ),
    TemplateVariable(
        "DASHBOARD_PASSWORD",
        _SUPABASE,
        "by Supabase's own containers",
        ValueKind.SECRET,
        "<LETTERS AND DIGITS>",
        "Its password.",
        Generator.PASSWORD,
    ),
    TemplateVariable(
        "DRILL_DATABASE_URL",
        "Drills",
        "",
        ValueKind.DSN,
        DSN_EXAMPLE,
        "Scratch server into which drills restore, never a live one; its role makes and drops databases. Without it "
        "a server of our own is started, by an installed PostgreSQL that has what the set needs or the embedded one.",
    ),
    TemplateVariable(
        "DRILL_TIMEOUT_SECONDS",
        "Drills",
        "",
        ValueKind.TEXT,
        "<SECONDS>",
        "Seconds after which the drill of a database is ended; an hour and a second for each MB of its tables where it "
        "is not set.",
    ),
    TemplateVariable(
        "ALERT_URLS",
        _ALERTS,
        "",
        ValueKind.URLS,
        "<mailtos://USER:PASSWORD@HOST?to=ADDRESS ntfys://HOST/TOPIC>",
        "Where alerts go: Apprise URLs, several separated by spaces.",
    ),
    TemplateVariable(
        "NIGHTLY_PING_URL",
        _ALERTS,
        "",
        ValueKind.URL,
        "<https://HOST/ping/UUID>",
        "Dead-man's-switch of the plan nightly (healthchecks.io's protocol); one variable per plan, named by ping_env.",
    ),
    TemplateVariable(
        "UI_URL",
        _ALERTS,
        "",
        ValueKind.URL,
        "<https://HOST>",
        "Address of the Dagster UI, for links in alerts.",
    ),
    TemplateVariable(
        "UI_PASSWORD",
        _RUNNING,
        "",
        ValueKind.SECRET,
        "<AT LEAST 12 CHARACTERS>",
        "Password of the UI. Must be set where the UI listens at another address than loopback.",
    ),
    TemplateVariable(
        "UI_ALLOWED_HOSTS",
        _RUNNING,
        "",
        ValueKind.TEXT,
        "<HOST or https://HOST, SEPARATED BY SPACES>",
        "Further names under which the UI is opened, such as a proxy's; that of UI_URL is always right.",
    ),
    TemplateVariable(
        "UI_METRICS_TOKEN",
        _RUNNING,
        "",
        ValueKind.SECRET,
        "<AT LEAST 12 CHARACTERS>",
        "Lets Prometheus read /metrics where the UI has a password; opens nothing else.",
    ),
    TemplateVariable(
        "DAGSTER_HOME",
        _RUNNING,
        "",
        ValueKind.PATH,
        "<ABSOLUTE PATH>",
        "Folder of Dagster's runs and logs; `.dagster` beside backup.yaml without it.",
    ),
    TemplateVariable(
        "DAGSTER_POSTGRES_URL",
        _RUNNING,
        "",
        ValueKind.DSN,
        DSN_EXAMPLE,
        "Keeps Dagster's runs and events in PostgreSQL (on a server); SQLite in DAGSTER_HOME without it.",
    ),
    TemplateVariable(
        "BACKUP_PIPELINE_CONFIG",
        _RUNNING,
        "",
        ValueKind.PATH,
        "<PATH OF backup.yaml>",
        "The settings file, where it is not in the current folder. Set it in the process's environment, not here.",
    ),
    TemplateVariable(
        "BACKUP_PIPELINE_EXECUTOR",
        _RUNNING,
        "",
        ValueKind.TEXT,
        "<MODULE:NAME>",
        "Executor of Dagster's steps, for scaling out; in-process without it.",
    ),
    TemplateVariable(
        "BACKUP_PIPELINE_EXECUTOR_CONFIG",
        _RUNNING,
        "",
        ValueKind.TEXT,
        "<JSON OBJECT>",
        "The executor's configuration.",
    ),
    TemplateVariable(
        "BACKUP_PIPELINE_RUN_LAUNCHER",
        _RUNNING,
        "",
        ValueKind.TEXT,
        "<kubernetes, docker, celery OR MODULE:NAME>",
        "Run launcher of Dagster, for scaling out; this machine without it.",
    ),
    TemplateVariable(
        "BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG",
        _RUNNING,
        "",
        ValueKind.TEXT,
        "<JSON OBJECT>",
        "The run launcher's configuration.",
    ),
    TemplateVariable(
        "BACKUP_PIPELINE_KEEP_RUNS_DAYS",
        _RUNNING,
        "",
        ValueKind.TEXT,
        "<DAYS>",
        "Older runs are removed from Dagster's history every week; all are kept without it. No set is touched.",
    ),
    TemplateVariable(
        "BACKUP_PIPELINE_STATE",
        _RUNNING,
        "",
        ValueKind.PATH,
        "</opt/dagster/storage>",
        "A folder that stays, where a site in containers keeps its identity and the stores it has used. Beside "
        "backup.yaml without it.",
    ),
    TemplateVariable(
        "BACKUP_PIPELINE_PG_BIN",
        _RUNNING,
        "",
        ValueKind.PATH,
        "</usr/lib/postgresql/MAJOR/bin>",
        "Folders with PostgreSQL's programs, separated by colons, where they are not in the usual places.",
    ),
)

SUPABASE_VARIABLES = frozenset(variable.name for variable in TEMPLATE_VARIABLES if variable.group == _SUPABASE)
"""What Supabase's own containers need, where the site hosts it."""

_HEADER = """\
# Secrets and connection strings of a site. Copy to .env (mode 0600), or run: backup-pipeline env setup
# Everything else stands in backup.yaml, which names these variables.
#
# Text in <angle brackets> shows the form and is never taken for a value: replace it, brackets included.
# Instead of X you may set X_FILE to the path of a file that holds the value (Docker and Kubernetes secrets).
# Check the result with: backup-pipeline env check
"""


def variable_block(variable: TemplateVariable, value: str | None = None) -> str:
    """Return a variable's comment and line; `value` in place of the example."""
    how = f"Required: {variable.required}." if variable.required else "Optional."
    made = " `env setup` makes it." if variable.generator else ""
    lines = _wrapped(f"{variable.description} {how}{made}")
    off = "" if variable.required or value is not None else "# "
    return "\n".join([*lines, f"{off}{variable.name}={variable.example if value is None else value}"]) + "\n"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return [f"# {line}" for line in textwrap.wrap(text, 98)]


def site_variables(names: Sequence[str]) -> tuple[TemplateVariable, ...]:
    """Return those names of backup.yaml that the template does not know, as variables of the site's own."""
    known = {variable.name for variable in TEMPLATE_VARIABLES}
    return tuple(
        TemplateVariable(name, SITE_GROUP, "where backup.yaml names it", ValueKind.TEXT, "<VALUE>", "See backup.yaml.")
        for name in names
        if name not in known
    )


def env_template(variables: Sequence[TemplateVariable] = TEMPLATE_VARIABLES) -> str:
    """Return the text of `.env.template`."""
    parts = [_HEADER]
    group = ""
    for variable in variables:
        if variable.group != group:
            group = variable.group
            parts.append(f"\n# --- {group} {'-' * (92 - len(group))}\n")
        parts.append("\n" + variable_block(variable))
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(env_template())
