"""What a plan leaves behind when all goes well and when something fails, with the real tools."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from backup_pipeline.model.backup_set import SetState
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import parse_target
from backup_pipeline.system.locks import hold_lock
from backup_pipeline_tests.support.forked_sites import ForkedCommand
from backup_pipeline_tests.support.sites import TestSite, limited_role


def _only_set(site: TestSite) -> Path:
    (folder,) = sorted((site.folder / "sets").glob("*T*Z"))
    return folder


def test_a_good_run_leaves_the_named_files_a_manifest_and_a_line_in_the_log(gustav: TestSite) -> None:
    done = gustav.run("backup", "nightly", "--json")
    assert done.code == 0, done.text
    folder = _only_set(gustav)
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}T\d{6}Z", folder.name)
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert {"supabase_db.sql.gz", "keycloak_db.sql.gz", "storage_buckets.tar.gz", "manifest.json"} <= names
    report = json.loads(done.out)
    assert report["sealed"] is True
    assert report["partial"] is False
    assert {"supabase.dump", "supabase.public.orders", "storage.tarball", "keycloak.dump"} <= {
        artefact["name"] for artefact in report["artefacts"]
    }
    failed = [c for a in report["artefacts"] for c in a["checks"] if not c["passed"]]
    assert failed == []
    log = (gustav.folder / "sets" / "backup_log.txt").read_text()
    assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d - backup - INFO - nightly/{folder.name} complete, ", log)
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))


def test_missing_empty_and_placeholder_variables_are_all_named_and_no_set_is_made(gustav: TestSite) -> None:
    gustav.variables |= {"KC_DB_PASSWORD": "", "KC_DB_USERNAME": "changeme"}
    del gustav.variables["DATABASE_URL"]
    gustav.write_env()
    done = gustav.run("backup", "nightly")
    assert done.code == 3
    for name in ("DATABASE_URL", "KC_DB_PASSWORD", "KC_DB_USERNAME"):
        assert name in done.err
    assert not list((gustav.folder / "sets").glob("*T*Z"))


def test_a_failed_supabase_dump_fails_the_run_and_nothing_after_it_starts(gustav: TestSite) -> None:
    supabase = parse_target(gustav.variables["DATABASE_URL"], variable="DATABASE_URL")
    limited_role(supabase.with_database("postgres"), supabase, "reader1", "reader1-secret", "orders")
    gustav.variables["DATABASE_URL"] = (
        f"postgresql://reader1:reader1-secret@{supabase.host}:{supabase.port}/{supabase.database}"
    )
    gustav.write_env()
    done = gustav.run("backup", "nightly")
    assert done.code == 5, done.text
    assert "orders" in done.err
    known = gustav.store("nightly").read(gustav.store("nightly").ids()[-1])
    assert known.state is SetState.INCOMPLETE
    assert not {record.source for record in known.records} & {"storage", "keycloak"}
    assert [failure.key[0] for failure in known.failures] == ["supabase"]


def test_a_missing_storage_root_fails_the_run_and_names_the_path(gustav: TestSite) -> None:
    shutil.rmtree(gustav.folder / "storage")
    done = gustav.run("backup", "nightly")
    assert done.code == 5
    assert str(gustav.folder / "storage") in done.err
    assert not (_only_set(gustav) / "manifest.json").exists()


def test_a_failed_keycloak_dump_keeps_the_rest_and_resume_completes_that_same_set(gustav: TestSite) -> None:
    address = gustav.variables["KC_DB_URL"].removeprefix("jdbc:")
    keycloak = parse_target(
        address,
        variable="KC_DB_URL",
        user=gustav.variables["KC_DB_USERNAME"],
        password=gustav.variables["KC_DB_PASSWORD"],
    )
    limited_role(keycloak.with_database("postgres"), keycloak, "reader2", "reader2-secret", "user_entity")
    gustav.variables |= {"KC_DB_USERNAME": "reader2", "KC_DB_PASSWORD": "reader2-secret"}
    gustav.write_env()
    assert gustav.run("backup", "nightly").code == 5
    folder = _only_set(gustav)
    kept = {name: (folder / name).read_bytes() for name in ("supabase_db.sql.gz", "storage_buckets.tar.gz")}
    known = gustav.store("nightly").read(gustav.store("nightly").ids()[-1])
    assert known.state is SetState.INCOMPLETE
    assert "user_entity" in known.failures[0].what
    listed = gustav.run("list", "nightly")
    assert "incomplete" in listed.out
    assert "keycloak" in listed.out

    with connected(keycloak, pinned=False) as connection:
        connection.execute('grant select on user_entity to "reader2"')
    done = gustav.run("backup", "nightly", "--resume")
    assert done.code == 0, done.text
    assert _only_set(gustav) == folder
    assert (folder / "manifest.json").exists()
    assert {name: (folder / name).read_bytes() for name in kept} == kept


@pytest.mark.takes(seconds=4, together="forked")
@pytest.mark.parametrize("moments", [(0.15,), pytest.param((0.0, 0.4, 0.8), marks=pytest.mark.story)])
def test_a_killed_run_leaves_nothing_that_looks_finished_or_stops_the_next(
    gustav: TestSite, moments: tuple[float, ...]
) -> None:
    assert gustav.run("backup", "nightly").code == 0
    for moment in moments:
        before = gustav.digests("nightly")
        store = gustav.store("nightly")
        first = set(store.ids())
        process = ForkedCommand(gustav, "backup", "nightly")
        # The kill falls at a moment of the run itself, counted from when its set's folder appears.
        while process.poll() is None and set(store.ids()) == first:
            time.sleep(0.01)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for set_id in set(gustav.store("nightly").ids()) - first:
            known = gustav.store("nightly").read(set_id)
            sealed = (gustav.folder / "sets" / set_id / "manifest.json").exists()
            assert (known.state is SetState.COMPLETE) == sealed
            if not sealed:
                assert known.state is SetState.INCOMPLETE
        again = gustav.run("backup", "nightly", "--json")
        assert again.code == 0, again.text
        assert {path: digest for path, digest in gustav.digests("nightly").items() if path in before} == before


@pytest.mark.takes(seconds=3, together="forked")
def test_a_killed_run_can_be_resumed_into_the_same_set(gustav: TestSite) -> None:
    process = ForkedCommand(gustav, "backup", "nightly")
    while process.poll() is None and not list((gustav.folder / "sets").glob("*Z/supabase_db.sql.gz")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = _only_set(gustav)
    if (folder / "manifest.json").exists():
        pytest.skip("the run was quicker than the kill")
    done = gustav.run("backup", "nightly", "--resume")
    assert done.code == 0, done.text
    assert _only_set(gustav) == folder
    assert (folder / "manifest.json").exists()


@pytest.mark.takes(seconds=27, together="forked")
def test_a_server_lost_in_the_middle_fails_the_run_and_the_next_one_succeeds(
    gustav: TestSite, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="bp-test-", dir="/tmp"))
    folder.chmod(0o711)
    server = EmbeddedServer(folder / "postgres", durable=False)
    try:
        server.start()
        with connected(server.target(), pinned=False) as connection:
            connection.execute(
                "create table big as select n, repeat(md5(n::text), 20) as text from generate_series(1, 60000) n"
            )
        target = server.target()
        gustav.variables["DATABASE_URL"] = (
            f"postgresql://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}"
        )
        gustav.write_env()
        process = ForkedCommand(gustav, "backup", "nightly")
        while process.poll() is None and not list((gustav.folder / "sets").glob("*Z/.supabase_db.sql.gz.part")):
            time.sleep(0.01)
        server.stop()
        out, err = process.communicate()
        assert process.returncode == 5, (out + err).decode()
        assert target.password not in (out + err).decode()
        assert not list((gustav.folder / "sets").glob("*Z/manifest.json"))
        server.start()
        assert gustav.run("backup", "nightly").code == 0
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_second_run_of_a_plan_waits_and_then_refuses_naming_the_first(gustav: TestSite) -> None:
    (gustav.folder / "sets").mkdir()
    with hold_lock(gustav.folder / "sets" / ".backup.lock", purpose="backup of nightly, run 12345678"):
        done = gustav.run("backup", "nightly")
    assert done.code == 4
    assert "run 12345678" in done.err
    assert not list((gustav.folder / "sets").glob("*T*Z"))


@pytest.mark.story
def test_two_runs_at_once_never_share_a_set(gustav: TestSite) -> None:
    gustav.write((gustav.folder / "backup.yaml").read_text().replace("wait_seconds: 0.5", "wait_seconds: 60"))
    both = [gustav.start("backup", "nightly", "--json") for _ in range(2)]
    reported = [process.communicate() for process in both]
    assert all(out for out, _ in reported), [err.decode()[-3000:] for _, err in reported]
    reports = [json.loads(out) for out, _ in reported]
    assert [report["exit_code"] for report in reports] == [0, 0]
    assert reports[0]["set"] != reports[1]["set"]
    states = {known.state for known in gustav.store("nightly").sets()}
    assert states == {SetState.COMPLETE}


@pytest.mark.takes(seconds=23)
def test_no_password_is_in_any_output_log_event_or_file(gustav: TestSite) -> None:
    supabase = parse_target(gustav.variables["DATABASE_URL"], variable="DATABASE_URL")
    secret, wrong = "s3cr3t-of-the-reader", "wr0ng-of-the-reader"
    limited_role(supabase.with_database("postgres"), supabase, "reader3", secret, "orders")
    texts = []
    for password in (secret, wrong):
        gustav.variables["DATABASE_URL"] = (
            f"postgresql://reader3:{password}@{supabase.host}:{supabase.port}/{supabase.database}"
        )
        gustav.write_env()
        done = gustav.run("backup", "nightly", "--json")
        assert done.code != 0
        texts.append(done.text)
    gustav.variables["DATABASE_URL"] = (
        f"postgresql://postgres:{supabase.password}@{supabase.host}:{supabase.port}/{supabase.database}"
    )
    gustav.write_env()
    good = gustav.run("backup", "nightly")
    assert good.code == 0, good.text
    texts.append(good.text)
    needles = [word.encode() for word in (secret, wrong, supabase.password)]
    for path in gustav.folder.rglob("*"):
        if path.is_file() and path.name != ".env":
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path
    assert not any(needle.decode() in text for needle in needles for text in texts)
