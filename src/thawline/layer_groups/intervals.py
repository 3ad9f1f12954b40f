"""From labels to groups that are intervals of the forward order and hold a weight each."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from thawline.layer_groups.labels import Label
from thawline.layer_groups.module_tree import LARGE


def contiguous_labels(
    order: Sequence[str], labels: Mapping[str, Label | None], sizes: Mapping[str, int]
) -> dict[str, Label | None]:
    """The labels without those of stragglers, so that each label holds one interval of the forward order.

    A straggler is, for example, a class token that a matcher puts into the stem although the last blocks are the first
    to use it. The smaller part of a torn group loses its label.
    """
    labels = dict(labels)
    while True:
        runs = [
            (label, list(run))
            for label, run in itertools.groupby((n for n in order if labels[n] is not None), labels.get)
        ]
        pieces = Counter(label for label, _ in runs)
        torn = [run for label, run in runs if pieces[label] > 1]
        if not torn:
            return labels
        for name in min(torn, key=lambda run: sum(sizes[name] for name in run)):
            labels[name] = None


def with_unlabelled(
    order: Sequence[str], labels: Mapping[str, Label | None], sizes: Mapping[str, int], weights: set[str]
) -> list[tuple[str, ...]]:
    """Groups of parameters in forward order, with a place for those without a label.

    They join the group that is used just before them. Those before the first group join it, and those after the last
    one (a projection or fully connected layers on top of the blocks) are a group of their own.
    """
    runs = [(label, list(run)) for label, run in itertools.groupby(order, labels.get)]
    groups: list[list[str]] = []
    seen: set[Label] = set()
    waiting: list[str] = []
    for position, (label, run) in enumerate(runs):
        if label is None and position == len(runs) - 1:
            groups.extend(_top_groups(run, sizes, weights))
        elif label is None:
            (groups[-1] if groups else waiting).extend(run)
        elif label in seen:
            groups[-1].extend(run)
        else:
            groups.append(waiting + run)
            waiting = []
            seen.add(label)
    return [tuple(group) for group in groups]


def _top_groups(run: list[str], sizes: Mapping[str, int], weights: set[str]) -> list[list[str]]:
    """What comes after the last labelled group: one group, or one a layer where it holds much of the network (VGG)."""
    if sum(sizes[name] for name in run) <= LARGE * sum(sizes.values()):
        return [run]
    groups: list[list[str]] = [[]]
    for name in run:
        if name in weights and any(other in weights for other in groups[-1]):
            groups.append([])
        groups[-1].append(name)
    return groups


def merge_weightless(groups: list[tuple[str, ...]], weights: set[str]) -> list[tuple[str, ...]]:
    """Groups that hold a weight each: one without joins the group below it, or the next if it is the first."""
    merged: list[tuple[str, ...]] = []
    for group in groups:
        lacks_weight = not weights.intersection(group)
        if merged and (lacks_weight or not weights.intersection(merged[-1])):
            merged[-1] += group
        else:
            merged.append(group)
    return merged
