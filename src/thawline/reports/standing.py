"""Which rows are still in the running, in one sentence, and what would tell the best two apart in another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from thawline.reports.choosing import Group
from thawline.reports.document import number
from thawline.reports.findings import RowComparison, TopTwo, compare, top_two
from thawline.reports.rows import Row
from thawline.reports.running import Running
from thawline.reports.study import OVER_BOTH, OVER_SEEDS, Study
from thawline.reports.tables import depth_told, short

_MOST_NAMED = 8
_MOST_SEEDS = 1000


def standing(study: Study, group: Group) -> str:
    """Which rows nothing tells apart, and which of them is the cheapest; empty where nothing was compared."""
    running = group.running
    if running is None:
        return ""
    left_out = sum(bool(row.runs) and not row.dropped for row in group.rows) - len(running.compared)
    told = _remaining(study, group, running, "compared " if left_out else "")
    if left_out:
        told += f" Not compared: {left_out} {_what(study, group, left_out)} without all {running.seeds} seeds."
    return told


def _remaining(study: Study, group: Group, running: Running, which: str) -> str:
    remaining, compared = running.remaining, len(running.compared)
    seeds, left = f"{running.seeds} seeds", _left_by_race(study, group)
    if len(remaining) == 1:
        every = "the other" if compared == 2 else "every other"
        return _alone(study, group, running, f"{every} {which}{_what(study, group, 1)}{left}")
    if len(remaining) == compared > 3:
        what = f"{_what(study, group, compared)}{left}"
        apart = f"none of the {compared} {what} can be told apart on {study.split_label}"
        return f"with {seeds} {apart}; {_cheapest(study, group, running, alone=True)}."
    many = len(remaining) > _MOST_NAMED
    if many:
        names = f"{len(remaining)} of the {compared} {_what(study, group, compared)}{left}"
    elif _by_depth(study, group):
        in_order = sorted(remaining, key=lambda row: row.depth or 0)
        names = f"k = {_listed([_name(study, group, row) for row in in_order])}{_of_groups(remaining)}"
    else:
        names = _listed([_name(study, group, row) for row in remaining])
    cheapest = _cheapest(study, group, running, alone=many)
    return f"{names} cannot be told apart on {study.split_label} ({seeds}); {cheapest}."


def _alone(study: Study, group: Group, running: Running, others: str) -> str:
    """That one row beats all `others`, and where the interval of a difference holds 0 all the same.

    What is out is decided by one side of the differences over the seeds; an interval has two, and may be over other
    images, too.
    """
    (best,) = running.remaining
    name, where = _told_alone(study, group, best), f"on {study.split_label}"
    found = [compare(study, best, row) for row in running.compared if row is not best]
    still = [item for item in found if not _is_apart(item)]
    if not still:
        return f"{name} is better {where} than {others} ({running.seeds} seeds)."
    kind = OVER_BOTH if any(item.both for item in still) else OVER_SEEDS
    kind, hold = (kind, "contains") if len(still) == 1 else (kind.replace("interval", "intervals"), "contain")
    against = [_told_alone(study, group, item.other) for item in still]
    named = _listed(against) if len(against) <= _MOST_NAMED else f"{len(against)} of them"
    return f"{name} leads {others} {where} ({running.seeds} seeds), but the 95 % {kind} against {named} still {hold} 0."


def _is_apart(item: RowComparison) -> bool:
    """Whether the interval of a difference does not hold 0."""
    return item.interval is not None and not item.interval[0] <= 0 <= item.interval[1]


def beaten(study: Study, running: Running, row: Row) -> str:
    """That another row beats `row`, in as many words as the intervals of their differences allow."""
    sign = 1.0 if study.mode == "max" else -1.0
    found = [compare(study, other, row) for other in running.compared if other is not row]
    surely = any(_is_apart(item) and sign * (item.difference or 0.0) > 0 for item in found)
    return f"another is better on {study.split_label}" if surely else f"another leads it on {study.split_label}"


def _left_by_race(study: Study, group: Group) -> str:
    """That the rows are those which a race has left; empty where it dropped none, or there was none."""
    place = dict(zip(study.axes.conditions, group.condition, strict=True))
    dropped = study.stages.dropped if study.stages is not None else []
    return " that the race left" if any(place.items() <= values.items() for values in dropped) else ""


def _cheapest(study: Study, group: Group, running: Running, *, alone: bool) -> str:
    """The cheapest rows in the running; where few seeds leave one in whose mean is far from the best, of the near ones.

    Near is a mean that is less than the margin of equivalence from the best one. Of `alone` rows no others are named.
    """
    cheapest = running.cheapest_of(running.remaining)
    if len(cheapest) == len(running.remaining):
        return "all of them train equally many parameters"
    best = running.remaining[0].summary(study.split, study.metric).mean
    if study.margin is None or best is None or all(_is_near(study, row, best) for row in cheapest):
        return f"{_few(study, group, cheapest, alone=alone)} {_verb(cheapest)} the cheapest of them"
    near = running.cheapest_of([row for row in running.remaining if _is_near(study, row, best)])
    within = f"within {number(study.margin, study.digits)} of the best mean"
    return f"of those {within} the cheapest {_verb(near)} {_few(study, group, near, alone=True)}"


def _verb(rows: Sequence[Row]) -> str:
    return "is" if len(rows) == 1 else "are"


def _few(study: Study, group: Group, rows: Sequence[Row], *, alone: bool) -> str:
    if len(rows) > _MOST_NAMED:
        return f"{len(rows)} {_what(study, group, len(rows))}"
    return _listed([(_told_alone if alone else _name)(study, group, row) for row in rows])


def _is_near(study: Study, row: Row, best: float) -> bool:
    mean = row.summary(study.split, study.metric).mean
    return mean is not None and study.margin is not None and abs(best - mean) < study.margin


def best_two(study: Study, group: Group) -> str:
    """How many seeds would tell the best two rows apart, or that they are equivalent; empty where they are apart."""
    found = top_two(study, group)
    if found is None:
        return ""
    first, second = (_told_alone(study, group, row) for row in (found.first, found.second))
    both = f"{first} and {second}"
    if found.equivalent and study.margin is not None:
        return f"The best two, {both}, are equivalent: they differ by less than {number(study.margin, study.digits)}."
    if found.seeds == math.inf:
        return f"The best two, {both}, have the same mean: how many seeds would tell them apart is unknown."
    return f"{_seeds_told(found)} would tell the best two, {both}, apart."


def beaten_caption(study: Study) -> str:
    """What a figure's caption says of hollow marks; empty where there are none."""
    compared = [group.running for group in study.conditions if group.running is not None]
    told = []
    if any(len(one.remaining) < len(one.compared) for one in compared):
        seeds = min(one.seeds for one in compared)
        told.append(f"beaten by another row, by paired t over {seeds} seeds, corrected for all rivals")
    if any(row.dropped for row in study.rows):
        told.append("dropped by the race")
    return f" Hollow: {', or '.join(told)}." if told else ""


def _seeds_told(found: TopTwo) -> str:
    if found.seeds > _MOST_SEEDS:
        return f"More than {_MOST_SEEDS:,} seeds"
    return f"About {found.seeds:.0f} seeds"


def _by_depth(study: Study, group: Group) -> bool:
    """Whether the rows of the group differ in their number of layer groups alone."""
    return study.axes.depth_is_layers and len({row.choice for row in group.rows}) == 1


def _what(study: Study, group: Group, count: int) -> str:
    one = "depth" if _by_depth(study, group) else "setting"
    return one if count == 1 else f"{one}s"


def _name(study: Study, group: Group, row: Row) -> str:
    if _by_depth(study, group):
        return depth_told(study, row)
    return short(row.label.removeprefix(f"{group.label}, ")) if group.label else short(row.label)


def _told_alone(study: Study, group: Group, row: Row) -> str:
    return f"k = {_name(study, group, row)}" if _by_depth(study, group) else _name(study, group, row)


def _of_groups(rows: tuple[Row, ...]) -> str:
    totals = {len(run.groups) for row in rows for run in row.runs.values()}
    return f" of {totals.pop()} layer groups" if len(totals) == 1 else " layer groups"


def _listed(names: Sequence[str]) -> str:
    between = "; " if any("," in name for name in names) else ", "
    return " and ".join([between.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
