"""The tuning curves of a study, by condition: what its protocol's trials say of every budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thawline.reports.axes import setting_labels
from thawline.reports.choosing import Group
from thawline.reports.stages import Trials, trials_of
from thawline.reports.study import Study
from thawline.statistics import TuningCurve, tuning_curve

ALPHA = 0.05
"""What the bands of a condition may miss together."""
_MOST_CONDITIONS = 3


@dataclass(frozen=True)
class Tuned:
    """A candidate with its trials and their tuning curve."""

    label: str
    trials: Trials
    curve: TuningCurve


@dataclass(frozen=True)
class TunedGroup:
    """The candidates of one condition, the best of all trials first; their bands hold together."""

    label: str
    tuned: tuple[Tuned, ...]

    @property
    def trials(self) -> int:
        """The largest budget that every candidate knows."""
        return min(item.curve.trials for item in self.tuned)


def tuned_groups(study: Study) -> list[TunedGroup]:
    """The tuning curves of each condition, of trials that are independent; none where nothing was tuned."""
    found = trials_of(study.stages, study.metric) if study.stages is not None else []
    groups = []
    for condition in study.conditions[:_MOST_CONDITIONS]:
        place = dict(zip(study.axes.conditions, condition.condition, strict=True))
        own = [item for item in found if place.items() <= item.candidate.values.items()]
        if own and min(len(item.scores) for item in own) > 1:
            groups.append(_group(study, condition, own))
    return groups


def budgets_shown(trials: int) -> list[int]:
    """The budgets of a table and of an axis: one trial, its doublings, and all."""
    doublings = [2**power for power in range(trials.bit_length()) if 2**power < trials]
    # A doubling right below all of them would say the same twice.
    return [*(budget for budget in doublings if budget <= trials / 1.4), trials]


def _group(study: Study, condition: Group, found: Sequence[Trials]) -> TunedGroup:
    definition = study.definition
    confidence = 1 - ALPHA / len(found)
    tuned = [
        Tuned(
            _label(study, trials),
            trials,
            tuning_curve(trials.scores, study.mode, (definition.lower, definition.upper), confidence),
        )
        for trials in found
    ]
    budget = min(item.curve.trials for item in tuned)
    # Of those that end level the one that was better before stands first.
    tuned.sort(key=lambda item: (-round(float(item.curve.gains[budget - 1]), 9), -item.curve.gains[:budget].sum()))
    return TunedGroup(condition.label, tuple(tuned))


def _label(study: Study, trials: Trials) -> str:
    """What of the candidate is compared with others; all that makes it where there are none."""
    values = trials.candidate.values
    compared = [axis for axis in values if axis not in (*study.axes.conditions, *study.axes.constant)]
    axes = compared or list(values)
    return ", ".join(setting_labels(axes, [values[axis] for axis in axes])) or trials.candidate.label
