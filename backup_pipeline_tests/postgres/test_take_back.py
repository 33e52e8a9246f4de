"""An upsert is taken back by the rows that it wrote: those before come back, and what was written since stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backup_pipeline.errors import RefusedError
from backup_pipeline.model.restore import ConflictRule
from backup_pipeline.postgres.merge.conditions import parse_rows
from backup_pipeline.postgres.merge.take_back import TakenBack, WrittenBefore, take_back
from backup_pipeline.postgres.merge.upsert import UpsertRequest, upsert_database
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.postgres.test_upsert import SHOP, content, keyed
from backup_pipeline_tests.support.postgres_restore import ask, dump_of, opened, run

_DAMAGE = (
    "delete from lines where order_id in (7, 8); update orders set parent = null where parent in (7, 8);"
    "delete from orders where id in (7, 8); update customers set name = 'x' || id where id in (3, 4)"
)


@pytest.fixture
def shop(database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> tuple[PostgresTarget, bytes]:
    target = database(template("shop", SHOP))
    return target, dump_of(target)


class Restored:
    """An upsert that was done, with the dump made just before it."""

    def __init__(self, shop: tuple[PostgresTarget, bytes], request: UpsertRequest | None = None) -> None:
        self.target, self.dump = shop
        self.request = request or UpsertRequest(keyed)
        self.before = dump_of(self.target)
        done = upsert_database(opened(self.dump), self.target, self.request, commit=True)
        self.tables = frozenset(change.table for change in done.tables if change.insert or change.update)
        self.transaction = done.transaction

    def take_back(self) -> dict[str, TakenBack]:
        written = WrittenBefore(
            self.tables, self.request.conditions, self.request.on_conflict, transaction=self.transaction
        )
        found = take_back(opened(self.dump), opened(self.before), self.target, written)
        return {one.table: one for one in found}


def test_rows_that_came_back_go_and_changed_ones_have_their_values_again(shop: tuple[PostgresTarget, bytes]) -> None:
    target, _ = shop
    run(target, _DAMAGE)
    damaged = content(target)
    restored = Restored(shop)
    assert content(target) != damaged
    found = restored.take_back()
    assert content(target) == damaged
    counts = {name: (one.put_back, one.removed, one.changed_since) for name, one in found.items()}
    assert counts == {"public.customers": (2, 0, 0), "public.orders": (1, 2, 0), "public.lines": (0, 6, 0)}
    again = restored.take_back()
    assert content(target) == damaged
    assert {(one.put_back, one.removed, one.changed_since) for one in again.values()} == {(0, 0, 0)}


def test_what_was_written_since_the_restore_stays(shop: tuple[PostgresTarget, bytes]) -> None:
    target, _ = shop
    run(target, _DAMAGE)
    restored = Restored(shop)
    run(
        target,
        "update customers set note = 'since' where id = 3; update orders set total = 1 where id = 7;"
        "insert into customers values (99, 'new'); delete from lines where order_id = 7 and line = 1",
    )
    found = restored.take_back()
    assert ask(target, "select id, name, note from customers where id in (3, 4, 99) order by id") == [
        (3, "c3", "since"),
        (4, "x4", None),
        (99, "new", None),
    ]
    assert ask(target, "select id, total from orders where id in (7, 8)") == [(7, 1)]
    assert ask(target, "select count(*) from lines where order_id in (7, 8)") == [(0,)]
    assert (found["public.customers"].changed_since, found["public.orders"].changed_since) == (1, 1)


@pytest.mark.parametrize("action", ["no action", "cascade", "set null"])
def test_a_row_that_others_point_at_since_is_not_taken_from_under_them(
    shop: tuple[PostgresTarget, bytes], action: str
) -> None:
    target, _ = shop
    run(target, _DAMAGE)
    run(target, f"create table notes (id int primary key, order_id int references orders on delete {action})")
    restored = Restored(shop)
    run(target, "insert into notes values (1, 7)")
    now = content(target)
    with pytest.raises(RefusedError, match=r"1 rows of public\.notes point at rows of public\.orders"):
        restored.take_back()
    assert content(target) == now


def test_only_rows_of_the_selection_and_the_rule_are_taken_back(shop: tuple[PostgresTarget, bytes]) -> None:
    target, _ = shop
    run(target, _DAMAGE)
    damaged = content(target)
    conditions = dict([parse_rows("public.customers: id = 3")])
    request = UpsertRequest(lambda name: name[1] == "customers", everything=False, conditions=conditions)
    restored = Restored(shop, request)
    # Equal to the backup by somebody's hand, not by the restore.
    run(target, "update customers set name = 'c4' where id = 4")
    assert restored.take_back()["public.customers"].put_back == 1
    assert ask(target, "select name from customers where id in (3, 4) order by id") == [("x3",), ("c4",)]
    run(target, "update customers set name = 'x4' where id = 4")
    assert content(target) == damaged
    kept = Restored(shop, UpsertRequest(keyed, on_conflict=ConflictRule.KEEP))
    kept.take_back()
    assert content(target) == damaged


def test_partitions_and_always_generated_keys_are_taken_back(database: Callable[..., PostgresTarget]) -> None:
    target = database()
    run(
        target,
        "create table events (id int generated always as identity, at int not null, what text, primary key (id, at))"
        " partition by range (at); create table events_1 partition of events for values from (0) to (10);"
        "create table events_2 partition of events for values from (10) to (20);"
        "create table seen (event int, at int, id int primary key, foreign key (event, at) references events);"
        "insert into events (at, what) select n, 'e' || n from generate_series(1, 19) n;"
        "insert into seen select id, at, id from events",
    )
    dump = dump_of(target)
    run(
        target,
        "delete from seen where at in (3, 13); delete from events where at in (3, 13);"
        "update events set what = 'y' where at = 15",
    )
    damaged = content(target)
    restored = Restored((target, dump), UpsertRequest(lambda name: True))
    assert content(target) != damaged
    restored.take_back()
    assert content(target) == damaged


def test_rows_that_a_trigger_rewrote_on_their_way_in_are_taken_back_too(
    database: Callable[..., PostgresTarget],
) -> None:
    target = database()
    run(
        target,
        "create table docs (id int primary key, body text, updated_at timestamptz default clock_timestamp());"
        "create function touch() returns trigger language plpgsql as $$ begin new.updated_at = clock_timestamp();"
        " return new; end $$; insert into docs (id, body) select n, 'd' || n from generate_series(1, 9) n;"
        "create trigger touched before insert or update on docs for each row execute function touch()",
    )
    dump = dump_of(target)
    run(target, "delete from docs where id in (1, 2); update docs set body = 'x' where id in (3, 4, 5)")
    damaged = ask(target, "select id, body from docs order by id")
    restored = Restored((target, dump), UpsertRequest(lambda name: True))
    run(target, "update docs set body = 'since' where id in (2, 5)")
    (found,) = restored.take_back().values()
    assert (found.put_back, found.removed, found.changed_since, found.rewritten) == (2, 1, 2, 2)
    after = dict(damaged) | {2: "since", 5: "since"}
    assert dict(ask(target, "select id, body from docs")) == after
    # Of another server, or not known: what differs may have been written by anybody.
    restored.transaction = "1/1"
    assert restored.take_back()["public.docs"].put_back == 0
