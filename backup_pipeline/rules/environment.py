"""Judging the variables of a site: missing, empty, placeholders, wrong forms, weak and demo secrets.

Pure: names, values and the time come in, faults go out; no value is ever in a fault. Connection strings are parsed,
servers reached and disks inspected in operations/env_check.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

from backup_pipeline.model.record import Severity
from backup_pipeline.rules.supabase_keys import DEMO_JWT_SECRET, ROLES, key_problem


@dataclass(frozen=True, slots=True)
class EnvironmentFault:
    """One thing that is wrong.

    Attributes:
        where: the variable, file, folder or server.
        what: what is wrong with it; no secret.
        remedy: what to do.
        severity: ERROR where a run would fail or be unsafe, WARN otherwise.
        lax: a WARN of this kind is an ERROR in production.
        skipped: nothing is wrong as far as is known: this could not be inspected now.
    """

    where: str
    what: str
    remedy: str
    severity: Severity = Severity.ERROR
    lax: bool = False
    skipped: bool = False

    def graded(self, *, production: bool) -> EnvironmentFault:
        """Return the fault as it counts there."""
        return replace(self, severity=Severity.ERROR) if production and self.lax else self

    def as_dict(self) -> dict[str, str]:
        """Return the fault for `--json`."""
        severity = "SKIPPED" if self.skipped else self.severity.value
        return {"severity": severity, "where": self.where, "what": self.what, "remedy": self.remedy}


class Form(StrEnum):
    """The form that a value must have."""

    DSN = "dsn"
    URL = "url"
    URLS = "urls"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Need:
    """Variables of which the first that is set is used; `by` says who needs it, as in "source keycloak"."""

    variables: tuple[str, ...]
    by: str
    form: Form = Form.TEXT
    required: bool = True


# What shows in any variable that nobody filled it in yet.
_UNFILLED = re.compile(
    r"change[-_ ]?(me|it|this)?|change[-_ ]?(me|it|this)([-_ !.].*)?|placeholder|replace[-_ ]?(me|this)?|"
    r"replace[-_ ]?(me|this|with)[-_ ].*|todo|to[-_ ]do|todo[-_ :].*|tbd|fixme|"
    r"(enter|insert|put|add|set|fill|paste)[-_ ](in[-_ ])?(your|the|me|it|here)([-_ ].*)?|"
    r"(.*[-_ ])?(key|token|secret|password|passwort|url|value|id|user|host|name|dsn)[-_ ](goes[-_ ])?here|"
    r"<.*>|\[.*(your|insert|change).*\]|\{\{.*\}\}|__[A-Z0-9_]+__|x{3,}|(sk|pk)[-_](live[-_]|test[-_])?x{3,}|\*{3,}|\?{2,}",
    re.IGNORECASE,
)
# What is no value where one is needed, and may be one elsewhere (`SMTP_AUTH=none`).
_PLACEHOLDER_VALUES = re.compile(r"example|sample|dummy|none|null|\.{3}|…|-+|\$\{[^}]*\}", re.IGNORECASE)
_PLACEHOLDER_PARTS = re.compile(
    r"<[^<>]*>|\$\{[^}]*\}|(?i:\[your[-_ ][^\]]*\]|(^|[:/@=])(your[-_ ]|change[-_]?me|x{4,}([:@/]|$)))|"
    r"USER:PASSWORD@|user:password@host|[@/]([\w-]+\.)*example\.(com|org|net)\b",
)
_UNFILLED_PARTS = re.compile(r"(?i:\[your[-_ ][^\]]*\]|[:/@=](your[-_ ]|change[-_]?me|<[^<>]*>))|USER:PASSWORD@")
_PUBLISHED = {
    "your-super-secret-and-long-postgres-password",
    "this_password_is_insecure_and_should_be_updated",
    DEMO_JWT_SECRET,
}
_COMMON = re.compile(
    r"(pass(word|wort)?|postgres(ql)?|supabase|keycloak|admin|root|secret|geheim|test|demo|qwert[yz]|letmein|welcome|"
    r"backup|trading|default|[0-9]+|abc)+[!.]?",
    re.IGNORECASE,
)
MINIMUM_PASSWORD = 12
MINIMUM_JWT_SECRET = 32


def is_placeholder(value: str) -> bool:
    """Return whether a value only shows where a value belongs."""
    text = value.strip().strip("'\"")
    return is_unfilled(text) or bool(_PLACEHOLDER_VALUES.fullmatch(text)) or bool(_PLACEHOLDER_PARTS.search(text))


def is_unfilled(value: str) -> bool:
    """Return whether a value of any variable, known here or not, plainly waits for somebody to fill it in."""
    text = value.strip().strip("'\"")
    return (
        text in _PUBLISHED
        or bool(_UNFILLED.fullmatch(text))
        or bool(_UNFILLED_PARTS.search(text))
        or text.lower().startswith(("your-", "your_", "your ", "my-secret", "insert-"))
    )


def is_example(value: str) -> bool:
    """Return whether a value is the template's own mark for "none yet": text in angle brackets, or nothing."""
    text = value.strip().strip("'\"")
    return not text or (text.startswith("<") and text.endswith(">"))


def weakness(secret: str) -> str:
    """Return why a password is weak, "" when nothing speaks against it."""
    if secret in _PUBLISHED:
        return "a published example"
    if _COMMON.fullmatch(secret):
        return "made of common words and digits"
    if len(secret) < MINIMUM_PASSWORD:
        return f"shorter than {MINIMUM_PASSWORD} characters"
    if len(set(secret)) < 6:
        return "nearly always the same character"
    return ""


def need_faults(needs: Iterable[Need], environment: Mapping[str, str]) -> list[EnvironmentFault]:
    """Return a fault for every need that no variable fulfils: missing, empty, a placeholder, or not a URL.

    Connection strings are only inspected as text here; `environment.check` parses them.
    """
    found: dict[tuple[str, str], EnvironmentFault] = {}
    for need in needs:
        if fault := _need_fault(need, environment):
            found.setdefault((fault.where, fault.what), fault)
    return list(found.values())


def _need_fault(need: Need, environment: Mapping[str, str]) -> EnvironmentFault | None:
    severity = Severity.ERROR if need.required else Severity.WARN
    for name in need.variables:
        value = environment.get(name, "").strip()
        if not value:
            continue
        if is_placeholder(value):
            return EnvironmentFault(
                name, f"still a placeholder (needed by {need.by})", "Replace it with the real value.", severity
            )
        if problem := _form_problem(value, need.form):
            return EnvironmentFault(name, problem, "Correct it; .env.template shows the form.", severity)
        return None
    empty = [name for name in need.variables if name in environment]
    state = "empty" if empty else "not set"
    remedy = "Set it in .env or in the environment."
    if need.form is Form.DSN and (keys := supabase_keys_in(environment)):
        remedy = (
            f"{', '.join(keys)} open Supabase's API only, which cannot serve a backup. The connection string is in its "
            f"dashboard: Connect, Session pooler (port 5432), URI; put the database's password into it and set "
            f"{need.variables[0]} in .env. A forgotten password is reset under Database, Settings."
        )
    return EnvironmentFault(" or ".join(need.variables), f"{state} (needed by {need.by})", remedy, severity)


_API_KEY = re.compile(
    r"(?:NEXT_PUBLIC_|VITE_|EXPO_PUBLIC_|REACT_APP_|PUBLIC_)?SUPABASE_"
    r"(?:URL|API_KEY|KEY|ANON_KEY|SERVICE_KEY|SERVICE_ROLE_KEY|PUBLISHABLE_KEY|SECRET_KEY|PUBLISHABLE_DEFAULT_KEY)"
)


def supabase_keys_in(environment: Mapping[str, str]) -> list[str]:
    """Return the set variables that hold a Supabase project's API address and keys, as its own guides name them."""
    return sorted(name for name, value in environment.items() if value.strip() and _API_KEY.fullmatch(name))


def _form_problem(value: str, form: Form) -> str:
    if form is Form.URL and not _is_url(value, {"http", "https"}):
        return "not a URL that begins with https://"
    if form is Form.URLS and not all(_is_url(part, None) for part in value.replace(",", " ").split()):
        return "not a list of URLs separated by spaces"
    return ""


def _is_url(text: str, schemes: set[str] | None) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return (
        "://" in text and bool(parts.scheme) and (schemes is None or (parts.scheme in schemes and bool(parts.netloc)))
    )


def secret_faults(environment: Mapping[str, str], now: datetime) -> list[EnvironmentFault]:
    """Return faults of the secrets that `env setup` makes and of Keycloak's password, as far as they are set.

    Empty values and values in angle brackets are not judged here: whether they are needed is `need_faults`' question.
    """
    values = {name: value.strip() for name, value in environment.items()}
    found = []
    for name in ("POSTGRES_PASSWORD", "DASHBOARD_PASSWORD", "KC_DB_PASSWORD"):
        value = values.get(name, "")
        if value and not value.startswith("<") and (why := weakness(value)):
            found.append(_weak(name, f"weak: {why}"))
    secret = values.get("JWT_SECRET", "")
    secret = "" if secret.startswith("<") else secret
    if secret == DEMO_JWT_SECRET:
        found.append(_weak("JWT_SECRET", "Supabase's published demo secret: anybody can sign keys with it"))
    elif secret and (len(secret) < MINIMUM_JWT_SECRET or weakness(secret)):
        why = weakness(secret) or f"shorter than {MINIMUM_JWT_SECRET} characters"
        found.append(_weak("JWT_SECRET", f"weak: {why}"))
    for name in ROLES:
        token = values.get(name, "")
        if token and not token.startswith("<") and (problem := key_problem(name, token, secret, now)):
            found.append(EnvironmentFault(name, problem[0], problem[1], Severity.WARN, lax=True))
    return found


_ROTATE = {
    "POSTGRES_PASSWORD": "Give Supabase's database roles the new password first (its script utils/db-passwd.sh), then "
    "write it here and restart the containers",
    "JWT_SECRET": "Replace JWT_SECRET, ANON_KEY and SERVICE_ROLE_KEY together, restart the containers, and give the "
    "new keys to every application; all users sign in again",
    "DASHBOARD_PASSWORD": "Write a new one here and restart Supabase's gateway (kong)",
    "KC_DB_PASSWORD": "ALTER ROLE … PASSWORD in Keycloak's database, then here and in Keycloak's own settings; "
    "restart it",
}
_ROTATE_KEYS = "Replace it together with JWT_SECRET"
_ROTATING = "docs/security.md, Rotating secrets"


def rotation(name: str) -> str:
    """Return how a secret is changed without locking out what runs with it; `env setup` never changes one."""
    how = _ROTATE.get(name) or (_ROTATE_KEYS if name in ROLES else "Change it where it is used, then here")
    return f"{how} ({_ROTATING})."


def _weak(name: str, what: str) -> EnvironmentFault:
    return EnvironmentFault(name, what, rotation(name), Severity.WARN, lax=True)


def unfilled_faults(variables: Mapping[str, str], judged: Iterable[str]) -> list[EnvironmentFault]:
    """Return a fault for each variable of `.env` whose value is a placeholder, whoever reads it.

    Args:
        variables: what `.env` sets.
        judged: names about which another fault speaks already.
    """
    reported = set(judged)
    return [
        EnvironmentFault(
            name, "still a placeholder", "Replace it with the real value, or remove the line.", Severity.WARN, lax=True
        )
        for name, value in variables.items()
        if name not in reported and value.strip() and is_unfilled(value)
    ]


def weak_values(variables: Mapping[str, str], now: datetime) -> tuple[tuple[str, str, str], ...]:
    """Return (name, what is wrong, how to change it safely) for each weak secret and placeholder in `.env`.

    Values in angle brackets are skipped: they are the template's, and named as to be filled in.
    """
    found = secret_faults(variables, now)
    rest = {name: value for name, value in variables.items() if not is_example(value)}
    found += unfilled_faults(rest, [fault.where for fault in found])
    return tuple((fault.where, fault.what, fault.remedy) for fault in found)


def password_fault(where: str, password: str) -> EnvironmentFault | None:
    """Return the fault of a password that stands in a connection string, None when it is good."""
    if password and (why := weakness(password)):
        return EnvironmentFault(
            where, f"its password is weak: {why}", "Give the role a long random password.", Severity.WARN, lax=True
        )
    return None
