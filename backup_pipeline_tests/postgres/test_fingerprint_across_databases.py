"""A fingerprint taken in one database holds in another one, where every type has another OID."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backup_pipeline.postgres.export.fingerprint import HASH_RECORD, HASH_TEXT, fingerprint_table
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.target import PostgresTarget

_TYPES = """
create type mood as enum ('good', 'bad');
create domain checked_mood as mood;
create type pair as (one mood, two int);
"""


@pytest.mark.parametrize(
    ("column", "value", "algorithm"),
    [
        ("mood", "'bad'", HASH_TEXT),
        ("mood[]", "'{good,bad}'", HASH_TEXT),
        ("checked_mood", "'good'", HASH_TEXT),
        ("pair", "'(bad,3)'", HASH_TEXT),
        ("regclass", "'public.t'", HASH_TEXT),
        ("text[]", "'{a,b}'", HASH_RECORD),
        ("int4range", "'[1,5)'", HASH_RECORD),
    ],
)
def test_equal_tables_of_types_with_other_oids_have_equal_fingerprints(
    database: Callable[..., PostgresTarget], column: str, value: str, algorithm: str
) -> None:
    found = []
    for number in range(2):
        target = database()
        with connected(target, pinned=False) as connection:
            # The second database has spent some OIDs already.
            for spent in range(number * 7):
                connection.execute(f"create type spent{spent} as enum ('x')".encode())
            connection.execute(_TYPES.encode())
            connection.execute(f"create table public.t (id int, value {column})".encode())
            connection.execute(f"insert into public.t values (1, {value}), (2, null)".encode())
        with connected(target) as connection:
            found.append(fingerprint_table(connection, "public", "t"))
    assert found[0] == found[1]
    assert found[0].algorithm == algorithm
