"""Prometheus metrics: their format and figures, who may read them, and the documented rules about them."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from starlette.testclient import TestClient

from backup_pipeline.errors import SettingsError
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.stores.local import LocalStore
from backup_pipeline.web.access import ui_access
from backup_pipeline.web.front.context import Front
from backup_pipeline.web.front.metrics import HELP
from backup_pipeline_tests.support.front_pages import guarded_pages, pages_of
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set

DOCUMENT = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text("utf-8")
RULES = next(block for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL) if "groups:" in block)
TOKEN = "a-token-of-some-length"
# name{label="value",…} value, as the exposition format has it
LINE = re.compile(r'(\w+)((?:\{\w+="(?:[^"\\\n]|\\[\\"n])*"(?:,\w+="(?:[^"\\\n]|\\[\\"n])*")*\})?) (\S+)')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "backup.yaml").write_text(SITE.replace("keep_last: 2", "keep_last: 30"), "utf-8")
    store = LocalStore(tmp_path / "backups" / "nightly", "nightly")
    make_set(store, at("2026-11-18 02:00"), sealed=False, failed="no room")
    proven = make_set(store, at("2026-11-19 02:00"))
    add_proof(store, proven, ProofKind.DRILL, at("2026-11-19 05:00"), rto_seconds=33)
    make_set(store, at("2026-11-21 02:00"), size=5000)
    return tmp_path


def figures(text: str) -> dict[str, float]:
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, line
            found[match[1] + match[2]] = float(match[3])
    return found


def test_metrics_say_what_the_stores_hold_and_every_one_has_its_help(folder: Path) -> None:
    front = Front(settings=folder / "backup.yaml", now=lambda: at("2026-11-21 12:00"))
    answer = TestClient(guarded_pages(front), base_url="http://127.0.0.1:3000").get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = figures(answer.text)
    plan = '{plan="nightly"}'
    assert found[f"backup_pipeline_last_good_timestamp_seconds{plan}"] == at("2026-11-21 02:00").timestamp()
    assert found[f"backup_pipeline_last_proven_timestamp_seconds{plan}"] == at("2026-11-19 05:00").timestamp()
    assert found[f"backup_pipeline_restore_duration_seconds{plan}"] == 33
    assert found[f"backup_pipeline_longest_pause_seconds{plan}"] == timedelta(days=2).total_seconds()
    assert found[f"backup_pipeline_last_good_size_bytes{plan}"] == 5010
    assert found[f"backup_pipeline_last_verified_timestamp_seconds{plan}"] == 0
    states = {state: found[f'backup_pipeline_sets{{plan="nightly",state="{state}"}}'] for state in ("proven", "failed")}
    assert states == {"proven": 1, "failed": 1}
    named = {name.partition("{")[0] for name in found}
    assert all(f"# TYPE {name} gauge" in answer.text and f"# HELP {name} " in answer.text for name in named)


def test_off_the_loopback_metrics_need_the_password_or_their_token() -> None:
    pages = TestClient(
        guarded_pages(Front(settings=Path("/nowhere/backup.yaml")), "a password of some length"),
        base_url="http://127.0.0.1:3000",
    )
    assert pages.get("/metrics").status_code == 401
    for given in ("", "Bearer", "Bearer wrong-token-wrong", f"Basic {TOKEN}", TOKEN):
        assert pages.get("/metrics", headers={"Authorization": given}).status_code == 401


def test_the_token_opens_the_metrics_and_nothing_else(folder: Path) -> None:
    variables = {"UI_PASSWORD": "a password of some length", "UI_METRICS_TOKEN": TOKEN}
    pages = pages_of(folder, variables=variables)
    known = {"Authorization": f"Bearer {TOKEN}"}
    assert "backup_pipeline_plan_standing" in pages.get("/metrics", headers=known).text
    assert pages.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
    for path in ("/backups", "/runs", "/metrics/", "/graphql", "/backups/nightly"):
        assert pages.get(path, headers=known).status_code == 401
    assert pages.post("/metrics", headers={**known, "Content-Type": "application/json"}).status_code == 401


def test_a_short_token_is_refused_and_the_example_is_none() -> None:
    with pytest.raises(SettingsError, match="UI_METRICS_TOKEN"):
        ui_access({"UI_METRICS_TOKEN": "short"}, "127.0.0.1")
    assert ui_access({"UI_METRICS_TOKEN": "<AT LEAST 12 CHARACTERS>"}, "127.0.0.1").metrics_token == ""
    assert TOKEN not in repr(ui_access({"UI_METRICS_TOKEN": TOKEN}, "127.0.0.1"))


def test_the_documented_rules_use_metrics_that_exist_and_the_document_names_all() -> None:
    rules = yaml.safe_load(RULES)["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        named = re.findall(r"backup_pipeline_(\w+)", rule["expr"])
        assert named
        assert set(named) <= set(HELP)
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= {"plan", "vault"}
    documented = dict(re.findall(r"^\| `(\w+)` \| [^|]*\| ([^|]+) \|$", DOCUMENT, re.MULTILINE))
    assert set(documented) == set(HELP)
    assert {name for name, text in HELP.items() if not documented[name].startswith(text.rstrip("."))} == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_documented_rules_and_the_metrics(folder: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(RULES, "utf-8")
    found = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    text = pages_of(folder).get("/metrics").text
    found = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
