"""The parts of a capture that need no server: cutting rows, following a dump, names, keys, collapse and drift."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.model.record import ColumnRecord, Severity
from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.postgres.export.table_rows import PageRange, page_ranges
from backup_pipeline.rules.collapse import row_count_check, size_check
from backup_pipeline.rules.drift import column_drift, object_drift
from backup_pipeline.tables.arrow_csv import unhex
from backup_pipeline.tables.csv_rows import FieldTaker, whole_rows
from backup_pipeline.tables.file_stems import file_stems

_DUMP = rb"""--
-- PostgreSQL database dump
--

\restrict abcDEF123

CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $$
select 'COPY public.fake (a) FROM stdin;
';
$$;

--
-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.t (id, "strange (name", t) FROM stdin;
1	x	COPY public.u (a) FROM stdin;
2	\\.	\N
\.


--
-- Data for Name: we"ird name; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public."we""ird
name" (id) FROM stdin;
\.


--
-- Data for Name: nothing; Type: TABLE DATA; Schema: Od"d; Owner: postgres
--

COPY "Od""d".nothing  FROM stdin;


\.

ALTER TABLE public.t ADD PRIMARY KEY (id);

--
-- PostgreSQL database dump complete
--

\unrestrict abcDEF123

"""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
def test_a_dump_is_followed_whatever_the_pieces(size: int) -> None:
    content = DumpContent()
    for start in range(0, len(_DUMP), size):
        content.feed(_DUMP[start : start + size])
    content.finish()
    assert content.rows == {("public", "t"): 2, ("public", 'we"ird\nname'): 0, ('Od"d', "nothing"): 2}
    assert content.header
    assert content.complete
    other = DumpContent()
    other.feed(_DUMP.replace(b"abcDEF123", b"zzz"))
    other.finish()
    assert other.content_sha256 == content.content_sha256


@pytest.mark.parametrize("cut", [-60, -400, 300])
def test_a_dump_that_was_cut_off_is_not_complete(cut: int) -> None:
    content = DumpContent()
    content.feed(_DUMP[:cut])
    content.finish()
    assert not content.complete


def _no_field_is_long(column: int) -> FieldTaker:
    raise AssertionError(column)


@given(
    values=st.lists(st.text(st.sampled_from('ab",\n'), max_size=9), max_size=30),
    piece=st.integers(min_value=1, max_value=40),
)
def test_pieces_of_csv_end_where_rows_end(values: list[str], piece: int) -> None:
    rows = [f'{i},"{value.replace(chr(34), chr(34) * 2)}"\n'.encode() for i, value in enumerate(values)]
    found = [bytes(part.data) for part in whole_rows(io.BytesIO(b"".join(rows)), piece, _no_field_is_long)]
    assert b"".join(found) == b"".join(rows)
    ends = set(np.cumsum([len(row) for row in rows]).tolist())
    assert set(np.cumsum([len(part) for part in found]).tolist()) <= ends


@given(st.lists(st.none() | st.binary(max_size=20), max_size=20))
def test_hexadecimal_text_becomes_the_bytes_it_stands_for(values: list[bytes | None]) -> None:
    texts = pa.array([None if v is None else "\\x" + v.hex() for v in values], pa.string())
    assert unhex(texts).to_pylist() == values
    assert unhex(texts.slice(len(values) // 2)).to_pylist() == values[len(values) // 2 :]


def test_file_names_are_safe_and_never_meet() -> None:
    names = [
        ("public", "a/b"),
        ("public", "a%2Fb"),
        ("public", "A"),
        ("public", "a"),
        ("a.b", "c"),
        ("a", "b.c"),
        ("public", "é" * 31 + "x"),
        ("public", "é" * 31 + "y"),
        ("..", ".."),
    ]
    stems = list(file_stems("s", names).values())
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert all(stem.count("/") == 2 and len(stem.rpartition("/")[2]) < 160 and ".." not in stem for stem in stems)
    assert file_stems("s", [("public", "orders")]) == {("public", "orders"): "tables/s/public.orders"}


def test_ranges_cover_every_page_once() -> None:
    ranges = page_ranges(10_001, 400 << 20, 18)
    assert len(ranges) == 10
    assert ranges[0].first == 0
    assert ranges[-1].end is None
    assert all(a.end == b.first for a, b in itertools.pairwise(ranges))
    assert page_ranges(10_001, 400 << 20, 13) == [PageRange()]
    assert page_ranges(5, 1000, 18) == [PageRange()]


def test_ranges_of_a_table_that_grows_stay_the_same() -> None:
    before, after = (page_ranges(pages, pages * 8200, 18) for pages in (50_000, 50_700))
    assert after[: len(before) - 1] == before[:-1]
    assert before[0].end == 4096


@pytest.mark.parametrize(
    ("rows", "before", "passed"),
    [(0, None, True), (0, 5, True), (49, 100, False), (50, 100, True), (0, 10, False), (200, 100, True)],
)
def test_a_collapse_is_more_than_the_share_that_may_be_missing(rows: int, before: int | None, passed: bool) -> None:
    check = row_count_check(rows, before, drop=0.5, minimum_rows=10, severity="ERROR")
    assert check.passed is passed
    assert check.severity is Severity.ERROR
    assert size_check(rows, before, drop=1.0, severity="WARN").passed


def test_drift_says_what_was_added_removed_changed_and_reordered() -> None:
    before = [ColumnRecord(name="a", type="integer"), ColumnRecord(name="b", type="text")]
    now = [ColumnRecord(name="a", type="bigint", nullable=False), ColumnRecord(name="c", type="text")]
    assert column_drift(now, before).table == (
        {"column": "a", "change": "changed", "before": "integer", "now": "bigint not null"},
        {"column": "b", "change": "removed", "before": "text", "now": ""},
        {"column": "c", "change": "added", "before": "", "now": "text"},
    )
    assert [row["change"] for row in column_drift(before[::-1], before).table] == ["reordered"]
    assert column_drift(before, before).passed
    assert column_drift(now, None).passed
    objects = object_drift({"view": {"v": "1"}, "table": {"t": "1"}}, {"view": {"v": "2"}, "index": {"i": "1"}})
    assert [(r["kind"], r["object"], r["change"]) for r in objects.table] == [
        ("index", "i", "removed"),
        ("table", "t", "added"),
        ("view", "v", "changed"),
    ]
