"""What the programs of a PostgreSQL server on this machine offer, before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, eq=False)
class Offer:
    """One folder of programs.

    Attributes:
        folder: with initdb, postgres and pg_ctl.
        major: the version.
        embedded: whether they came with this program.
        extensions: name → versions that its files hold.
        features: `xml`, `icu`, `lz4`.
        locales: of the operating system, in one spelling (see `one_spelling`); empty where nobody can say.
    """

    folder: Path
    major: int
    embedded: bool
    extensions: Mapping[str, frozenset[str]]
    features: frozenset[str]
    locales: frozenset[str] = frozenset()


def one_spelling(locale: str) -> str:
    """Return a locale's name as all its spellings: de_DE.UTF-8 is de_DE.utf8."""
    language, dot, codeset = locale.partition(".")
    return language + dot + codeset.replace("-", "").lower()
