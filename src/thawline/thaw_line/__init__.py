"""The thaw line: the frozen side of a network, found in its graph, computed once and stored."""
