"""Enumerations of the Launchpad's form, in any case: `apply`, `APPLY` and `Apply` are the same.

Dagster's own enumerations know members by their names alone, in capitals and no other way.
"""

from __future__ import annotations

from pydantic import AfterValidator


def any_case(*words: str) -> AfterValidator:
    """Return what makes a text take one of these words, written in any case; the value is in small letters.

    Another word is a ValueError that names the choices.
    """

    def selection(value: str) -> str:
        word = value.strip().lower()
        if word not in words:
            raise ValueError(f"write one of {', '.join(words)}")
        return word

    return AfterValidator(selection)
