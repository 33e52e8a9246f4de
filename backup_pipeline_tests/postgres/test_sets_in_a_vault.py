"""`VAULT:PLAN/SET` wherever a set is named: listed, looked into, verified, drilled and restored from a vault."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.operations.sites.copy_proofs import is_proven, known_copy_proofs, note_copy_proofs
from backup_pipeline.operations.sites.vaults import open_access
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.support.forked_sites import ForkedCommand
from backup_pipeline_tests.support.postgres_restore import ask, run, sealed_set
from backup_pipeline_tests.support.sites import Output, TestSite, dsn

TABLES = """
create table customers (id bigint primary key, name text);
insert into customers select i, 'Customer ' || i from generate_series(1, 40) i;
create table log (id bigint primary key, what text);
insert into log values (1, 'a'), (2, 'b');
"""
SETTINGS = """
sources:
  shop: {{kind: postgres, dsn_env: SHOP_URL}}
  files: {{kind: folder, path: files}}
plans: {{nightly: {{sources: [shop, files]}}}}
vaults: {{offsite: {{url: "file://{vault}", recipients: [{recipient}]}}}}
"""


@dataclass
class Offsite:
    """A site whose two sets stand in a vault alone; `identity` opens it."""

    site: TestSite
    target: PostgresTarget
    identity: Path
    vault: Path
    ids: list[str]

    def run(self, *arguments: str) -> Output:
        return self.site.run(*arguments, "--identity", str(self.identity))

    def json(self, *arguments: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        assert done.code == 0, done.text
        found: dict[str, Any] = json.loads(done.out)
        return found

    def restore(self, name: str, source: str) -> dict[str, Any]:
        plan = self.json("restore", name, source)
        assert any("read from offsite" in warning for warning in plan["warnings"])
        return self.json("restore", name, source, "--apply", "--plan-id", plan["plan_id"], "--confirm", plan["confirm"])


@pytest.fixture
def offsite(
    tmp_path: Path,
    database: Callable[..., PostgresTarget],
    template: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Offsite]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    target = database(template("offsite", TABLES))
    site = TestSite(tmp_path / "site")
    (site.folder / "files").mkdir(parents=True)
    (site.folder / "files" / "order.txt").write_text("an order\n" * 1000)
    (tmp_path / "vault").mkdir()
    secret, recipient = new_identity()
    (tmp_path / "identity.txt").write_text(secret + "\n")
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS.format(vault=tmp_path / "vault", recipient=recipient))
    assert site.run("vault", "init", "offsite").code == 0
    ids = []
    for sql in ("select 1", "insert into log values (3, 'c'); delete from customers where id > 30"):
        run(target, sql)
        ids.append(sealed_set(site.site, "nightly"))
        assert site.run("vault", "copy", "offsite", "nightly/latest").code == 0
    for set_id in ids:
        shutil.rmtree(site.site.store_folder("nightly") / set_id)
    yield Offsite(site, target, tmp_path / "identity.txt", tmp_path / "vault", ids)
    begun = ("backup-pipeline-vault-", "backup-pipeline-tables-")
    left = [path.name for path in scratch.iterdir() if path.name.startswith(begun)]
    assert left == [], "scratch space is given back"


def test_copies_are_listed_whole_with_an_identity_and_by_times_without(offsite: Offsite) -> None:
    for place in ("offsite:", "offsite:nightly", "offsite"):
        sets = offsite.json("list", place)["sets"]
        assert [(one["vault"], one["plan"], one["set"], one["state"]) for one in sets] == [
            ("offsite", "nightly", set_id, "complete") for set_id in offsite.ids
        ]
    shown = offsite.json("show", "offsite:nightly/latest")
    assert (shown["set"], shown["vault"]) == (offsite.ids[-1], "offsite")
    assert "offsite:nightly/" + offsite.ids[0] in offsite.run("show", f"offsite:nightly/{offsite.ids[0]}").out
    # Without it: times, sizes, and the plan, since this machine holds the vault's id key.
    copies = json.loads(offsite.site.run("list", "offsite:", "--json").out)["copies"]
    assert [(one["plan"], one["set_id"], one["proven"]) for one in copies] == [
        ("nightly", set_id, False) for set_id in offsite.ids
    ]
    assert all(one["stored_size"] > 0 for one in copies)
    assert offsite.ids[0] in offsite.site.run("list", "offsite:nightly").out


def test_a_wrong_identity_or_name_is_one_error_with_its_remedy(offsite: Offsite, tmp_path: Path) -> None:
    secret = new_identity()[0]
    (tmp_path / "wrong.txt").write_text(secret)
    for command, *rest in (
        ("show",),
        ("verify",),
        ("drill",),
        ("query", "select 1"),
        ("restore", "shop"),
        ("diff", "live", "--source", "shop"),
    ):
        missing = offsite.site.run(command, "offsite:nightly/latest", *rest)
        # What stands in plain text in a vault is shown without one.
        wanted = 0 if command == "show" else 3
        assert (missing.code, "--identity FILE" in missing.text) == (wanted, True), missing.text
        arguments = ["offsite:nightly/latest", *rest, "--identity", str(tmp_path / "wrong.txt")]
        wrong = offsite.site.run(command, *arguments)
        assert (wrong.code, "does not open the vault" in wrong.err) == (8, True), wrong.text
        assert secret not in missing.text + wrong.text
    for name, said in (
        ("elsewhere:nightly/latest", "There are: offsite"),
        ("offsite:monthly/latest", "It has copies of: nightly"),
        ("offsite:nightly/2020-01-01T000000Z", "The newest are"),
    ):
        refused = offsite.run("show", name)
        assert refused.code in (3, 7)
        assert said in refused.err


def test_copies_answer_sql_and_differences(offsite: Offsite) -> None:
    first, second = (f"offsite:nightly/{set_id}" for set_id in offsite.ids)
    assert offsite.json("query", first, "select count(*) as n from public.customers")["rows"] == [{"n": 40}]
    listed = offsite.json("query", first, "show all tables")["rows"]
    assert {row["name"] for row in listed} >= {"customers", "log"}
    found = offsite.json("diff", first, second, "public.log")
    assert [(one["table"], one["added"], one["removed"]) for one in found["tables"]] == [("public.log", 1, 0)]
    assert found["rows"] == [{"what": "added", "id": "3"}] or found["rows"] == [{"what": "added", "id": 3}]
    live = offsite.json("diff", first, "live", "--source", "shop")
    assert {one["table"]: one["removed"] for one in live["tables"]}["public.customers"] == 10


def test_a_copy_is_verified_and_proven_where_it_lies(offsite: Offsite) -> None:
    name = f"offsite:nightly/{offsite.ids[0]}"
    assert offsite.json("verify", name)["passed"]
    proof = offsite.json("drill", name)
    assert (proof["passed"], proof["findings"]) == (True, [])
    assert offsite.site.store("nightly").ids() == ()
    shown = offsite.json("show", name)
    assert (shown["verified"], shown["proven"]) == (True, True)
    assert offsite.json("show", "offsite:nightly/latest-proven")["set"] == offsite.ids[0]
    # The machine that writes knows of it without any identity, from its notes and from the vault.
    site = offsite.site.site
    for proofs in (known_copy_proofs(site, "offsite"), note_copy_proofs(site, open_access(site, "offsite"))):
        copies = sorted(path.name for path in (offsite.vault / "copies").iterdir())
        assert [is_proven(copy, proofs) for copy in copies] == [True, False]
    stored = b"".join(path.read_bytes() for path in (offsite.vault / "proofs").rglob("*") if path.is_file())
    assert b"customers" not in stored
    assert b"nightly" not in stored


def test_damage_in_a_vault_is_found_and_never_restored(offsite: Offsite) -> None:
    assert offsite.json("drill", "offsite:nightly/latest")["passed"]
    for path in (offsite.vault / "chunks").rglob("*"):
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.chmod(0o600)
            path.write_bytes(content)
    name = f"offsite:nightly/{offsite.ids[-1]}"
    assert offsite.run("verify", name).code == 6
    assert offsite.run("drill", name).code == 6
    for source, target in (("shop", "copy"), ("files", "elsewhere")):
        done = offsite.run("restore", name, source, "--into", target, "--json")
        if done.code == 0:
            plan = json.loads(done.out)
            named = ["--plan-id", plan["plan_id"], "--confirm", plan["confirm"]]
            done = offsite.run("restore", name, source, "--into", target, "--apply", *named)
        assert (done.code, "changed" in done.text) == (6, True), done.text
    assert not (offsite.site.folder / "elsewhere").exists()
    assert not offsite.json("show", name)["proven"]


def test_a_database_and_a_folder_are_restored_from_a_vault_and_undone(offsite: Offsite) -> None:
    name = f"offsite:nightly/{offsite.ids[0]}"
    applied = offsite.restore(name, "shop")
    assert ask(offsite.target, "select count(*) from customers")[0][0] == 40
    assert offsite.site.store("nightly").ids() == (applied["emergency_set"],), "only the emergency set is here"
    assert offsite.site.run("undo", "nightly/shop", "--apply", "--confirm", str(applied["undo"]["live"])).code == 0
    assert ask(offsite.target, "select count(*) from customers")[0][0] == 30
    (offsite.site.folder / "files" / "order.txt").write_text("lost")
    offsite.restore(name, "files")
    assert (offsite.site.folder / "files" / "order.txt").read_text() == "an order\n" * 1000


@pytest.mark.takes(seconds=2, together="forked")
def test_scratch_space_of_a_killed_drill_is_removed_by_the_next(offsite: Offsite, tmp_path: Path) -> None:
    drill = ForkedCommand(offsite.site, "drill", "offsite:nightly/latest", "--identity", str(offsite.identity))
    scratch = tmp_path / "scratch"
    until = time.monotonic() + 60
    while not list(scratch.glob("backup-pipeline-vault-*/*/chunk-*")) and time.monotonic() < until:
        assert drill.poll() is None, drill.communicate()
        time.sleep(0.01)
    drill.send_signal(signal.SIGKILL)
    drill.communicate()
    assert list(scratch.glob("backup-pipeline-vault-*"))
    assert offsite.json("verify", "offsite:nightly/latest")["passed"]
    assert not list(scratch.glob("backup-pipeline-vault-*"))


def test_a_plan_whose_only_store_is_a_vault_is_proven_from_there(
    tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> None:
    target = database(template("offsite", TABLES))
    site = TestSite(tmp_path / "site")
    (site.folder / "files").mkdir(parents=True)
    (site.folder / "files" / "large.bin").write_bytes(random.Random(5).randbytes(3_000_000))
    (tmp_path / "vault").mkdir()
    secret, recipient = new_identity()
    identity = tmp_path / "identity.txt"
    identity.write_text(secret + "\n")
    site.variables["SHOP_URL"] = dsn(target)
    settings = SETTINGS.format(vault=tmp_path / "vault", recipient=recipient)
    site.write(settings.replace("[shop, files]", "[shop, files], store: 'vault:offsite', retention: {keep_last: 1}"))
    assert site.run("vault", "init", "offsite").code == 0
    assert (done := site.run("backup", "nightly")).code == 0, done.text
    assert "offsite:nightly/" in done.out
    folder = site.site.store_folder("nightly")
    assert json.loads(site.run("status", "--json").out)["plans"][0]["free_bytes"] is None
    (first,) = site.store("nightly").ids()
    assert not [path for path in folder.rglob("*") if path.suffix in (".gz", ".parquet", ".part", ".tar")]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1_000_000
    listed = json.loads(site.run("list", "--json").out)["sets"]
    assert [(one["set"], one["state"], one["proven"]) for one in listed] == [(first, "complete", False)]
    for words in (["nightly/latest"], ["--all"]):
        missing = site.run("verify", *words)
        assert (missing.code, "--identity FILE" in missing.err) == (3, True)
    for command in (["verify", "nightly/latest"], ["drill", "nightly/latest"]):
        assert (done := site.run(*command, "--identity", str(identity))).code == 0, done.text
    assert [one["proven"] for one in json.loads(site.run("list", "--json").out)["sets"]] == [True]
    assert (
        done := site.run("query", "nightly/latest", "select 1 from public.log", "--identity", str(identity))
    ).code == 0

    (site.folder / "files" / "large.bin").write_bytes(b"lost")
    planned = site.run("restore", "nightly/latest", "files", "--json", "--identity", str(identity))
    plan = json.loads(planned.out)
    named = ["--plan-id", plan["plan_id"], "--confirm", plan["confirm"]]
    done = site.run("restore", "nightly/latest", "files", "--apply", *named, "--identity", str(identity))
    assert done.code == 0, done.text
    assert (site.folder / "files" / "large.bin").stat().st_size == 3_000_000

    assert (done := site.run("backup", "nightly")).code == 0, done.text
    assert (done := site.run("cleanup", "nightly")).code == 0, done.text
    assert {path.name.rpartition("-")[0] for path in (tmp_path / "vault" / "copies").iterdir()} >= {first}
    # On another day nothing of this machine is left but its settings and the identity.
    shutil.rmtree(folder)
    done = site.run("drill", f"offsite:nightly/{first}", "--identity", str(identity), "--json")
    assert (done.code, json.loads(done.out)["passed"]) == (0, True), done.text
