"""A dump's text is understood the same wherever its pieces are cut."""

from __future__ import annotations

import pytest

from backup_pipeline.postgres.export import dump_content
from backup_pipeline.postgres.export.dump_content import DumpContent

_COLUMNS = ", ".join(f'column_{n}, "odd ""name"" (x) {n}"' for n in range(40))
_DUMP = f'''--
-- PostgreSQL database dump
--

\\restrict abc

CREATE TABLE public.wide (id integer);
--
-- Data for Name: wide; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.wide ({_COLUMNS}) FROM stdin;
1\ttwo
3\tCOPY x (y) FROM stdin;
\\.


--
-- Data for Name: a; Type: TABLE DATA; Schema: odd "s"; Owner: -
--

COPY "odd ""s"""."a" FROM stdin;
\\.


--
-- PostgreSQL database dump complete
--

\\unrestrict abc
'''.encode()


def _read(*pieces: bytes) -> tuple[object, ...]:
    content = DumpContent()
    for piece in pieces:
        content.feed(piece)
    content.finish()
    return content.rows, content.header, content.complete, content.content_sha256, content.size


@pytest.mark.parametrize("at_once", [4, 1 << 16])
def test_a_dump_cut_anywhere_is_understood_as_the_whole_one(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_content, "_WORTH_NUMPY", at_once)
    monkeypatch.setattr(dump_content, "_PART", at_once)
    whole = _read(_DUMP)
    assert whole[0] == {("public", "wide"): 2, ('odd "s"', "a"): 0}
    assert whole[1:3] == (True, True)
    for cut in range(1, len(_DUMP)):
        assert _read(_DUMP[:cut], _DUMP[cut:]) == whole, cut


def test_a_dump_that_comes_byte_by_byte_is_understood_as_the_whole_one() -> None:
    assert _read(*(_DUMP[n : n + 1] for n in range(len(_DUMP)))) == _read(_DUMP)


def test_the_end_of_a_large_block_is_found_wherever_it_stands() -> None:
    head, end = _DUMP.split(b"1\ttwo\n3")
    rows = b"\n".join(b"%d\ta value \\\\. with the mark in it" % n for n in range(20_000))
    for pad in (b"", b"x", b"xx"):
        dump = head + pad + b"\n" + rows + b"\n3" + end
        expected = {("public", "wide"): 20_002, ('odd "s"', "a"): 0}
        assert _read(dump)[0] == expected
        assert _read(dump[:500_000], dump[500_000:])[:4] == _read(dump)[:4]
        without = dump.replace(b"\\\\.", b"")
        assert _read(without)[0] == expected
