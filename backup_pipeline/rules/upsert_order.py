"""In which order tables are written so that every foreign key finds its row. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

TableName = tuple[str, str]


def upsert_order(
    tables: Iterable[TableName], refers_to: Mapping[TableName, Iterable[TableName]]
) -> list[list[TableName]]:
    """Return the tables in groups, referred-to before referring; a group of several is a cycle of foreign keys.

    Tarjan's strongly connected components, which come out in just this order. Repeatable: names break ties.

    Args:
        tables: the tables to be written.
        refers_to: table → tables that its foreign keys point at; others than `tables` are ignored.
    """
    wanted = sorted(set(tables))
    known = set(wanted)
    edges = {name: sorted({to for to in refers_to.get(name, ()) if to in known and to != name}) for name in wanted}
    number: dict[TableName, int] = {}
    low: dict[TableName, int] = {}
    stack: list[TableName] = []
    groups: list[list[TableName]] = []
    for root in wanted:
        if root in number:
            continue
        # Without recursion: a chain of a thousand tables is possible.
        work = [(root, iter(edges[root]))]
        number[root] = low[root] = len(number)
        stack.append(root)
        while work:
            name, rest = work[-1]
            step = next(rest, None)
            if step is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == number[name]:
                    groups.append(_taken(stack, name))
                    for member in groups[-1]:
                        low[member] = len(wanted) * 2
            elif step not in number:
                number[step] = low[step] = len(number)
                stack.append(step)
                work.append((step, iter(edges[step])))
            elif step in stack:
                low[name] = min(low[name], number[step])
    return groups


def _taken(stack: list[TableName], name: TableName) -> list[TableName]:
    at = stack.index(name)
    group = sorted(stack[at:])
    del stack[at:]
    return group


def root_of(name: TableName, leaf_of: Mapping[TableName, TableName]) -> TableName:
    """Return the partitioned table at the top of a partition, or the table itself."""
    while name in leaf_of:
        name = leaf_of[name]
    return name


def order_of_leaves(
    leaves: Sequence[TableName],
    leaf_of: Mapping[TableName, TableName],
    refers_to: Mapping[TableName, Iterable[TableName]],
) -> list[list[TableName]]:
    """Return tables that hold rows (ordinary ones and partitions) in groups as `upsert_order` does.

    A foreign key to a partitioned table is one to all of its partitions, and one of a partition is one of the whole.
    """
    roots = {leaf: root_of(leaf, leaf_of) for leaf in leaves}
    edges: dict[TableName, set[TableName]] = {}
    for name, targets in refers_to.items():
        edges.setdefault(root_of(name, leaf_of), set()).update(root_of(to, leaf_of) for to in targets)
    return [
        [leaf for leaf in sorted(leaves) if roots[leaf] in set(group)]
        for group in upsert_order(set(roots.values()), edges)
    ]
