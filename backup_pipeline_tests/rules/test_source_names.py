from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.model.source_names import source_of_database


@pytest.mark.parametrize(
    ("database", "source"),
    [
        ("shop", "server_shop"),
        ("shop_2024", "server_shop_2024"),
        ("Shop", "server_shop_d00aae6b"),
        ("a/b", "server_a_b_c14cddc0"),
        ("Ünïcode", "server_uenicode_00b24be8"),
        ("表", "server_c35f8084"),
        ("deadbeef", "server_deadbeef_2baf1f40"),
    ],
)
def test_a_database_has_the_source_that_its_name_says(database: str, source: str) -> None:
    assert source_of_database("server", database) == source


@given(st.lists(st.text(min_size=1, max_size=63), unique=True, max_size=20), st.sampled_from(["s", "a-b", "x" * 30]))
def test_names_of_databases_never_meet_and_are_valid(databases: list[str], server: str) -> None:
    names = [source_of_database(server, database) for database in databases]
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,59}", name) for name in names)
    assert len({name.lower().replace("-", "_") for name in names}) == len(databases)
