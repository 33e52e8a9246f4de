"""Restoring a database: a plan that changes nothing, a rebuild that swaps by rename, and the way back."""

from __future__ import annotations

import gzip
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from backup_pipeline.errors import BackupSystemError, LockError, RefusedError, ValidationError
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.restore import ConflictRule, RestoreMode, RestoreOptions, RestorePlan, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.restore import run as restore_run
from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore
from backup_pipeline.operations.restore.undo import drop_kept, plan_undo, undo_restore
from backup_pipeline.postgres.server.databases import read_properties, server_facts, sole_restore
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres import rebuild_and_swap
from backup_pipeline_tests.support.postgres_restore import ask, dump_of, lines_of, run, sealed_set
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn

SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL, master_tables: [public.customers]}
plans:
  nightly: {sources: [shop]}
"""
UPSERT = RestoreOptions(mode=RestoreMode.UPSERT)


class Shop:
    """A site with one database and one sealed set of it."""

    def __init__(self, site: TestSite, target: PostgresTarget) -> None:
        self.test_site, self.target = site, target
        self.set_id = sealed_set(site.site, "nightly")

    def plan(self, options: RestoreOptions | None = None) -> RestorePlan:
        return plan_restore(self.test_site.site, "nightly", self.set_id, "shop", options)

    def apply(self, options: RestoreOptions | None = None, plan_id: str = "", confirm: str = "") -> RestoreResult:
        return apply_restore(
            self.test_site.site,
            "nightly",
            self.set_id,
            "shop",
            options,
            confirmation=Confirmation(
                plan_id or self.plan(options).plan_id,
                confirm or (options.into if options and options.into else "") or self.target.database,
            ),
        )

    def databases(self) -> set[str]:
        return {name for name in server_facts(self.target).databases if name.startswith(self.target.database)}

    def purposes(self) -> list[Purpose]:
        return [known.purpose for known in self.test_site.store("nightly").sets()]


@pytest.fixture
def shop(
    tmp_path: Path,
    server: EmbeddedServer,
    database: Callable[..., PostgresTarget],
    template: Callable[[str, str], str],
) -> Iterator[Shop]:
    target = database(template("restored_shop", SHOP))
    site = TestSite(tmp_path)
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS)
    made = Shop(site, target)
    yield made
    for name in made.databases() - {target.database}:
        run(server.target(), f'drop database "{name}" with (force)')


def test_a_plan_says_what_would_happen_and_changes_nothing(shop: Shop) -> None:
    run(
        shop.target,
        "delete from orders where id = 7; update customers set name = 'x' where id in (1, 2);"
        "insert into customers (name) values ('new'); create table later ()",
    )
    before = dump_of(shop.target)
    plan = shop.plan()
    assert lines_of(dump_of(shop.target)) == lines_of(before)
    assert (plan.confirm, plan.exists, plan.reasons_against) == (shop.target.database, True, ())
    found = {t.table: (t.insert, t.update, t.unchanged, t.only_in_target, t.conflicts) for t in plan.tables}
    assert found == {
        "public.customers": (0, 2, 38, 1, 2),
        "public.orders": (1, 0, 299, 0, 0),
        "public.later": (0, 0, 0, 0, 0),
    }
    assert plan.plan_id == shop.plan().plan_id
    assert plan.bytes_needed
    assert plan.seconds
    assert any("emergency" in step for step in plan.steps)
    assert shop.databases() == {shop.target.database}


def test_a_rebuild_swaps_the_restored_database_in_and_undo_swaps_it_back(shop: Shop) -> None:
    saved = lines_of(dump_of(shop.target))
    run(shop.target, "drop table orders; update customers set name = 'lost'")
    lost = lines_of(dump_of(shop.target))
    result = shop.apply()
    assert lines_of(dump_of(shop.target)) == saved
    assert result.findings == ()
    assert result.numbers["swap_seconds"] < result.numbers["seconds"]
    assert shop.purposes() == [Purpose.BACKUP, Purpose.EMERGENCY]
    assert shop.databases() == {shop.target.database, result.undo.kept}
    assert plan_undo(shop.test_site.site, "nightly", "shop").restore_id == result.restore_id
    with pytest.raises(RefusedError, match="--confirm"):
        undo_restore(shop.test_site.site, "nightly", "shop", confirm="wrong")
    undo_restore(shop.test_site.site, "nightly", "shop", confirm=shop.target.database)
    assert lines_of(dump_of(shop.target)) == lost
    with pytest.raises(RefusedError, match="No restore"):
        plan_undo(shop.test_site.site, "nightly", "shop")
    dropped = drop_kept(shop.test_site.site, "nightly", "shop", confirm=shop.target.database)
    assert len(dropped) == 1
    assert shop.databases() == {shop.target.database}


def test_an_emergency_set_can_itself_be_restored(shop: Shop) -> None:
    run(shop.target, "insert into customers (name) values ('after the backup')")
    after = lines_of(dump_of(shop.target))
    result = shop.apply()
    assert ask(shop.target, "select count(*) from customers") == [(40,)]
    shop.set_id = SetId(result.emergency_set)
    shop.apply()
    assert lines_of(dump_of(shop.target)) == after


def test_a_lost_database_is_brought_back_without_an_emergency_set(shop: Shop, server: EmbeddedServer) -> None:
    saved = lines_of(dump_of(shop.target))
    run(server.target(), f'drop database "{shop.target.database}"')
    plan = shop.plan()
    assert (plan.exists, plan.reasons_against) == (False, ())
    shop.apply()
    assert lines_of(dump_of(shop.target)) == saved
    assert shop.purposes() == [Purpose.BACKUP]
    undo_restore(shop.test_site.site, "nightly", "shop", confirm=shop.target.database)
    assert shop.target.database not in shop.databases()


def test_the_databases_properties_are_kept(shop: Shop, server: EmbeddedServer) -> None:
    name = shop.target.database
    run(server.target(), f"do $$ begin create role {name}_owner; exception when duplicate_object then null; end $$")
    run(
        server.target(),
        f'alter database "{name}" owner to {name}_owner; alter database "{name}" connection limit 17;'
        f"comment on database \"{name}\" is 'it''s ours'; revoke connect on database \"{name}\""
        f' from public; grant temp on database "{name}" to {name}_owner with grant option;'
        f'alter database "{name}" set search_path = "$user", public, "odd name";'
        f"alter database \"{name}\" set work_mem = '7MB';"
        f'alter database "{name}" set "app.level" = \'a, "b"\';'
        f'alter role {name}_owner in database "{name}" set statement_timeout = 5000',
    )
    before = read_properties(shop.target)
    assert before is not None
    shop.set_id = sealed_set(shop.test_site.site, "nightly")
    shop.apply()
    after = read_properties(shop.target)
    assert after is not None
    assert (after.owner, after.locale, after.connection_limit, after.comment, after.settings) == (
        before.owner,
        before.locale,
        before.connection_limit,
        before.comment,
        before.settings,
    )
    assert set(after.grants or ()) == set(before.grants or ())
    assert len(before.settings) == 4
    for kept in shop.databases():
        run(server.target(), f'drop database "{kept}" with (force)')
    run(server.target(), f"drop owned by {name}_owner; drop role {name}_owner")


def test_an_owner_without_superuser_rights_swaps_and_sees_which_settings_stay_behind(
    shop: Shop, server: EmbeddedServer
) -> None:
    name = shop.target.database
    run(server.target(), f"create role {name}_keeper login createdb password 'keeper'")
    run(
        shop.target,
        f"alter database {name} owner to {name}_keeper; alter table customers owner to {name}_keeper;"
        f"alter table orders owner to {name}_keeper; alter database {name} set work_mem = '7MB';"
        f"alter database {name} set log_min_duration_statement = 5000",
    )
    there = shop.target
    keeper = PostgresTarget(there.host, there.port, name, f"{name}_keeper", "keeper")
    shop.test_site.variables["SHOP_URL"] = dsn(keeper)
    shop.test_site.write_env()
    shop.set_id = sealed_set(shop.test_site.site, "nightly")
    run(keeper, "delete from orders where id = 7")
    result = shop.apply()
    assert ask(keeper, "select count(*) from orders where id = 7") == [(1,)]
    assert any(
        "settings of the database skipped" in text and "log_min_duration_statement" in text for text in result.warnings
    )
    after = read_properties(keeper)
    assert after is not None
    assert after.settings == (("", "work_mem", "7MB"),)
    undo_restore(shop.test_site.site, "nightly", "shop", confirm=name)
    assert ask(keeper, "select count(*) from orders where id = 7") == [(0,)]
    for kept in shop.databases():
        run(server.target(), f'drop database "{kept}" with (force)')
    run(server.target(), f"drop role {name}_keeper")


@pytest.mark.parametrize("change", ["update orders set note = 'y' where id = 3", "create index on orders (note)"])
def test_apply_refuses_when_the_target_has_changed_since_the_plan(shop: Shop, change: str) -> None:
    plan = shop.plan()
    run(shop.target, change)
    before = lines_of(dump_of(shop.target))
    with pytest.raises(RefusedError, match="does not hold any more"):
        shop.apply(plan_id=plan.plan_id)
    assert lines_of(dump_of(shop.target)) == before
    assert shop.databases() == {shop.target.database}


def test_apply_refuses_without_the_databases_name_or_with_other_options(shop: Shop) -> None:
    with pytest.raises(RefusedError, match="confirmation"):
        shop.apply(confirm="postgres")
    with pytest.raises(RefusedError, match="does not hold"):
        shop.apply(UPSERT, plan_id=shop.plan().plan_id)


def test_the_application_is_disconnected_and_finds_the_restored_database_at_once(shop: Shop) -> None:
    stop, seen = threading.Event(), {"ended": 0, "again": 0}

    def application() -> None:
        arguments = shop.target.connect_arguments()
        while not stop.is_set():
            try:
                with psycopg.connect(**arguments, autocommit=True) as connection:  # type: ignore[arg-type]
                    while not stop.is_set():
                        connection.execute("select count(*) from orders")
                        seen["again"] += 1
            except psycopg.Error:
                seen["ended"] += 1

    threads = [threading.Thread(target=application) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        shop.apply()
        count = seen["again"]
        while seen["again"] < count + 20:
            stop.wait(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen["ended"] >= 4


def test_a_copy_that_differs_is_removed_and_the_live_database_untouched(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rebuild_and_swap.rebuild_database

    def damaged(*arguments: object, **named: object) -> object:
        done = real(*arguments, **named)  # type: ignore[arg-type]
        run(done.target, "delete from orders where id = 11")
        return done

    monkeypatch.setattr(rebuild_and_swap, "rebuild_database", damaged)
    before = lines_of(dump_of(shop.target))
    with pytest.raises(ValidationError, match=r"public\.orders 299 rows, 300 in the backup"):
        shop.apply()
    assert lines_of(dump_of(shop.target)) == before
    assert shop.databases() == {shop.target.database}
    assert shop.purposes() == [Purpose.BACKUP]


@pytest.mark.parametrize("step", ["make_emergency_set", "swap_in", "compare_database"])
def test_whatever_fails_before_the_swap_leaves_everything_as_it_was(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackupSystemError("Injected.")

    monkeypatch.setattr(restore_run if step == "make_emergency_set" else rebuild_and_swap, step, fail)
    with pytest.raises(BackupSystemError, match="Injected"):
        shop.apply()
    assert shop.databases() == {shop.target.database}
    assert ask(shop.target, "select count(*) from orders") == [(300,)]


def test_a_swap_that_fails_half_way_is_rolled_back(shop: Shop, server: EmbeddedServer) -> None:
    from backup_pipeline.postgres.server.databases import rename_together

    before = server_facts(shop.target).databases
    with pytest.raises(BackupSystemError):
        rename_together(shop.target, [(shop.target.database, "half_way"), ("not_there", shop.target.database)])
    assert server_facts(shop.target).databases == before


def test_a_damaged_set_is_refused_before_anything_begins(shop: Shop) -> None:
    plan = shop.plan()
    dump = shop.test_site.site.store_folder("nightly") / shop.set_id / "shop_db.sql.gz"
    content = gzip.decompress(dump.read_bytes())
    dump.write_bytes(gzip.compress(content.replace(b"Customer 7", b"Customer 8")))
    with pytest.raises(ValidationError, match=r"shop_db\.sql\.gz"):
        shop.apply(plan_id=plan.plan_id)
    assert shop.databases() == {shop.target.database}


def test_into_another_name_builds_a_database_and_swaps_nothing(shop: Shop) -> None:
    options = RestoreOptions(into=f"{shop.target.database}_copy")
    result = shop.apply(options)
    copy = shop.target.with_database(options.into)
    assert lines_of(dump_of(copy)) == lines_of(dump_of(shop.target))
    assert result.emergency_set == ""
    assert any("exists already" in reason for reason in shop.plan(options).reasons_against)


def test_careful_restores_through_psql_with_the_same_outcome(shop: Shop) -> None:
    saved = lines_of(dump_of(shop.target))
    run(shop.target, "drop table orders")
    shop.apply(RestoreOptions(careful=True))
    assert lines_of(dump_of(shop.target)) == saved


def test_careful_is_refused_without_superuser_rights_and_changes_nothing(
    shop: Shop, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, name = shop.target, shop.target.database
    run(server.target(), f"create role {name}_app login createdb password 'app'; create role {name}_other nologin")
    run(
        there,
        f"alter database {name} owner to {name}_app; alter schema public owner to {name}_app;"
        f"alter table customers owner to {name}_app; alter table orders owner to {name}_other;"
        f"grant select on orders, orders_id_seq to {name}_app",
    )
    limited = PostgresTarget(there.host, there.port, name, f"{name}_app", "app")
    shop.test_site.variables["SHOP_URL"] = dsn(limited)
    shop.test_site.write_env()
    shop.set_id = sealed_set(shop.test_site.site, "nightly")
    careful, before = RestoreOptions(careful=True), lines_of(dump_of(there))
    try:
        with pytest.raises(RefusedError, match="--careful runs the dump as it stands"):
            shop.apply(careful)
        monkeypatch.setattr("backup_pipeline.sources.postgres.restore_checks.expected_refusals", lambda *_: [])
        with pytest.raises(BackupSystemError, match=rf'SET ROLE "{name}_other" \(SQLSTATE 42501\)'):
            shop.apply(careful)
        assert shop.databases() == {name}
        assert lines_of(dump_of(there)) == before
        assert shop.purposes() == [Purpose.BACKUP, Purpose.BACKUP]
    finally:
        run(
            there,
            f"reassign owned by {name}_app, {name}_other to current_user;"
            f"drop owned by {name}_app, {name}_other; drop role {name}_app, {name}_other",
        )


def test_a_lost_database_gets_the_encoding_of_its_backup(shop: Shop, server: EmbeddedServer) -> None:
    name = shop.target.database
    run(server.target(), f"drop database {name}")
    run(server.target(), f"create database {name} template template0 encoding 'SQL_ASCII' locale 'C'")
    run(shop.target, r"create table t (id integer primary key, x text); insert into t values (1, E'\xff\xfe')")
    shop.set_id = sealed_set(shop.test_site.site, "nightly")
    run(server.target(), f"drop database {name}")
    shop.apply()
    assert ask(server.target(), f"select pg_encoding_to_char(encoding) from pg_database where datname = '{name}'") == [
        ("SQL_ASCII",)
    ]


def test_a_restore_that_would_fill_the_disk_of_the_live_server_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = shop.plan()
    assert plan.bytes_needed
    size = int(plan.bytes_needed / 2.5)
    asked = []

    def usage(free: int) -> None:
        def answer(folder: Path) -> tuple[int, int, int]:
            asked.append(folder)
            return _Usage(2 * free, free, free)

        monkeypatch.setattr("backup_pipeline.sources.postgres.target_inspection.shutil.disk_usage", answer)

    usage(size - 1000)
    assert "MB are needed where the server has its data" in str(shop.plan().reasons_against)
    usage(size + 1000)
    plan = shop.plan()
    assert plan.reasons_against == ()
    assert "MB are needed where the server has its data" in str(plan.warnings)
    assert plan.bytes_free == size + 1000
    assert {(folder / "PG_VERSION").exists() for folder in asked} == {True}


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_missing_roles_are_named_and_made_only_when_asked(shop: Shop, server: EmbeddedServer) -> None:
    run(shop.target, "create role left_us; grant select on orders to left_us")
    shop.set_id = sealed_set(shop.test_site.site, "nightly")
    run(shop.target, "drop owned by left_us; drop role left_us")
    plan = shop.plan()
    assert plan.missing_roles == ("left_us",)
    assert "--create-roles" in plan.reasons_against[0]
    with pytest.raises(RefusedError, match="left_us"):
        shop.apply()
    shop.apply(RestoreOptions(create_roles=True))
    assert ask(shop.target, "select has_table_privilege('left_us', 'orders', 'select')") == [(True,)]
    run(shop.target, "drop owned by left_us; drop role left_us")


def test_two_restores_into_one_database_do_not_run_at_once(shop: Shop) -> None:
    plan = shop.plan()
    with sole_restore(shop.target), pytest.raises(LockError):
        shop.apply(plan_id=plan.plan_id)


def test_an_upsert_makes_an_emergency_set_first_and_brings_rows_back(shop: Shop) -> None:
    run(shop.target, "delete from orders where id in (1, 2); update customers set name = 'mine' where id = 5")
    options = RestoreOptions(mode=RestoreMode.UPSERT, on_conflict=ConflictRule.KEEP)
    plan = shop.plan(options)
    result = shop.apply(options, plan_id=plan.plan_id)
    assert result.tables == plan.tables
    assert result.numbers["rows_written"] == 2
    assert shop.purposes() == [Purpose.BACKUP, Purpose.EMERGENCY]
    assert ask(shop.target, "select count(*) from orders") == [(300,)]
    assert ask(shop.target, "select name from customers where id = 5") == [("mine",)]
    run(shop.target, "update orders set note = 'since' where id = 2")
    assert plan_undo(shop.test_site.site, "nightly", "shop").restore_id == result.restore_id
    undone = undo_restore(shop.test_site.site, "nightly", "shop", confirm=shop.target.database)
    assert (undone.numbers["rows_removed"], undone.numbers["rows_changed_since"]) == (1, 1)
    assert ask(shop.target, "select id from orders where id <= 3 order by id") == [(2,), (3,)]
    assert ask(shop.target, "select name from customers where id = 5") == [("mine",)]
    with pytest.raises(RefusedError, match="No restore of shop is there to be undone"):
        plan_undo(shop.test_site.site, "nightly", "shop")


def test_an_undo_of_an_upsert_whose_set_is_gone_names_the_other_way(shop: Shop) -> None:
    run(shop.target, "delete from orders where id = 1")
    options = RestoreOptions(mode=RestoreMode.UPSERT)
    result = shop.apply(options, plan_id=shop.plan(options).plan_id)
    shutil.rmtree(shop.test_site.store("nightly").path_of(result.set_id))
    with pytest.raises(RefusedError, match=rf"restore nightly/{result.emergency_set} shop brings back"):
        undo_restore(shop.test_site.site, "nightly", "shop", confirm=shop.target.database)
    assert ask(shop.target, "select count(*) from orders") == [(300,)]


def test_an_upsert_takes_master_tables_or_named_ones_or_single_rows(shop: Shop) -> None:
    def touched(**choice: object) -> list[str]:
        options = RestoreOptions.model_validate({"mode": "upsert", **choice})
        return [f"{t.table} {t.backup}" for t in shop.plan(options).tables]

    assert touched(only="master") == ["public.customers 40"]
    assert touched(only="transaction") == ["public.orders 300"]
    assert touched(tables=("orders",)) == ["public.orders 300"]
    assert touched(rows=("public.orders: id in (3, 4)",)) == ["public.orders 2"]


def test_an_incomplete_set_is_restored_from_only_when_asked(shop: Shop) -> None:
    (shop.test_site.site.store_folder("nightly") / shop.set_id / "manifest.json").unlink()
    with pytest.raises(RefusedError, match="--allow-incomplete"):
        shop.plan()
    assert shop.plan(RestoreOptions(allow_incomplete=True)).reasons_against == ()
