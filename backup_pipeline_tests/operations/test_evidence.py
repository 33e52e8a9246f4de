"""Evidence: what it holds, its gaps, its signature and chain, and the program that checks it with Python alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backup_pipeline.errors import BackupSystemError, RefusedError
from backup_pipeline.model.copy_records import CopyRecord
from backup_pipeline.model.evidence import EventKind, Evidence
from backup_pipeline.model.manifest import MANIFEST_NAME, Purpose
from backup_pipeline.model.proof import ProofKind, ProofOutcome
from backup_pipeline.model.restore import RestoreMode, RestoreOptions, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.alerts.acknowledge import acknowledge
from backup_pipeline.operations.alerts.send import FinishedRun, notify_run_finished
from backup_pipeline.operations.evidence.check_evidence import is_signed
from backup_pipeline.operations.evidence.history import History, HistoryRun
from backup_pipeline.operations.evidence.make import evidence_files, keys_to_check_with, make, preview, public_key
from backup_pipeline.operations.evidence.statement import read_envelope
from backup_pipeline.operations.restore.records import write_result
from backup_pipeline.operations.sites.copy_proofs import CopyProof
from backup_pipeline.operations.sites.copy_records import change_record, with_copy
from backup_pipeline.operations.sites.foreign_backups import foreign_backups
from backup_pipeline.rules.periods import period_of
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.stores.set_index import index_name, listed_sets
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set

BEGIN, END, NOW = at("2026-10-01 00:00"), at("2026-11-01 00:00"), at("2026-11-21 12:00")
DAY = timedelta(days=1)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    return load_site(tmp_path, environment={})


@pytest.fixture
def store(site: Site) -> LocalStore:
    """A month of daily sets but of two days, one of them drilled well and one badly."""
    store = LocalStore(site.store_folder("nightly"), "nightly")
    days = [at("2026-09-30 02:00") + DAY * number for number in range(33)]
    sets = [make_set(store, day) for day in days if day.day not in (14, 15)]
    add_proof(store, sets[5], ProofKind.DRILL, at("2026-10-06 05:00"), passed=False, findings=["2 rows are missing"])
    add_proof(store, sets[6], ProofKind.DRILL, at("2026-10-07 05:00"), rto_seconds=31.0, rpo_seconds=7200.0)
    return store


def _made(site: Site, begin: datetime = BEGIN, end: datetime = END, history: History | None = None) -> Evidence:
    return preview(site, "nightly", begin, end, history or History(known=True), now=NOW)


def _checked(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the checking program by an interpreter that sees no installed package."""
    program, *others = map(str, arguments)
    return subprocess.run([sys.executable, "-I", "-S", program, *others], capture_output=True, text=True, check=False)


def test_signed_evidence_is_of_the_files_and_pages_are_by_the_index(site: Site, store: LocalStore) -> None:
    listed_sets(store, settled_seconds=0)
    paged = partial(preview, site, "nightly", BEGIN, END, History(known=True), now=NOW, from_files=False)
    assert paged() == paged() == _made(site)
    index = store.folder / index_name("nightly")
    head, _, body = index.read_bytes().partition(b"\n")
    body = body.replace(b'"rows":10', b'"rows":11').replace(b'"rto_seconds":31.0', b'"rto_seconds":1.0')
    index.write_bytes(head[: head.rindex(b" ") + 1] + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    assert paged() != _made(site)
    (drill,) = [one for one in _made(site).of_kind(EventKind.DRILL) if one.good]
    assert drill.figures["rto_seconds"] == 31.0
    manifest = store.folder / _made(site).of_kind(EventKind.BACKUP)[0].subject / MANIFEST_NAME
    assert _made(site).of_kind(EventKind.BACKUP)[0].sha256 == hashlib.sha256(manifest.read_bytes()).hexdigest()
    for damage in (b"", os.urandom(500)):
        index.write_bytes(damage)
        assert paged() == _made(site)
    index.unlink()
    assert paged() == _made(site)


def test_every_backup_and_drill_of_the_period_is_there_and_no_other(site: Site, store: LocalStore) -> None:
    found = _made(site)
    backups = found.of_kind(EventKind.BACKUP)
    assert len(backups) == 29
    assert {one.subject[:7] for one in backups} == {"2026-10"}
    assert all(re.fullmatch("[0-9a-f]{64}", one.sha256) for one in backups)
    assert [(one.good, one.detail) for one in found.of_kind(EventKind.DRILL)] == [
        (False, "a: 2 rows are missing"),
        (True, ""),
    ]


def test_an_emergency_set_is_whole_and_counts_neither_for_nor_against_the_plan(site: Site, store: LocalStore) -> None:
    before = _made(site)
    made = make_set(store, at("2026-10-14 11:00"), partial=True, purpose=Purpose.EMERGENCY)
    found = _made(site)
    (one,) = [event for event in found.of_kind(EventKind.BACKUP) if event.subject == made]
    assert (one.outcome, one.good) == ("complete, not counted", False)
    assert found.gaps == before.gaps
    assert found.demands == before.demands


def test_days_without_a_backup_are_named_as_a_gap(site: Site, store: LocalStore) -> None:
    gap = next(one for one in _made(site).gaps if "good backup" in one.what)
    assert (gap.begin.day, gap.end.day) == (13, 16)
    assert "2026-10-14" in gap.what


def test_a_month_without_gaps_has_none_and_an_unknown_time_is_one(site: Site, store: LocalStore) -> None:
    assert _made(site, end=at("2026-10-13 12:00")).gaps == ()
    early = _made(site, begin=at("2026-09-01 00:00"), end=at("2026-10-02 00:00"))
    # Nobody knows whether the plan was there in September: nothing of it counts as missed.
    assert [gap.what for gap in early.gaps if "drill" not in gap.what] == [
        "nothing is known of the plan from this time"
    ]
    before = _made(site, begin=at("2026-08-01 00:00"), end=at("2026-08-15 00:00"))
    assert [gap.what for gap in before.gaps] == ["nothing is known of the plan from this time"]


def test_who_asked_comes_from_the_history_and_failed_runs_are_events(site: Site, store: LocalStore) -> None:
    runs = [
        HistoryRun("run-2026-10-02T020000Z", "backup", "", "schedule nightly", BEGIN + DAY, BEGIN + 2 * DAY, False),
        HistoryRun("f00d", "backup", "", "ui, anna", BEGIN + 13 * DAY, BEGIN + 13.1 * DAY, True),
    ]
    found = _made(site, history=History(runs, known=True))
    by_run = {one.run_id: one for one in found.events}
    assert by_run["run-2026-10-02T020000Z"].who == "schedule nightly"
    assert by_run["run-2026-10-03T020000Z"].who == "not recorded"
    assert (by_run["f00d"].kind, by_run["f00d"].who, by_run["f00d"].good) == (EventKind.RUN, "ui, anna", False)


def test_a_restore_that_failed_is_a_restore_with_who_asked_and_why(site: Site, store: LocalStore) -> None:
    day, name = BEGIN + 3 * DAY, "nightly/2026-10-02T020000Z"
    runs = [
        HistoryRun("bad", "restore", name, "ui, anna", day, day, True, "apply", "shop", "A constraint refused a row."),
        HistoryRun("look", "restore", name, "ui, anna", day, day, True, "plan", "shop"),
    ]
    found = _made(site, history=History(runs, known=True))
    (failed,) = found.of_kind(EventKind.RESTORE)
    assert (failed.subject, failed.outcome, failed.good) == ("shop from 2026-10-02T020000Z", "failed", False)
    assert (failed.who, failed.detail) == ("ui, anna", "A constraint refused a row.")
    assert [one.subject for one in found.of_kind(EventKind.RUN)] == [f"plan of a restore {name}"]
    answer = next(one for one in found.demands if one.place == "Annex 4.2.2(e)")
    assert answer.answer.startswith("1 restore, 0 good, 1 failed; ")


def test_a_restore_that_failed_is_not_hidden_by_the_emergency_set_it_made(site: Site, store: LocalStore) -> None:
    day = BEGIN + 3 * DAY
    emergency = make_set(store, day, partial=True, purpose=Purpose.EMERGENCY)
    name = f"nightly/{emergency}"
    runs = [HistoryRun(f"run-{emergency}", "restore", name, "ui, anna", day, day, True, "apply", "shop", "It broke.")]
    found = _made(site, history=History(runs, known=True))
    (failed,) = found.of_kind(EventKind.RESTORE)
    assert (failed.outcome, failed.good, failed.detail) == ("failed", False, "It broke.")
    answer = next(one for one in found.demands if one.place == "Annex 4.2.2(e)")
    assert answer.answer.startswith("1 restore, 0 good, 1 failed; ")


def test_who_acknowledged_an_incident_and_why_stands_beside_it(site: Site, store: LocalStore) -> None:
    moment = at("2026-10-14 09:00")
    notify_run_finished(site, "nightly", FinishedRun(succeeded=False, work="verification", reason="No answer."), moment)
    key = "run_failed:nightly:verification"
    acknowledge(site, [key], by="anna", now=moment + DAY, quiet=DAY, reason="the server moves")
    (event,) = _made(site).of_kind(EventKind.INCIDENT)
    assert event.detail == "No answer.; acknowledged by anna at 2026-10-15 09:00 UTC: the server moves"


@pytest.mark.parametrize(
    ("begin", "end"), [("2026-08-01 00:00", "2026-09-01 00:00"), ("2026-09-25 00:00", "2026-10-12 00:00")]
)
def test_a_time_of_which_nothing_is_known_shows_no_frequency(
    site: Site, store: LocalStore, begin: str, end: str
) -> None:
    found = _made(site, begin=at(begin), end=at(end))
    frequency = next(one for one in found.demands if one.place == "Article 12(1)(a)")
    assert frequency.shown is False
    assert f"nothing known {begin} to " in frequency.answer
    assert "no gaps" not in frequency.answer


@pytest.fixture
def copied(site: Site, store: LocalStore, tmp_path: Path) -> Site:
    """The month, with two copies made late in October, one of them of an emergency set, and a drill from the vault."""
    copies = "    copies: [{to: nas}]\nvaults:\n  nas: {url: 'file:///mnt/nas', encryption: none, off_site: true}\n"
    (tmp_path / "backup.yaml").write_text(SITE + copies, "utf-8")
    site, moment = load_site(tmp_path, environment={}), at("2026-10-30 04:00")
    for name, purpose in (("one", Purpose.BACKUP), ("two", Purpose.EMERGENCY)):
        set_id = SetId(f"2026-10-{30 if name == 'one' else 29}T020000Z")
        copy = CopyRecord(set_id=set_id, copy_name=name, purpose=purpose, copied_at=moment)
        change_record(site, "nas", partial(with_copy, plan="nightly", copy=copy))
    proof = CopyProof(
        copy_name="one", kind=ProofKind.DRILL, outcome=ProofOutcome.PASSED, finished_at=at("2026-10-31 04:00")
    )
    notes = tmp_path / ".backup-pipeline" / "vault-proofs" / "nas.json"
    notes.parent.mkdir()
    notes.write_text(json.dumps({"vault": "", "proofs": {"one/x": proof.model_dump(mode="json")}}))
    return site


def test_a_drill_read_from_a_vault_is_a_drill_of_the_period(copied: Site) -> None:
    moment = at("2026-10-31 04:00")
    runs = [HistoryRun("vault", "drill_from_nas", "", "schedule x", moment - DAY / 24, moment + DAY / 24, False)]
    drill = _made(copied, history=History(runs, known=True)).of_kind(EventKind.DRILL)[-1]
    assert (drill.subject, drill.good, drill.who) == ("nas:nightly/2026-10-30T020000Z", True, "schedule x")


def test_copies_are_those_of_the_end_of_the_period(copied: Site) -> None:
    def away(begin: str, end: str) -> tuple[str, bool | None]:
        found = _made(copied, begin=at(begin), end=at(end)).demands
        return next((one.answer, one.shown) for one in found if one.place == "Annex 4.2.2(c)")

    text, shown = away("2026-10-01 00:00", "2026-11-01 00:00")
    assert (text.partition(", not")[0], shown) == (
        "1 copy of whole backups in 1 vault off site, 1 more of emergency or partial sets",
        True,
    )
    assert "1 proven from there" in text
    assert "0 proven from there" in away("2026-10-01 00:00", "2026-10-31 00:00")[0]
    text, shown = away("2026-09-01 00:00", "2026-10-02 00:00")
    assert (text.startswith("no copy off this machine at the end of the period"), shown) == (True, False)


def test_a_month_without_a_backup_shows_no_retention(site: Site, store: LocalStore) -> None:
    def shown(begin: str, end: str) -> bool | None:
        found = _made(site, begin=at(begin), end=at(end)).demands
        return next(one.shown for one in found if one.place == "Annex 4.2.2(f)")

    assert (shown("2026-10-01 00:00", "2026-11-01 00:00"), shown("2026-08-01 00:00", "2026-09-01 00:00")) == (
        True,
        False,
    )


def test_who_took_a_restore_back_is_known_from_the_history(site: Site, store: LocalStore) -> None:
    done = RestoreResult(
        restore_id="r",
        plan_id="p",
        set_id=SetId("2026-10-02T020000Z"),
        plan="nightly",
        source="files",
        kind="files",
        options=RestoreOptions(mode=RestoreMode.UPSERT),
        target="files",
        restored="files",
        started_at=BEGIN + 3 * DAY,
        finished_at=BEGIN + 3 * DAY,
        undone_at=BEGIN + 4 * DAY,
    )
    store.prepare()
    write_result(site, done)
    runs = [HistoryRun("beef", "undo", "", "front page from 10.0.0.7", BEGIN + 3.9 * DAY, BEGIN + 4.1 * DAY, False)]
    found = _made(site, history=History(runs, known=True))
    assert [one.outcome for one in found.of_kind(EventKind.RESTORE)] == ["rows restored"]
    (back,) = found.of_kind(EventKind.UNDO)
    files = done.model_copy(update={"restore_id": "s", "options": RestoreOptions(files=("a.txt",)), "undone_at": None})
    write_result(site, files)
    assert "selected files put in place; target files" in [one.detail for one in _made(site).of_kind(EventKind.RESTORE)]
    assert (back.who, back.run_id, back.at) == ("front page from 10.0.0.7", "beef", BEGIN + 4 * DAY)


def test_sets_that_retention_removed_are_known_from_the_run_log(site: Site, store: LocalStore) -> None:
    outcome = "nightly/2026-10-14T020000Z complete, 5 artefacts, 70 rows, 900 bytes, 3 s"
    (store.folder / "backup_log.txt").write_text(f"2026-10-14 02:05:00 - backup - INFO - {outcome}\n")
    event = next(one for one in _made(site).events if one.subject == "2026-10-14T020000Z")
    assert event.figures == {"artefacts": 5, "rows": 70, "bytes": 900}
    assert "not in the store any more" in event.detail


def test_demands_are_answered_from_the_events_and_not_by_assertion(site: Site, store: LocalStore) -> None:
    answers = {one.place: one for one in _made(site).demands}
    assert "1 drill failed, 1 followed by one that passed" in answers["Annex 4.2.6"].answer
    assert "31 s" in answers["Annex 4.2.2(a)"].answer
    assert answers["Annex 4.2.2(c)"].shown is False
    assert answers["Annex 4.2.2(d)"].shown is None
    assert answers["Article 12(1)(a)"].shown is False
    without = {one.place: one for one in _made(site, begin=at("2026-10-10 00:00")).demands}
    assert without["Annex 4.2.6"].shown is False
    add_proof(store, store.ids()[9], ProofKind.DRILL, at("2026-10-10 05:00"), passed=False, findings=["a row"])
    uncorrected = {one.place: one for one in _made(site).demands}["Annex 4.2.6"]
    assert (uncorrected.shown, uncorrected.answer) == (
        False,
        "3 drills, 1 passed; 2 drills failed, 1 followed by one that passed",
    )


def test_a_chain_is_checked_by_a_program_that_needs_only_python(site: Site, store: LocalStore, tmp_path: Path) -> None:
    for day in (8, 15, 22):
        make(site, _made(site, at(f"2026-10-{day - 7:02} 00:00"), at(f"2026-10-{day:02} 00:00")), made_by="anna")
    files = evidence_files(site, "nightly")
    assert [read_envelope(path).number for path in files] == [1, 2, 3]
    assert foreign_backups(site, "nightly") == []
    shutil.copytree(files[0].parent, tmp_path / "auditor")
    program = tmp_path / "auditor" / "check_evidence.py"
    done = _checked(program, "--key", public_key(site), tmp_path / "auditor")
    assert (done.returncode, done.stdout.count(": valid\n"), done.stderr) == (0, 3, "")
    assert "1 drill passed, 0 gaps: valid" in done.stdout
    other = "ed25519:" + base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    assert _checked(program, "--key", other, tmp_path / "auditor").returncode == 1
    assert _checked(program, "--key", "ed25519:AAAA", tmp_path / "auditor").returncode == 2


@pytest.mark.parametrize("change", ["an event", "a file is missing", "another second", "a file twice", "cut off"])
def test_a_changed_chain_is_found(site: Site, store: LocalStore, change: str) -> None:
    for end in (8, 9, 10):
        make(site, _made(site, BEGIN, at(f"2026-10-{end:02} 00:00")), made_by="anna")
    first, second, third = evidence_files(site, "nightly")
    if change == "an event":
        document = json.loads(second.read_text())
        payload = base64.b64decode(document["payload"]).replace(b'"good":false', b'"good":true')
        second.write_text(json.dumps({**document, "payload": base64.b64encode(payload).decode()}))
    elif change == "a file is missing":
        second.unlink()
    elif change == "another second":
        third.unlink()
        second.unlink()
        make(site, _made(site, BEGIN, at("2026-10-05 00:00")), made_by="somebody else")
        written = evidence_files(site, "nightly")[-1]
        written.rename(second)
        make(site, _made(site, BEGIN, at("2026-10-06 00:00")), made_by="x")
        second.unlink()
    elif change == "a file twice":
        shutil.copy(second, second.with_name("0004_copy.dsse.json"))
    else:
        third.write_bytes(third.read_bytes()[:-200])
    done = _checked(first.with_name("check_evidence.py"), "--key", public_key(site), first.parent)
    assert done.returncode == 1, done.stdout


def test_a_number_is_never_signed_twice_and_the_end_of_the_chain_is_named(site: Site, store: LocalStore) -> None:
    for day in (8, 9, 10):
        make(site, _made(site, BEGIN, at(f"2026-10-{day:02} 00:00")), made_by="anna")
    first, _, third = evidence_files(site, "nightly")
    program, key = first.with_name("check_evidence.py"), public_key(site)
    third.unlink()
    cut = _checked(program, "--key", key, first.parent)
    assert (cut.returncode, "ends with number 2, SHA-256 " in cut.stdout) == (0, True)
    fourth = make(site, _made(site, BEGIN, at("2026-10-11 00:00")), made_by="anna")
    assert read_envelope(fourth).number == 4
    shown = _checked(program, "--key", key, first.parent)
    assert (shown.returncode, "number 3 is missing here" in shown.stdout) == (1, True)
    for path in evidence_files(site, "nightly"):
        path.unlink()
    assert read_envelope(make(site, _made(site), made_by="anna")).number == 5


def test_evidence_is_not_chained_to_what_the_site_has_not_signed(site: Site, store: LocalStore) -> None:
    first = make(site, _made(site, BEGIN, at("2026-10-08 00:00")), made_by="anna")
    document = json.loads(first.read_text())
    payload = base64.b64decode(document["payload"]).replace(b'"number":1', b'"number":9998')
    forged = first.with_name("9998_forged.dsse.json")
    forged.write_text(json.dumps({**document, "payload": base64.b64encode(payload).decode()}))
    with pytest.raises(RefusedError, match="No key of this site has signed") as caught:
        make(site, _made(site), made_by="anna")
    assert caught.value.where == str(forged)
    forged.unlink()
    assert read_envelope(make(site, _made(site), made_by="anna")).number == 2


def test_a_new_machine_goes_on_with_the_chain_of_the_earlier_one(site: Site, store: LocalStore, tmp_path: Path) -> None:
    first = make(site, _made(site, BEGIN, at("2026-10-08 00:00")), made_by="anna")
    earlier = public_key(site)
    shutil.rmtree(tmp_path / ".backup-pipeline")
    with pytest.raises(RefusedError, match="No key of this site has signed"):
        make(site, _made(site), made_by="anna")
    vault = f"\nvaults:\n  nas: {{url: 'file:///mnt/nas', encryption: none, signers: ['{earlier}']}}\n"
    (tmp_path / "backup.yaml").write_text(SITE + vault, "utf-8")
    anew = load_site(tmp_path, environment={})
    assert read_envelope(make(anew, _made(site), made_by="anna")).number == 2
    program = first.with_name("check_evidence.py")
    os.mkfifo(first.parent / "0000_pipe.dsse.json")
    assert keys_to_check_with(anew, ["nightly"]) == [public_key(site), earlier]
    # One that has signed nothing is of no use to an auditor.
    other = "ed25519:" + base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    (tmp_path / "backup.yaml").write_text(SITE + vault.replace(earlier, f"{other}', '{earlier}"), "utf-8")
    assert keys_to_check_with(load_site(tmp_path, environment={}), ["nightly"]) == [public_key(site), earlier]
    (first.parent / "0000_pipe.dsse.json").unlink()
    both = _checked(program, "--key", public_key(site), "--key", earlier, first.parent)
    lines = both.stdout.splitlines()
    assert (both.returncode, [line[-10:] for line in lines[:2]]) == (0, ["with key 2", "with key 1"])
    assert _checked(program, "--key", earlier, first.parent).returncode == 1


def test_hostile_files_neither_stop_the_check_nor_speak_in_it(site: Site, store: LocalStore) -> None:
    for day in (8, 9):
        make(site, _made(site, BEGIN, at(f"2026-10-{day:02} 00:00")), made_by="anna")
    folder = evidence_files(site, "nightly")[0].parent
    os.mkfifo(folder / "0000_pipe.dsse.json")
    (folder / "0003_nested.dsse.json").write_text("[" * 100_000)
    (folder / "0004_list.dsse.json").write_text('{"payload": "W10=", "payloadType": "x", "signatures": [{"sig": ""}]}')
    unsigned = json.loads((folder / evidence_files(site, "nightly")[-1].name).read_text())
    lie = base64.b64decode(unsigned["payload"]).replace(b'"plan":"nightly"', b'"plan":"x\\n\\u001b[2J valid"')
    unsigned["payload"] = base64.b64encode(lie).decode()
    (folder / "0005_a\nb valid.dsse.json").write_text(json.dumps(unsigned))
    done = _checked(folder / "check_evidence.py", "--key", public_key(site), folder)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, "")
    assert sum(line.endswith(": valid") for line in lines) == 2
    assert sum("does not count" in line for line in lines) == 4
    assert "\x1b" not in done.stdout


def test_the_checking_program_agrees_with_a_library_on_signatures() -> None:
    for number in range(6):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        public, message = key.public_key().public_bytes_raw(), b"m" * number
        signature = key.sign(message)
        assert is_signed(public, message, signature)
        assert not is_signed(public, message + b".", signature)
        assert not is_signed(public, message, signature[:-1] + bytes([signature[-1] ^ 1]))
    # A value of S beyond the group's order must be refused (RFC 8032, 5.1.7): else signatures can be changed.
    order = 2**252 + 27742317777372353535851937790883648493
    longer = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    assert not is_signed(public, message, longer)


def test_a_period_that_is_empty_or_has_not_begun_is_refused(site: Site, store: LocalStore) -> None:
    with pytest.raises(RefusedError, match="empty or has not begun"):
        _made(site, NOW + DAY, NOW + 2 * DAY)
    for text in ("2026-13", "yesterday", "2026-11-05..2026-11-01", "9999", ""):
        with pytest.raises(BackupSystemError, match="no period"):
            period_of(text, "UTC")


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("2026-11", "2026-10-31 23:00", "2026-11-30 23:00"),
        ("2026-Q4", "2026-09-30 22:00", "2026-12-31 23:00"),
        ("2026", "2025-12-31 23:00", "2026-12-31 23:00"),
        ("2026-10-25", "2026-10-24 22:00", "2026-10-25 23:00"),
        ("2026-11-01..2026-11-02", "2026-10-31 23:00", "2026-11-02 23:00"),
    ],
)
def test_periods_are_whole_days_of_the_sites_zone(text: str, begin: str, end: str) -> None:
    assert period_of(text, "Europe/Berlin") == (at(begin), at(end))
