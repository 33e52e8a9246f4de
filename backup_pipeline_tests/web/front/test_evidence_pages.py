"""Evidence pages: a period, its signature, the files for an auditor, and what an attacker may try."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from backup_pipeline.model.proof import ProofKind
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.web.front.context import Front
from backup_pipeline_tests.support.front_pages import OWN, guarded_pages, pages_of
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "backup.yaml").write_text(SITE, "utf-8")
    store = LocalStore(tmp_path / "backups" / "nightly", "nightly")
    made = make_set(store, at("2026-11-20 02:00"))
    add_proof(store, made, ProofKind.DRILL, at("2026-11-20 05:00"), rto_seconds=31.0)
    make_set(store, at("2026-11-21 02:00"), sealed=False, failed="<script>alert(1)</script>")
    return tmp_path


def test_the_month_and_plan_that_are_offered_have_something(folder: Path) -> None:
    page = pages_of(folder).get("/backups/evidence").text
    assert 'name="period" value="2026-11"' in page
    assert "<option selected>nightly</option>" in page
    (folder / "backup.yaml").write_text(f"{SITE}  weekly: {{sources: [files]}}\n")
    store = LocalStore(folder / "backups" / "weekly", "weekly")
    add_proof(store, make_set(store, at("2026-10-20 02:00")), ProofKind.VERIFICATION, at("2026-12-01 05:00"))
    later = Front(settings=folder / "backup.yaml", now=lambda: at("2027-03-01 00:00"))
    page = TestClient(guarded_pages(later), base_url="http://127.0.0.1:3000").get("/backups/evidence").text
    assert 'name="period" value="2026-12"' in page
    assert "<option selected>weekly</option>" in page


def test_a_period_is_shown_signed_and_downloaded(folder: Path) -> None:
    pages = pages_of(folder)
    assert "Nothing is signed yet" in pages.get("/backups/evidence").text
    shown = pages.get("/backups/evidence/show", params={"plan": "nightly", "period": "2026-11"})
    assert "2026-11-20T020000Z" in shown.text
    assert "<script>alert(1)" not in shown.text
    assert not (folder / "backups" / "nightly" / "evidence").exists()
    signed = pages.post("/backups/evidence/sign", data={"plan": "nightly", "period": "2026-11"}, headers=OWN)
    assert signed.status_code == 303
    place = signed.headers["location"]
    assert "Number 1, signed." in pages.get(place).text
    envelope = pages.get(f"{place}?as=dsse")
    assert envelope.headers["content-disposition"].startswith("attachment")
    assert json.loads(envelope.text)["payloadType"] == "application/vnd.in-toto+json"
    assert pages.get(f"{place}?as=json").json()["plan"] == "nightly"
    assert "import argparse" in pages.get("/backups/evidence/check_evidence.py").text
    # The list names a file as its download does.
    assert f">nightly-{place.rsplit('/', 1)[1]}</a>" in pages.get("/backups/evidence").text
    assert f'filename="nightly-{place.rsplit("/", 1)[1]}"' in envelope.headers["content-disposition"]


def test_a_period_that_is_not_over_is_named_so_and_a_chain_is_checked_whole(folder: Path) -> None:
    pages, month = pages_of(folder), {"plan": "nightly", "period": f"{datetime.now(UTC):%Y}"}
    assert "The period is not over" in pages.get("/backups/evidence/show", params=month).text
    assert "is not over" not in pages.get("/backups/evidence/show", params={**month, "period": "2025"}).text
    places = [pages.post("/backups/evidence/sign", data=month, headers=OWN).headers["location"] for _ in range(2)]
    assert "all 2 files of the chain" in pages.get(places[1]).text
    assert "was not over when this was signed" in pages.get(places[1]).text


def test_an_auditor_checks_what_was_downloaded_by_the_command_shown(folder: Path, tmp_path: Path) -> None:
    pages, month = pages_of(folder), {"plan": "nightly", "period": f"{datetime.now(UTC):%Y}"}
    places = [pages.post("/backups/evidence/sign", data=month, headers=OWN).headers["location"] for _ in range(2)]
    auditor = tmp_path / "auditor"
    auditor.mkdir()
    names = []
    for place in (*(f"{place}?as=dsse" for place in places), "/backups/evidence/check_evidence.py"):
        answer = pages.get(place)
        names.append(answer.headers["content-disposition"].split('"')[1])
        (auditor / names[-1]).write_bytes(answer.content)
    [command] = re.findall(r"<code>(python3 check_evidence.py .*?)</code>", pages.get(places[1]).text)

    def checked() -> int:
        words = [sys.executable, "-I", *shlex.split(command.replace("FOLDER", "."))[1:]]
        return subprocess.run(words, cwd=auditor, capture_output=True, check=False).returncode

    assert checked() == 0
    first = auditor / names[0]
    whole = first.read_bytes()
    at_payload = whole.index(b'"payload":') + 40
    first.write_bytes(whole[:at_payload] + bytes([whole[at_payload] ^ 1]) + whole[at_payload + 1 :])
    assert checked() == 1
    first.unlink()
    assert checked() == 1
    first.write_bytes(whole)
    assert checked() == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/backups/evidence/show?plan=unknown&period=2026-11", 404),
        ("/backups/evidence/show?plan=nightly&period=%3Cb%3E", 409),
        ("/backups/evidence/show?plan=nightly&period=2199-01", 409),
        ("/backups/evidence/nightly/..%2f..%2f..%2fbackup.yaml", 404),
        ("/backups/evidence/nightly/0001_2026-11-01_2026-11-30.dsse.json", 404),
        ("/backups/evidence/..%2f/backup.yaml", 404),
    ],
)
def test_what_is_no_plan_period_or_file_is_refused(folder: Path, path: str, status: int) -> None:
    answer = pages_of(folder).get(path)
    assert answer.status_code == status
    assert "<b>" not in answer.text


def test_another_origin_cannot_sign_anything(folder: Path) -> None:
    headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    answer = pages_of(folder).post("/backups/evidence/sign", data={"plan": "nightly"}, headers=headers)
    assert answer.status_code == 403
    assert not (folder / "backups" / "nightly" / "evidence").exists()


@pytest.mark.parametrize("hostile", ["link", "pipe", "nested"])
def test_what_stands_in_the_place_of_evidence_is_not_handed_out(folder: Path, hostile: str) -> None:
    (folder / "secret").write_text("hunter2")
    place = folder / "backups" / "nightly" / "evidence" / "0001_2026-11-01_2026-11-30.dsse.json"
    place.parent.mkdir()
    if hostile == "link":
        place.symlink_to(folder / "secret")
    elif hostile == "pipe":
        os.mkfifo(place)
    else:
        place.write_text("[" * 100_000)
    for form in ("?as=dsse", "?as=json", ""):
        answer = pages_of(folder).get(f"/backups/evidence/nightly/{place.name}{form}")
        assert answer.status_code == 500
        assert "cannot be read" in answer.text
        assert "hunter2" not in answer.text
