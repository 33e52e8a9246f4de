"""Reading connection strings: what is understood; nothing of a password is taken for what is shown."""

from __future__ import annotations

import pytest

from backup_pipeline.errors import SettingsError
from backup_pipeline.postgres.server.target import parse_target


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:hush/hush@db:5432/shop",
        "postgresql://app:hush#hush@db:5432/shop",
        "postgresql://app:12/hush@db/shop",
        "postgresql://app:12#hush@db/shop",
        "postgresql://app:hu\nsh@db/shop",
        "postgresql://app:hush@db:port/shop",
        "postgresql://app:hush@db/shop?port=hush",
        "host=db port=hush dbname=shop password=hush",
        "host=db dbname=shop password='hush",
    ],
)
def test_an_unreadable_string_names_its_variable_and_nothing_of_the_password(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_target(text, variable="SHOP_URL")
    reported = str(caught.value)
    assert "SHOP_URL" in reported
    assert "hush" not in reported
    assert caught.value.__cause__ is None


def test_a_sharp_ends_nothing_in_a_url() -> None:
    target = parse_target("postgresql://app:hush@db/shop#2", variable="SHOP_URL")
    assert (target.host, target.database) == ("db", "shop#2")


def test_a_plus_in_an_option_is_itself_to_postgresql_and_a_space_to_jdbc() -> None:
    for text, meaning in (
        ("postgresql://db/shop?user=a&password=x+y", "x+y"),
        ("jdbc:postgresql://db/shop?user=a&password=x+y", "x y"),
        ("postgresql+psycopg://db/shop?user=a&password=x+y", "x y"),
    ):
        assert parse_target(text, variable="SHOP_URL").password == meaning
