"""What a server's errors become: told with a remedy, without passwords and without values of rows."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from backup_pipeline.errors import SourceError, UnreachableError
from backup_pipeline.postgres.server.connection import connected, open_connection
from backup_pipeline.postgres.server.target import PostgresTarget, parse_target


@pytest.mark.parametrize(
    "statement",
    [
        "insert into public.people values (1, 'Erika Mustermann')",
        "select 'Erika Mustermann'::int",
        "select ('[\"Erika Mustermann\"'::text)::json",
    ],
)
def test_values_of_rows_are_in_no_error(database: Callable[..., PostgresTarget], statement: str) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute("create table public.people (id int, name text unique)")
        connection.execute("insert into public.people values (1, 'Erika Mustermann')")
    with pytest.raises(SourceError) as caught, connected(target) as connection:
        connection.execute(statement.encode())
    assert "Erika" not in str(caught.value)
    assert target.label in str(caught.value)


def test_a_wrong_password_is_a_refused_login_and_is_not_quoted(database: Callable[..., PostgresTarget]) -> None:
    target = replace(database(), password="wr0ng-one")
    with pytest.raises(SourceError, match="refused the login") as caught, connected(target):
        pass
    assert "wr0ng-one" not in str(caught.value)


def test_a_server_that_is_not_there_may_be_tried_again(database: Callable[..., PostgresTarget]) -> None:
    with pytest.raises(UnreachableError) as caught, connected(replace(database(), port=1)):
        pass
    assert not caught.value.permanent


def test_a_server_that_takes_no_more_connections_is_not_told_as_one_that_is_down(
    database: Callable[..., PostgresTarget],
) -> None:
    target = database()
    with connected(target) as connection:
        connection.execute("create role narrow login password 'narrow' connection limit 0")
        try:
            with pytest.raises(UnreachableError, match="takes no more connections") as caught:
                connected(replace(target, user="narrow", password="narrow")).__enter__()
        finally:
            connection.execute("drop role narrow")
    assert "connections" in caught.value.remedy


def test_a_login_that_was_given_up_leaves_no_half_open_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"postgresql://nobody@127.0.0.1:{mute.getsockname()[1]}/x?connect_timeout=2&sslmode=disable"
        target = parse_target(url, variable="SHOP_URL")
        with pytest.raises(UnreachableError) as given_up:
            open_connection(target)
        link, _ = mute.accept()
        link.settimeout(30)
        while link.recv(4096):
            pass
        assert given_up.value.where == target.label, "handled, and kept, while the server already sees the end"
