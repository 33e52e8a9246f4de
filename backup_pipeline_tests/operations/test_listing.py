"""`list` and `show`, and the names of sets."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.errors import ExitCode, SetNotFoundError, SettingsError
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.proof import ProofKind
from backup_pipeline.operations.sites.stores import open_store, plan_lock, resolve_set
from backup_pipeline.settings.loader import load_site
from backup_pipeline_tests.support.invented_sets import SITE, add_proof, at, make_set


@pytest.fixture
def site(tmp_path):
    (tmp_path / "backup.yaml").write_text(SITE)
    return load_site(tmp_path, environment={})


@pytest.fixture
def store(site):
    return open_store(site, "nightly")


def run(site, *arguments: str) -> int:
    return run_app(build_app(), [*arguments, "--config", str(site.folder)])


def reported(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_list_tells_state_size_rows_checks_and_proof(site, store, capsys):
    first = make_set(store, at("2026-11-19 02:00"), rows=1234, tables=2, bad_checks=1)
    add_proof(store, first, ProofKind.VERIFICATION, at("2026-11-19 04:00"))
    add_proof(store, first, ProofKind.DRILL, at("2026-11-19 05:00"))
    make_set(store, at("2026-11-20 02:00"), sealed=False, failed="bucket materials is missing")
    assert run(site, "list", "--json") == 0
    one, two = reported(capsys)["sets"]
    assert (one["set"], one["state"], one["size"], one["rows"]) == (first, "complete", 1020, 2468)
    assert one["checks"] == {"passed": 6, "failed": 3}
    assert (one["verified"], one["proven"]) == (True, True)
    assert two["state"] == "incomplete"
    assert two["failures"] == [
        {"artefact": "more.tarball", "what": "bucket materials is missing", "remedy": "Look at it."}
    ]
    assert run(site, "list") == 0
    text = capsys.readouterr().out
    assert "2026-11-19T020000Z  complete" in text
    assert "more.tarball: bucket materials is missing" in text


def test_a_set_that_is_being_written_is_running_and_not_incomplete(site, store, capsys):
    make_set(store, at("2026-11-20 02:00"), sealed=False)
    with plan_lock(site, "nightly", "backup"):
        run(site, "list", "--json")
    assert reported(capsys)["sets"][0]["state"] == "running"
    run(site, "list", "--json")
    assert reported(capsys)["sets"][0]["state"] == "incomplete"


def test_a_failed_verification_is_told_with_its_finding(site, store, capsys):
    one = make_set(store, at("2026-11-20 02:00"))
    add_proof(store, one, ProofKind.VERIFICATION, at("2026-11-20 04:00"), passed=False, findings=["truncated", "gone"])
    run(site, "list", "--json")
    (found,) = reported(capsys)["sets"]
    assert found["verified"] is False
    assert found["notes"] == ["verification failed: a: truncated and 1 more"]
    run(site, "list")
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(one)]
    assert row[-2:] == ["failed", "–"]


def test_a_damaged_manifest_does_not_hide_the_other_sets(site, store, capsys):
    one = make_set(store, at("2026-11-19 02:00"))
    make_set(store, at("2026-11-20 02:00"))
    (store.folder / one / "manifest.json").write_text('{"manifest_version": 1}')
    assert run(site, "list", "--json") == 0
    assert [found["state"] for found in reported(capsys)["sets"]] == ["damaged", "complete"]


def test_no_line_is_cut_where_no_terminal_cuts_it(site, store, capsys):
    one = make_set(store, at("2026-11-20 02:00"), sealed=False, partial=True, rows=10**9, size=10**6)
    run(site, "list")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(str(one)))
    assert "incomplete (partial)" in line
    assert "1,000,000,000" in line
    assert "…" not in line


def test_a_plan_without_sets_says_how_to_make_one(site, capsys):
    assert run(site, "list") == 0
    assert f"backup-pipeline backup nightly --config {site.folder} makes one" in capsys.readouterr().out


def test_show_lists_every_artefact_with_its_digest_and_the_proofs(site, store, capsys):
    one = make_set(store, at("2026-11-19 02:00"), tables=2, bad_checks=1)
    add_proof(store, one, ProofKind.DRILL, at("2026-11-19 05:00"), rto_seconds=12.5)
    assert run(site, "show", "latest", "--json") == 0
    found = reported(capsys)
    assert [artefact["artefact"] for artefact in found["artefacts"]] == [
        "files.dump",
        "files.public.t1",
        "files.public.t2",
    ]
    assert all(len(file["sha256"]) == 64 for artefact in found["artefacts"] for file in artefact["files"])
    assert found["proofs"][0]["numbers"] == {"rto_seconds": 12.5}
    assert run(site, "show", "nightly/latest") == 0
    text = capsys.readouterr().out
    assert "files.public.t2" in text
    assert "warn files.dump: c0: looks odd" in text
    assert "rto 12.5 s" in text


def test_show_of_an_incomplete_set_says_what_is_missing_and_the_remedy(site, store, capsys):
    one = make_set(store, at("2026-11-19 02:00"), sealed=False, failed="the root is missing")
    assert run(site, "show", f"nightly/{one}") == 0
    text = capsys.readouterr().out
    assert "missing more.tarball: the root is missing" in text
    assert "→ Look at it." in text


# --- names ----------------------------------------------------------------------------------------------------------


def test_latest_is_the_newest_whole_backup(site, store):
    whole = make_set(store, at("2026-11-18 02:00"))
    make_set(store, at("2026-11-19 02:00"), partial=True)
    make_set(store, at("2026-11-20 02:00"), purpose=Purpose.EMERGENCY)
    last = make_set(store, at("2026-11-21 02:00"), sealed=False)
    assert resolve_set(site, "latest") == ("nightly", whole)
    assert resolve_set(site, "nightly/latest") == ("nightly", whole)
    assert resolve_set(site, "nightly") == ("nightly", whole)
    assert resolve_set(site, str(last)) == ("nightly", last)


def test_latest_proven_is_the_newest_that_passed_a_drill(site, store):
    proven = make_set(store, at("2026-11-18 02:00"))
    make_set(store, at("2026-11-19 02:00"))
    with pytest.raises(SetNotFoundError, match="no proven set"):
        resolve_set(site, "nightly/latest-proven")
    add_proof(store, proven, ProofKind.DRILL, at("2026-11-18 05:00"))
    assert resolve_set(site, "nightly/latest-proven") == ("nightly", proven)


def test_a_name_that_nobody_has_is_answered_with_near_ones(site, store):
    one = make_set(store, at("2026-11-18 02:00"))
    with pytest.raises(SetNotFoundError, match=f"Did you mean {one}"):
        resolve_set(site, "nightly/2026-11-18")
    with pytest.raises(SettingsError, match="Did you mean nightly"):
        resolve_set(site, "nightli/latest")


def test_with_several_plans_the_choices_are_named(site, tmp_path):
    (tmp_path / "backup.yaml").write_text(SITE + "  weekly: {sources: [files]}\n")
    two = load_site(tmp_path, environment={})
    with pytest.raises(SetNotFoundError, match="nightly/latest, weekly/latest"):
        resolve_set(two, "latest")
    one = make_set(open_store(two, "nightly"), at("2026-11-18 02:00"))
    assert resolve_set(two, str(one)) == ("nightly", one)
    assert resolve_set(two, "nightly") == ("nightly", one)
    make_set(open_store(two, "weekly"), at("2026-11-18 02:00"))
    with pytest.raises(SetNotFoundError, match="Several plans"):
        resolve_set(two, str(one))


def test_an_unknown_set_has_its_own_exit_code(site, capsys):
    assert run(site, "show", "nightly/2020-01-01T000000Z") == ExitCode.NOT_FOUND


def test_list_and_show_import_nothing_heavy(site, store):
    make_set(store, at("2026-11-18 02:00"))
    program = (
        "import sys; from backup_pipeline.cli.common import run_app; from backup_pipeline.cli.main import build_app\n"
        f"code = run_app(build_app(), [*sys.argv[1:], '--config', {str(site.folder)!r}])\n"
        "heavy = ('dagster', 'pandas', 'pyarrow', 'psycopg', 'apprise', 'requests', 'sqlalchemy', 'croniter')\n"
        "print([name for name in heavy if name in sys.modules], code, file=sys.stderr)"
    )
    for command in (["list"], ["show", "latest"]):
        done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "[] 0"
    # Times of schedules are worked out by croniter; nothing asks a database.
    done = subprocess.run([sys.executable, "-c", program, "status"], capture_output=True, text=True, check=True)
    assert "psycopg" not in done.stderr.splitlines()[-1]
