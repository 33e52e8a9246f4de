"""The template of a fleet: a source's settings in which `{field}` stands for a member's value, filled and checked.

The values are others': whoever writes the list names servers and databases, and must not be able to say more than that.
So what goes into an address is quoted for it, what goes into a command is one argument, and no value leads out of a
folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import SettingsError
from backup_pipeline.settings.types import SourceSettings, source_kinds

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Fields whose own placeholders are filled at the capture.
_LEFT_ALONE = frozenset({"file_name"})
_COMMANDS = frozenset({"run", "run_before", "run_after"})
_NO_VARIABLE = re.compile(r"[^A-Za-z0-9]+")
_PASSWORD = re.compile(r"://[^/@\s]*:[^@\s]*@|\bpassword\s*=", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def template_faults(template: Mapping[str, Any]) -> Iterable[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with a fleet's template, whatever its members are."""
    try:
        _source(_filled(template, lambda name: "1"))
    except PydanticError as error:
        for each in error.errors(include_url=False):
            what = {"extra_forbidden": "unknown setting", "missing": "required, but missing"}.get(each["type"])
            yield each["loc"], what or each["msg"].removeprefix("Value error, ")
    except SettingsError as error:
        yield (error.where,), error.what
    if isinstance(dsn := template.get("dsn"), str) and _PASSWORD.search(dsn):
        yield ("dsn",), "holds a password: name its variable in password_env, or a passfile; and change that password"


def fields_used(template: Any) -> frozenset[str]:
    """Return the placeholders of a template, in small letters."""
    return frozenset(name.lower() for name in _placeholders(template))


def source_of_member(template: Mapping[str, Any], fields: Mapping[str, str]) -> SourceSettings:
    """Return the settings of a member's source.

    Args:
        template: the fleet's.
        fields: the member's values by name.

    Raises:
        SettingsError: they do not fit the template; its `where` is the field.
    """
    try:
        return _source(_filled(template, partial(_value, fields)))
    except PydanticError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(first["msg"].removeprefix("Value error, "), where=where) from None


def _value(fields: Mapping[str, str], placeholder: str) -> str:
    as_variable = placeholder.isupper() and placeholder not in fields
    name = placeholder
    if as_variable:
        name = next((one for one in fields if one.upper() == placeholder), placeholder.lower())
    if not (found := fields.get(name, "")):
        raise SettingsError("is missing or empty, and the template needs it", where=f"field {name}")
    if _CONTROL.search(found):
        raise SettingsError("holds signs that steer a terminal, or the end of a line", where=f"field {name}")
    return _NO_VARIABLE.sub("_", found).strip("_").upper() if as_variable else found


def _source(filled: Mapping[str, Any]) -> SourceSettings:
    kind = source_kinds().get(str(filled.get("kind")))
    if kind is None:
        known = ", ".join(source_kinds())
        raise SettingsError(f"names no kind of source; one of {known}", where="kind")
    return kind.of_fleet().model_validate(filled)


def _filled(value: Any, fill: Callable[[str], str], field: str = "") -> Any:
    if isinstance(value, str):
        return value if field in _LEFT_ALONE else _PLACEHOLDER.sub(lambda found: _fitted(fill(found[1]), field), value)
    if isinstance(value, Mapping):
        return {key: _filled(each, fill, str(key)) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        # Each is one argument by itself, or a whole command.
        inner = field if field in _COMMANDS and all(isinstance(each, Mapping) for each in value) else ""
        return [_filled(each, fill, inner) for each in value]
    return value


def _fitted(value: str, field: str) -> str:
    if field == "dsn":
        return quote(value, safe="")
    if field in _COMMANDS:
        return shlex.quote(value)
    if ".." in re.split(r"[/\\]", value):
        raise SettingsError(f"holds .., which leads out of a folder: {value}", where=f"template's {field or 'list'}")
    return value


def _placeholders(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _PLACEHOLDER.findall(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _placeholders(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _placeholders(each)
