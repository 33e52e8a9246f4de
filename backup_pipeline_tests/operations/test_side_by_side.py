"""The order in which sources are captured side by side: what may begin, what waits, what ends with what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backup_pipeline.errors import CrowdedError, SourceError, TimeLimitError
from backup_pipeline.operations.backup import side_by_side
from backup_pipeline.operations.backup.side_by_side import Ahead, SideBySide
from backup_pipeline.system import limits


class _Sources:
    """Captures that do as a test says, and what happened in order: `+name` for a beginning, `-name` for an end."""

    def __init__(self, **work: Callable[[], object]) -> None:
        self.work: dict[str, Callable[[], object]] = work
        self.log: list[str] = []
        self.abandoned: list[str] = []

    def capture(self, source: str, _: object) -> Iterator[Any]:
        self.log.append(f"+{source}")
        try:
            yield f"{source} 1"
            self.work.get(source, str)()
            yield f"{source} 2"
        finally:
            self.log.append(f"-{source}")

    def side_by_side(self, ahead: dict[str, Ahead], at_most: int) -> SideBySide:
        return SideBySide(self.capture, ahead, at_most, lambda source, _: self.abandoned.append(source))


def test_sources_begin_before_they_are_asked_for_as_far_as_after_allows() -> None:
    met = threading.Barrier(2, timeout=60)
    sources = _Sources(a=met.wait, b=met.wait)
    ahead = {"a": Ahead(), "b": Ahead(), "c": Ahead(frozenset({"b", "elsewhere"})), "d": Ahead(frozenset({"a"}))}
    run = sources.side_by_side(ahead, 2)
    assert [*run.records("a")] == ["a 1", "a 2"]
    for name in ("b", "c", "d"):
        assert [*run.records(name)] == [f"{name} 1", f"{name} 2"]
    assert sources.log[:2] == ["+a", "+b"]
    assert sources.log.index("-b") < sources.log.index("+c")
    assert sources.log.index("-a") < sources.log.index("+d")
    assert not run.close()


def test_a_failed_source_fails_alone_and_what_is_after_it_never_begins() -> None:
    def fail() -> None:
        raise SourceError("gone.", where="a")

    sources = _Sources(a=fail)
    run = sources.side_by_side({"a": Ahead(), "b": Ahead(), "c": Ahead(frozenset({"a"}))}, 2)
    assert [*run.records("b")] == ["b 1", "b 2"]
    records = run.records("a")
    assert next(records) == "a 1"
    with pytest.raises(SourceError, match="gone"):
        next(records)
    run.close()
    assert "+c" not in sources.log
    # Asked for anew it is captured anew.
    sources.work.clear()
    again = sources.side_by_side({"a": Ahead()}, 1)
    assert [*again.records("a"), *again.records("a")] == ["a 1", "a 2"] * 2


def test_of_sources_with_commands_around_them_one_is_captured_at_a_time() -> None:
    sources = _Sources()
    run = sources.side_by_side({name: Ahead(commands=True) for name in "abc"}, 3)
    for name in "cab":
        assert len([*run.records(name)]) == 2
    assert [first[1:] for first in sources.log[::2]] == [last[1:] for last in sources.log[1::2]]


def test_a_source_that_a_full_server_refused_is_captured_alone() -> None:
    refused = threading.Event()

    def connect() -> None:
        if not refused.is_set():
            refused.set()
            raise CrowdedError("The server takes no more connections.")

    sources = _Sources(a=lambda: refused.wait(60), b=connect)
    run = sources.side_by_side({"a": Ahead(), "b": Ahead()}, 2)
    assert [*run.records("a")] == ["a 1", "a 2"]
    # What it had captured before is given again.
    assert [*run.records("b")] == ["b 1", "b 1", "b 2"]
    assert sources.log[-2:] == ["+b", "-b"]
    # Refused when it is alone, it fails.
    alone = _Sources(b=connect)
    refused.clear()
    with pytest.raises(CrowdedError):
        [*alone.side_by_side({"b": Ahead()}, 2).records("b")]


def test_what_is_captured_when_the_run_ends_is_ended_with_it() -> None:
    def hang() -> None:
        ended = threading.Event()
        with limits.ends_with(ended.set):
            ended.wait(60)
        limits.check()

    sources = _Sources(a=hang, b=hang)
    run = sources.side_by_side({name: Ahead() for name in "abc"}, 2)
    assert next(run.records("a")) == "a 1"
    assert run.close()
    assert sorted(sources.log) == ["+a", "+b", "-a", "-b"]


def test_a_source_whose_thread_cannot_be_ended_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(side_by_side, "_CHECK_SECONDS", 0.05)
    released = threading.Event()

    def hang() -> None:
        with limits.limited("It", limits.Limit(0.1, "sources.a.timeout", 60, "")):
            released.wait(60)

    sources = _Sources(a=hang)
    run = sources.side_by_side({"a": Ahead(), "b": Ahead()}, 1)
    records = run.records("a")
    assert next(records) == "a 1"
    with pytest.raises(TimeLimitError, match=r"sources\.a\.timeout"):
        next(records)
    assert sources.abandoned == ["a"]
    assert [*run.records("b")] == ["b 1", "b 2"]
    released.set()
