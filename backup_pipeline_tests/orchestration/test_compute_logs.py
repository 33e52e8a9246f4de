"""What runs print, kept in a bucket: read again on another worker, and no reason for a backup to fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.compute_log_manager import ComputeIOType

from backup_pipeline_tests.support.dagster_runs import instance_in
from backup_pipeline_tests.support.object_servers import S3Server, weed_server

pytest.importorskip("dagster_aws", reason="pip install dagster-aws")


@dg.op
def prints() -> None:
    sys.stdout.write("one line of the run's own\n")


@dg.job(executor_def=dg.in_process_executor)
def printing() -> None:
    prints()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with weed_server(tmp_path_factory.mktemp("weed")) as server:
        server.client.create_bucket(Bucket="logs")
        yield server


def _kept_in(monkeypatch: pytest.MonkeyPatch, server: S3Server, folder: Path, address: str = "") -> None:
    folder.mkdir()
    config = {"bucket": "logs", "prefix": "site", "endpoint_url": address or server.address, "local_dir": str(folder)}
    monkeypatch.setenv("BACKUP_PIPELINE_COMPUTE_LOGS", "dagster_aws.s3:S3ComputeLogManager")
    monkeypatch.setenv("BACKUP_PIPELINE_COMPUTE_LOGS_CONFIG", json.dumps(config))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name, value in server.credentials("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY").items():
        monkeypatch.setenv(name, value)


def _log_key(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    (event,) = [
        entry.dagster_event
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED)
        if entry.dagster_event is not None
    ]
    return [run_id, "compute_logs", event.logs_captured_data.file_key]


def test_what_a_run_printed_on_one_worker_is_read_from_the_bucket_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: S3Server
) -> None:
    _kept_in(monkeypatch, storage, tmp_path / "first")
    with instance_in(tmp_path) as instance:
        run = printing.execute_in_process(instance=instance)
        assert run.success
        key = _log_key(instance, run.run_id)
    (tmp_path / "elsewhere").mkdir()
    _kept_in(monkeypatch, storage, tmp_path / "second")
    with instance_in(tmp_path / "elsewhere") as other:
        shown = other.compute_log_manager.get_log_data_for_type(key, ComputeIOType.STDOUT, 0, None)
    assert shown is not None
    assert b"one line of the run's own" in shown[0]


def test_a_run_succeeds_although_the_bucket_of_its_output_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: S3Server
) -> None:
    _kept_in(monkeypatch, storage, tmp_path / "first", "http://127.0.0.1:1")
    with instance_in(tmp_path) as instance:
        assert printing.execute_in_process(instance=instance).success
