"""Errors of single fields: pydantic's errors with line, path and the nearest valid name."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails

from backup_pipeline.settings.document import Document, FileFault
from backup_pipeline.settings.raw_values import FieldPath
from backup_pipeline.settings.types import site_settings, source_kinds

_SECRET_NAMES = ("password", "passwd", "secret", "token", "dsn", "url", "key")
_TYPE_TEXTS = {
    "dict_type": "write settings below it, as `name: value` lines",
    "model_type": "write settings below it, as `name: value` lines",
    "model_attributes_type": "write settings below it, as `name: value` lines",
    "tuple_type": "write a list, as in [a, b]",
    "list_type": "write a list, as in [a, b]",
    "int_parsing": "write a whole number",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "float_parsing": "write a number",
    "float_type": "write a number",
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "string_type": "write text; numbers and words such as yes, no and on go in quotes",
    "path_type": "write a path",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, or the known names where none is near."""
    names = sorted(known)
    folded = {n.lower(): n for n in names}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {folded[near[0]]}?"
    return f"; known: {', '.join(names)}" if names else ""


def field_faults(document: Document, error: PydanticError) -> list[FileFault]:
    """Return pydantic's errors as faults of the file."""
    return [_field_fault(document, details) for details in error.errors(include_url=False)]


def _field_fault(document: Document, details: ErrorDetails) -> FileFault:
    path = _without_tag(details["loc"])
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        if path == ("dir_mode",):
            return document.fault(path, "unknown setting; did you mean folder_mode?")
        return document.fault(path, _unknown(path, document))
    if kind == "missing":
        return document.fault(path, "required, but missing")
    if kind == "union_tag_not_found":
        return document.fault(path, f"kind is missing; one of {', '.join(source_kinds())}")
    if kind == "union_tag_invalid":
        given = str(context.get("tag", ""))
        return document.fault((*path, "kind"), f"no such kind of source: {given}{nearest(given, source_kinds())}")
    if kind == "literal_error":
        choices = [str(choice) for choice in get_literal(str(context.get("expected", "")))]
        given = str(details["input"])
        return document.fault(path, f"not one of {', '.join(choices)}{_near_only(given, choices)}")
    if path and path[-1] == "[key]" and not isinstance(details["input"], str):
        return document.fault(path[:-1], "not a name: YAML reads off, on, yes, no and numbers so; put it in quotes")
    if path and path[-1] == "[key]":
        return document.fault(
            path[:-1],
            "not a usable name: a letter first, then letters, digits and _ (in names of sources also -); "
            "at most 60 characters",
        )
    if kind == "string_pattern_mismatch" and path and path[-1] in ("file_mode", "folder_mode"):
        return document.fault(path, 'write four octal digits in quotes, as in "0600"')
    if kind == "string_type" and path and path[-1] in ("file_mode", "folder_mode"):
        return document.fault(path, 'put it in quotes, as in "0600"; without them YAML reads a number')
    if kind == "value_error":
        return document.fault(path, str(context.get("error", details["msg"])))
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "too_short", "too_long"):
        return document.fault(path, _bounds(details))
    message = _TYPE_TEXTS.get(kind) or details["msg"][:1].lower() + details["msg"][1:]
    return document.fault(path, message)


def _bounds(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    signs = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    limits = [f"{text} {context[sign]}" for sign, text in signs.items() if sign in context]
    if limits:
        return f"must be {' and '.join(limits)}"
    return f"must name at least {context['min_length']}" if "min_length" in context else details["msg"]


def get_literal(expected: str) -> list[str]:
    """Return the choices in pydantic's text `'a', 'b' or 'c'`."""
    return [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]


def _near_only(name: str, choices: Iterable[str]) -> str:
    hint = nearest(name, choices)
    return hint if hint.startswith("; did you mean") else ""


def _unknown(path: FieldPath, document: Document) -> str:
    name = str(path[-1])
    model = _model_at(path[:-1], document.data)
    hint = nearest(name, model.model_fields) if model else ""
    if not hint.startswith("; did you mean") and any(word in name.lower() for word in _SECRET_NAMES):
        hint = "; secrets stand in .env, and this file names their variables in fields that end in _env"
    return f"unknown setting{hint}"


def _without_tag(location: tuple[int | str, ...]) -> FieldPath:
    """Return the path without the kind that pydantic puts behind a source's name."""
    if len(location) > 2 and location[0] == "sources" and location[2] in source_kinds():
        return (*location[:2], *location[3:])
    return location


def _model_at(path: FieldPath, data: Any) -> type[BaseModel] | None:
    """Return the settings class whose fields may stand at `path`."""
    annotation: Any = site_settings()
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found = annotation.model_fields.get(str(part))
            annotation = found.annotation if found else None
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:
            return None
        annotation = _selected(annotation, data)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _selected(annotation: Any, data: Any) -> Any:
    """Return the one member of a union that the data means: by its kind, or the one that is not None."""
    if get_origin(annotation) is dict:
        return annotation
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    members = [m for m in get_args(annotation) if m is not type(None)]
    kind = data.get("kind") if isinstance(data, dict) else None
    for member in members:
        if len(members) == 1 or (kind and source_kinds().get(str(kind)) is member):
            return member
    return None
