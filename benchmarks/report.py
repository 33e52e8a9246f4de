"""What a benchmark measured, written as JSON and as a short Markdown table. No measuring of a particular subject here.

report = Report("dump", "Dump of a 650 MB database")
report.row("pg_dump to nowhere", ours, other, other_name="pg_dump >/dev/null", unit="s", target_ratio=..., ...)
report.write()
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_VERSIONS_OF = ("backup-pipeline", "dagster", "psycopg", "pyarrow", "isal", "pandas", "pandera", "numpy")


@dataclass
class Row:
    """One comparison.

    Attributes:
        what: the subject, as in "dump, gzip and SHA-256".
        ours: our figure, in `unit`.
        other: the peer's figure, None when there is no peer.
        other_name: the peer, as one would type it.
        ratio: other / ours: above 1 means that ours is the faster (smaller) one.
        target: the promise in words, "" where there is none.
        met: whether the promise held; None where there is none.
    """

    what: str
    ours: float
    other: float | None
    other_name: str
    unit: str
    ratio: float | None
    target: str
    met: bool | None
    note: str = ""


@dataclass
class Report:
    """The rows of one benchmark program. `name` is the file's name, `title` its heading."""

    name: str
    title: str = ""
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def fact(self, name: str, value: str | float | int | bool) -> None:
        """Add something about the data or the machine that the figures depend on."""
        self.facts[name] = value

    def row(
        self,
        what: str,
        ours: float,
        other: float | None = None,
        *,
        other_name: str = "",
        unit: str = "s",
        at_least: float | None = None,
        at_most: float | None = None,
        note: str = "",
    ) -> Row:
        """Add a comparison and say it on the terminal.

        Args:
            what: the subject.
            ours: our figure.
            other: the peer's.
            other_name: the peer.
            unit: of both figures.
            at_least: promise: other / ours is not below this ("so many times as fast").
            at_most: promise: ours / other (or ours itself, without a peer) is not above this.
            note: one sentence.
        """
        ratio = other / ours if other is not None and ours else None
        target, met = "", None
        if at_least is not None and ratio is not None:
            target, met = f">= {at_least:g} x", ratio >= at_least
        elif at_most is not None:
            share = ours if other is None else ours / other
            target, met = f"<= {at_most:g} {unit if other is None else 'x'}", share <= at_most
        row = Row(
            what,
            round(ours, 4),
            None if other is None else round(other, 4),
            other_name,
            unit,
            None if ratio is None else round(ratio, 3),
            target,
            met,
            note,
        )
        self.rows.append(row)
        print(_line(row), flush=True)
        return row

    @property
    def met(self) -> bool:
        """Whether every promise held."""
        return all(row.met is not False for row in self.rows)

    def write(self, folder: Path = RESULTS) -> Path:
        """Write `<name>.json` and `<name>.md`; return the latter."""
        folder.mkdir(parents=True, exist_ok=True)
        document = {
            "name": self.name,
            "title": self.title,
            "program": _program(self.name),
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "facts": self.facts,
            "met": self.met,
            "rows": [asdict(row) for row in self.rows],
        }
        (folder / f"{self.name}.json").write_text(json.dumps(document, indent=1) + "\n")
        page = folder / f"{self.name}.md"
        page.write_text(_markdown(document, self.rows))
        print(f"written: {page.name}, {self.name}.json", flush=True)
        return page


def _program(name: str) -> str:
    """Return the module that was started with `python -m`; several of its results can stand side by side."""
    started = getattr(sys.modules["__main__"], "__spec__", None)
    return started.name if started is not None else f"benchmarks.{name}"


def machine() -> dict[str, Any]:
    """Return what figures depend on: processors, memory, system, versions. No names or paths."""
    versions = {}
    for package in _VERSIONS_OF:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processors": os.cpu_count(),
        "usable_processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _line(row: Row) -> str:
    text = f"{row.what}: {row.ours:.4g} {row.unit}"
    if row.other is not None:
        text += f", {row.other_name or 'other'}: {row.other:.4g} {row.unit}"
    if row.ratio is not None:
        text += f" ({row.ratio:.2f} x)"
    if row.target:
        text += f" [{row.target}: {'met' if row.met else 'NOT MET'}]"
    return text


def _markdown(document: dict[str, Any], rows: list[Row]) -> str:
    facts = document["machine"]
    lines = [
        f"# {document['title'] or document['name']}",
        "",
        f"Measured {document['measured_at']} by `python -m {document['program']}` on "
        f"{facts['usable_processors']} processors ({facts['processor']}), {facts['memory_gib']} GiB, "
        f"{facts['system']}, Python {facts['python']}.",
        "",
        *(f"- {name}: {value}" for name, value in document["facts"].items()),
        "",
        "| what | ours | peer | peer's | times as fast | promise | met |",
        "| --- | ---: | --- | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        other = "" if row.other is None else f"{row.other:.4g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = "" if row.met is None else ("yes" if row.met else "**no**")
        lines.append(
            f"| {row.what} | {row.ours:.4g} {row.unit} | {row.other_name} | {other} | {ratio} | {row.target} | {met} |"
        )
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


@dataclass(frozen=True)
class Measured:
    """A call in a fresh process: wall seconds, processor seconds of it and its children, peaks in MB, its result."""

    seconds: float
    processor_seconds: float
    peak_mb: float
    peak_child_mb: float
    result: Any


def _peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _processor_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def _reset_peak() -> None:
    # A spawned child still counts what its parent had mapped when it was started, until this is written (Linux).
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _own_peak_mb() -> float:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return _peak_mb(resource.RUSAGE_SELF)


def _child(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    _reset_peak()
    try:
        spent, begin = _processor_seconds(), time.perf_counter()
        result = function(*arguments)
        seconds, spent = time.perf_counter() - begin, _processor_seconds() - spent
        pipe.send(("done", Measured(seconds, spent, _own_peak_mb(), _peak_mb(resource.RUSAGE_CHILDREN), result)))
    except BaseException as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        raise


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Call a module-level function in a new process; the time is that of the call without starting Python.

    Raises:
        RuntimeError: the call failed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        state, value = ours.recv()
    except EOFError:
        state, value = "failed", "the process ended without a word"
    process.join()
    if state == "failed":
        raise RuntimeError(value)
    assert isinstance(value, Measured)
    return value
