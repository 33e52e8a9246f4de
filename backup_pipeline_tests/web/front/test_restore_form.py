"""The form of a restore means what it says, and what is wrong with it is said beside it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs

import pytest
from starlette.testclient import TestClient

from backup_pipeline.model.restore import ConflictRule, RestoreMode
from backup_pipeline.operations.data.set_contents import SourceContents, set_contents
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.web.front.restore_form import FormError, choices, options_of, query_of
from backup_pipeline.web.front.restore_run import undone_text
from backup_pipeline_tests.support.front_pages import OWN, pages_of
from backup_pipeline_tests.support.invented_sets import SITE, at, make_set

_FORM = {"Content-Type": "application/x-www-form-urlencoded", **OWN}


@pytest.fixture
def contents(tmp_path: Path) -> SourceContents:
    store = LocalStore(tmp_path / "backups" / "nightly", "nightly")
    set_id = make_set(store, at("2026-11-21 02:00"), tables=3)
    (found,) = set_contents(store.read(set_id))
    return found


@pytest.fixture
def pages(tmp_path: Path, contents: SourceContents) -> TestClient:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    assert contents.tables
    return pages_of(tmp_path)


def test_the_gentlest_way_stands_first_and_the_swap_last(contents: SourceContents) -> None:
    assert [way.value for way in choices(contents)] == ["deleted", "changed", "beside", "swap"]


def test_deleted_rows_are_an_upsert_that_keeps_what_is_live(contents: SourceContents) -> None:
    options = options_of({"what": ["deleted"]}, contents)
    assert (options.mode, options.on_conflict, options.skip_refused) == (RestoreMode.UPSERT, ConflictRule.KEEP, True)
    changed = options_of({"what": ["changed"], "tables": ["public.t2"]}, contents)
    assert (changed.on_conflict, changed.tables, changed.skip_refused) == (ConflictRule.BACKUP, ("public.t2",), False)


def test_rows_are_compared_in_one_table_and_empty_lines_are_none(contents: SourceContents) -> None:
    form = {
        "what": ["deleted"],
        "where_table": ["public.t1"],
        "where_column": ["id", "", "note"],
        "where_operator": ["in", "=", "is null"],
        "where_value": ["7, 8", "", ""],
    }
    options = options_of(form, contents)
    assert [str(each) for each in options.where] == ["public.t1: id in 7, 8", "public.t1: note is null"]
    assert options.tables == ()


def test_rows_of_several_tables_and_whole_tables_are_taken_along(contents: SourceContents) -> None:
    form = {
        "what": ["deleted"],
        "tables": ["public.t1", "public.t3"],
        "where_table": ["public.t1", "", "public.t2"],
        "where_column": ["id", "note", "id"],
        "where_operator": ["in", "is null", "="],
        "where_value": ["7, 8", "", "9"],
    }
    options = options_of(form, contents)
    assert [str(each) for each in options.where] == [
        *("public.t1: id in 7, 8", "public.t1: note is null", "public.t2: id = 9"),
    ]
    # Of t1 come the selected rows alone.
    assert (options.tables, options.skip_refused) == (("public.t3",), False)
    # "Choose something else" opens the form with what was chosen.
    assert options_of(parse_qs(query_of(options).removeprefix("?"), keep_blank_values=True), contents) == options


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({}, "what"),
        ({"what": ["everything; drop"]}, "what"),
        ({"what": ["files"]}, "what"),
        ({"what": ["swap"], "tables": ["public.t1"]}, "what"),
        ({"what": ["swap"], "where_column": ["id"]}, "what"),
        ({"what": ["beside"], "into": ["../elsewhere"]}, "into"),
        ({"what": ["beside"], "into": ["/etc/x"]}, "into"),
        ({"what": ["beside"], "into": ["a..b"]}, "into"),
        ({"what": ["beside"]}, "into"),
        ({"what": ["deleted"], "tables": ["public.no"]}, "tables"),
        ({"what": ["deleted"], "where_column": ["id"], "where_value": ["1"]}, "where"),
        ({"what": ["deleted"], "where_column": [""], "where_value": ["1"]}, "where"),
        (
            {"what": ["deleted"], "where_table": ["public.t1"], "where_column": ["a"], "where_operator": ["like"]},
            "where",
        ),
        ({"what": ["deleted"], "where_table": ["public.t1", "public.no"], "where_column": ["id", "id"]}, "where"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_field(
    contents: SourceContents, form: dict[str, list[str]], field: str
) -> None:
    with pytest.raises(FormError) as refused:
        options_of(form, contents)
    assert refused.value.name == field


def test_a_wrong_field_is_said_on_the_form_which_keeps_what_was_written(pages: TestClient) -> None:
    address = "/backups/restore/nightly/latest/files"
    answer = pages.post(address, headers=_FORM, content="what=beside&into=%3Cb%3E%22")
    assert answer.status_code == 422
    assert "letters, digits" in answer.text
    assert "&lt;b&gt;&#34;" in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/backups/restore/nightly/2026-11-20T020000Z",
        "/backups/restore/nightly/latest/nosuch",
        "/backups/restore/unknown/latest",
        "/backups/restore/nightly/latest/..%2f..%2fetc",
        "/backups/restore/nightly/latest/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    ],
)
def test_a_set_that_was_removed_meanwhile_and_odd_names_are_not_found(pages: TestClient, path: str) -> None:
    for answer in (pages.get(path), pages.post(path, headers=_FORM, content="what=deleted")):
        assert answer.status_code in (404, 405)
        assert "<script>alert" not in answer.text


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_form_of_another_page_begins_nothing(pages: TestClient, origin: str) -> None:
    headers = {"Content-Type": _FORM["Content-Type"], "Origin": origin}
    assert (
        pages.post("/backups/restore/nightly/latest/files", headers=headers, content="what=deleted").status_code == 403
    )
    own = pages.post("/backups/restore/nightly/latest/files", headers=_FORM, content="what=deleted")
    assert own.status_code == 503  # No Dagster here: it was let through.


def test_the_home_page_of_restores_offers_the_newest_whole_backup(tmp_path: Path, pages: TestClient) -> None:
    from backup_pipeline.model.manifest import Purpose

    store = LocalStore(tmp_path / "backups" / "nightly", "nightly")
    make_set(store, at("2026-11-22 02:00"), purpose=Purpose.EMERGENCY)
    text = pages.get("/backups/restore").text
    assert 'action="/backups/restore/nightly/2026-11-21T020000Z/files"' in text
    assert "2026-11-22T020000Z, made just before a restore" in text


def test_an_undo_says_what_went_and_what_came_back_and_no_zero() -> None:
    assert undone_text({"rows_put_back": 0, "rows_removed": 18}) == "18 rows that were added are gone again."
    both = undone_text({"rows_put_back": 1, "rows_removed": 1})
    assert both == "1 row that was added is gone again, 1 row has its values from before again."
    assert undone_text({"rows_put_back": 0, "rows_removed": 0}) == "There was nothing left to take back."
