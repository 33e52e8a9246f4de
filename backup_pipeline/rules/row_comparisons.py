"""Comparisons of rows as people write them: `public.orders: id in 7, 8, 9`."""

from __future__ import annotations

import re

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.restore import RowComparison

_FORM = re.compile(
    r"(?P<table>[^:]+):\s*(?P<column>\"[^\"]+\"|\S+?)\s*"
    r"(?P<operator>is\s+not\s+null|is\s+null|<=|>=|!=|<>|=|<|>|(?:in|contains)\s)\s*(?P<values>.*)",
    re.IGNORECASE | re.DOTALL,
)


def parse_comparison(text: str) -> RowComparison:
    """Read `schema.table: column operator value`; a bare table is in `public`, and `in` takes values between commas.

    Raises:
        RefusedError: it has another form.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise _malformed(text, "Not a comparison of a table's column.")
    table, operator = found["table"].strip(), " ".join(found["operator"].lower().split())
    values = [found["values"].strip()]
    if operator == "in":
        values = [value.strip() for value in found["values"].split(",")]
    elif operator.endswith("null"):
        values = [value for value in values if value]
    try:
        return RowComparison.model_validate(
            {
                "table": table if "." in table else f"public.{table}",
                "column": found["column"].strip('"'),
                "operator": "!=" if operator == "<>" else operator,
                "values": values,
            }
        )
    except PydanticError as error:
        why = str(error.errors(include_url=False, include_input=False)[0]["msg"]).removeprefix("Value error, ")
        raise _malformed(text, f"{why[:1].upper()}{why[1:]}.") from None


def _malformed(text: str, what: str) -> RefusedError:
    return RefusedError(what, where=f"--where {text}", remedy="Write it as 'public.orders: id in 7, 8, 9'.")
