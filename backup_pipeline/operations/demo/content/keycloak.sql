-- A small Keycloak-like database: the tables that its Liquibase changelog makes, as far as a backup can tell.
create table databasechangelog (
  id varchar(255) not null, author varchar(255) not null, filename varchar(255) not null, dateexecuted timestamp not null,
  orderexecuted integer not null, exectype varchar(10) not null, md5sum varchar(35), description varchar(255),
  comments varchar(255), tag varchar(255), liquibase varchar(20), contexts varchar(255), labels varchar(255), deployment_id varchar(10)
);
create table databasechangeloglock (
  id integer primary key, locked boolean not null, lockgranted timestamp, lockedby varchar(255)
);
create table migration_model (id varchar(36) primary key, version varchar(36), update_time bigint not null default 0);
create table realm (
  id varchar(36) primary key, name varchar(255) unique, enabled boolean not null default false,
  access_token_lifespan integer, ssl_required varchar(255), password_policy varchar(2550)
);
create table client (
  id varchar(36) primary key, enabled boolean not null default false, client_id varchar(255), realm_id varchar(36) references realm (id),
  public_client boolean not null default false, base_url varchar(255), unique (realm_id, client_id)
);
create table keycloak_role (
  id varchar(36) primary key, realm_id varchar(255), name varchar(255), client varchar(36) references client (id), description varchar(255)
);
create table user_entity (
  id varchar(36) primary key, email varchar(255), email_verified boolean not null default false, enabled boolean not null default false,
  first_name varchar(255), last_name varchar(255), realm_id varchar(255), username varchar(255), created_timestamp bigint,
  unique (realm_id, username)
);
create table credential (
  id varchar(36) primary key, type varchar(255), user_id varchar(36) references user_entity (id), created_date bigint,
  secret_data text, credential_data text, priority integer
);
create table user_role_mapping (
  role_id varchar(255) not null references keycloak_role (id), user_id varchar(36) not null references user_entity (id),
  primary key (role_id, user_id)
);
insert into databasechangelog
select 'change-' || n, 'keycloak', 'META-INF/jpa-changelog-' || n || '.xml', timestamp '2025-02-01' + n * interval '1 second', n,
       'EXECUTED', '9:' || md5(n::text), 'createTable', '', null, '4.29.1', null, null, '8412345678'
from generate_series(1, 120) n;
insert into databasechangeloglock values (1, false, null, null), (1000, false, null, null);
insert into migration_model values ('a1b2c', '26.3.0', 1740000000);
insert into realm values (md5('master')::uuid::text, 'master', true, 60, 'EXTERNAL', null),
                         (md5('shop')::uuid::text, 'shop', true, 300, 'EXTERNAL', 'length(12)');
insert into client select md5('client' || n)::uuid::text, true, 'client-' || n, md5('shop')::uuid::text, n % 2 = 0, '/app/' || n
from generate_series(1, 8) n;
insert into keycloak_role select md5('role' || n)::uuid::text, 'shop', 'role-' || n, null, 'Role ' || n from generate_series(1, 6) n;
insert into user_entity
select md5('kc' || n)::uuid::text, 'person' || n || '@example.org', n % 7 > 0, true, 'Person', 'No ' || n,
       md5('shop')::uuid::text, 'person' || n, 1735689600000 + n * 3600000 from generate_series(1, 250) n;
insert into credential
select md5('cred' || n)::uuid::text, 'password', md5('kc' || n)::uuid::text, 1735689600000,
       '{"value":"' || md5('hash' || n) || '","salt":"' || md5('s' || n) || '"}', '{"hashIterations":5,"algorithm":"argon2"}', 10
from generate_series(1, 250) n;
insert into user_role_mapping select md5('role' || 1 + n % 6)::uuid::text, md5('kc' || n)::uuid::text from generate_series(1, 250) n;
