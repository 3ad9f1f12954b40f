"""Which rows of a group may still be the best: those that no other row beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thawline import statistics
from thawline.reports.rows import Key, Row
from thawline.statistics import Mode


@dataclass(frozen=True)
class Running:
    """The rows that were compared on common seeds, and those of them that are still in the running, best mean first.

    `seeds` is how many seeds all compared rows have in common. With one seed, or one row, nothing is compared.
    """

    compared: tuple[Row, ...]
    remaining: tuple[Row, ...]
    seeds: int

    @staticmethod
    def cheapest_of(rows: Sequence[Row]) -> list[Row]:
        """The rows that train the fewest parameters, in the order of `rows`."""
        fewest = min(row.weights for row in rows)
        return [row for row in rows if row.weights == fewest]

    def is_out(self, row: Row) -> bool:
        """Whether another row beats `row`."""
        return any(row is other for other in self.compared) and not any(row is other for other in self.remaining)


def running(rows: Sequence[Row], split: str, metric: str, mode: Mode) -> Running | None:
    """The rows in the running by a metric of `split`; None: no two rows have two seeds in common.

    Compared are the rows with the most finite scores, on the seeds that all of them have.
    """
    scores = [(row, _finite(row.scores(split, metric))) for row in rows]
    most = max((len(of_row) for _, of_row in scores), default=0)
    whole = [(row, of_row) for row, of_row in scores if len(of_row) == most]
    keys = [key for key in whole[0][1] if all(key in of_row for _, of_row in whole)] if whole else []
    if len(whole) < 2 or len(keys) < 2:
        return None
    table = np.array([[of_row[key] for key in keys] for _, of_row in whole])
    still = statistics.in_the_running(table, mode, resolution=resolution(rows, split, metric))
    sign = 1.0 if mode == "max" else -1.0
    order = sorted(range(len(whole)), key=lambda place: -sign * float(table[place].mean()))
    return Running(
        compared=tuple(row for row, _ in whole),
        remaining=tuple(whole[place][0] for place in order if still[place]),
        seeds=len(keys),
    )


def resolution(rows: Sequence[Row], split: str, metric: str) -> float:
    """One over the number of images of the split, for a metric between 0 and 1; 0 for any other."""
    runs = [run for row in rows for run in row.runs.values() if metric in run.definitions]
    images = [n for run in runs for name, n, _ in run.splits if name == split and n]
    shares = all((run.definitions[metric].lower, run.definitions[metric].upper) == (0.0, 1.0) for run in runs)
    return 1.0 / max(images) if images and shares else 0.0


def _finite(scores: Mapping[Key, float]) -> dict[Key, float]:
    return {key: score for key, score in scores.items() if math.isfinite(score)}
