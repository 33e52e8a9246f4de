"""Rows that a restore's plan counts are shown by key and columns where the settings allow it; each look is logged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_pipeline.errors import RefusedError, SetNotFoundError
from backup_pipeline.model.changed_rows import Cell, ChangedRows, RowsView
from backup_pipeline.model.restore import RestoreMode, RestoreOptions, RowComparison
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.plan_rows import rows_of_plan
from backup_pipeline.operations.restore.run import plan_restore
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import ask, run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SETTINGS = """
sources: {{shop: {{kind: postgres, dsn_env: SHOP_URL, dump_format: {form}}}}}
plans: {{nightly: {{sources: [shop]}}}}
browse: {{rows: {rows}}}
"""
TABLES = """
create table "Kunden" (region text, no integer, name text, note text, api_token text, primary key (region, no));
insert into "Kunden" select 'r' || i % 2, i, 'name ' || i, null, 't' || i from generate_series(1, 40) i;
create table log (at integer, what text);
insert into log select i, 'line ' || i from generate_series(1, 5) i;
create table user_passwords (id integer primary key, value text);
insert into user_passwords values (1, 'x');
"""
UPSERT = RestoreOptions(mode=RestoreMode.UPSERT, skip_refused=True)
Made = tuple[TestSite, SetId, PostgresTarget]


def _made(folder: Path, target: PostgresTarget, form: str = "plain") -> Made:
    site = TestSite(folder, {"SHOP_URL": dsn(target)})
    site.write(SETTINGS.format(rows="true", form=form))
    set_id = sealed_set(site.site, "nightly")
    run(
        target,
        """delete from "Kunden" where no <= 30 and region = 'r1'; delete from log where at = 3;
        update "Kunden" set name = E'new\\nname', api_token = 'other' where no = 2;
        update "Kunden" set note = repeat('x', 1000) where no = 4; delete from user_passwords""",
    )
    return site, set_id, target


@pytest.fixture
def made(tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> Made:
    return _made(tmp_path, database(template("rows_of_plans", TABLES)))


def rows_of(
    made: Made, table: str, kind: str, options: RestoreOptions = UPSERT, *, page: int = 0, size: int = 25
) -> ChangedRows:
    site, set_id, _ = made
    plan = plan_restore(site.site, "nightly", set_id, "shop", options)
    view = RowsView("replaced" if kind == "replaced" else "added", lambda columns: (), page, size)
    return rows_of_plan(site.site, "nightly", plan, table, view, who="a test", now=NOW)


def keys(found: ChangedRows) -> list[str]:
    return [" ".join(str(cell.then) for cell in row[:2]) for row in found.rows]


def test_deleted_rows_are_shown_by_page_in_the_order_of_the_key(made: Made) -> None:
    first, second = (rows_of(made, "public.Kunden", "added", page=page, size=10) for page in (0, 1))
    assert keys(first) == [f"r1 {number}" for number in range(1, 20, 2)]
    assert keys(second) == [f"r1 {number}" for number in range(21, 30, 2)]
    assert (first.more, second.more) == (True, False)
    assert first.columns == ("region", "no", "name", "note")
    assert (first.key, first.hidden) == (("region", "no"), ("api_token",))


@pytest.mark.parametrize("options", [UPSERT, RestoreOptions()])
def test_replaced_rows_are_shown_before_and_after_in_the_columns_that_differ(
    made: Made, options: RestoreOptions
) -> None:
    found = rows_of(made, "public.Kunden", "replaced", options)
    assert found.columns == ("region", "no", "name", "note")
    assert found.hidden == ("api_token",)
    assert keys(found) == ["r0 2", "r0 4"]
    assert found.rows[0][2:] == (Cell("new\nname", "name 2", differs=True), Cell(None, None))
    assert found.rows[1][3] == Cell("x" * 301, None, differs=True)


def test_rows_without_a_key_are_shown_where_the_plan_puts_them_back(made: Made) -> None:
    found = rows_of(made, "public.log", "added", UPSERT.model_copy(update={"insert_absent": True}))
    assert (found.key, keys(found)) == ((), ["3 line 3"])


def test_only_rows_that_meet_the_plans_condition_are_shown(made: Made) -> None:
    where = RowComparison(table="public.Kunden", column="no", operator="<", values=("6",))
    found = rows_of(made, "public.Kunden", "added", UPSERT.model_copy(update={"where": (where,)}))
    assert keys(found) == ["r1 1", "r1 3", "r1 5"]
    secret = RowComparison(table="public.Kunden", column="api_token", values=("t1",))
    with pytest.raises(RefusedError, match="they are counted, and not shown"):
        rows_of(made, "public.Kunden", "added", UPSERT.model_copy(update={"where": (secret,)}))


def test_rows_of_one_table_and_the_whole_of_another_come_back_together(made: Made) -> None:
    site, set_id, _ = made
    where = RowComparison(table="public.Kunden", column="no", operator="<", values=("6",))
    options = RestoreOptions(
        mode=RestoreMode.UPSERT, where=(where,), tables=("public.user_passwords",), insert_absent=True
    )
    plan = plan_restore(site.site, "nightly", set_id, "shop", options)
    assert [(one.table, one.insert) for one in plan.tables] == [("public.Kunden", 3), ("public.user_passwords", 1)]


def test_looking_changes_nothing_and_is_logged_with_who_and_which_rows(made: Made) -> None:
    site, set_id, target = made
    before = ask(target, 'select count(*), max(xmin::text::bigint) from "Kunden"')
    rows_of(made, "public.Kunden", "replaced")
    assert ask(target, 'select count(*), max(xmin::text::bigint) from "Kunden"') == before
    log = (site.site.store_folder("nightly") / "access_log.txt").read_text("utf-8")
    assert f"nightly/{set_id} shop public.Kunden: rows 1 to 25 that a restore would replace read by a test" in log
    assert "name 2" not in log


def test_where_the_settings_or_a_name_forbid_it_no_row_is_shown(made: Made) -> None:
    site, _, _ = made
    with pytest.raises(RefusedError, match="sounds secret by its name"):
        rows_of(made, "public.user_passwords", "added")
    with pytest.raises(SetNotFoundError, match="no such rows"):
        rows_of(made, "public.log", "replaced")
    site.write(SETTINGS.format(rows="false", form="plain"))
    with pytest.raises(RefusedError, match="keep rows and files of sets out of the pages"):
        rows_of(made, "public.Kunden", "added")
    assert not (site.site.store_folder("nightly") / "access_log.txt").exists()


def test_rows_of_a_dump_in_the_custom_format_are_shown_alike(
    tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> None:
    made = _made(tmp_path, database(template("rows_of_plans", TABLES)), form="custom")
    assert keys(rows_of(made, "public.Kunden", "replaced")) == ["r0 2", "r0 4"]
