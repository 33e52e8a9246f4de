"""The webserver and the daemon that `up` starts are ours, which end at once when their work is over."""

from __future__ import annotations

from backup_pipeline.web.services import guarded


def test_the_webserver_and_the_daemon_of_up_are_ours() -> None:
    assert guarded(["python", "-m", "dagster_webserver", "-p", "1"]) == [
        "python",
        "-m",
        "backup_pipeline.web",
        "-p",
        "1",
    ]
    assert guarded(["python", "-m", "dagster._daemon", "run"]) == ["python", "-m", "backup_pipeline.web.daemon", "run"]
