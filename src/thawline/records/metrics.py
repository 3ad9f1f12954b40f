"""How a metric is read: which direction is better, what it is called, and between which bounds it lies.

A task defines its metrics once; the definitions stand in every record, and whoever compares, chooses, labels or draws
takes them from there.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Direction = Literal["min", "max"]

_DIGITS_OF_A_MEAN = 12


class MetricDefinition(BaseModel):
    """One metric.

    Attributes:
        direction: whether less (``min``) or more (``max``) is better.
        label: its name in a sentence, in a table's note and on an axis.
        lower: the least value that it can take; None: there is none.
        upper: the largest one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    direction: Direction
    label: str
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class SelectionRule:
    """How the best of several candidates (epochs, strengths, averages, settings) is chosen on validation.

    The metric decides. Where it ties, as an accuracy over few images often does, the metric `tie_break` decides, and
    where that ties too the first candidate is taken. A candidate with a value that is not finite is never chosen.

    Attributes:
        metric: the name of the metric.
        direction: whether less or more of it is better.
        tie_break: the metric that decides between equals; None: the first of them is taken.
        tie_break_direction: whether less or more of that is better.
    """

    metric: str
    direction: Direction
    tie_break: str | None = None
    tie_break_direction: Direction = "min"

    def rank(self, values: Mapping[str, float | None], prefix: str = "") -> tuple[float, float]:
        """A key that is larger for a better candidate; minus infinity where it cannot be chosen.

        Args:
            values: the candidate's metrics by name; without `tie_break` among them, it does not count.
            prefix: what stands before each name, such as ``val/`` in a row of the history.
        """
        first = _gain(values.get(f"{prefix}{self.metric}"), self.direction)
        second = 0.0
        if f"{prefix}{self.tie_break}" in values:
            second = _gain(values[f"{prefix}{self.tie_break}"], self.tie_break_direction)
        return (first, second) if math.isfinite(first) and math.isfinite(second) else NEVER


NEVER = (-math.inf, -math.inf)
"""The rank of a candidate that cannot be chosen."""


def selection_rule(metric: str, definitions: Mapping[str, MetricDefinition], tie_break: str | None) -> SelectionRule:
    """The rule for choosing by `metric`, with ties broken by `tie_break` where that is another metric."""
    direction = definitions[metric].direction
    if tie_break is None or tie_break == metric or tie_break not in definitions:
        return SelectionRule(metric, direction)
    return SelectionRule(metric, direction, tie_break, definitions[tie_break].direction)


def _gain(value: float | None, direction: Direction) -> float:
    if value is None or not math.isfinite(value):
        return -math.inf
    return value if direction == "max" else -value


def exact_share(value: float, samples: int) -> float:
    """The share of `samples` samples that `value` is in single precision; `value` itself where it is none.

    Accuracies are computed in single precision. Two pairs of them that lie equally far apart do so in the first seven
    digits only, and means of them that are the same differ: what counts ties, ranks or signs takes the fractions.
    """
    if not 0 <= value <= 1 or samples < 1:
        return value
    share = round(value * samples) / samples
    return share if struct.unpack("f", struct.pack("f", share))[0] == value else value


def comparable(mean: float | None) -> float | None:
    """A mean as it is compared: those of the same numbers in another order differ in their last bits."""
    return None if mean is None else float(f"{mean:.{_DIGITS_OF_A_MEAN}g}")


# Classification -------------------------------------------------------------------------------------------------------

CLASSIFICATION_HEADLINE = "top1"
CLASSIFICATION_TIE_BREAK = "loss"
_CLASSIFICATION = {
    "loss": MetricDefinition(direction="min", label="cross-entropy", lower=0.0),
    "top1": MetricDefinition(direction="max", label="top-1 accuracy", lower=0.0, upper=1.0),
    "macro_accuracy": MetricDefinition(direction="max", label="macro accuracy", lower=0.0, upper=1.0),
    "macro_f1": MetricDefinition(direction="max", label="macro F1", lower=0.0, upper=1.0),
    "calibration_error": MetricDefinition(direction="min", label="calibration error", lower=0.0, upper=1.0),
    "nearest_mean_top1": MetricDefinition(
        direction="max", label="top-1 accuracy of the nearest class mean", lower=0.0, upper=1.0
    ),
}
_TOP_K = re.compile(r"top([1-9][0-9]*)")


def classification_definitions(names: Iterable[str]) -> dict[str, MetricDefinition]:
    """The definitions of those of `names` that are metrics of classification."""
    found = {}
    for name in sorted(names):
        definition = _CLASSIFICATION.get(name)
        top_k = _TOP_K.fullmatch(name)
        if definition is None and top_k is not None:
            definition = MetricDefinition(direction="max", label=f"top-{top_k[1]} accuracy", lower=0.0, upper=1.0)
        if definition is not None:
            found[name] = definition
    return found
