"""Which rows are still in the running, in one sentence, and what would tell the best two apart in another."""

from __future__ import annotations

import math
from collections.abc import Callable

from thawline.reports.choosing import Group
from thawline.reports.document import number
from thawline.reports.findings import TopTwo, top_two
from thawline.reports.rows import Row
from thawline.reports.running import Running
from thawline.reports.study import Study
from thawline.reports.tables import depth_told, short

_MOST_NAMED = 8
_MOST_SEEDS = 1000


def standing(study: Study, group: Group) -> str:
    """Which rows nothing tells apart, and which of them is the cheapest; empty where nothing was compared."""
    running = group.running
    if running is None:
        return ""
    left_out = sum(bool(row.runs) for row in group.rows) - len(running.compared)
    told = _remaining(study, group, running, "compared " if left_out else "")
    if left_out:
        told += f" Not compared: {left_out} {_what(study, group, left_out)} without all {running.seeds} seeds."
    return told


def _remaining(study: Study, group: Group, running: Running, which: str) -> str:
    remaining, compared = running.remaining, len(running.compared)
    seeds = f"{running.seeds} seeds"
    if len(remaining) == 1:
        best = _told_alone(study, group, remaining[0])
        return f"{best} is better on {study.split_label} than every other {which}{_what(study, group, 1)} ({seeds})."
    if len(remaining) == compared > 3:
        apart = f"none of the {compared} {_what(study, group, compared)} can be told apart on {study.split_label}"
        return f"with {seeds} {apart}; {_cheapest(study, group, running, _told_alone)}."
    name = _name
    if len(remaining) > _MOST_NAMED:
        names, name = f"{len(remaining)} of the {compared} {_what(study, group, compared)}", _told_alone
    elif _by_depth(study, group):
        in_order = sorted(remaining, key=lambda row: row.depth or 0)
        names = f"k = {_listed([_name(study, group, row) for row in in_order])}{_of_groups(remaining)}"
    else:
        names = _listed([_name(study, group, row) for row in remaining])
    cheapest = _cheapest(study, group, running, name)
    return f"{names} cannot be told apart on {study.split_label} ({seeds}); {cheapest}."


def _cheapest(study: Study, group: Group, running: Running, name: Callable[[Study, Group, Row], str]) -> str:
    """The cheapest row in the running; where few seeds leave one in whose mean is far from the best, of the near ones.

    Near is a mean that is less than the margin of equivalence from the best one.
    """
    cheapest = running.cheapest_of(running.remaining)
    best = running.remaining[0].summary(study.split, study.metric).mean
    if study.margin is None or best is None or _is_near(study, cheapest, best):
        return f"{name(study, group, cheapest)} is the cheapest of them"
    near = running.cheapest_of([row for row in running.remaining if _is_near(study, row, best)])
    within = f"within {number(study.margin, study.digits)} of the best mean"
    return f"of those {within} {_told_alone(study, group, near)} is the cheapest"


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
        return f"The best two, {both}, have the same mean: what would tell them apart is not known."
    return f"{_seeds_told(found)} would tell the best two, {both}, apart."


def beaten_caption(study: Study) -> str:
    """What a figure's caption says of hollow marks; empty where there are none."""
    seeds = [group.running.seeds for group in study.conditions if group.running is not None]
    if not any(study.is_in_the_running(row) is False for row in study.rows):
        return ""
    return f" Hollow: beaten by another row, by paired t over {min(seeds)} seeds, corrected for all rivals."


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


def _listed(names: list[str]) -> str:
    between = "; " if any("," in name for name in names) else ", "
    return " and ".join([between.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
