"""Who may use the UI, from the environment: the password, and under which names it is reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.settings.loader import CONFIG_VARIABLE, DEFAULT_NAME, ENV_NAME
from backup_pipeline.settings.variables import merged, read_env_file
from backup_pipeline.web.addresses import Allowed, allowed_places, is_loopback

PASSWORD_VARIABLE = "UI_PASSWORD"  # noqa: S105 - the name of a variable
HOSTS_VARIABLE = "UI_ALLOWED_HOSTS"
ADDRESS_VARIABLE = "UI_URL"
METRICS_VARIABLE = "UI_METRICS_TOKEN"
SHORTEST_PASSWORD = 12
"""Fewer characters are refused where other machines reach the UI."""


@dataclass(frozen=True, slots=True)
class UiAccess:
    """Who may use the UI.

    Attributes:
        password: "" for none.
        allowed: the places under which it is asked for.
        metrics_token: lets a program read the metrics without a login, "" for none.
    """

    password: str = field(repr=False)
    allowed: Allowed
    metrics_token: str = field(default="", repr=False)


def ui_access(environment: Mapping[str, str], host: str) -> UiAccess:
    """Return who may use the UI.

    Args:
        environment: UI_PASSWORD, UI_ALLOWED_HOSTS, UI_URL and UI_METRICS_TOKEN.
        host: the address that it listens at.

    Raises:
        SettingsError: no password, or a short one, and other machines reach the address; a malformed host; a short
            token for the metrics.
    """
    password, token = _secret(environment, PASSWORD_VARIABLE), _secret(environment, METRICS_VARIABLE)
    if token and len(token) < SHORTEST_PASSWORD:
        raise SettingsError(
            f"The token for the metrics is shorter than {SHORTEST_PASSWORD} characters.",
            where=METRICS_VARIABLE,
            remedy="Choose a longer one, such as `openssl rand -hex 16` prints.",
        )
    if not is_loopback(host):
        if not password:
            raise SettingsError(
                f"No password is set, and other machines reach {host}.",
                where=PASSWORD_VARIABLE,
                remedy=f"Set {PASSWORD_VARIABLE} in .env (or {PASSWORD_VARIABLE}_FILE), or listen at 127.0.0.1.",
            )
        if len(password) < SHORTEST_PASSWORD:
            raise SettingsError(
                f"The password is shorter than {SHORTEST_PASSWORD} characters, and other machines reach {host}.",
                where=PASSWORD_VARIABLE,
                remedy="Choose a longer one, such as `openssl rand -hex 16` prints.",
            )
    allowed = allowed_places(host, environment.get(HOSTS_VARIABLE, "").replace(",", " ").split(), where=HOSTS_VARIABLE)
    public = allowed_places(host, environment.get(ADDRESS_VARIABLE, "").split(), where=ADDRESS_VARIABLE)
    return UiAccess(
        password,
        Allowed(allowed.loopback_only, allowed.names | public.names, allowed.origins | public.origins),
        token,
    )


def _secret(environment: Mapping[str, str], name: str) -> str:
    """Return a variable's value; "" for none, and for the template's example in angle brackets."""
    value = environment.get(name, "").strip()
    return "" if value.startswith("<") else value


def process_environment() -> dict[str, str]:
    """Return the process's variables over the site's `.env`, which need not be there (in a container it is not).

    Raises:
        SettingsError: a file cannot be read, or both X and X_FILE are set.
    """
    folder = Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_NAME)).parent
    names = (PASSWORD_VARIABLE, HOSTS_VARIABLE, ADDRESS_VARIABLE, METRICS_VARIABLE)
    return merged([read_env_file(folder / ENV_NAME), os.environ], names)
