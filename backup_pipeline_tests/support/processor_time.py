"""A plugin for pytest: processor time by folder of tests and of the dearest ones, with all that a test starts.

`python -m pytest -p backup_pipeline_tests.support.processor_time`, as root on Linux: each process of pytest moves into
a cgroup of its own, which counts what is begun in it, servers in the background too, whatever becomes of their parent.
What else the machine does changes less of it than of the time that passes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

_ROOTS = (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup"))
_OUTPUT = "processor_time"
_TESTS = Path(__file__).parents[1]
_DEAREST = 60


class ProcessorTime:
    """Seconds by folder and by test, counted in this process or gathered from those that it shares the tests out to."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()
        self.by_test: Counter[str] = Counter()
        root = next((place for place in _ROOTS if (place / "cgroup.procs").exists()), None)
        if root is None or not os.access(root, os.W_OK):
            raise pytest.UsageError("Processor time is counted by a cgroup: run this as root on Linux.")
        self.root, self.group = root, root / f"backup-pipeline-tests-{os.getpid()}"
        self.group.mkdir()
        (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def used(self) -> float:
        """Processor seconds of the cgroup so far."""
        if (counter := self.group / "cpuacct.usage").exists():
            return int(counter.read_text()) / 1e9
        return int((self.group / "cpu.stat").read_text().split()[1]) / 1e6

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        folder, before = str(item.path.parent.relative_to(_TESTS)), self.used()
        try:
            return (yield)
        finally:
            used = self.used() - before
            self.seconds[folder] += used
            self.by_test[item.nodeid] += used
            self.tests[folder] += 1

    def pytest_collection_finish(self) -> None:
        self.seconds["collection"] += self.used()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_OUTPUT] = (dict(self.seconds), dict(self.tests), dict(self.by_test))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        seconds, tests, by_test = getattr(node, "workeroutput", {}).get(_OUTPUT, ({}, {}, {}))
        self.seconds.update(seconds)
        self.tests.update(tests)
        self.by_test.update(by_test)

    def pytest_unconfigure(self) -> None:
        # What is left running keeps its group.
        (self.root / "cgroup.procs").write_text(str(os.getpid()))
        with suppress(OSError):
            self.group.rmdir()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("processor time")
        for test, seconds in self.by_test.most_common(_DEAREST):
            terminalreporter.write_line(f"{seconds:8.1f} s  {test}")
        for folder, seconds in self.seconds.most_common():
            terminalreporter.write_line(f"{seconds:8.1f} s {self.tests[folder]:6}  {folder}")
        terminalreporter.write_line(f"{sum(self.seconds.values()):8.1f} s {sum(self.tests.values()):6}  in all")


def pytest_configure(config: pytest.Config) -> None:
    """Register the counter."""
    config.pluginmanager.register(ProcessorTime(), "processor time")
