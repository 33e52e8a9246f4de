"""How many examples the property tests take: the profile of Hypothesis says how many times the usual (conftest.py)."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100


def examples(usual: int) -> int:
    """Return how many examples a test takes now that usually takes so many."""
    return usual * settings().max_examples // USUAL
