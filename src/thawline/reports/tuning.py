"""How far tuning got: the trials of a protocol as tuning curves, and whether another budget would change the order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from thawline.reports.document import Line, Section, Table, columns, interval, number, seconds, signed
from thawline.reports.figures import draw_tuning
from thawline.reports.stages import trials_of
from thawline.reports.study import Study
from thawline.reports.tables import short
from thawline.reports.tuning_curves import ALPHA, Tuned, TunedGroup, budgets_shown, tuned_groups
from thawline.statistics import Stretch, leaders

TITLE = "Would another tuning budget change the order?"
_MOST_NAMED = 6
# Means of the same scores in another order differ in their last bits.
_ROUNDING = 1e-9


def tuning(study: Study) -> Iterable[Section]:
    """The section on tuning budgets, where something was tuned."""
    stages = study.stages
    if stages is None:
        return
    if not stages.manifest.independent_trials:
        if trials_of(stages, study.metric):
            yield Section(TITLE, (_DEPENDENT,))
        return
    groups = tuned_groups(study)
    if not groups:
        return
    told = [text for group in groups for text in _told(study, group)]
    shallow = stages.manifest.settings.get("shallow")
    if shallow is not None:
        told.append(f"Trials trained at most {shallow} layer groups (protocol.shallow): the curves are of these runs.")
    tables = tuple(_table(study, group) for group in groups)
    yield Section(TITLE, tuple(told), tables, drawings=draw_tuning(study, groups))


_DEPENDENT = (
    "The trials of this protocol were proposed by a model of the trials before them. What fewer trials would have "
    "reached cannot be computed from them, and no curve is drawn: that needs independent trials, as random search "
    "makes them."
)


def _told(study: Study, group: TunedGroup) -> list[str]:
    """What the curves of a condition say, in words."""
    where = f"On {short(group.label)}: " if group.label else ""
    if len(group.tuned) == 1:
        return [f"{where}{_gains(study, group)}"]
    return [f"{where}{_order(group)}", _gains(study, group)]


def _order(group: TunedGroup) -> str:
    stretches = leaders([item.curve for item in group.tuned])
    merged = _merged(stretches)
    level = _level(group, merged)
    if len(level) == len(group.tuned) - 1 and all(len(budgets) == group.trials for budgets in level.values()):
        return "None is ahead at any budget: all curves are the same."
    if len(merged) == 1:
        leader = group.tuned[merged[0][2]]
        text = f"{short(leader.label)} is ahead at every budget up to {group.trials} trials."
    else:
        ahead = [f"{short(group.tuned[leader].label)} with {_span(first, last)}" for first, last, leader in merged]
        text = f"Ahead is, by the number of trials: {', '.join(ahead)}."
    if level:
        listed = (f"{short(label)} with {_spans(budgets)}" for label, budgets in level.items())
        text += f" Level with it: {', '.join(listed)}."
    apart = [_span(stretch.first, stretch.last) for stretch in stretches if stretch.apart]
    text += (
        f" The bands tell it from all others at {', '.join(apart)} trials."
        if apart
        else " At no budget do the bands tell it from all others."
    )
    return f"{text} {_settled_told(group)}" if len(group.tuned) > 2 else text


def _level(group: TunedGroup, merged: Sequence[tuple[int, int, int]]) -> dict[str, list[int]]:
    """The budgets at which a curve is as good as that of the leader, by the labels of those with any."""
    found: dict[str, list[int]] = {}
    for first, last, leader in merged:
        best = group.tuned[leader]
        for item in group.tuned:
            pairs = [(item.curve.gains[budget - 1], best.curve.gains[budget - 1]) for budget in range(first, last + 1)]
            equal = [first + place for place, (a, b) in enumerate(pairs) if a == b or abs(a - b) <= _ROUNDING]
            if item is not best and equal:
                found.setdefault(item.label, []).extend(equal)
    return found


def _spans(budgets: Sequence[int]) -> str:
    """Budgets in ascending order, those without a gap as a span."""
    runs = itertools.groupby(enumerate(budgets), key=lambda pair: pair[1] - pair[0])
    members = ([budget for _, budget in run] for _, run in runs)
    return ", ".join(_span(run[0], run[-1]) for run in members)


def _settled_told(group: TunedGroup) -> str:
    settled = _settled(group)
    if settled is None:
        return f"With {group.trials} all {len(group.tuned)} are level."
    if settled == 1:
        return f"The order of all {len(group.tuned)} is the same at each."
    return f"From {settled} trials on the order of all {len(group.tuned)} is the one at {group.trials}."


def _merged(stretches: Sequence[Stretch]) -> list[tuple[int, int, int]]:
    """First and last budget of each leader, whether it is told apart or not."""
    found: list[tuple[int, int, int]] = []
    for stretch in stretches:
        if found and found[-1][2] == stretch.leader:
            found[-1] = (found[-1][0], stretch.last, stretch.leader)
        else:
            found.append((stretch.first, stretch.last, stretch.leader))
    return found


def _settled(group: TunedGroup) -> int | None:
    """The smallest budget from which on the order is that of all trials; None: all end level, without an order."""
    curves = [item.curve.gains[: group.trials] for item in group.tuned]
    pairs = [
        (before, after) for before, after in itertools.combinations(curves, 2) if before[-1] > after[-1] + _ROUNDING
    ]
    if not pairs:
        return None
    for budget in range(group.trials, 1, -1):
        if any(after[budget - 2] > before[budget - 2] + _ROUNDING for before, after in pairs):
            return budget
    return 1


def _gains(study: Study, group: TunedGroup) -> str:
    """What the second half of the budget was worth, and who would catch up at this pace."""
    half = _half(group.trials)
    every = {item.label: _gain(item, group.trials) for item in group.tuned}
    gains = {label: gain for label, gain in every.items() if math.isfinite(gain)}
    first, *others = group.tuned
    if first.label not in gains:
        return "So many trials diverged that what more of them would gain is not known."
    listed = ", ".join(
        f"{signed(gain, study.digits)} for {short(label)}" for label, gain in list(gains.items())[:_MOST_NAMED]
    )
    text = f"From {half} to {group.trials} trials the {_quantity(group)} best gains {listed}."
    behind = [
        short(item.label)
        for item in others
        if item.label in gains
        and abs(float(item.curve.best[group.trials - 1] - first.curve.best[group.trials - 1]))
        <= gains[item.label] - gains[first.label]
        and gains[item.label] - gains[first.label] > _ROUNDING
    ]
    if behind:
        text += (
            f" At this pace {group.trials**2 / half:.0f} trials would bring {' and '.join(behind)} level with "
            f"{short(first.label)} or past it: the order may be that of the budget."
        )
    return text


def _gain(item: Tuned, trials: int) -> float:
    """NaN where most of so many trials diverged and the metric has no bound."""
    after, before = (float(item.curve.gains[budget - 1]) for budget in (trials, _half(trials)))
    return after - before if math.isfinite(after) and math.isfinite(before) else math.nan


def _half(trials: int) -> int:
    """Half of the trials, of an odd number the half that is nearer to it on a logarithmic scale."""
    return (trials + 1) // 2


def _quantity(group: TunedGroup) -> str:
    return "expected" if group.tuned[0].curve.quantity == "mean" else "median"


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _table(study: Study, group: TunedGroup) -> Table:
    shown = budgets_shown(group.trials)
    lines = []
    for item in group.tuned:
        curve = item.curve
        missing = f" of {item.trials.asked}" if item.trials.asked != curve.trials else ""
        at_end = (float(curve.lower[group.trials - 1]), float(curve.upper[group.trials - 1]))
        lines.append(
            Line(
                (
                    short(item.label),
                    *(number(float(curve.best[budget - 1]), study.digits) for budget in shown),
                    interval(at_end, study.digits),
                    signed(_gain(item, group.trials), study.digits),
                    f"{curve.trials}{missing}",
                    seconds(fmean(item.trials.seconds)),
                )
            )
        )
    gained = f"gain, {_half(group.trials)} to {group.trials}"
    headings = ("setting", *(f"best of {budget}" for budget in shown), f"band at {group.trials}", gained)
    note = (
        f"The {_quantity(group)} best validation {study.metric_label} of so many trials, "
        f"{'without bias from all choices of them' if _quantity(group) == 'expected' else 'from all trials'}. The "
        f"bands hold for all budgets and all settings of the table at once with {100 * (1 - ALPHA):.0f} %."
    )
    if any(math.isinf(item.curve.best[budget - 1]) for item in group.tuned for budget in shown):
        note += " inf: most of so many trials diverged, and the metric has no bound."
    return Table(columns(*headings, "trials", "seconds a trial"), tuple(lines), caption=short(group.label), note=note)
