"""Names of sources that are made from other names: those of databases. Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 60
"""Characters of a source's name, as the settings allow it."""
_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})
_PLAIN = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
_DIGEST = re.compile(r"(^|_)[0-9a-f]{8}$")


def plain_text(text: str) -> str:
    """Return `text` in the letters and digits of ASCII, `_` and `-`; everything else is `_`."""
    plain = unicodedata.normalize("NFKD", text.translate(_LETTERS)).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", plain)


def source_of_database(server: str, database: str) -> str:
    """Return the name of the source of a server's database: `<server>_<database>`.

    It follows from the two names alone, so that it is the same on every machine and whatever else the server has. A
    database whose name holds anything but small letters, digits and single `_` gets a digest of it at the end, and so
    does one whose own name could be taken for such a name: `Shop`, `shop` and `s.hop` never meet.
    """
    name = f"{server}_{database}"
    if _PLAIN.fullmatch(database) and not _DIGEST.search(database) and len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(database.encode()).hexdigest()[:8]
    room = LONGEST - len(server) - len(digest) - 2
    readable = re.sub(r"[_-]+", "_", plain_text(database)).lower().strip("_")[: max(room, 0)].rstrip("_")
    return "_".join(part for part in (server, readable, digest) if part)
