"""`import`: what other programs made becomes sets that are listed, verified, restored and counted in drills."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_pipeline.artefacts.drilling import DrillOptions
from backup_pipeline.errors import ExitCode
from backup_pipeline.model.manifest import Draft
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.proof.drill import drill_set
from backup_pipeline.operations.sites.stores import open_store, resolve_set
from backup_pipeline.postgres.server.clients import choose_client
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.databases import server_facts
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn, write_storage

SITE = """
store: backups
timezone: Europe/Berlin
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL}
  storage: {kind: folder, path: storage}
plans:
  nightly: {sources: [shop], retention: {keep_daily: 7}}
  whole: {sources: [shop, storage]}
"""
ROWS = 340


@pytest.fixture
def shop(database: Callable[..., PostgresTarget], template: Callable[[str, str], str]) -> PostgresTarget:
    return database(template("shop", SHOP))


@pytest.fixture
def site(tmp_path: Path, shop: PostgresTarget) -> TestSite:
    made = TestSite(tmp_path / "site", {"SHOP_URL": dsn(shop)})
    made.folder.mkdir()
    write_storage(made.folder / "storage")
    made.write(SITE)
    return made


@pytest.fixture
def old(tmp_path: Path) -> Path:
    made = tmp_path / "old"
    made.mkdir()
    return made


def dump(target: PostgresTarget, *options: str) -> bytes:
    client = choose_client(server_facts(target).major)
    command = [client.program("pg_dump"), *options, *target.program_arguments()]
    environment = {**os.environ, **target.program_environment()}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def imported(site: TestSite, *arguments: str) -> tuple[int, dict[str, list[dict[str, object]]]]:
    done = site.run("import", *arguments, "--json")
    return done.code, json.loads(done.out)


FORMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "shop_2025-11-25_02-00-05.sql": ("", bytes),
    "backup_20250905_005234.sql.gz": ("", gzip.compress),
    "cdb_backup_2025-11-25_2227.sql": ("--clean", bytes),
    "shop-20251128-010203.sql.gz": ("--create --clean", gzip.compress),
    "shop_2025-11-26T02-00-05+01:00.dump": ("--format=custom", bytes),
    "shop_20250911_000000.dump.gz": ("--format=custom", gzip.compress),
    "shop_2025-11-24_02-00-05.tar": ("--format=tar", bytes),
    "postgresql_databases/localhost/shop": ("--format=custom --clean --if-exists", bytes),
}


@pytest.mark.takes(seconds=10)
@pytest.mark.parametrize("name", FORMS)
def test_a_dump_of_every_form_is_verified_restored_and_counted(
    site: TestSite, shop: PostgresTarget, old: Path, name: str
) -> None:
    options, packed = FORMS[name]
    (old / name).parent.mkdir(parents=True, exist_ok=True)
    (old / name).write_bytes(packed(dump(shop, *options.split())))
    before = digests(old)
    code, done = imported(site, str(old), "--plan", "nightly")
    assert (code, [one["rows"] for one in done["sets"]]) == (0, [ROWS]), done
    assert digests(old) == before
    assert site.run("verify", "nightly").code == 0
    drilled = site.run("drill", "nightly")
    assert drilled.code == 0, drilled.text
    assert "restored and counted, not proven" in drilled.out
    assert f"{ROWS} rows of 2 tables" in drilled.out
    known = open_store(site.site, "nightly").read(resolve_set(site.site, "nightly")[1])
    assert (known.proven, known.restored) == (False, True)
    assert "restored" in site.run("list").out
    assert [one["rows"] for one in json.loads(site.run("list", "--json").out)["sets"]] == [ROWS]
    assert f"{ROWS} rows, 2 artefacts" in site.run("show", "nightly").out
    again = imported(site, str(old), "--plan", "nightly")
    assert (again[1]["sets"], again[1]["known"]) == ([], [str(old / name)])


def test_a_directory_archive_is_imported_as_the_sql_that_it_means(
    site: TestSite, shop: PostgresTarget, old: Path
) -> None:
    dump(shop, "--format=directory", "--jobs=2", f"--file={old / 'shop_2025-11-27_02-00-05.d'}")
    code, done = imported(site, str(old), "--plan", "nightly")
    assert (code, [one["set"] for one in done["sets"]]) == (0, ["2025-11-27T010005Z"])
    assert site.run("verify", "nightly").code == 0
    shown = site.run("show", "nightly").out
    assert "imported from" in shown
    assert "read as Europe/Berlin" in shown
    assert "no fingerprints were taken at the source" in shown
    assert "holds no row" not in site.run("status").out
    compared = site.run("diff", "nightly", "nightly/2025-11-27T010005Z")
    assert (compared.code, "Neither set has tables" in compared.err) == (7, True)


def test_a_database_is_restored_from_an_imported_set(site: TestSite, shop: PostgresTarget, old: Path) -> None:
    (old / "shop_20250905_005234.sql").write_bytes(dump(shop))
    assert imported(site, str(old), "--plan", "nightly")[0] == 0
    into = f"{shop.database}_again"
    plan = json.loads(site.run("restore", "nightly", "shop", "--into", into, "--json").out)
    assert any("imported" in warning for warning in plan["warnings"])
    applied = ["--apply", "--plan-id", plan["plan_id"], "--confirm", into]
    done = site.run("restore", "nightly", "shop", "--into", into, *applied)
    try:
        assert done.code == 0, done.text
        with connected(shop.with_database(into)) as connection:
            assert connection.execute("select count(*) from public.orders").fetchone() == (300,)
    finally:
        with connected(shop) as connection:
            connection.execute(f'drop database if exists "{into}" with (force)'.encode())


def test_a_restored_copy_that_lacks_a_row_fails_the_drill(site: TestSite, shop: PostgresTarget, old: Path) -> None:
    (old / "shop_20250905_005234.sql").write_bytes(dump(shop))
    assert imported(site, str(old), "--plan", "nightly")[0] == 0

    def lose_a_row(target: PostgresTarget) -> None:
        with connected(target) as connection:
            connection.execute("delete from public.orders where id = 1")

    proof = drill_set(site.site, *resolve_set(site.site, "nightly"), options=DrillOptions(before_comparison=lose_a_row))
    assert not proof.passed
    assert [one.problem for one in proof.findings] == ["299 rows, the dump has 300"]


def test_rows_that_come_with_an_extension_are_not_missed_in_its_dump(
    site: TestSite, installed_database: Callable[..., PostgresTarget], old: Path
) -> None:
    maps = installed_database(
        "create extension postgis;"
        "insert into spatial_ref_sys (srid, auth_name, auth_srid, srtext, proj4text) "
        "values (990123, 'own', 1, 'x', 'y')"
    )
    (old / "shop_20250905_005234.sql").write_bytes(dump(maps))
    assert imported(site, str(old), "--plan", "nightly")[0] == 0
    drilled = site.run("drill", "nightly")
    assert (drilled.code, "1 row of 1 table" in drilled.out) == (0, True), drilled.text

    def lose_a_row(target: PostgresTarget) -> None:
        with connected(target) as connection:
            connection.execute("delete from public.spatial_ref_sys where srid = 990123")

    proof = drill_set(site.site, *resolve_set(site.site, "nightly"), options=DrillOptions(before_comparison=lose_a_row))
    assert [one.problem for one in proof.findings] == ["0 rows, the dump has 1"]


def test_what_lies_there_twice_is_taken_once_and_links_are_not_followed(
    site: TestSite, shop: PostgresTarget, old: Path
) -> None:
    for folder in ("last", "daily", "weekly"):
        (old / folder).mkdir()
    first = old / "last" / "shop-20251125-020005.sql.gz"
    first.write_bytes(gzip.compress(dump(shop)))
    os.link(first, old / "daily" / "shop-20251125.sql.gz")
    os.link(first, old / "weekly" / "shop-202548.sql.gz")
    (old / "last" / "shop-latest.sql.gz").symlink_to(first.name)
    (old / "loop").symlink_to(old)
    (old / "backup_log.txt").write_text("all is well")
    os.mkfifo(old / "pipe.sql")
    shown = site.run("import", str(old), "--plan", "nightly", "--dry-run")
    assert (shown.code, "1 set would be imported" in shown.out) == (0, True)
    assert not (site.folder / "backups" / "nightly").exists()
    code, done = imported(site, str(old), "--plan", "nightly")
    assert (code, [one["set"] for one in done["sets"]]) == (0, ["2025-11-25T010005Z"])
    assert len(done["known"]) == 2


def test_damaged_and_cut_dumps_are_refused_by_name_and_leave_nothing(
    site: TestSite, shop: PostgresTarget, old: Path
) -> None:
    whole, archive = dump(shop), dump(shop, "--format=custom")
    wrong = {
        "a_20250901_000000.sql.gz": gzip.compress(whole)[:200],
        "b_20250902_000000.sql": whole[: len(whole) // 2],
        "c_20250903_000000.dump": archive[: len(archive) // 2],
        "d_20250904_000000.sql.gz": b"",
        "e_20250905_000000.sql": b"--\n-- PostgreSQL database cluster dump\n--\n\n\\connect template1\n",
        "f_20250906_000000.sql.gz": gzip.compress(whole)[:-9],
    }
    for name, content in wrong.items():
        (old / name).write_bytes(content)
    (old / "shop_20250907_000000.sql").write_bytes(whole)
    # Of pg_back: roles alone are no backup of a database; a checksum beside a dump must fit it.
    (old / "pg_globals_20250907_000000.sql").write_bytes(b"--\n-- PostgreSQL database cluster dump\n--\n")
    digest = hashlib.sha256(whole).hexdigest()
    (old / "shop_20250907_000000.sql.sha256").write_text(f"{digest}  shop_20250907_000000.sql\n")
    wrong["g_20250908_000000.dump"] = archive
    (old / "g_20250908_000000.dump").write_bytes(archive)
    (old / "g_20250908_000000.dump.sha256").write_text(f"{digest}  g_20250908_000000.dump\n")
    code, done = imported(site, str(old), "--plan", "nightly")
    assert code == 6
    assert len(done["sets"]) == 1
    refused = {Path(str(one["path"])).name: one for one in done["passed_over"] if one["refused"]}
    assert set(refused) == set(wrong)
    assert refused["d_20250904_000000.sql.gz"]["why"] == "It is empty."
    assert not any("another set" in str(one["remedy"]) for one in refused.values())
    assert len(open_store(site.site, "nightly").ids()) == 1


def test_a_dump_and_its_tarball_of_one_folder_make_one_whole_set(
    site: TestSite, shop: PostgresTarget, old: Path
) -> None:
    night = old / "20251101_020000"
    night.mkdir()
    (night / "shop_db.sql.gz").write_bytes(gzip.compress(dump(shop)))
    with tarfile.open(night / "storage_buckets.tar.gz", "w:gz") as tar:
        tar.add(site.folder / "storage", "storage")
    code, done = imported(site, str(old), "--plan", "whole")
    assert (code, [one["partial"] for one in done["sets"]]) == (0, [False])
    assert site.run("drill", "whole").code == 0
    target = site.folder / "storage"
    lost = target / "materials" / "folder 1" / "file-1.txt"
    content = lost.read_bytes()
    lost.unlink()
    plan = json.loads(site.run("restore", "whole", "storage", "--json").out)
    applied = ["--apply", "--plan-id", plan["plan_id"], "--confirm", target.name]
    done_restore = site.run("restore", "whole", "storage", *applied)
    assert done_restore.code == 0, done_restore.text
    assert lost.read_bytes() == content


def test_a_folder_of_json_per_table_is_compared_with_its_checksums(site: TestSite, old: Path) -> None:
    export = old / "backup_20250119_101500"
    export.mkdir()
    tables = {"users": b'[{"id":1}]', "orders": b'[{"id":1},{"id":2}]'}
    for name, content in tables.items():
        (export / f"{name}.json").write_bytes(content)
    listed = [{"name": name, "checksum": hashlib.sha256(content).hexdigest()} for name, content in tables.items()]
    (export / "metadata.json").write_text(json.dumps({"tables": listed}))
    arguments = [str(old), "--plan", "whole", "--source", "storage"]
    code, done = imported(site, *arguments)
    assert (code, [one["set"] for one in done["sets"]]) == (0, ["2025-01-19T091500Z"])
    name = f"whole/{done['sets'][0]['set']}"
    assert "checksums beside the tables fit 2 of 3 files" in site.run("show", name).out
    assert site.run("drill", name).code == 0
    (export / "users.json").write_bytes(b'[{"id":2}]')
    code, done = imported(site, *arguments)
    assert code == 6
    assert "checksum" in str(done["passed_over"][0]["why"])


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"])
def test_a_tarball_whose_members_lead_outside_is_refused_whole(site: TestSite, old: Path, name: str) -> None:
    with tarfile.open(old / "storage_20250101_000000.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    code, done = imported(site, str(old), "--plan", "whole")
    assert (code, done["sets"]) == (6, [])
    assert not [*site.folder.rglob("evil.txt"), *old.rglob("evil.txt")]


def test_a_tarball_with_a_name_too_long_for_a_file_is_passed_over_alone(site: TestSite, old: Path) -> None:
    with tarfile.open(old / "storage_20250101_000000.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("n" * 300))
    with tarfile.open(old / "storage_20250102_000000.tar.gz", "w:gz") as tar:
        tar.add(site.folder / "storage" / "materials", "materials")
    code, done = imported(site, str(old), "--plan", "whole", "--source", "storage")
    assert (code, [one["set"] for one in done["sets"]]) == (6, ["2025-01-01T230000Z"])  # midnight in Berlin
    assert "this file system cannot have" in str(done["passed_over"])


def test_links_of_a_tarball_are_dropped_and_counted(site: TestSite, old: Path) -> None:
    with tarfile.open(old / "storage_20250101_000000.tar.gz", "w:gz") as tar:
        tar.add(site.folder / "storage" / "materials", "materials")
        link = tarfile.TarInfo("passwords")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(link)
    code, done = imported(site, str(old), "--plan", "whole")
    assert code == 0
    assert "1 links or devices" in site.run("show", f"whole/{done['sets'][0]['set']}").out


def test_names_that_steer_a_terminal_or_are_no_text_do_no_harm(site: TestSite, shop: PostgresTarget, old: Path) -> None:
    content = dump(shop)
    for name in (b"shop_20250101_000000\x1b[2J.sql", b"shop_20250102_000000\xff.sql", b"-rf_20250103_000000\n.sql"):
        (old / os.fsdecode(name)).write_bytes(content + b"\n" * len(name))
    done = site.run("import", str(old), "--plan", "nightly")
    assert done.code == 0, done.text
    assert "\x1b" not in done.text
    assert len(open_store(site.site, "nightly").sealed_ids()) == 3
    assert site.run("show", "nightly").code == 0


def test_several_databases_need_a_name_or_the_option(site: TestSite, shop: PostgresTarget, old: Path) -> None:
    site.write(
        SITE.replace("plans:", "  other: {kind: postgres, dsn_env: OTHER_URL}\nplans:").replace(
            "[shop]", "[shop, other]"
        )
    )
    (old / "backup_20250905_005234.sql").write_bytes(dump(shop))
    code, done = imported(site, str(old), "--plan", "nightly")
    assert (code, done["sets"]) == (6, [])
    assert "--source and one of: shop, other." in str(done["passed_over"][0]["remedy"])
    code, done = imported(site, str(old), "--plan", "nightly", "--source", "shop")
    assert (code, [one["partial"] for one in done["sets"]]) == (0, [True])
    code, done = imported(site, str(old), "--plan", "nightly")
    assert (code, done["sets"], len(done["known"])) == (0, [], 1)
    # A name that holds that of one source is enough, and what was inferred is said.
    (old / "pg_shop_prod_20250906.sql").write_bytes(dump(shop) + b"\n")
    told = site.run("import", str(old), "--plan", "nightly", "--dry-run").out
    assert "pg_shop_prod_20250906.sql: taken for shop, since 'shop' stands in 'pg_shop_prod'" in told
    code, done = imported(site, str(old), "--plan", "nightly")
    assert code == 0
    assert done["sets"][0]["files"]["shop"]["inferred"] == "'shop' stands in 'pg_shop_prod'"


def test_what_a_killed_import_left_is_removed_by_the_next(site: TestSite, shop: PostgresTarget, old: Path) -> None:
    (old / "shop_20250905_005234.sql").write_bytes(dump(shop))
    set_id = SetId("2025-09-04T225234Z")
    at = datetime(2025, 9, 4, 22, 52, 34, tzinfo=UTC)
    store = open_store(site.site, "nightly")
    store.prepare()
    store.begin(Draft(set_id=set_id, plan="nightly", root_run_id="import", sources=("shop",), started_at=at))
    code, done = imported(site, str(old), "--plan", "nightly")
    assert (code, [one["set"] for one in done["sets"]]) == (0, [set_id])
    assert [known.set_id for known in open_store(site.site, "nightly").sets()] == [set_id]


def test_retention_counts_imported_sets_by_their_time(site: TestSite, shop: PostgresTarget, old: Path) -> None:
    content = dump(shop)
    for day in range(1, 11):
        (old / f"shop_202509{day:02}_020000.sql").write_bytes(content + b"\n" * day)
    assert len(imported(site, str(old), "--plan", "nightly")[1]["sets"]) == 10
    listed = json.loads(site.run("cleanup", "nightly", "--dry-run", "--json").out)
    assert listed["errors"] == []
    removed = [str(one["set"]) for one in listed["plans"][0]["sets"] if not one["keep"]]
    assert sorted(removed) == [f"2025-09-0{day}T000000Z" for day in (1, 2, 3)]


ODD = ("a b", "ü'", 'q"x')
SERVER = """
store: backups
sources:
  plain: {kind: postgres, dsn_env: A_URL}
  umlaut: {kind: postgres, dsn_env: B_URL}
  quoted: {kind: postgres, dsn_env: C_URL}
plans:
  nightly: {sources: [plain, umlaut, quoted]}
"""
# What looks like the end of a dump and the way to another database, in a function and in rows.
LOOKS_LIKE_AN_END = (
    "create function looks() returns text language sql as $$ select '\n--\n-- PostgreSQL database dump complete\n--\n\n"
    "--\n-- PostgreSQL database dump\n--\n\n\\connect postgres\n'::text $$;"
    "create table t (id int primary key, what text);"
    "insert into t select n, E'--\\n-- PostgreSQL database dump complete\\n\\\\connect x' from generate_series(1, 10) n"
)


@pytest.fixture
def odd_databases(server: EmbeddedServer, tmp_path: Path) -> Iterator[TestSite]:
    with connected(server.target(), autocommit=True) as connection:
        connection.execute("create role odd_reader login password 'not to be kept'")
        for name in ODD:
            quoted = '"' + name.replace('"', '""') + '"'
            connection.execute(f"create database {quoted} template template0".encode())
            connection.execute(f"alter database {quoted} set work_mem = '8MB'".encode())
            connection.execute(f"grant connect on database {quoted} to odd_reader".encode())
            with connected(server.target(name), pinned=False) as inside:
                inside.execute(LOOKS_LIKE_AN_END.encode())
    site = TestSite(
        tmp_path / "site",
        {f"{letter}_URL": dsn(server.target(name)) for letter, name in zip("ABC", ODD, strict=True)},
    )
    site.folder.mkdir()
    site.write(SERVER)
    yield site
    with connected(server.target(), autocommit=True) as connection:
        for name in ODD:
            quoted = '"' + name.replace('"', '""') + '"'
            connection.execute(f"drop database {quoted} with (force)".encode())
        connection.execute("drop role odd_reader")


def server_dump(server: EmbeddedServer, *options: str) -> bytes:
    target = server.target()
    others = sorted(server_facts(target).databases - set(ODD))
    excluded = [f'--exclude-database="{name}"' for name in others]
    command = [choose_client(server_facts(target).major).program("pg_dumpall"), *options, *excluded]
    environment = {**os.environ, **target.program_environment()}
    arguments = target.program_arguments()
    return subprocess.run([*command, *arguments], env=environment, stdout=subprocess.PIPE, check=True).stdout


def test_a_servers_dump_gives_each_database_to_its_source(
    odd_databases: TestSite, server: EmbeddedServer, old: Path
) -> None:
    site = odd_databases
    whole = server_dump(server, "--clean", "--if-exists")
    (old / "all_2025-11-25_02-00-05.sql.gz").write_bytes(gzip.compress(whole))
    (old / "all_2025-11-26_02-00-05.sql").write_bytes(server_dump(server, "--verbose"))
    code, done = imported(site, str(old), "--plan", "nightly")
    assert (code, [(one["rows"], one["partial"]) for one in done["sets"]]) == (0, [(30, False)] * 2), done
    for name in ("nightly/2025-11-25T020005Z", "nightly/2025-11-26T020005Z"):
        assert site.run("verify", name).code == 0
        drilled = site.run("drill", name)
        assert (drilled.code, "30 rows of 3 tables" in drilled.out) == (0, True), drilled.text
    folder = site.folder / "backups" / "nightly" / "2025-11-25T020005Z"
    roles = (folder / "umlaut_roles.json").read_text()
    assert '"odd_reader"' in roles
    assert "SCRAM-SHA" not in roles
    again = imported(site, str(old), "--plan", "nightly")[1]
    assert (again["sets"], len(again["known"])) == ([], 2)


def test_of_a_servers_dump_that_is_cut_the_whole_databases_are_taken(
    odd_databases: TestSite, server: EmbeddedServer, old: Path
) -> None:
    whole = server_dump(server)
    (old / "all_20251125_020005.sql").write_bytes(whole[: whole.rindex(b"\\connect -reuse")])
    code, done = imported(odd_databases, str(old), "--plan", "nightly")
    assert (code, [(one["rows"], one["partial"]) for one in done["sets"]]) == (6, [(20, True)]), done
    refused = {str(one["why"]) for one in done["passed_over"] if one["refused"]}
    assert any("the dump of the server is cut short" in why for why in refused)


def test_a_second_dump_of_one_database_refuses_both(odd_databases: TestSite, server: EmbeddedServer, old: Path) -> None:
    whole = server_dump(server)
    header = b"--\n-- PostgreSQL database dump\n--\n"
    forged = header + b"\n\\connect -reuse-previous=on \"dbname='a b'\"\n" + b"CREATE TABLE public.t (id integer);\n"
    at = whole.rindex(b"--\n-- PostgreSQL database cluster dump complete")
    (old / "all_20251125_020005.sql").write_bytes(
        whole[:at] + forged + b"\n--\n-- PostgreSQL database dump complete\n--\n\n" + whole[at:]
    )
    code, done = imported(odd_databases, str(old), "--plan", "nightly")
    assert (code, [sorted(one["files"]) for one in done["sets"]]) == (6, [["quoted", "umlaut"]]), done  # type: ignore[call-overload]
    refused = [(one["part"], one["why"]) for one in done["passed_over"] if one["refused"]]
    assert refused == [("a b", "it holds several dumps of this database")] * 2


def test_what_is_left_alone_is_named_and_a_plan_is_asked_for_only_among_several(
    site: TestSite, shop: PostgresTarget, old: Path
) -> None:
    (old / "shop_20250907_000000.sql").write_bytes(dump(shop))
    (old / "notes.txt").write_text("hello")
    several = site.run("import", str(old))
    assert several.code == ExitCode.SETTINGS
    assert "--plan nightly" in several.text
    done = site.run("import", str(old), "--plan", "nightly")
    assert (done.code, "1 other file left alone" in done.out) == (0, True), done.text
    assert f"{old / 'notes.txt'} is no backup that is known here" in done.out.replace("\n", "")
    assert "backup-pipeline drill nightly/2025-09-06T220000Z" in done.out
    settings = (site.folder / "backup.yaml").read_text("utf-8")
    (site.folder / "backup.yaml").write_text(settings[: settings.index("  whole:")], "utf-8")
    assert "1 set would be imported" not in (again := site.run("import", str(old), "--dry-run")).out
    assert (again.code, "1 known already" in again.out) == (0, True), again.text
