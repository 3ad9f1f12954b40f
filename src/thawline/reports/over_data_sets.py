"""Strategies over several data sets and networks: where all of them have the same strategies, these can be ranked."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from thawline import statistics
from thawline.reports.axes import setting_labels
from thawline.reports.rows import Key, Row, grouped
from thawline.reports.study import Study
from thawline.statistics import Friedman, PairOverDataSets

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NETWORK = "backbone"


@dataclass(frozen=True)
class OverDataSets:
    """Strategies on several blocks: data sets, networks, or pairs of both; `what` names them in the plural.

    `means` has shape (blocks, strategies), the means over the seeds. `scores` has for each block an array (strategies,
    seeds) of the seeds that all strategies have. `left_out` are strategies that miss a result on a block. `relative`
    says that the metric has no common scale, so that strategies are compared by ratios.
    """

    what: str
    blocks: tuple[str, ...]
    strategies: tuple[str, ...]
    means: NDArray[np.float64]
    scores: tuple[NDArray[np.float64], ...]
    left_out: tuple[str, ...]
    mode: statistics.Mode
    relative: bool

    @cached_property
    def friedman(self) -> Friedman | None:
        """Friedman's test; None for two strategies."""
        return statistics.friedman(self.means, self.mode) if len(self.strategies) > 2 else None

    @cached_property
    def mean_ranks(self) -> tuple[float, ...]:
        """The mean rank of each strategy over the blocks, 1 is the best."""
        if self.friedman is not None:
            return self.friedman.mean_ranks
        pair = self.pair(0, 1)
        blocks = len(self.blocks)
        first = (pair.wins + 1.5 * pair.ties + 2 * pair.losses) / blocks
        return first, 3 - first

    @cached_property
    def order(self) -> list[int]:
        """The strategies from the best mean rank on."""
        return sorted(range(len(self.strategies)), key=lambda place: self.mean_ranks[place])

    @cached_property
    def cliques(self) -> list[tuple[int, ...]]:
        """Stretches of the ranking within which Wilcoxon's test, Holm-corrected over all pairs, tells nothing apart."""
        blocks, strategies = self.means.shape
        if statistics.smallest_p(blocks) * math.comb(strategies, 2) >= 1 - statistics.CONFIDENCE:
            return [tuple(self.order)]  # even a strategy that wins everywhere would not be told apart
        comparable = np.log(self.means) if self.relative and (self.means > 0).all() else self.means
        return statistics.cliques(self.mean_ranks, statistics.wilcoxon_holm(comparable))

    def pair(self, first: int, second: int) -> PairOverDataSets:
        """One strategy against another over the blocks."""
        return statistics.compare_over_data_sets(
            self.means[:, first], self.means[:, second], self.mode, relative=self.relative
        )

    @cached_property
    def normalised(self) -> tuple[NDArray[np.float64], ...]:
        """The scores between the worst (0) and the best (1) strategy's mean of each block that tells any apart."""
        found = statistics.normalised(self.scores, self.mode)
        return tuple(one for one in found if one is not None)


def over_data_sets(study: Study) -> OverDataSets | None:
    """The strategies over data sets and networks; None for fewer than two of those or fewer than two strategies."""
    networks = [axis for axis in study.axes.choices if axis.partition(".")[0] == _NETWORK]
    if not study.axes.data_sets and not networks:
        return None

    def block(row: Row) -> Key:
        return *row.condition, *(_value(study, row, axis) for axis in networks)

    def strategy(row: Row) -> Key:
        own = (value for axis, value in _choices(study, row) if axis not in networks)
        return *own, row.depth_value or ""

    blocks = grouped(study.rows, block)
    strategies = grouped(study.rows, strategy)
    place: dict[tuple[Hashable, Hashable], Row] = {
        (block(row), strategy(row)): row for row in study.rows if _has_mean(study, row)
    }
    whole = [each for each in strategies if all((where, each) in place for where in blocks)]
    if len(blocks) < 2 or len(whole) < 2:
        return None
    table = [[place[where, each] for each in whole] for where in blocks]
    axes = [*study.axes.conditions, *networks]
    definition = study.definition
    both = "pairs of data set and network" if networks and study.axes.conditions else "networks"
    return OverDataSets(
        what=both if networks else "data sets",
        blocks=tuple(", ".join(setting_labels(axes, block(members[0]))) for members in blocks.values()),
        strategies=tuple(_strategy_label(study, strategies[each][0], networks) for each in whole),
        means=np.array([[row.summary(study.split, study.metric).mean for row in line] for line in table]),
        scores=tuple(filter(np.size, (_common(study, line) for line in table))),
        left_out=tuple(
            _strategy_label(study, strategies[each][0], networks) for each in strategies if each not in whole
        ),
        mode=study.mode,
        relative=definition.lower is None or definition.upper is None,
    )


def _has_mean(study: Study, row: Row) -> bool:
    return row.summary(study.split, study.metric).mean is not None


def _common(study: Study, rows: Sequence[Row]) -> NDArray[np.float64]:
    """The scores of the seeds that all rows have, shape (rows, seeds)."""
    scores = [row.scores(study.split, study.metric) for row in rows]
    keys = [key for key in scores[0] if all(math.isfinite(each.get(key, math.nan)) for each in scores)]
    return np.array([[each[key] for key in keys] for each in scores])


def _choices(study: Study, row: Row) -> list[tuple[str, str]]:
    return list(zip(study.axes.choices, row.choice, strict=True))


def _value(study: Study, row: Row, axis: str) -> str:
    return dict(_choices(study, row))[axis]


def _strategy_label(study: Study, row: Row, networks: Sequence[str]) -> str:
    own = [(axis, value) for axis, value in _choices(study, row) if axis not in networks]
    parts = setting_labels([axis for axis, _ in own], [value for _, value in own])
    if study.axes.depth and study.axes.depth_is_layers:
        parts.append(f"k = {row.depth_value}" if study.axes.depth.endswith("k") else f"depth = {row.depth_value}")
    elif study.axes.depth:
        parts += setting_labels([study.axes.depth], [row.depth_value or ""])
    return ", ".join(parts)
