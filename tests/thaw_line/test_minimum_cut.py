"""The minimum cut equals networkx's."""

from __future__ import annotations

import networkx
import numpy

from thawline.thaw_line.minimum_cut import minimum_cut


def test_minimum_cut_equals_networkx() -> None:
    draw = numpy.random.default_rng(0)
    for _ in range(200):
        nodes = range(draw.integers(2, 10))
        edges = [
            (a, b, (None, 1, 2, 3, 5, 8)[draw.integers(6)])
            for a in nodes
            for b in nodes
            if a != b and draw.random() < 0.4
        ]
        graph = networkx.DiGraph()
        graph.add_nodes_from(nodes)
        for a, b, capacity in edges:
            graph.add_edge(a, b, **({} if capacity is None else {"capacity": capacity}))
        value, side = minimum_cut(edges, nodes[0], nodes[-1])
        try:
            assert value == networkx.minimum_cut_value(graph, nodes[0], nodes[-1])
        except networkx.NetworkXUnbounded:
            assert value is None
            continue
        assert sum(c or 0 for a, b, c in edges if a in side and b not in side) == value
        assert side == networkx.minimum_cut(graph, nodes[0], nodes[-1])[1][0] & {n for edge in edges for n in edge[:2]}
