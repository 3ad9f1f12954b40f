"""The axes of a sweep by what they mean: what repeats a cell, what it is tried on, and what is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from thawline.errors import nearest, usage_error
from thawline.reports.loaded_run import CountedFrom, LoadedRun
from thawline.reports.loading import LoadedSweep

OPENS = "open_test"
"""The axis that says whether a run may open the test split."""
SWEEP = "sweep"
"""The axis of a study of several sweeps that differ in what no other axis says."""
ROOT = "dataset.root"
"""The axis of data sets that are folders: each is called by its folder."""
_REPLICATES = ("seed", "data_seed")
_AMOUNTS = ("n_per_class", "n_images", "n_train_val", "fraction", "val_fraction", "test_fraction", "classes")
_DEPTHS = ("k", "depth")
_STRATEGIES = ("strategy", "freeze_policy")


@dataclass(frozen=True)
class Axes:
    """The axes of a sweep by what they mean; only those with more than one value, `constant` holds the others.

    `replicates` (seeds) repeat a cell; `conditions` (the data set and how much of it) are what it is tried on and are
    never chosen; `depth` is the axis of the figure; `choices` are the strategies and settings that are compared. Where
    the depth axis is a number of layer groups, `counted_from` has the ends of the network that the runs' freeze
    policies count from.
    """

    replicates: tuple[str, ...]
    conditions: tuple[str, ...]
    depth: str | None
    choices: tuple[str, ...]
    constant: Mapping[str, str]
    counted_from: frozenset[CountedFrom] = frozenset()

    @property
    def depth_is_layers(self) -> bool:
        """Whether the depth axis counts layer groups (and not what the user named with ``--axis``)."""
        return self.depth is not None and bool(self.counted_from)

    @property
    def compared(self) -> tuple[str, str]:
        """What one row, and what several are called: strategies, where no other setting is compared."""
        strategies = bool(self.choices) and all(axis in _STRATEGIES for axis in self.choices)
        return ("strategy", "strategies") if strategies else ("setting", "settings")

    @property
    def how_counted(self) -> str:
        """The end of the network that k is counted from, in words; empty where the policies differ in it."""
        return f"counted from the {next(iter(self.counted_from))}" if len(self.counted_from) == 1 else ""

    @property
    def data_sets(self) -> bool:
        """Whether the conditions are different data sets, whose scores are on different scales."""
        return any(axis.rpartition(".")[2] not in _AMOUNTS for axis in self.conditions)


def axes_of(sweep: LoadedSweep, wanted: str | None) -> Axes:
    """What each axis of the sweep means; `wanted` names the axis of the figure, by default the one of depth.

    Raises:
        UsageError: the sweep has no such axis.
    """
    varied = {axis: values for axis, values in sweep.axes.items() if len(set(values)) > 1}
    constant = {axis: values[0] for axis, values in sweep.axes.items() if axis not in varied and values}
    replicates = tuple(axis for axis in varied if is_replicate(axis))
    # Whether a run opens test changes nothing of its training: it is neither a choice nor a replicate.
    open_axes = [axis for axis in varied if axis not in (*replicates, OPENS)]
    if wanted is not None and wanted not in open_axes:
        raise usage_error(
            "axis", f"the sweep has no axis {wanted!r}{nearest(wanted, open_axes)} (there are: {few_of(open_axes)})"
        )
    depth = wanted or next((axis for axis in open_axes if _is_depth(axis)), None)
    conditions = tuple(axis for axis in open_axes if axis.partition(".")[0] in ("dataset", SWEEP) and axis != depth)
    choices = tuple(axis for axis in open_axes if axis != depth and axis not in conditions)
    counted = _counted_from(sweep.runs) if depth is not None and _is_depth(depth) else frozenset()
    return Axes(replicates, conditions, depth, choices, constant, counted)


def is_replicate(axis: str) -> bool:
    """Whether the axis is a seed: its values repeat a cell."""
    return axis.rpartition(".")[2] in _REPLICATES


def _is_depth(axis: str) -> bool:
    return axis.partition(".")[0] == "freeze_policy" and axis.rpartition(".")[2] in _DEPTHS


def _counted_from(runs: Sequence[LoadedRun]) -> frozenset[CountedFrom]:
    """The ends of the network that the runs' policies count layer groups from; empty where one does not count them."""
    ends = {run.counted_from for run in runs}
    return frozenset(end for end in ends if end is not None) if None not in ends else frozenset()


def setting_labels(axes: Sequence[str], values: Sequence[str]) -> list[str]:
    """A short word for each axis and value: ``resnet18`` for a config group, ``lr=0.1`` for a field of one.

    Of a group that takes several options it is ``l2_sp + bss``, or ``no regularizer``. A field that an option of an
    axis does not have is left out.
    """
    return [
        f"{axis.rpartition('.')[2]}={value or 'default'}"
        if "." in axis and (axis != ROOT or not value)
        else _options_told(axis, value)
        for axis, value in zip(axes, values, strict=True)
        if value or axis.partition(".")[0] not in axes or "." not in axis
    ]


def _options_told(group: str, value: str) -> str:
    if value.startswith("[") and value.endswith("]"):
        return " + ".join(part.strip() for part in value[1:-1].split(",")) or f"no {group}"
    return value or f"default {group}"


def few_of(names: Iterable[str]) -> str:
    """The first twelve names, for a message."""
    listed = list(names)
    return ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "") if listed else "none"
