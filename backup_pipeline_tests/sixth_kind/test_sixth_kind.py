"""Kinds of sources that another package brings go the whole way; nothing in the product knows them.

One is a file (a mailbox), restored by the pipeline; the other a database (a ledger) that restores and drills itself.
"""

from __future__ import annotations

import json
import mailbox
import os
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from backup_pipeline_tests.sixth_kind import ledger_kind, mailbox_kind
from backup_pipeline_tests.sixth_kind.ledger_kind import Ledger
from backup_pipeline_tests.support.forked_programs import Programs, forked_programs
from backup_pipeline_tests.support.sites import Output

pytestmark = pytest.mark.takes(seconds=5, together="sixth kind")
SETTINGS = """
store: backups
sources: {mail: {kind: mailbox, path: inbox.mbox, description: The inbox.}}
plans: {nightly: {sources: [mail], schedule: "0 2 * * *", drill: "0 5 * * 0"}}
"""
LEDGER_SETTINGS = """
store: backups
sources: {books: {kind: ledger, path: books}, mail: {kind: mailbox, path: inbox.mbox}}
plans: {nightly: {sources: [books, mail], drill: "0 5 * * 0"}}
"""
ENTRIES = {"cash": "100", "bank": "2500", "loan": "-700"}
DEFINITIONS = """
import json, os
from pathlib import Path
from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.settings.loader import load_site
definitions = build_definitions(load_site(Path(os.environ["BACKUP_PIPELINE_CONFIG"])))
graph = definitions.resolve_asset_graph()
print(json.dumps(sorted("/".join(key.path) for key in graph.get_all_asset_keys())))
print(json.dumps(sorted(f"{check.asset_key.path[-1]}:{check.name}" for check in graph.asset_check_keys)))
"""


class Package:
    """The kinds' package as pip would install it, and a site that uses it."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self.programs = programs
        self.site = folder / "site"
        self.place = folder / "site-packages"
        metadata = self.place / "mailbox_kind-1.0.dist-info"
        metadata.mkdir(parents=True)
        self.site.mkdir()
        for module in (mailbox_kind, ledger_kind):
            path = Path(str(module.__file__))
            (self.place / path.name).write_bytes(path.read_bytes())
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mailbox-kind\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(
            "[backup_pipeline.sources]\nmailbox = mailbox_kind:MailboxKind\nledger = ledger_kind:LedgerKind\n", "utf-8"
        )

    def python(self, program: str, *arguments: str) -> Output:
        environment = os.environ | {
            "PYTHONPATH": str(self.place),
            "BACKUP_PIPELINE_CONFIG": str(self.site / "backup.yaml"),
            "COLUMNS": "200",
        }
        return self.programs.run(program, *arguments, environment=environment, folder=self.site)

    def run(self, *arguments: str) -> Output:
        return self.python("from backup_pipeline.cli.main import main; main()", *arguments)


def write_mailbox(place: Path, subjects: list[str]) -> None:
    place.unlink(missing_ok=True)
    box = mailbox.mbox(place)
    for subject in subjects:
        message = EmailMessage()
        message["Subject"] = subject
        message.set_content("A line.")
        box.add(message)
    box.close()


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    with forked_programs() as running:
        yield running


@pytest.fixture
def package(tmp_path: Path, programs: Programs) -> Package:
    made = Package(tmp_path, programs)
    (made.site / "backup.yaml").write_text(SETTINGS)
    write_mailbox(made.site / "inbox.mbox", ["one", "two", "three"])
    return made


def test_a_kind_from_outside_goes_the_whole_way(package: Package) -> None:
    inbox = package.site / "inbox.mbox"
    before = inbox.read_bytes()
    assert package.run("env", "check").code == 0
    done = package.run("backup", "nightly", "--json")
    assert done.code == 0, done.text
    made = json.loads(done.out)["set"]
    assert package.run("verify", f"nightly/{made}").code == 0
    drilled = json.loads(package.run("drill", f"nightly/{made}", "--json").out)
    assert (drilled["passed"], drilled["numbers"]["files"]) == (True, 1), drilled
    [listed] = json.loads(package.run("list", "--json").out)["sets"]
    assert (listed["verified"], listed["proven"]) == (True, True), listed
    status = json.loads(package.run("status", "--json").out)["plans"][0]
    assert status["standing"] == "good", status
    shown = package.run("show", f"nightly/{made}")
    assert "mailbox" in shown.text

    write_mailbox(inbox, ["another"])
    plan = json.loads(package.run("restore", f"nightly/{made}", "mail", "--json").out)
    applied = package.run(
        "restore", f"nightly/{made}", "mail", "--apply", "--plan-id", plan["plan_id"], "--confirm", plan["confirm"]
    )
    assert applied.code == 0, applied.text
    assert inbox.read_bytes() == before
    undone = package.run("undo", "nightly/mail", "--apply", "--confirm", plan["confirm"])
    assert undone.code == 0, undone.text
    assert len(mailbox.mbox(inbox)) == 1


def test_the_ui_has_the_assets_and_checks_of_a_kind_from_outside(package: Package) -> None:
    done = package.python(DEFINITIONS)
    assert done.code == 0, done.text
    assets, checks = (json.loads(line) for line in done.out.splitlines()[-2:])
    assert {"nightly/mail/mailbox", "nightly/mail", "nightly/manifest"} <= set(assets)
    assert "mailbox:messages_readable" in checks


def test_damage_of_an_artefact_from_outside_is_found(package: Package) -> None:
    assert package.run("backup", "nightly").code == 0
    [packed] = (package.site / "backups" / "nightly").glob("*/mail.mbox.gz")
    packed.write_bytes(packed.read_bytes()[:-20])
    assert package.run("verify", "latest").code == 6


def test_faults_in_the_settings_of_a_kind_from_outside_are_named(package: Package) -> None:
    (package.site / "backup.yaml").write_text(SETTINGS.replace("path: inbox.mbox", "paht: inbox.mbox"))
    done = package.run("list")
    assert done.code == 3
    assert "paht" in done.text
    assert "path" in done.text


def test_a_package_that_cannot_be_imported_is_one_clear_error(package: Package) -> None:
    (package.place / "mailbox_kind.py").write_text("import nowhere_at_all")
    done = package.run("list")
    assert done.code == 3
    assert "The kind of sources mailbox cannot be loaded (ModuleNotFoundError" in done.text
    assert "Traceback" not in done.text


@pytest.fixture
def books(package: Package) -> Ledger:
    """A ledger beside the mailbox, both in one plan."""
    (package.site / "backup.yaml").write_text(LEDGER_SETTINGS)
    ledger = Ledger(package.site / "books")
    ledger.folder.mkdir()
    ledger.switch(ledger.add(ENTRIES))
    return ledger


def applied(package: Package, made: str) -> Output:
    plan = json.loads(package.run("restore", made, "books", "--json").out)
    return package.run(
        "restore", made, "books", "--apply", "--plan-id", plan["plan_id"], "--confirm", "books", "--json"
    )


def test_a_database_from_outside_is_drilled_restored_and_undone_by_itself(package: Package, books: Ledger) -> None:
    assert package.run("env", "check").code == 0
    made = f"nightly/{json.loads(package.run('backup', 'nightly', '--json').out)['set']}"
    assert package.run("verify", made).code == 0
    drilled = json.loads(package.run("drill", made, "--json").out)
    assert (drilled["passed"], drilled["numbers"]["rows"], drilled["numbers"]["files"]) == (True, 3, 1), drilled

    later = {"cash": "90", "bank": "2500", "till": "10"}
    books.switch(books.add(later))
    plan = json.loads(package.run("restore", made, "books", "--json").out)
    [change] = plan["tables"]
    assert [change[n] for n in ("insert", "update", "unchanged", "only_in_target")] == [1, 1, 1, 1]
    refused = package.run("restore", made, "books", "--apply", "--plan-id", "0" * 16, "--confirm", "books")
    assert refused.code == 8, refused.text
    assert books.entries() == later
    done = applied(package, made)
    assert done.code == 0, done.text
    assert books.entries() == ENTRIES
    [emergency] = [
        one for one in json.loads(package.run("list", "--json").out)["sets"] if one["purpose"] == "emergency"
    ]
    assert emergency["set"] == json.loads(done.out)["emergency_set"]

    undone = package.run("undo", "nightly/books", "--apply", "--confirm", "books")
    assert undone.code == 0, undone.text
    assert books.entries() == later
    dropped = package.run("undo", "nightly/books", "--drop-kept", "--apply", "--confirm", "books")
    assert dropped.code == 0, dropped.text
    assert [path.name for path in books.folder.glob("*.jsonl")] == [books.live]


def test_a_restore_of_a_database_from_outside_that_was_killed_is_settled(package: Package, books: Ledger) -> None:
    made = f"nightly/{json.loads(package.run('backup', 'nightly', '--json').out)['set']}"
    before = books.live
    assert applied(package, made).code == 0
    [kept] = (package.site / "backups" / "nightly" / "restores").glob("*.json")
    known = json.loads(kept.read_text())
    # As a process leaves it that is killed before it switched.
    kept.write_text(json.dumps(known | {"swapping": True}))
    books.switch(before)
    assert package.run("undo", "nightly/books").code == 8
    assert not kept.exists()


def test_a_database_from_outside_is_drilled_when_its_source_has_left(package: Package, books: Ledger) -> None:
    made = f"nightly/{json.loads(package.run('backup', 'nightly', '--json').out)['set']}"
    (package.site / "backup.yaml").write_text(SETTINGS)
    drilled = json.loads(package.run("drill", made, "--json").out)
    assert (drilled["passed"], drilled["numbers"]["rows"]) == (True, 3), drilled


def test_a_restore_whose_kind_is_not_installed_any_more_is_named(package: Package, books: Ledger) -> None:
    made = f"nightly/{json.loads(package.run('backup', 'nightly', '--json').out)['set']}"
    assert applied(package, made).code == 0
    [kept] = (package.site / "backups" / "nightly" / "restores").glob("*.json")
    kept.write_text(kept.read_text().replace('"kind": "ledger"', '"kind": "ledgers_of_old"'))
    refused = package.run("undo", "nightly/books", "--apply", "--confirm", "books")
    assert refused.code == 8
    assert "ledgers_of_old" in refused.text
    assert books.entries() == ENTRIES


def test_a_package_replaces_no_built_in_restorer(package: Package) -> None:
    module = package.place / "ledger_kind.py"
    ours = module.read_text()
    for name in ("postgres", "files"):
        module.write_text(ours.replace('name: ClassVar[str] = "ledger"', f'name: ClassVar[str] = "{name}"', 2))
        asked = (
            f"from backup_pipeline.artefacts.restorer import restorer_named as r; print(type(r({name!r})).__module__)"
        )
        done = package.python(asked)
        assert done.out.startswith("backup_pipeline.sources."), done.text
