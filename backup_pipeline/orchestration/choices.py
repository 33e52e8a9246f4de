"""Enumerations of the Launchpad's form, in any case: `apply`, `APPLY` and `Apply` are the same.

Dagster's own enumerations know members by their names alone, in capitals and no other way.
"""

from __future__ import annotations

from pydantic import AfterValidator


def any_case(*values: str) -> AfterValidator:
    """Return what makes a text take one of these values, written in any case; the value is in small letters.

    Another one is a ValueError that names the choices.
    """

    def selection(value: str) -> str:
        found = value.strip().lower()
        if found not in values:
            raise ValueError(f"write one of {', '.join(values)}")
        return found

    return AfterValidator(selection)
