"""What each setting means, from the texts below the fields in `types`: for the reference and the published schema.

Pydantic can read these itself (`use_attribute_docstrings`), but does so whenever the types are loaded, which every
command would wait for.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap

from pydantic import BaseModel


def field_docs(settings: type[BaseModel]) -> dict[str, str]:
    """Return field → text, of the class and those above it."""
    found: dict[str, str] = {}
    for owner in reversed(settings.__mro__):
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            found |= _of_class(owner)
    return found


@functools.cache
def _of_class(owner: type) -> dict[str, str]:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            found[field.target.id] = inspect.cleandoc(text.value.value)
    return found
