"""What a comparison leaves out because another thing says it: that thing is noticed when it is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.postgres.compare.comparison import compare_database
from backup_pipeline.postgres.load.rebuild import rebuild_database
from backup_pipeline.postgres.server.databases import drop_database
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.postgres_restore import ask, dump_of, expectation_of, opened, run

SCHEMA = """
create table customers (id integer, region text, primary key (id, region)) partition by list (region);
create table customers_north partition of customers for values in ('north');
create table customers_south partition of customers for values in ('south');
create table orders (id integer, customer integer, region text, at date,
    constraint to_customer foreign key (customer, region) references customers) partition by range (at);
create table orders_2025 partition of orders for values from ('2025-01-01') to ('2026-01-01');
create table orders_2026 partition of orders for values from ('2026-01-01') to ('2027-01-01');
create type money2 as (cents bigint);
create function less(a money2, b money2) returns boolean language sql as 'select (a).cents < (b).cents';
create operator <<< (leftarg = money2, rightarg = money2, function = less, commutator = >>>);
insert into customers values (1, 'north'), (2, 'south');
insert into orders values (1, 1, 'north', '2025-05-05'), (2, 2, 'south', '2026-05-05');
"""
DERIVED = """
select conrelid::regclass::text, conname from pg_constraint
 where contype = 'f' and conparentid <> 0 and conrelid <> 'orders'::regclass order by 1, 2
"""


@pytest.fixture
def copies(server: EmbeddedServer, database: Callable[..., PostgresTarget]) -> Callable[[str], list[str]]:
    source = database()
    run(source, SCHEMA)
    dump, expected = dump_of(source), expectation_of(source)

    def differences(damage: str) -> list[str]:
        copy = server.target("objects_copy")
        try:
            rebuild_database(opened(dump), copy)
            run(copy, damage)
            return [f"{f.subject}: {f.problem}" for f in compare_database(copy, expected).findings]
        finally:
            drop_database(copy)

    return differences


def test_the_loss_of_a_foreign_key_s_partition_or_table_is_noticed(
    copies: Callable[[str], list[str]], database: Callable[..., PostgresTarget]
) -> None:
    assert copies("select 1") == []
    lonely = database()
    run(lonely, SCHEMA)
    derived = [(table, name) for table, name in ask(lonely, DERIVED) if str(table).startswith("orders_")]
    assert derived
    for table, name in derived:
        with pytest.raises(BackupSystemError, match="cannot drop inherited constraint"):
            run(lonely, f'alter table {table} drop constraint "{name}"')
    assert any(
        "constraint public.orders.to_customer: is missing" in line
        for line in copies("alter table orders drop constraint to_customer")
    )
    found = copies(
        "alter table orders detach partition orders_2025; alter table orders_2025 drop constraint to_customer"
    )
    assert any("table public.orders_2025" in line for line in found), found
    assert any(
        "table public.customers_north" in line
        for line in copies(
            "alter table orders drop constraint to_customer;"
            "alter table customers detach partition customers_north;"
            "delete from orders where region = 'north';"
            "alter table orders add constraint to_customer foreign key (customer, region) references customers"
        )
    )


def test_an_operator_that_is_lost_is_noticed_but_a_mere_promise_of_one_is_not_missed(
    copies: Callable[[str], list[str]],
) -> None:
    lost = copies("drop operator <<< (money2, money2)")
    assert any("other operator public.<<<" in line and "missing" in line for line in lost), lost
    assert copies("drop operator >>> (money2, money2)") == []
