"""Outside programs: what is left of them when the one that started them goes on."""

from __future__ import annotations

import threading

import pytest

from backup_pipeline.system.processes import running


def test_a_program_that_is_left_in_the_middle_of_its_messages_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    trouble: list[object] = []
    monkeypatch.setattr(threading, "excepthook", trouble.append)
    for _ in range(5):
        with running(["sh", "-c", "while :; do echo message >&2; done"]) as program:
            pass
        assert program.finish()[0] != 0
    assert trouble == []
