"""Functions that name others without a schema, as an application's search_path allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.errors import SourceError
from backup_pipeline.postgres.compare.comparison import compare_database
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_capture import capture
from backup_pipeline_tests.support.postgres_restore import expectation_of, run

Make = Callable[..., PostgresTarget]
# Planning any query on `art` inlines the second function, whose body names the first one without its schema.
INLINED = """
create schema app;
set search_path = app, public;
create function twice(n int) returns int language sql immutable as 'select n * 2';
create function twice(u text) returns int language sql immutable as 'select 2';
create table art (id int primary key, title text);
create index on art (twice(title));
create or replace function twice(u text) returns int language sql immutable as 'select twice(length(u))';
insert into art select n, 'title ' || n from generate_series(1, 50) n;
reset search_path;
"""


@pytest.fixture(params=["embedded", "installed"])
def made(request: pytest.FixtureRequest) -> Callable[[str], PostgresTarget]:
    """Makes a database from SQL, on the embedded server and on the installed one."""
    if request.param == "installed":
        return request.getfixturevalue("installed_database")  # type: ignore[no-any-return]
    make = request.getfixturevalue("database")

    def from_sql(sql: str) -> PostgresTarget:
        target = make()
        run(target, sql)
        return target  # type: ignore[no-any-return]

    return from_sql


def test_a_table_whose_functions_need_the_databases_search_path_is_read_under_it(
    made: Callable[[str], PostgresTarget], tmp_path: Path
) -> None:
    target = made(INLINED)
    with pytest.raises(SourceError) as reported:
        capture(tmp_path / "hidden", target)
    assert "app.art" in reported.value.where
    run(target, f'alter database "{target.database}" set search_path = app, public')
    done = capture(tmp_path / "seen", target)
    assert done.check("content_matches_snapshot", "s", "app", "art").passed
    assert done.records["s", "app", "art"].rows == 50
    # Fingerprints without an export are read in the same way.
    done = capture(tmp_path / "alone", target, tables={"include": []})
    assert "50" in str(done.records["s", "dump"].details)
    assert compare_database(target, expectation_of(target)).findings == ()
