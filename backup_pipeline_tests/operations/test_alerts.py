"""Alerts of a site, end to end to a real SMTP or HTTP server: once per incident, once when it is over, no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.errors import IncidentNotFoundError, RefusedError
from backup_pipeline.model.manifest import Draft, Manifest
from backup_pipeline.model.proof import Finding, Proof, ProofKind
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord, CheckResult, FileRecord
from backup_pipeline.model.set_id import set_id_at
from backup_pipeline.operations.alerts import send as alerts
from backup_pipeline.operations.alerts.acknowledge import acknowledge
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.operations.status import incident_state as alerts_state
from backup_pipeline.operations.status.set_summaries import set_summaries
from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline_tests.support.receivers import Requests, http_server, smtp_server

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PASSWORD = "sehr-geheim-4711"
SETTINGS = """
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL}
plans:
  nightly: {sources: [shop], schedule: "0 2 * * *", ping_env: PING_URL}
alerts: {urls_env: ALERT_URLS, ui_url_env: UI_URL}
"""


@pytest.fixture
def web() -> Iterator[Requests]:
    with http_server() as running:
        yield running


def make_site(folder: Path, **environment: str) -> Site:
    (folder / "backup.yaml").write_text(SETTINGS)
    return load_site(
        folder,
        environment={"SHOP_URL": f"postgresql://shop:{PASSWORD}@db/shop", "UI_URL": "http://ui:3000/"} | environment,
    )


@pytest.fixture
def site(tmp_path: Path, web: Requests) -> Site:
    return make_site(tmp_path, ALERT_URLS=web.url.replace("http", "json") + "/hook", PING_URL=f"{web.url}/ping/abc")


def messages(web: Requests) -> list[str]:
    return [
        f"{found['title']}\n{found['message']}"
        for path, body in web.seen
        if path == "/hook"
        for found in [json.loads(body)]
    ]


def seal_set(site: Site, at: datetime, *checks: CheckResult, partial: bool = False, plan: str = "nightly") -> None:
    """Make a sealed set of the plan with one dump whose checks are given."""
    store = open_store(site, plan)
    set_id = set_id_at(at)
    writer = store.begin(
        Draft(set_id=set_id, plan=plan, root_run_id="r", sources=("shop",), partial=partial, started_at=at)
    )
    with writer.create("shop_db.sql.gz") as file:
        file.write(b"x")
    record = ArtefactRecord(
        key=("shop", "dump"),
        source="shop",
        kind=ArtefactKind.POSTGRES_DUMP,
        set_id=set_id,
        files=(FileRecord(path="shop_db.sql.gz", size=file.size, sha256=file.sha256),),
        source_label="shop@db:5432/shop",
        checks=checks,
        started_at=at,
        finished_at=at,
    )
    writer.write_record(record)
    writer.seal(
        Manifest(
            set_id=set_id,
            plan=plan,
            sources=("shop",),
            partial=partial,
            started_at=at,
            sealed_at=at,
            run_id="r",
            root_run_id="r",
            pipeline_version="1",
            artefacts=(record,),
        )
    )


def add_proof(site: Site, at: datetime, kind: ProofKind, *findings: Finding, found_at: datetime) -> None:
    store = open_store(site, "nightly")
    proof = Proof(
        kind=kind,
        set_id=set_id_at(at),
        plan="nightly",
        manifest_sha256="0" * 64,
        started_at=found_at,
        finished_at=found_at,
        passed=not findings,
        findings=findings,
    )
    store.add_proof(set_id_at(at), proof)


def test_a_failed_run_is_reported_once_though_the_sensor_sees_it_and_once_when_over(site: Site, web: Requests) -> None:
    for _ in range(2):
        alerts.notify_run_finished(
            site,
            "nightly",
            alerts.FinishedRun(
                succeeded=False,
                run_id="run-1",
                set_id="2026-11-21T020000Z",
                artefact="shop.dump",
                reason=f"No answer from shop with {PASSWORD}.",
                remedy="Start the server.",
            ),
            NOON,
        )
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=True, run_id="run-2"), NOON + HOUR)
    # The daemon was asleep and only now reports the run that failed.
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=False, run_id="run-1"), NOON)
    first, second = messages(web)
    for text in ("nightly", "2026-11-21T020000Z", "shop.dump", "Start the server.", "http://ui:3000/runs/run-1"):
        assert text in first
    assert PASSWORD not in first + second
    assert "over" in second


def test_the_success_of_a_partial_run_ends_nothing(site: Site, web: Requests) -> None:
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=False), NOON)
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=True, partial=True), NOON + HOUR)
    assert len(alerts_state.read_state(site).open) == 1


def test_an_overdue_backup_is_told_once_and_its_end_too(site: Site, web: Requests) -> None:
    seal_set(site, NOON - 34 * HOUR)
    for minutes in range(3):
        alerts.evaluate_incidents(site, NOON + timedelta(minutes=minutes))
    assert len(messages(web)) == 1
    assert "The backup is overdue." in messages(web)[0]
    seal_set(site, NOON + HOUR)
    alerts.evaluate_incidents(site, NOON + 2 * HOUR)
    assert "over: nightly: The backup is overdue." in messages(web)[1]


def test_an_acknowledged_incident_is_quiet_until_it_becomes_worse(site: Site, web: Requests) -> None:
    def damage(at: datetime, found_at: datetime) -> None:
        add_proof(site, at, ProofKind.VERIFICATION, Finding(subject="a", problem="changed"), found_at=found_at)

    first, second = NOON - 26 * HOUR, NOON - 2 * HOUR
    seal_set(site, first)
    damage(first, NOON - 25 * HOUR)
    seal_set(site, second)
    alerts.evaluate_incidents(site, NOON)
    (key,) = [incident.key for incident in alerts_state.read_state(site).open if incident.kind == "damaged"]
    acknowledge(site, [key], by="anna", now=NOON, quiet=timedelta(days=7), reason=f"known \n, see {PASSWORD}")
    (known,) = [incident for incident in alerts_state.read_state(site).open if incident.key == key]
    assert known.acknowledged
    assert known.acknowledged.sentence == "acknowledged by anna until 2026-11-28 12:00 UTC: known , see ***"
    before = len(messages(web))
    alerts.evaluate_incidents(site, NOON + HOUR)
    assert len(messages(web)) == before
    damage(second, NOON + HOUR)
    alerts.evaluate_incidents(site, NOON + 2 * HOUR)
    assert "A set is damaged (2 sets in all)." in messages(web)[before]
    assert "it has become worse" in messages(web)[before]


def test_an_acknowledged_incident_is_told_again_when_its_time_is_over(site: Site, web: Requests) -> None:
    seal_set(site, NOON - 34 * HOUR)
    alerts.evaluate_incidents(site, NOON)
    acknowledge(site, ["overdue:nightly"], by="anna", now=NOON, quiet=timedelta(days=1))
    alerts.evaluate_incidents(site, NOON + 23 * HOUR)
    assert len(messages(web)) == 1
    alerts.evaluate_incidents(site, NOON + 24 * HOUR)
    assert "has ended, and it is still so." in messages(web)[1]


def test_an_acknowledgement_needs_a_name_an_end_and_an_open_incident(site: Site, web: Requests) -> None:
    seal_set(site, NOON - 34 * HOUR)
    alerts.evaluate_incidents(site, NOON)
    week = timedelta(days=7)
    with pytest.raises(RefusedError, match="a name is missing"):
        acknowledge(site, ["overdue:nightly"], by=" \n", now=NOON, quiet=week)
    with pytest.raises(RefusedError, match="for at most 30 days"):
        acknowledge(site, ["overdue:nightly"], by="anna", now=NOON, quiet=timedelta(days=31))
    with pytest.raises(IncidentNotFoundError, match=r"overdue:monthly: No such incident is open"):
        acknowledge(site, ["overdue:nightly", "overdue:monthly"], by="anna", now=NOON, quiet=week)
    assert [incident.acknowledged for incident in alerts_state.read_state(site).open] == [None]


def test_partial_sets_do_not_count_as_backups_of_the_plan(site: Site, web: Requests) -> None:
    seal_set(site, NOON - 34 * HOUR)
    seal_set(site, NOON - HOUR, partial=True)
    alerts.evaluate_incidents(site, NOON)
    assert "overdue" in messages(web)[0]


def test_a_failed_check_of_a_green_run_is_told_and_its_end_too(site: Site, web: Requests) -> None:
    bad = CheckResult(name="row_count", passed=False, severity="WARN", summary="12 rows, 5000 in the last set")
    seal_set(site, NOON - 2 * HOUR, bad)
    alerts.evaluate_incidents(site, NOON)
    seal_set(site, NOON - HOUR, bad)
    alerts.evaluate_incidents(site, NOON + HOUR)
    seal_set(site, NOON, bad.model_copy(update={"passed": True}))
    alerts.evaluate_incidents(site, NOON + 2 * HOUR)
    first, second = messages(web)
    assert "Check row_count of shop.dump failed (WARN)." in first
    assert "12 rows, 5000 in the last set" in first
    assert "Over:" in second


def test_a_drill_that_did_not_prove_and_a_damaged_set_are_told(site: Site, web: Requests) -> None:
    seal_set(site, NOON - 2 * HOUR)
    add_proof(
        site, NOON - 2 * HOUR, ProofKind.DRILL, Finding(subject="public.orders", problem="1 row missing"), found_at=NOON
    )
    add_proof(
        site,
        NOON - 2 * HOUR,
        ProofKind.VERIFICATION,
        Finding(subject="shop_db.sql.gz", problem="changed"),
        found_at=NOON,
    )
    alerts.evaluate_incidents(site, NOON)
    (text,) = messages(web)
    assert "public.orders: 1 row missing" in text
    assert "shop_db.sql.gz: changed" in text
    seal_set(site, NOON - HOUR)
    add_proof(site, NOON - HOUR, ProofKind.DRILL, found_at=NOON + HOUR)
    alerts.evaluate_incidents(site, NOON + HOUR)
    assert "did not prove" in messages(web)[1]
    assert "over:" in messages(web)[1]


def test_the_store_itself_reports_sets_kept_because_the_newest_is_bad(site: Site, web: Requests) -> None:
    for hours in range(40 * 24, 0, -24):
        seal_set(site, NOON - (hours - 20) * HOUR)
    alerts.evaluate_incidents(site, NOON)
    assert messages(web) == []
    add_proof(site, NOON - 4 * HOUR, ProofKind.VERIFICATION, Finding(subject="a", problem="changed"), found_at=NOON)
    alerts.evaluate_incidents(site, NOON + HOUR)
    assert "Retention refused to remove old sets." in messages(web)[0]
    assert "is bad" in messages(web)[0]


def test_a_disk_that_will_be_full_within_days_is_told_and_its_end_too(
    site: Site, web: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours in range(10 * 24, 0, -24):
        seal_set(site, NOON - (hours - 20) * HOUR)
    # Each set is one byte and stays for 30 sets: five more fit.
    monkeypatch.setattr("backup_pipeline.stores.local.LocalStore.free_bytes", lambda _: 5)
    alerts.evaluate_incidents(site, NOON)
    assert "will be full in" in messages(web)[0]
    assert str(site.store_folder("nightly")) in messages(web)[0]
    monkeypatch.setattr("backup_pipeline.stores.local.LocalStore.free_bytes", lambda _: 8)
    alerts.evaluate_incidents(site, NOON)
    assert len(messages(web)) == 1
    monkeypatch.setattr("backup_pipeline.stores.local.LocalStore.free_bytes", lambda _: 500)
    alerts.evaluate_incidents(site, NOON)
    assert "over" in messages(web)[1]


def test_plans_whose_stores_share_a_disk_fill_it_together_and_are_told_once(
    tmp_path: Path, web: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backup.yaml").write_text(SETTINGS.replace("alerts:", "  other: {sources: [shop]}\nalerts:"))
    site = load_site(tmp_path, environment={"ALERT_URLS": web.url.replace("http", "json") + "/hook"})
    for hours in range(10 * 24, 0, -24):
        seal_set(site, NOON - (hours - 20) * HOUR)
        seal_set(site, NOON - (hours - 20) * HOUR, plan="other")
    monkeypatch.setattr("backup_pipeline.stores.local.LocalStore.free_bytes", lambda _: 11)
    alerts.evaluate_incidents(site, NOON)
    (text,) = messages(web)
    assert text.count("will be full in") == 2  # the subject and the paragraph
    assert "The stores of nightly, other share it." in text


def test_damage_is_told_however_many_sets_are_newer(site: Site, web: Requests) -> None:
    for hours in range(150, 0, -1):
        seal_set(site, NOON - hours * HOUR)
    first = NOON - 150 * HOUR
    alerts.evaluate_incidents(site, NOON)
    assert messages(web) == []
    add_proof(site, first, ProofKind.VERIFICATION, Finding(subject="shop_db.sql.gz", problem="changed"), found_at=NOON)
    alerts.evaluate_incidents(site, NOON + HOUR)
    (text,) = messages(web)
    assert "A set is damaged." in text
    assert set_id_at(first) in text


def test_what_was_seen_of_a_set_is_remembered_until_its_files_change(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal_set(site, NOON - HOUR)
    store = open_store(site, "nightly")
    read: list[str] = []
    reading = LocalStore.read
    monkeypatch.setattr(LocalStore, "read", lambda store, name: read.append(name) or reading(store, name))
    for _ in range(3):
        (seen,) = set_summaries(store, running=False)
        assert seen.whole
        assert not seen.facts.verified
    assert len(read) == 1
    add_proof(site, NOON - HOUR, ProofKind.VERIFICATION, found_at=NOON)
    (seen,) = set_summaries(store, running=False)
    assert seen.verification
    assert len(read) == 2
    store.remove(seen.facts.set_id)
    assert set_summaries(store, running=False) == []


def test_what_could_not_be_delivered_is_sent_later_with_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    port = free_port()
    site = make_site(tmp_path, ALERT_URLS=f"json://127.0.0.1:{port}")
    report = alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=False), NOON)
    assert [delivery.delivered for delivery in report.deliveries] == [False]
    with http_server() as web:
        later = make_site(tmp_path, ALERT_URLS=web.url.replace("http", "json") + "/hook")
        alerts.report(later, (), NOON + timedelta(minutes=5))
        assert "The backup failed." in messages(web)[0]
        alerts.report(later, (), NOON + timedelta(minutes=15))
        assert len(messages(web)) == 1


def test_a_store_that_cannot_be_written_still_alerts_and_once(site: Site, web: Requests) -> None:
    site.settings.store.write_text("a file where the folder should be")
    for _ in range(2):
        alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(False, reason="The disk is full."), NOON)
    assert len(messages(web)) == 1
    site.settings.store.unlink()
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=True), NOON + HOUR)
    assert alerts_state.state_file(site).is_file()
    assert len(messages(web)) == 2


def test_a_store_that_cannot_be_read_is_an_incident(site: Site, web: Requests) -> None:
    site.settings.store.mkdir()
    (site.settings.store / "nightly").write_text("not a folder")
    alerts.evaluate_incidents(site, NOON)
    assert "The store cannot be read." in messages(web)[0]


def test_two_processes_at_once_tell_one_incident_once(site: Site, web: Requests, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from datetime import datetime, UTC\n"
        "from backup_pipeline.settings.loader import load_site; from backup_pipeline.operations.alerts import send\n"
        "send.notify_run_finished(load_site(Path(sys.argv[1])), 'nightly', send.FinishedRun(False),"
        " datetime(2026, 11, 21, 12, tzinfo=UTC))"
    )
    environment = os.environ | {"ALERT_URLS": site.environment["ALERT_URLS"], "SHOP_URL": "x"}
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(messages(web)) == 1


def test_what_opened_without_an_address_is_told_once_there_is_one(tmp_path: Path, web: Requests) -> None:
    site = make_site(tmp_path)
    failed = alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=False, reason="no disk"), NOON)
    assert (failed.reported, failed.deliveries) == (0, ())
    # Days later it still lasts, for another reason; of what is over meanwhile nobody need be told.
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=False, work="drill"), NOON + HOUR)
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=True, work="drill"), NOON + 2 * HOUR)
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(False, reason="no network"), NOON + 72 * HOUR)
    state = alerts_state.read_state(site)
    assert [incident.reason for incident in state.open] == ["no network"]
    assert state.open[0].opened_at == NOON
    assert messages(web) == []

    with_address = make_site(tmp_path, ALERT_URLS=web.url.replace("http", "json") + "/hook")
    assert alerts.report(with_address, (), NOON + 73 * HOUR).reported == 1
    (message,) = messages(web)
    assert "no network" in str(message)
    assert alerts.report(with_address, (), NOON + 74 * HOUR).reported == 0


def test_what_is_remembered_is_closed_to_others(site: Site) -> None:
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=False), NOON)
    file = alerts_state.state_file(site)
    modes = {path: path.stat().st_mode & 0o777 for path in (file, file.parent, site.settings.store)}
    assert modes == {file: 0o600, file.parent: 0o700, site.settings.store: 0o700}


def test_damaged_incidents_are_kept_aside_and_people_are_still_alerted(site: Site, web: Requests) -> None:
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=False), NOON)
    alerts_state.state_file(site).write_text("{ torn")
    alerts.notify_run_finished(site, "nightly", alerts.FinishedRun(succeeded=False), NOON + HOUR)
    assert len(messages(web)) == 2
    assert len(alerts_state.read_state(site).open) == 1
    [former] = (alerts_state.state_file(site).parent / ".former").glob("incidents.json.*")
    assert former.read_text() == "{ torn"


def test_the_plans_switch_is_told_and_no_secret_with_it(site: Site, web: Requests) -> None:
    assert alerts.ping_start(site, "nightly") == ""
    assert alerts.ping_fail(site, "nightly", f"no answer from postgresql://shop:{PASSWORD}@db/shop") == ""
    assert alerts.ping_success(site, "nightly", "1 artefact") == ""
    assert [path for path, _ in web.seen] == ["/ping/abc/start", "/ping/abc/fail", "/ping/abc"]
    assert PASSWORD not in str(web.seen)


def shell(arguments: list[str]) -> int:
    return run_app(build_app(), arguments)


def test_alerts_test_sends_a_mail_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    make_site(tmp_path)
    with smtp_server() as mailbox:
        monkeypatch.setenv(
            "ALERT_URLS", f"mailto://127.0.0.1:{mailbox.port}/?from=backup@example.org&to=ops@example.org&mode=insecure"
        )
        assert shell(["alerts", "test", "-c", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["delivered"] is True
    assert f"[{tmp_path.name}] test" in mailbox.mails[0]["subject"]


def test_alerts_test_without_an_address_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    make_site(tmp_path)
    monkeypatch.delenv("ALERT_URLS", raising=False)
    assert shell(["alerts", "test", "-c", str(tmp_path)]) == 3
    assert "ALERT_URLS" in capsys.readouterr().err


def test_alerts_list_and_check_show_what_is_open(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    seal_set(site, datetime.now(UTC).replace(microsecond=0) - 72 * HOUR)
    monkeypatch.setenv("ALERT_URLS", site.environment["ALERT_URLS"])
    assert shell(["alerts", "list", "-c", str(tmp_path)]) == 0
    assert "No incidents." in capsys.readouterr().out
    assert shell(["alerts", "check", "-c", str(tmp_path), "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["open"][0]["kind"] == "overdue"
    assert shell(["alerts", "list", "-c", str(tmp_path)]) == 0
    assert "The backup is overdue." in capsys.readouterr().out
