"""A database of realistic columns and any size, made by the server itself: the same content for the same size.

python -m benchmarks.data_database --help
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer, scratch_server
from backup_pipeline.postgres.server.target import PostgresTarget

DATABASE = "bench"
TABLES = ("customers", "orders", "trades")
# Measured: a row of `trades` takes about this many bytes in the table and one of `orders` about this many.
_TRADE_BYTES = 167
_ORDER_BYTES = 239
_ORDER_SHARE = 0.12

_SCHEMA = """
create table customers (
    id bigint primary key, name text not null, email text, created_at timestamptz not null, address jsonb);
create table trades (
    id bigint primary key, symbol varchar(12) not null, side char(4) not null, quantity numeric(18,8) not null,
    price numeric(14,4) not null, fee double precision, executed_at timestamptz not null, booked_on date not null,
    account uuid not null, strategy text, maker boolean, comment text);
create table orders (
    id bigint primary key, customer_id bigint not null references customers, placed_at timestamptz not null,
    state text not null, total numeric(12,2) not null, lines jsonb not null, tags text[], note text);
"""

_CUSTOMERS = """
insert into customers
select i, 'Customer ' || i, case when i % 7 > 0 then 'c' || i || '@example.org' end,
       timestamptz '2020-01-01 00:00+00' + i * interval '7 minutes',
       jsonb_build_object('street', 'Main Street ' || i % 200, 'zip', lpad((i % 100000)::text, 5, '0'))
  from generate_series({first}, {rows}) i
"""

_TRADES = """
insert into trades
select i, (array['BTCUSD', 'ETHUSD', 'EURUSD', 'SPY', 'AAPL', 'DAX'])[1 + i % 6], (array['BUY ', 'SELL'])[1 + i % 2],
       (i * 7919 % 1000003) / 1000.0, (i * 104729 % 9999991) / 100.0,
       case when i % 11 > 0 then (i * 31 % 1009) / 997.0 end::double precision,
       timestamptz '2021-01-01 00:00+00' + i * interval '1.234567 seconds', date '2021-01-01' + (i / 70000)::int,
       md5((i % 5000)::text)::uuid, case when i % 3 > 0 then 'strategy-' || i % 40 end, i % 5 > 1,
       md5(i::text) || ' ' || case when i % 4 = 0 then 'filled in parts, "best effort", see ticket ' || i else '' end
  from generate_series({first}::bigint, {rows}) i
"""

_ORDERS = """
insert into orders
select i, 1 + i % {customers}, timestamptz '2021-01-01 00:00+00' + i * interval '97 seconds',
       (array['open', 'paid', 'shipped', 'returned'])[1 + i % 4], (i * 7919 % 100003) / 100.0,
       jsonb_build_array(jsonb_build_object('sku', 'A-' || i % 5000, 'n', 1 + i % 9),
                         jsonb_build_object('sku', 'B-' || i % 7000, 'n', 1 + i % 3)),
       array['tag' || i % 9, 'x'],
       case when i % 2 = 0 then 'left at the door' || e'\\n' || repeat('Grüße ', 3 + (i % 9)::int) end
  from generate_series({first}::bigint, {rows}) i
"""


def rows_for(megabytes: int) -> dict[str, int]:
    """Return the rows per table that make about `megabytes` (10^6 bytes) in all."""
    trades = max(10, int(megabytes * 1e6 * (1 - _ORDER_SHARE) / _TRADE_BYTES))
    orders = max(10, int(megabytes * 1e6 * _ORDER_SHARE / _ORDER_BYTES))
    return {"customers": max(10, orders // 10), "trades": trades, "orders": orders}


def fill(target: PostgresTarget, megabytes: int, *, already: int = 0) -> dict[str, int]:
    """Bring a database to about `megabytes`; return rows per table.

    Args:
        target: an empty database, or one that was filled before.
        megabytes: size of all tables afterwards.
        already: what it was filled to before; 0 makes the tables.
    """
    rows = rows_for(megabytes)
    before = rows_for(already) if already else dict.fromkeys(rows, 0)
    with connected(target, pinned=False) as connection:
        if not already:
            connection.execute(_SCHEMA.encode())
        for table, query in (("customers", _CUSTOMERS), ("trades", _TRADES), ("orders", _ORDERS)):
            values = {"first": before[table] + 1, "rows": rows[table], "customers": rows["customers"]}
            connection.execute(query.format(**values).encode())
        connection.execute("vacuum (freeze, analyze)")
        connection.execute("checkpoint")
    return rows


def size_of(target: PostgresTarget) -> int:
    """Return the bytes of the user's tables, without indexes."""
    with connected(target) as connection:
        row = connection.execute(
            "select sum(pg_table_size(c.oid))::bigint from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname = 'public' and c.relkind = 'r'"
        ).fetchone()
    return int(row[0]) if row and row[0] else 0


def make_database(server: EmbeddedServer, megabytes: int, name: str = DATABASE) -> PostgresTarget:
    """Make and fill a database of its own on a running server."""
    with connected(server.target()) as connection:
        connection.execute(f'create database "{name}" template template0'.encode())
    target = server.target(name)
    fill(target, megabytes)
    return target


@contextlib.contextmanager
def bench_server() -> Iterator[EmbeddedServer]:
    """A scratch server with settings that keep checkpoints out of the figures; removed afterwards."""
    settings = {"shared_buffers": "512MB", "max_wal_size": "4GB", "autovacuum": "off", "max_connections": "60"}
    with scratch_server(Path(tempfile.gettempdir()), settings=settings) as server:
        yield server
