"""Set-up of `.env`: missing secrets are generated; existing values, comments and order stay.

A value that is weak or a placeholder may be the one that a running system uses, so it is reported with the way to
rotate it and stays. Only an empty value and the template's own `<ANGLE BRACKETS>` are filled. The former file is kept.

Which variables there are is settings/env_template's; how keys are signed is rules/supabase_keys'.
"""

from __future__ import annotations

import io
import re
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backup_pipeline.errors import SettingsError
from backup_pipeline.rules.environment import is_example, is_placeholder, weak_values
from backup_pipeline.rules.supabase_keys import DEMO_JWT_SECRET, ROLES, make_key
from backup_pipeline.settings.env_template import (
    SUPABASE_VARIABLES,
    TEMPLATE_VARIABLES,
    Generator,
    TemplateVariable,
    env_template,
    site_variables,
    variable_block,
)
from backup_pipeline.settings.loader import ENV_NAME
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.variables import FILE_SUFFIX, named_variables
from backup_pipeline.system.files import write_atomically
from backup_pipeline.system.former_files import keep_former

PASSWORD_LENGTH = 32
JWT_SECRET_LENGTH = 64


@dataclass(frozen=True)
class EnvSetup:
    """What was, or would be, done: names only, never values.

    Attributes:
        file: the path of `.env`.
        created: whether it is new.
        generated: variables that got a secret.
        kept: variables that had a value, which stays.
        to_fill: variables that only a person can fill, and what for.
        left: variables that could have been made but were not, with the reason.
        weak: variables whose value is weak or a placeholder: what is wrong, and how to change it safely.
        former: the copy of the former `.env`; None when nothing was replaced.
    """

    file: Path
    created: bool
    generated: tuple[str, ...]
    kept: tuple[str, ...]
    to_fill: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]
    weak: tuple[tuple[str, str, str], ...] = ()
    former: Path | None = None


def letters_and_digits(length: int) -> str:
    """Return a random text of letters and digits (it must stand in URLs and shells without quoting)."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(length))


def setup_environment(
    site: Site,
    *,
    now: datetime,
    dry_run: bool = False,
    supabase: bool = False,
    random_text: Callable[[int], str] = letters_and_digits,
) -> EnvSetup:
    """Write `.env` beside backup.yaml, mode 0600, in one rename; nothing that is set is changed.

    The secrets of a self-hosted Supabase are made where the site has one: asked for, named in backup.yaml or in
    `.env`, or (where there is no `.env` yet) used without a default by a compose file beside backup.yaml.

    Args:
        site: the site whose variables are wanted.
        now: from when generated keys are valid.
        dry_run: say what would be done and write nothing.
        supabase: the site hosts Supabase itself.
        random_text: gives a random text of that length.

    Raises:
        SettingsError: the existing `.env` cannot be read.
        StoreError: it cannot be written.
    """
    path = site.folder / ENV_NAME
    named = named_variables(site.settings)
    try:
        old = path.read_text("utf-8") if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("Cannot be read.", where=str(path), remedy="Correct its mode or content.") from error
    present = _values(old or "")
    variables = _wanted(site, named, present, supabase=supabase, new=old is None)
    made, left = _generated(variables, present, now, random_text)
    if old is not None and not supabase:
        # A line that an existing file lacks may be set for the containers elsewhere; keys are reported by their secret.
        made = {name: value for name, value in made.items() if name in present or name in ROLES or name in named}
    text = _new_text(variables, named, made) if old is None else _filled(old, variables, named, made)
    after = _values(text)
    # Of several variables for one connection string, one is enough.
    connections = (source.connection for source in site.settings.sources.values())
    alternatives = [connection.dsn_env for connection in connections if connection is not None]
    served = {name for group in alternatives if any(_is_set(after, one) for one in group) for name in group}
    to_fill = tuple(
        (v.name, v.description)
        for v in variables
        if v.name in named and v.required and not _is_set(after, v.name) and v.name not in served
    )
    former = None
    if not dry_run and text != old:
        former = keep_former(path, now)
        write_atomically(path, text.encode())
    elif not dry_run:
        path.chmod(0o600)
    kept = tuple(name for name in present if _has_value(present, name))
    return EnvSetup(path, old is None, tuple(made), kept, to_fill, tuple(left.items()), weak_values(after, now), former)


_COMPOSE_FILES = ("compose*.y*ml", "docker-compose*.y*ml", "supabase/docker/docker-compose*.y*ml")


def _wanted(
    site: Site, named: tuple[str, ...], present: dict[str, str], *, supabase: bool, new: bool
) -> tuple[TemplateVariable, ...]:
    """Return the variables that concern this site, those of a self-hosted Supabase only where there is one."""
    # A line that holds the template's own example was copied with it and says nothing of this site.
    examples = {variable.name: variable.example for variable in TEMPLATE_VARIABLES}
    reported = {name.removesuffix(FILE_SUFFIX) for name, value in present.items() if value != examples.get(name)}
    here = {*named, *reported}
    hosted = supabase or bool(here & SUPABASE_VARIABLES) or (new and _composed(site.folder))
    known = tuple(v for v in TEMPLATE_VARIABLES if hosted or v.name not in SUPABASE_VARIABLES)
    return (*known, *site_variables(named))


def _composed(folder: Path) -> bool:
    """Return whether a compose file takes one of Supabase's secrets from the environment, without a default."""
    wanted = re.compile(r"\$\{?(" + "|".join(SUPABASE_VARIABLES) + r")\b(?!:?-)")
    for pattern in _COMPOSE_FILES:
        for file in folder.glob(pattern):
            try:
                if wanted.search(file.read_text("utf-8", "replace")):
                    return True
            except OSError:
                continue
    return False


def _values(text: str) -> dict[str, str]:
    from dotenv import dotenv_values

    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text), interpolate=False).items()}


def _is_set(values: dict[str, str], name: str) -> bool:
    """Return whether a variable has a value that is more than a placeholder."""
    value = values.get(name, "").strip()
    return bool(value and not is_placeholder(value)) or bool(values.get(name + FILE_SUFFIX, "").strip())


def _has_value(values: dict[str, str], name: str) -> bool:
    """Return whether a variable has any value of its own: one that something may be running with."""
    value = values.get(name, "").strip()
    return bool(value and not is_example(value)) or bool(values.get(name + FILE_SUFFIX, "").strip())


def _generated(
    variables: tuple[TemplateVariable, ...], present: dict[str, str], now: datetime, random_text: Callable[[int], str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the values that are made, and the reasons for those that are not though they are missing."""
    made: dict[str, str] = {}
    left: dict[str, str] = {}
    for variable in variables:
        name = variable.name
        if variable.generator is None or _has_value(present, name):
            continue
        if variable.generator is Generator.PASSWORD:
            made[name] = random_text(PASSWORD_LENGTH)
        elif variable.generator is Generator.JWT_SECRET:
            keys = [key for key in ROLES if _has_value(present, key)]
            if keys:
                left[name] = f"{' and '.join(keys)} are signed with a secret that is not here; a new one would not fit"
            else:
                made[name] = random_text(JWT_SECRET_LENGTH)
        else:
            secret = made.get("JWT_SECRET") or (
                present.get("JWT_SECRET", "") if _has_value(present, "JWT_SECRET") else ""
            )
            if secret == DEMO_JWT_SECRET:
                left[name] = "JWT_SECRET is Supabase's published one: rotate that first"
            elif secret:
                made[name] = make_key(ROLES[name], secret, now)
            else:
                left[name] = "made from JWT_SECRET, which is not in this file"
    return made, left


def _new_text(variables: tuple[TemplateVariable, ...], named: tuple[str, ...], made: dict[str, str]) -> str:
    text = env_template(variables)
    for variable in variables:
        if variable.name in made:
            text = text.replace(variable_block(variable), variable_block(variable, made[variable.name]))
        elif variable.required and variable.name not in named:
            # Nothing of this site needs it: the line stays as documentation.
            line = f"\n{variable.name}={variable.example}\n"
            text = text.replace(line, f"\n# {line[1:]}")
    return text


def _filled(old: str, variables: tuple[TemplateVariable, ...], named: tuple[str, ...], made: dict[str, str]) -> str:
    """Return the text with made values in the lines that wait for them, and what is missing added at the end."""
    from dotenv.parser import parse_stream

    parts: list[str] = []
    present: set[str] = set()
    for binding in parse_stream(io.StringIO(old)):
        original = binding.original.string
        if binding.key:
            present.add(binding.key)
        if binding.key in made:
            before = original[: len(original) - len(original.lstrip())]
            export = "export " if original.lstrip().startswith("export ") else ""
            comment = re.search(r"\s+#[^\n]*", original[len(before) :])
            original = f"{before}{export}{binding.key}={made[binding.key]}{comment[0] if comment else ''}\n"
        parts.append(original)
    text = "".join(parts)
    if text and not text.endswith("\n"):
        text += "\n"
    for variable in variables:
        wanted = variable.name in made or (variable.required and variable.name in named)
        if wanted and variable.name not in present and variable.name + FILE_SUFFIX not in present:
            text += "\n" + variable_block(variable, made.get(variable.name))
    return text
