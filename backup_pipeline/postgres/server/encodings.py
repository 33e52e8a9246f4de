"""PostgreSQL's names of encodings, as `SET client_encoding` of a dump has them, and Python's codecs for the same."""

from __future__ import annotations

import re

# Those a database can have (so those a dump of ours is written in), but for MULE_INTERNAL and EUC_TW, which Python has
# not got. SQL_ASCII says nothing of the bytes; names in such a database are nearly always UTF-8.
_CODECS = {
    "EUC_CN": "gb2312",
    "EUC_JP": "euc_jp",
    "EUC_KR": "euc_kr",
    "EUC_JIS_2004": "euc_jis_2004",
    "KOI8R": "koi8_r",
    "KOI8U": "koi8_u",
    "ISO_8859_5": "iso8859_5",
    "ISO_8859_6": "iso8859_6",
    "ISO_8859_7": "iso8859_7",
    "ISO_8859_8": "iso8859_8",
    "LATIN1": "latin_1",
    "LATIN2": "iso8859_2",
    "LATIN3": "iso8859_3",
    "LATIN4": "iso8859_4",
    "LATIN5": "iso8859_9",
    "LATIN6": "iso8859_10",
    "LATIN7": "iso8859_13",
    "LATIN8": "iso8859_14",
    "LATIN9": "iso8859_15",
    "LATIN10": "iso8859_16",
    "WIN866": "cp866",
    "WIN874": "cp874",
    "WIN1250": "cp1250",
    "WIN1251": "cp1251",
    "WIN1252": "cp1252",
    "WIN1253": "cp1253",
    "WIN1254": "cp1254",
    "WIN1255": "cp1255",
    "WIN1256": "cp1256",
    "WIN1257": "cp1257",
    "WIN1258": "cp1258",
}
_SET = re.compile(rb"^SET client_encoding = '([A-Za-z0-9_]+)';", re.MULTILINE)
UTF8 = "utf-8"


def codec_of(encoding: str) -> str:
    """Return Python's codec of one of PostgreSQL's encodings; UTF-8's where it has none."""
    return _CODECS.get(encoding.upper(), UTF8)


def codec_set_by(statements: bytes) -> str | None:
    """Return the codec that a dump's `SET client_encoding` names; None where these statements hold none."""
    found = _SET.search(statements)
    return codec_of(found[1].decode()) if found else None


def decoded(name: bytes, codec: str) -> str:
    """Return a name; bytes that are none of the encoding stand as surrogates, so that two names never become one."""
    return name.decode(codec, "surrogateescape")
