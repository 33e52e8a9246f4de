"""backup.yaml as data with a line number for every place in it, and the faults of its syntax."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from backup_pipeline.settings.raw_values import FieldPath


@dataclass(frozen=True, slots=True, order=True)
class FileFault:
    """One fault of the file: line (from 1), the field's path, and what is wrong with it; no value of a secret."""

    line: int
    path: FieldPath
    what: str

    def text(self, file: str) -> str:
        """Return the fault as `file:line: path: what`, the form that editors make clickable."""
        where = ".".join(map(str, self.path))
        return f"{file}:{self.line}: {where}: {self.what}" if where else f"{file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Document:
    """What stands in the file. `lines` holds the line of every key and list item by its path."""

    data: Any
    lines: Mapping[FieldPath, int] = field(default_factory=dict)
    faults: tuple[FileFault, ...] = ()

    def line_of(self, path: FieldPath) -> int:
        """Return the line of a path, or of the nearest place above it that exists."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def fault(self, path: FieldPath, what: str) -> FileFault:
        """Return a fault at that path's line."""
        return FileFault(self.line_of(path), path, what)


_MOST_NODES = 200_000
_DEEPEST = 50
MOST_BYTES = 4 << 20
"""A larger settings file is a mistake: another file under that name."""


def read_document(text: str) -> Document:
    """Parse YAML; what cannot be parsed comes back as faults with `data` None."""
    loader = _loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(None, {}, (FileFault(1, (), "the file is empty; it needs sources and plans"),))
        if _expanded(node, {}) > _MOST_NODES:
            return Document(None, {}, (FileFault(1, (), "its aliases stand for more than any settings hold"),))
        faults = _duplicates(node)
        data = loader.construct_document(node)
    except yaml.YAMLError as error:
        return Document(None, {}, _form_faults(error, text))
    except RecursionError:
        return Document(None, {}, (FileFault(1, (), "nested deeper than any settings are"),))
    finally:
        loader.dispose()
    lines: dict[FieldPath, int] = {}
    _note_lines(node, (), lines, 0)
    return Document(data, lines, faults)


def _loader(text: str) -> Any:
    """Return the loader in C, ten times as fast, for a text without faults; PyYAML's own explains faults better.

    The one in C has no limit of its own: a text that is nested too deep would end the process.
    """
    fast = getattr(yaml, "CSafeLoader", None)
    if fast is not None:
        depth = 0
        with contextlib.suppress(yaml.YAMLError):
            for event in yaml.parse(text, Loader=fast):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > _DEEPEST:
                    break
            else:
                return fast(text)
    return yaml.SafeLoader(text)


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many nodes a document has when every alias is written out; some lines can stand for billions."""
    if id(node) not in known:
        known[id(node)] = 1  # an alias that holds itself is another fault's matter
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = min(1 + sum(_expanded(part, known) for part in inner), _MOST_NODES + 1)
    return known[id(node)]


def _duplicates(node: yaml.Node) -> tuple[FileFault, ...]:
    """Return a fault for every key that stands twice in one mapping: YAML would silently take the last."""
    found: list[FileFault] = []
    visited_nodes: set[int] = set()

    def visit(node: yaml.Node, path: FieldPath) -> None:
        if id(node) in visited_nodes:
            return
        visited_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                name = str(key.value)
                line = key.start_mark.line + 1
                if name in first and name != "<<":
                    found.append(FileFault(line, (*path, name), f"stands twice; first in line {first[name]}"))
                first.setdefault(name, line)
                visit(value, (*path, name))
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                visit(item, (*path, index))

    visit(node, ())
    return tuple(found)


def _note_lines(node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int], depth: int) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if depth > 20:  # an alias that holds itself
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*path, str(key.value))
            lines[place] = key.start_mark.line + 1
            _note_lines(value, place, lines, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*path, index), lines, depth + 1)


def _form_faults(error: yaml.YAMLError, text: str) -> tuple[FileFault, ...]:
    # Tabs make the parser stumble somewhere behind them: name them first, all of them.
    tabs = [number for number, line in enumerate(text.splitlines(), 1) if re.match(r"[ ]*\t", line)]
    if tabs:
        return tuple(FileFault(number, (), "a tab in the indentation; YAML allows spaces only") for number in tabs)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    context = getattr(error, "context", None)
    what = f"not YAML: {f'{context}, ' if context else ''}{problem}"
    if "alias" in problem or "alias" in str(context):
        what += "; put cron expressions and patterns that begin with * in quotes"
    return (FileFault(mark.line + 1 if mark else 1, (), what),)
