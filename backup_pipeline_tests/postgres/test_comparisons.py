"""Rows that comparisons select come back, and no name or value of a comparison is ever run as SQL."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.restore import RowComparison
from backup_pipeline.postgres.merge.conditions import all_conditions
from backup_pipeline.postgres.merge.upsert import UpsertRequest, upsert_database
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import dump_of, opened

_TABLES = """
create table orders (id integer primary key, at timestamptz not null, note text, "o""dd" numeric);
insert into orders select n, timestamptz '2026-01-01 00:00Z' + n * interval '1 day',
                          case when n % 2 = 0 then E'it''s \\\\ ' || n end, n / 2.0 from generate_series(1, 20) n;
"""


@pytest.fixture
def emptied(
    database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> tuple[PostgresTarget, bytes]:
    target = database(template("comparisons", _TABLES))
    dump = dump_of(target)
    with connected(target) as connection:
        connection.execute("delete from public.orders")
    return target, dump


def _back(emptied: tuple[PostgresTarget, bytes], *where: RowComparison) -> list[int]:
    target, dump = emptied
    conditions = all_conditions((), where)
    upsert_database(
        opened(dump),
        target,
        UpsertRequest(lambda name: name in conditions, everything=False, conditions=conditions),
        commit=True,
    )
    with connected(target) as connection:
        return [row[0] for row in connection.execute("select id from public.orders order by id").fetchall()]


def _row(column: str, operator: str, *values: str) -> RowComparison:
    return RowComparison.model_validate(
        {"table": "public.orders", "column": column, "operator": operator, "values": values}
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ([_row("id", "in", "7", "9")], [7, 9]),
        ([_row("id", ">=", "18"), _row("note", "is null")], [19]),
        ([_row("note", "=", "it's \\ 4")], [4]),
        ([_row("note", "contains", "s \\ 2")], [2, 20]),
        ([_row("at", "<", "2026-01-04T00:00Z")], [1, 2]),
        ([_row('o"dd', "=", "3.50")], [7]),
        ([_row("note", "!=", "x"), _row("id", "<", "5")], [2, 4]),
    ],
)
def test_exactly_the_rows_that_compare_so_come_back(
    emptied: tuple[PostgresTarget, bytes], where: list[RowComparison], expected: list[int]
) -> None:
    assert _back(emptied, *where) == expected


@pytest.mark.parametrize(
    "where",
    [
        _row("id) is not true); drop table orders; --", "=", "1"),
        _row("id", "=", "1'); drop table orders; --"),
        _row("id", "in", "1", "2) or true --"),
        _row("nope", "is null"),
    ],
)
def test_hostile_names_and_values_are_refused_and_change_nothing(
    emptied: tuple[PostgresTarget, bytes], where: RowComparison
) -> None:
    with pytest.raises(RefusedError, match="not understood"):
        _back(emptied, where)
    with connected(emptied[0]) as connection:
        assert connection.execute("select count(*) from public.orders").fetchone() == (0,)


def test_a_hostile_text_is_a_value_like_any_other(emptied: tuple[PostgresTarget, bytes]) -> None:
    assert _back(emptied, _row("note", "=", "\\'); drop table orders; --")) == []
