-- The five tables of a trading application.
create table signals (
  id bigserial primary key, symbol text not null, signal_type text not null check (signal_type in ('buy', 'sell', 'hold')),
  price numeric(18, 8) not null, confidence numeric(5, 4) not null check (confidence between 0 and 1),
  source text, metadata jsonb, created_at timestamptz not null
);
create table orders (
  id bigserial primary key, signal_id bigint references signals (id), symbol text not null, side text not null check (side in ('buy', 'sell')),
  order_type text not null, quantity numeric(24, 10) not null check (quantity > 0), price numeric(18, 8), status text not null,
  created_at timestamptz not null, filled_at timestamptz
);
create table trades (
  id bigserial primary key, order_id bigint not null references orders (id), symbol text not null, side text not null,
  quantity numeric(24, 10) not null, execution_price numeric(18, 8) not null, fees numeric(18, 8) not null default 0, executed_at timestamptz not null
);
create table positions (
  id bigserial primary key, symbol text not null unique, quantity numeric(24, 10) not null, entry_price numeric(18, 8),
  unrealized_pnl numeric(18, 8), updated_at timestamptz not null
);
create table portfolio_snapshots (
  id bigserial primary key, total_equity numeric(20, 8) not null, available_balance numeric(20, 8) not null,
  open_positions integer not null, metadata jsonb, taken_at timestamptz not null
);
insert into signals (symbol, signal_type, price, confidence, source, metadata, created_at)
select (array['BTCUSDT', 'ETHUSDT', 'SOLUSDT'])[1 + n % 3], (array['buy', 'sell', 'hold'])[1 + n % 3], 100 + n * 1.00000001,
       (n % 100) / 100.0, 'momentum', jsonb_build_object('window', n % 30), timestamptz '2026-01-01' + n * interval '7 minutes'
from generate_series(1, 6000) n;
insert into orders (signal_id, symbol, side, order_type, quantity, price, status, created_at, filled_at)
select id, symbol, signal_type, 'market', 0.0000000001 * id + 0.01, price, 'filled', created_at, created_at + interval '2 seconds'
from signals where signal_type <> 'hold';
insert into trades (order_id, symbol, side, quantity, execution_price, fees, executed_at)
select id, symbol, side, quantity, price, quantity * price * 0.001, filled_at from orders;
insert into positions (symbol, quantity, entry_price, unrealized_pnl, updated_at)
select symbol, sum(quantity), avg(price)::numeric(18, 8), 0, max(filled_at) from orders group by symbol;
insert into portfolio_snapshots (total_equity, available_balance, open_positions, metadata, taken_at)
select 10000 + n * 0.12345678, 5000 - n * 0.1, n % 4, '{"currency": "USDT"}', timestamptz '2026-01-01' + n * interval '1 hour'
from generate_series(1, 900) n;
