"""How a layer group is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from thawline.layer_groups.module_paths import prefixes


def group_names(groups: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> list[str]:
    """A readable name for each group, unique and the same for every model of the architecture."""
    owners: dict[str, set[int]] = {}
    for index, group in enumerate(groups):
        for name in group:
            for prefix in prefixes(name):
                owners.setdefault(prefix, set()).add(index)
    names = ["stem"]
    for group in groups[1:]:
        name = _own_path(group, sizes, owners)
        names.append(name if name not in names else f"{name}-{names.count(name) + 1}")
    return names


def _own_path(group: Sequence[str], sizes: Mapping[str, int], owners: Mapping[str, set[int]]) -> str:
    """The shortest module path that belongs to this group alone, along the branch with most of its parameters."""
    members = list(group)
    depth = 1
    while True:
        counts: Counter[str] = Counter()
        for name in members:
            counts[".".join(name.split(".")[:depth])] += sizes[name]
        path = counts.most_common(1)[0][0]
        members = [name for name in members if name == path or name.startswith(f"{path}.")]
        if len(owners.get(path, ())) == 1 or path in members:
            return path
        depth += 1
