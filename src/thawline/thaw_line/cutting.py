"""Choosing the thaw line in a traced graph: the fewest bytes that part what is computed once from the rest."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator

from torch import fx

from thawline.thaw_line.minimum_cut import minimum_cut
from thawline.thaw_line.traced_graph import TracedGraph, UntraceableError

Edge = tuple[object, object, int | None]
_SOURCE, _SINK = "source", "sink"


def thaw_line(trace: TracedGraph, unusable: Container[fx.Node] = ()) -> tuple[fx.Node, ...]:
    """The nodes whose values are the thaw line, in order of execution.

    What convolves or multiplies matrices is computed before the line; what does neither (a norm, an activation, a
    pooling, a permutation) stands on the side where fewer bytes are kept; of lines with equally many bytes it is the
    one with the fewest tensors, and of these the one nearest to the output. Where that leaves no line of values that
    can be kept per sample (inside the windows of a Swin block), it is the one past which the least is computed again.

    Args:
        trace: with `Facts.warm` up to date.
        unusable: nodes that must not be in the line.
    """
    choice = _Choice(trace, unusable)
    line = choice.line(spare_nothing=True)
    if line is None:
        line = choice.line(spare_nothing=False)
    if line is None:
        raise UntraceableError("the model writes to its input")
    return line


def written_apart(trace: TracedGraph, line: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes of a line that are not usable: past it, their memory is written to through another view of it.

    As the line's tensors are kept apart from one another, such a write would no longer be seen by all who read it.
    """
    past = closure(trace, final_nodes(trace), stop=line)
    written = {memory for node in past if node in trace.facts for memory in trace.facts[node].writes}
    wrong: set[fx.Node] = set()
    for memory in written:
        members = {node for node in line if trace.facts[node].memory == memory}
        views = [node for node in trace.facts if node in past and trace.facts[node].memory == memory]
        known = set(members)
        for node in views:
            if not known.isdisjoint(node.all_input_nodes):
                known.add(node)
        if members and (len(members) > 1 or not known.issuperset(views)):
            wrong |= members
    return wrong


def final_nodes(trace: TracedGraph) -> list[fx.Node]:
    """What the model is run for: its output, and the changes of its buffers."""
    return [trace.output, *(node for node, facts in trace.facts.items() if facts.state)]


def closure(trace: TracedGraph, roots: Iterable[fx.Node], stop: Container[fx.Node] = ()) -> set[fx.Node]:
    """The roots and everything upstream of them, short of and without `stop`."""
    found: set[fx.Node] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node not in found and node not in stop:
            found.add(node)
            waiting.extend(trace.upstream(node))
    return found


class _Choice:
    """The graph of what can be computed before the line, and the edges of its minimum cut.

    Every node stands twice in the cut's graph: on the source's side, "is computed before the line" and "all that
    use its value are before the line". The edge from the first to the second costs the bytes of the value.
    """

    def __init__(self, trace: TracedGraph, unusable: Container[fx.Node]) -> None:
        self._trace = trace
        self._unusable = unusable
        needed = closure(trace, final_nodes(trace))
        self._order = [node for node in trace.graph.nodes if node in needed]
        facts = trace.facts
        self._cold = {n for n in self._order if n in facts and facts[n].data and not facts[n].warm}
        self._uses: dict[fx.Node, list[fx.Node]] = {node: [] for node in self._cold}
        for node in self._order:
            if self._takes_values(node):
                for before in trace.upstream(node):
                    if before in self._cold:
                        self._uses[before].append(node)

    def line(self, *, spare_nothing: bool) -> tuple[fx.Node, ...] | None:
        before = {node for node in self._cold if node.op == "placeholder"}
        if spare_nothing:
            costly = [node for node in self._cold if self._cost(node)]
            before |= closure(self._trace, costly) & self._cold
        capacity, kept = minimum_cut(self._edges(before, spare_nothing), _SOURCE, _SINK)
        if capacity is None:
            return None
        return tuple(
            node
            for node in self._order
            if node in self._cold and (node in before or (node, "computed") in kept) and (node, "passed") not in kept
            if any(use not in before for use in self._uses[node])
        )

    def _edges(self, before: set[fx.Node], spare_nothing: bool) -> Iterator[Edge]:
        for node in self._cold:
            yield from self._value_edges(node, before)
            if node not in before:
                yield from ((self._computed(node, before), each, None) for each in self._sources(node, before))
        if not spare_nothing:
            weight = 1 + sum(self._price(node) or 0 for node in self._cold)
            yield from ((_SOURCE, self._computed(n, before), weight * self._cost(n)) for n in self._cold - before)
        # What reads memory that was written to must be on the side of the write.
        for node in self._order:
            for writer in self._cold.intersection(self._trace.facts[node].after if node in self._trace.facts else ()):
                yield self._computed(writer, before), self._computed(node, before), None

    def _value_edges(self, node: fx.Node, before: set[fx.Node]) -> Iterator[Edge]:
        uses = {self._computed(use, before) for use in self._uses[node]} - {_SOURCE}
        if uses:
            yield self._computed(node, before), (node, "passed"), self._price(node)
        for use in uses:
            yield (node, "passed"), use, None

    def _sources(self, node: fx.Node, before: set[fx.Node]) -> set[object]:
        return {self._computed(each, before) for each in self._trace.upstream(node) if each in self._cold}

    def _computed(self, node: fx.Node, before: set[fx.Node]) -> object:
        if node in before:
            return _SOURCE
        return (node, "computed") if node in self._cold else _SINK

    def _takes_values(self, node: fx.Node) -> bool:
        facts = self._trace.facts.get(node)
        return facts is None or facts.data or facts.warm

    def _cost(self, node: fx.Node) -> int:
        facts = self._trace.facts[node]
        return facts.flops + int(facts.weighs)

    def _price(self, node: fx.Node) -> int | None:
        per_sample = self._trace.facts[node].per_sample
        return None if per_sample is None or node in self._unusable else per_sample.bytes * len(self._order) + 1
