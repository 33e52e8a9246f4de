"""data.csv, meta.json, folders, pairs and migrations: the pure rules of the order archive."""

from __future__ import annotations

import csv
import io
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.orders.format.migrations import Step, migrate
from backup_pipeline.sources.orders.format.newest import OLDEST, instant_of
from backup_pipeline.sources.orders.format.order import COLUMNS, OrderMeta
from backup_pipeline.sources.orders.format.pair import PairState, pair_state
from backup_pipeline.sources.orders.format.place import places_of, year_of
from backup_pipeline.sources.orders.format.schema import check_orders
from backup_pipeline.sources.orders.format.text import (
    HEADER,
    _quoted,
    data_formatter,
    format_meta,
    parse_data,
    parse_meta,
)
from backup_pipeline_tests.support.orders_samples import order

TEXT = (
    st.none() | st.text(st.characters(codec="utf-8")) | st.sampled_from(["", ",", '"', '""', "\r", "\n", "\r\n", " "])
)
ROWS = st.tuples(st.integers(-(2**63), 2**63 - 1), *[TEXT] * 10, st.sampled_from([0, 1, None]), TEXT, TEXT)
FORMAT = data_formatter()


@given(ROWS)
def test_every_row_comes_back_from_its_data_csv_with_null_and_empty_kept_apart(row: tuple[object, ...]) -> None:
    header, record = parse_data(FORMAT(row))  # type: ignore[arg-type]
    assert header == COLUMNS
    assert record == tuple(None if value is None else str(value) for value in row)


@given(ROWS)
def test_both_ways_of_writing_a_record_give_the_same_bytes(row: tuple[object, ...]) -> None:
    assert FORMAT(row) == (HEADER.decode() + ",".join(map(_quoted, row)) + "\n").encode()  # type: ignore[arg-type]


@given(ROWS)
def test_any_csv_reader_reads_the_same_values(row: tuple[object, ...]) -> None:
    csv.field_size_limit(1 << 30)
    [found] = csv.DictReader(io.StringIO(FORMAT(row).decode(), newline=""))  # type: ignore[arg-type]
    assert [found[name] for name in COLUMNS] == ["" if value is None else str(value) for value in row]


_PIECES = st.sampled_from(
    ['"', '""', ",", "\n", "\r", "\r\n", "x", "ü", "1", ',"",', "\x00", "a,b,c,d,e,f,g,h,i,j,k,l,m,", "," * 13]
)


@given(st.lists(_PIECES, max_size=20).map("".join))
def test_the_short_way_of_reading_a_record_gives_what_the_long_one_gives(line: str) -> None:
    def read(data: bytes) -> object:
        try:
            return parse_data(data)
        except ValidationError as error:
            return error.what

    assert read(HEADER + line.encode()) == read(b"\xef\xbb\xbf" + HEADER + line.encode())


def test_data_csv_has_exactly_these_bytes() -> None:
    row = order(7, kunde_name='Größe "L", blau', kunden_nr="", vin=None)
    assert FORMAT(row) == (
        b"record_id,auftrag_nr,kunde_name,kunden_nr,kennzeichen,vin,datum,formular_version,keywords_json,file_path,"
        b"hash,data_complete,created_at,updated_at\n"
        b'7,000007,"Gr\xc3\xb6\xc3\x9fe ""L"", blau","",B-AB 8,,2020-05-08,2.1,"{""Garantie"": [2]}",'
        b'2020/000007/000007_Auftrag.pdf,"",1,2020-05-01T08:00:00,2020-06-01T08:00:00Z\n'
    )


def test_a_large_text_with_every_nasty_character_comes_back() -> None:
    text = ('Ä"ö,\r\n😀\x00\u2028' * 20_000)[:100_000]
    assert parse_data(FORMAT(order(1, kunde_name=text)))[1][2] == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 records"),
        (HEADER, "0 records"),
        (HEADER + b"1,2\n", "14 columns and 2 values"),
        (FORMAT(order(1)) + FORMAT(order(2))[len(HEADER) :], "2 records"),
        (FORMAT(order(1))[:-1] + b'"', "not CSV|quote"),
        (b"\xff\xfe" + HEADER, "not UTF-8"),
    ],
)
def test_what_is_not_one_record_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        parse_data(data)


def test_a_data_csv_of_another_program_with_crlf_and_a_mark_is_read() -> None:
    data = b"\xef\xbb\xbf" + FORMAT(order(3, kunden_nr="")).replace(b"\n", b"\r\n")
    assert parse_data(data) == parse_data(FORMAT(order(3, kunden_nr="")))


@given(st.text(st.characters(codec="utf-8")) | st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 1 << 30))
def test_meta_json_is_what_json_dumps_writes_and_comes_back(number: str | None, record_id: int, size: int) -> None:
    meta = OrderMeta("1.0", "ab" * 32, "2026-11-21T02:00:00+00:00", number, record_id, size)
    assert format_meta(meta) == json.dumps(meta._asdict(), indent=2, ensure_ascii=False).encode()
    assert parse_meta(format_meta(meta)) == meta


@pytest.mark.parametrize("name", OrderMeta._fields)
def test_a_meta_json_without_a_field_is_refused_and_the_field_named(name: str) -> None:
    fields = OrderMeta("1.0", "ab" * 32, "2026", "000001", 1, 2)._asdict()
    del fields[name]
    with pytest.raises(ValidationError, match=name):
        parse_meta(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("2024/076329/076329_Auftrag.pdf", "2024/076329"),
        ("2024/076329", "2024/076329"),
        ("2024\\076329\\x.PDF", "2024/076329"),
        ("./2024//076329/", "2024/076329"),
        ("2024/Meier/076329/scan.tiff", "2024/Meier/076329"),
        ("2024/076329_Auftrag.pdf", "2020/000001"),
        ("076329_Auftrag.pdf", "2020/000001"),
        ("", "2020/000001"),
        (None, "2020/000001"),
    ],
)
def test_the_folder_is_where_file_path_says_or_year_and_number(path: str | None, folder: str) -> None:
    row = order(1, file_path=path)
    assert places_of(row, year_of(row)).default == folder


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x/y",
        "2024/../../y/z",
        "C:\\x\\y",
        "\\\\srv\\x\\y",
        "2024/a\nb/c",
        ".git/x",
        "2024/.x/y",
        "x/" * 3000,
        "archive-manifest.json/x.pdf",
        "Archive-Manifest.JSON/x.pdf",
        "2024/data.csv/x.pdf",
        "2024/meta.json/x",
    ],
)
def test_a_path_that_may_leave_the_archive_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="file_path"):
        # Some cannot be read at all, others mean no folder.
        raise ValidationError(places_of(order(1, file_path=path), "2020").refused)


def test_a_row_without_year_and_path_has_no_folder() -> None:
    row = order(1, file_path=None, datum="gestern", created_at=None)
    with pytest.raises(ValidationError, match="datum"):
        places_of(row, year_of(row))


def test_after_every_prefix_of_an_export_the_pair_is_the_old_or_the_new_one() -> None:
    """All states that the sequence of file operations can leave, also with the two renames the other way round."""
    for had_old in (True, False):
        files: dict[str, str] = {"data": "old", "meta": "old"} if had_old else {}
        steps = [("data_part", "torn"), ("data_part", "new"), ("meta_part", None), ("meta_part", "new")]
        states = [dict(files)]
        for name, content in steps:
            files = dict(files)
            files[name] = content  # type: ignore[assignment]
            states.append(files)
        for renames in itertools.permutations(["data", "meta"]):
            now = dict(files)
            for name in renames:
                now = dict(now)
                now[name] = now.pop(f"{name}_part")
                states.append(now)
        for state in states:
            found = pair_state(state.get("data"), state.get("meta"), state.get("data_part"), state.get("meta_part"))
            if found is PairState.BROKEN:
                assert not had_old
                assert state.get("meta_part") != "new"
                assert state.get("meta") is None
                continue
            data = state["data_part"] if found in (PairState.DATA_PART, PairState.BOTH_PARTS) else state["data"]
            meta = state["meta_part"] if found in (PairState.META_PART, PairState.BOTH_PARTS) else state["meta"]
            assert data == meta in ("old", "new")


def test_an_older_version_is_brought_up_step_by_step() -> None:
    steps = {
        "0.8": Step("0.9", lambda f: {**{k: v for k, v in f.items() if k != "date"}, "datum": f["date"]}),
        "0.9": Step("1.0", lambda f: {**f, "data_complete": "0"}),
    }
    row = tuple(None if value is None else str(value) for value in order(1, data_complete=0))
    old = dict(zip(COLUMNS, row, strict=True))
    del old["data_complete"]
    old["date"] = old.pop("datum")
    assert migrate("0.8", tuple(old), tuple(old.values()), steps=steps) == row


def test_an_unknown_version_is_named() -> None:
    with pytest.raises(ValidationError, match=r"'3\.7'.*known: 1\.0"):
        migrate("3.7", COLUMNS, ("1",) * len(COLUMNS))


def test_a_chain_that_turns_in_a_circle_ends() -> None:
    steps = {"0.8": Step("0.9", dict), "0.9": Step("0.8", dict)}
    with pytest.raises(ValidationError):
        migrate("0.8", COLUMNS, ("1",) * len(COLUMNS), steps=steps)


def test_instants_with_zones_are_compared_in_utc() -> None:
    assert (
        instant_of("2024-01-01T12:00:00+02:00") == instant_of("2024-01-01T10:00:00Z") == instant_of("2024-01-01 10:00")
    )
    assert instant_of("gestern") == instant_of(None) == OLDEST


def test_the_schema_names_column_and_check_and_never_a_value() -> None:
    bad = [
        order(1, auftrag_nr="12"),
        order(2, auftrag_nr=None),
        order(3, datum="2024-02-30"),
        order(4, keywords_json="{"),
        order(5, updated_at="gestern"),
        order(6, vin="GEHEIM"),
        order(7, kennzeichen="??"),
        order(8, file_path=""),
        order(9, data_complete=7),
        order(10),
    ]
    rows = [tuple(None if value is None else str(value) for value in row) for row in bad]
    # Row 7 has no path: its folder is its year and number.
    found = {(f.row, f.column, f.level) for f in check_orders(rows)}
    assert found == {
        (0, "auftrag_nr", "error"),
        (1, "auftrag_nr", "error"),
        (2, "datum", "error"),
        (3, "keywords_json", "error"),
        (4, "updated_at", "error"),
        (5, "vin", "warning"),
        (6, "kennzeichen", "warning"),
        (8, "data_complete", "error"),
    }
    assert "GEHEIM" not in repr(list(check_orders(rows)))
