"""The minimum cut of a directed graph: which edges of least total capacity part the source from the sink."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Mapping
from itertools import pairwise
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def minimum_cut(
    edges: Iterable[tuple[Node, Node, int | None]], source: Node, sink: Node
) -> tuple[int | None, frozenset[Node]]:
    """Cut `sink` off from `source` at the least total capacity, by shortest augmenting paths (Edmonds and Karp 1972).

    The graphs of thaw lines have a handful of edges that count: what takes time is to import a graph library.

    Args:
        edges: (from, to, capacity); None is an edge that must not be cut. Several between two nodes add up.
        source: where the paths begin.
        sink: where they end.

    Returns:
        The capacity that is cut (None: there is no cut), and the nodes on the source's side. Of several minimum cuts
        it is the one nearest to the sink.
    """
    edges = list(edges)
    endless = 1 + sum(capacity for _, _, capacity in edges if capacity is not None)
    residual: dict[Node, dict[Node, int]] = defaultdict(dict)
    for tail, head, capacity in edges:
        residual[tail][head] = residual[tail].get(head, 0) + (endless if capacity is None else capacity)
        residual[head].setdefault(tail, 0)
    flow = 0
    while flow < endless and (path := _shortest_path(residual, source, sink)):
        steps = list(pairwise(path))
        amount = min(residual[tail][head] for tail, head in steps)
        for tail, head in steps:
            residual[tail][head] -= amount
            residual[head][tail] += amount
        flow += amount
    warm = _leading_to(residual, sink)
    return (flow if flow < endless else None), frozenset(residual.keys() - warm)


def _shortest_path(residual: Mapping[Node, Mapping[Node, int]], source: Node, sink: Node) -> list[Node] | None:
    before = {source: source}
    queue = deque([source])
    while queue and sink not in before:
        tail = queue.popleft()
        for head, capacity in residual.get(tail, {}).items():
            if capacity > 0 and head not in before:
                before[head] = tail
                queue.append(head)
    if sink not in before:
        return None
    path = [sink]
    while path[-1] != source:
        path.append(before[path[-1]])
    return path[::-1]


def _leading_to(residual: Mapping[Node, Mapping[Node, int]], sink: Node) -> set[Node]:
    """The nodes from which the sink can still be reached."""
    found = {sink}
    queue = deque([sink])
    while queue:
        head = queue.popleft()
        # A residual edge is stored in both directions, so the neighbours of a node are those that lead to it too.
        for tail in residual.get(head, {}):
            if tail not in found and residual[tail].get(head, 0) > 0:
                found.add(tail)
                queue.append(tail)
    return found
