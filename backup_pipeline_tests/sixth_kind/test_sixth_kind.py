"""A kind of source that another package brings goes the whole way; nothing in the product knows it."""

from __future__ import annotations

import json
import mailbox
import os
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

from backup_pipeline_tests.sixth_kind import mailbox_kind
from backup_pipeline_tests.support.sites import Output

SETTINGS = """
store: backups
sources: {mail: {kind: mailbox, path: inbox.mbox, description: The inbox.}}
plans: {nightly: {sources: [mail], schedule: "0 2 * * *", drill: "0 5 * * 0"}}
"""
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
    """The kind's package as pip would install it, and a site that uses it."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self.place = folder / "site-packages"
        metadata = self.place / "mailbox_kind-1.0.dist-info"
        metadata.mkdir(parents=True)
        self.site.mkdir()
        (self.place / "mailbox_kind.py").write_bytes(Path(mailbox_kind.__file__).read_bytes())
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mailbox-kind\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(
            "[backup_pipeline.sources]\nmailbox = mailbox_kind:MailboxKind\n", "utf-8"
        )

    def python(self, program: str, *arguments: str) -> Output:
        environment = os.environ | {
            "PYTHONPATH": str(self.place),
            "BACKUP_PIPELINE_CONFIG": str(self.site / "backup.yaml"),
            "COLUMNS": "200",
        }
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=self.site)
        return Output(done.returncode, done.stdout, done.stderr)

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


@pytest.fixture
def package(tmp_path: Path) -> Package:
    made = Package(tmp_path)
    (made.site / "backup.yaml").write_text(SETTINGS)
    write_mailbox(made.site / "inbox.mbox", ["one", "two", "three"])
    return made


@pytest.mark.takes(seconds=40)
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
