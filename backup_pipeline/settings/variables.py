"""The environment of a site: the process's variables over `.env`, and secrets from files (`X_FILE`).

Which variables there are and what they mean is `env_template`'s; whether their values are any good is judged in rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.settings.env_template import TEMPLATE_VARIABLES, ValueKind
from backup_pipeline.settings.types import SiteSettings

FILE_SUFFIX = "_FILE"
# Parts of `credentials_env` whose values name somebody and open nothing.
_PUBLIC_CREDENTIALS = ("access_key", "account")


def named_variables(settings: SiteSettings) -> tuple[str, ...]:
    """Return the variables that backup.yaml names, each once, in the file's order."""
    names: list[str | None] = []
    for source in settings.sources.values():
        for field in source.variable_fields:
            value = getattr(source, field)
            names += [value] if isinstance(value, str) else value or ()
    names += [plan.ping_env for plan in settings.plans.values()]
    for vault in settings.vaults.values():
        names += [vault.endpoint_env, vault.keys_env, *vault.credentials_env.values()]
    names += [*settings.alerts.urls_env, settings.alerts.ui_url_env, *settings.state_env]
    return tuple(dict.fromkeys(name for name in names if name))


def secret_variables(settings: SiteSettings) -> tuple[str, ...]:
    """Return the variables whose values are secret: as each kind of source says, and those of the site itself."""
    secret_kinds = (ValueKind.DSN, ValueKind.SECRET, ValueKind.URLS)
    names: list[str | None] = [variable.name for variable in TEMPLATE_VARIABLES if variable.kind in secret_kinds]
    for source in settings.sources.values():
        for field in source.secret_fields:
            value = getattr(source, field)
            names += [value] if isinstance(value, str) else value or ()
    names += [plan.ping_env for plan in settings.plans.values()]
    names += [*settings.alerts.urls_env, *settings.state_env]
    for vault in settings.vaults.values():
        names += [name for part, name in vault.credentials_env.items() if part not in _PUBLIC_CREDENTIALS]
        names.append(vault.keys_env)
    return tuple(dict.fromkeys(name for name in names if name))


def read_env_file(path: Path) -> dict[str, str]:
    """Return what `.env` sets; nothing when there is no such file.

    Raises:
        SettingsError: it cannot be read.
    """
    from dotenv import dotenv_values

    try:
        if not path.is_file():
            return {}
        return {name: value for name, value in dotenv_values(path).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(
            f"Cannot be read: {why}.", where=str(path), remedy="Give this user the right to read it."
        ) from error


def merged(layers: Iterable[Mapping[str, str]], names: Iterable[str]) -> dict[str, str]:
    """Return all variables, later layers over earlier ones, with `X_FILE` read into X for every X of `names`.

    Other variables that end in _FILE (SSL_CERT_FILE, COMPOSE_FILE, …) are left alone.

    Raises:
        SettingsError: a file cannot be read, or a layer sets both X and X_FILE.
    """
    result: dict[str, str] = {}
    wanted = tuple(dict.fromkeys(names))
    for layer in layers:
        result.update(layer)
        for name in wanted:
            file = layer.get(name + FILE_SUFFIX, "").strip()
            if not file:
                continue
            if layer.get(name, "").strip():
                raise SettingsError(
                    f"Both {name} and {name}{FILE_SUFFIX} are set.", where="the environment", remedy="Set one of them."
                )
            try:
                result[name] = Path(file).read_text("utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                raise SettingsError(
                    f"The file it names cannot be read: {why}.",
                    where=f"{name}{FILE_SUFFIX} ({file})",
                    remedy="Mount the secret there, or set the variable itself.",
                ) from error
    return result
