-- A small Supabase-like database: what the platform owns (auth) and what an application keeps in public.
do $$ begin
  create role anon nologin; create role authenticated nologin; create role service_role nologin bypassrls;
exception when duplicate_object then null; end $$;

create schema auth;
create table auth.schema_migrations (version varchar(255) primary key);
insert into auth.schema_migrations values ('20240427152123'), ('20240612123726'), ('20240806073726');
create table auth.users (
  id uuid primary key,
  aud varchar(255), role varchar(255), email varchar(255) unique,
  encrypted_password varchar(255), email_confirmed_at timestamptz, last_sign_in_at timestamptz,
  raw_app_meta_data jsonb, raw_user_meta_data jsonb, is_super_admin boolean,
  created_at timestamptz, updated_at timestamptz, banned_until timestamptz,
  confirmed_at timestamptz generated always as (email_confirmed_at) stored
);
create table auth.identities (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  provider text not null, identity_data jsonb not null, created_at timestamptz,
  unique (user_id, provider)
);
insert into auth.users (id, aud, role, email, encrypted_password, email_confirmed_at, last_sign_in_at,
                        raw_app_meta_data, raw_user_meta_data, is_super_admin, created_at, updated_at)
select md5('user' || n)::uuid, 'authenticated', 'authenticated', 'person' || n || '@example.org',
       '$2a$10$' || md5('password' || n) || md5('salt' || n), timestamptz '2025-01-01' + n * interval '3 hours',
       timestamptz '2026-11-01' + n * interval '7 minutes',
       '{"provider": "email", "providers": ["email"]}', jsonb_build_object('name', 'Person ' || n), false,
       timestamptz '2025-01-01' + n * interval '3 hours', timestamptz '2026-01-01' + n * interval '1 hour'
from generate_series(1, 400) n;
insert into auth.identities (user_id, provider, identity_data, created_at)
select id, 'email', jsonb_build_object('sub', id, 'email', email), created_at from auth.users;

create type public.order_status as enum ('draft', 'submitted', 'accepted', 'delivered', 'cancelled');
create domain public.email_address as text check (value ~ '^[^@\s]+@[^@\s]+$');

-- Master data
create table public.customers (
  id bigint generated always as identity primary key,
  user_id uuid unique references auth.users (id),
  name text not null, email public.email_address not null, phone text, address jsonb not null default '{}',
  tags text[] not null default '{}', credit_limit numeric(12, 2) not null check (credit_limit >= 0),
  created_at timestamptz not null default now(), updated_at timestamptz not null default now()
);
create table public.products (
  id bigint generated always as identity primary key,
  sku text not null unique, name text not null, price numeric(10, 2) not null, weight_kg double precision,
  attributes jsonb not null default '{}', available daterange, active boolean not null default true
);
-- Transaction data
create table public.orders (
  id bigint generated always as identity primary key,
  customer_id bigint not null references public.customers (id),
  status public.order_status not null default 'draft', note text, ordered_at timestamptz not null,
  total numeric(12, 2) not null, updated_at timestamptz not null default now()
);
create table public.order_items (
  order_id bigint not null references public.orders (id) on delete cascade,
  line smallint not null, product_id bigint not null references public.products (id),
  quantity integer not null check (quantity > 0), unit_price numeric(10, 2) not null,
  amount numeric(14, 2) generated always as (quantity * unit_price) stored,
  primary key (order_id, line)
);
create table public.payments (
  id uuid primary key default gen_random_uuid(),
  order_id bigint not null references public.orders (id), paid_at timestamptz, amount numeric(12, 2) not null,
  method text not null, reference bytea
);
create table public.materials (
  id bigint generated always as identity primary key, title text not null, bucket_path text not null,
  checksum text, uploaded_by uuid references auth.users (id), uploaded_at timestamptz not null
);
create index orders_by_customer on public.orders (customer_id, ordered_at desc);
create index customers_by_tag on public.customers using gin (tags);

insert into public.customers (user_id, name, email, phone, address, tags, credit_limit, created_at, updated_at)
select case when n <= 400 then md5('user' || n)::uuid end,
       (array['Müller', 'Schröder', 'Öztürk', 'Nguyễn', 'O''Brien', 'Smith, Jr.', 'Łukasz', '李'])[1 + n % 8] || ' ' || n,
       'person' || n || '@example.org', case when n % 5 > 0 then '+49 30 ' || (100000 + n) end,
       jsonb_build_object('city', (array['Berlin', 'Köln', 'Zürich'])[1 + n % 3], 'zip', lpad((n * 7 % 99999)::text, 5, '0')),
       case n % 4 when 0 then array['vip', 'press "quoted"'] when 1 then array['new'] else '{}' end,
       (n * 37 % 5000) + 0.50, timestamptz '2025-01-01' + n * interval '2 hours', timestamptz '2026-06-01' + n * interval '1 hour'
from generate_series(1, 600) n;
insert into public.products (sku, name, price, weight_kg, attributes, available, active)
select 'SKU-' || lpad(n::text, 6, '0'), 'Product ' || n, 1 + (n * 13 % 900) + 0.99, n * 0.1,
       jsonb_build_object('colour', (array['red', 'green', 'blue'])[1 + n % 3], 'sizes', jsonb_build_array(n % 5, n % 7)),
       daterange(date '2025-01-01' + n % 300, case when n % 3 = 0 then null else date '2027-01-01' + n % 300 end), n % 17 > 0
from generate_series(1, 300) n;
insert into public.orders (customer_id, status, note, ordered_at, total, updated_at)
select 1 + n % 600, (enum_range(null::public.order_status))[1 + n % 5],
       case n % 6 when 0 then null when 1 then '' when 2 then E'two\nlines' when 3 then 'with, comma and "quotes"' else 'note ' || n end,
       timestamptz '2025-03-01' + n * interval '51 minutes', 0, timestamptz '2026-01-01' + n * interval '17 minutes'
from generate_series(1, 9000) n;
insert into public.order_items (order_id, line, product_id, quantity, unit_price)
select o.id, l, 1 + (o.id * 7 + l) % 300, 1 + (o.id + l) % 9, 1 + ((o.id * 13 + l) % 900) + 0.99
from public.orders o, generate_series(1, 3) l;
update public.orders o set total = (select sum(amount) from public.order_items i where i.order_id = o.id);
insert into public.payments (order_id, paid_at, amount, method, reference)
select id, case when id % 9 > 0 then ordered_at + interval '1 day' end, total, (array['card', 'sepa', 'cash'])[1 + id % 3],
       decode(md5(id::text), 'hex')
from public.orders where status in ('accepted', 'delivered');
insert into public.materials (title, bucket_path, checksum, uploaded_by, uploaded_at)
select 'Material ' || n, 'materials/course-' || n % 10 || '/sheet-' || n || '.txt', md5(n::text), md5('user' || n)::uuid,
       timestamptz '2026-01-01' + n * interval '5 hours'
from generate_series(1, 60) n;

create function public.touch() returns trigger language plpgsql as $$
begin new.updated_at := now(); return new; end $$;
create trigger orders_touch before update on public.orders for each row execute function public.touch();
create view public.open_orders as
  select o.id, c.name, o.total from public.orders o join public.customers c on c.id = o.customer_id
  where o.status in ('draft', 'submitted');
create materialized view public.sales_by_month as
  select date_trunc('month', ordered_at) as month, count(*) as orders, sum(total) as total from public.orders group by 1;
alter table public.orders enable row level security;
create policy own_orders on public.orders for select to authenticated
  using (customer_id in (select id from public.customers where user_id is not null));
grant usage on schema public to anon, authenticated, service_role;
grant select on public.products to anon;
grant select, insert, update on public.orders, public.order_items to authenticated;
grant all on all tables in schema public to service_role;
