"""Races with a known truth: how often a candidate is dropped that is as good as the one that beat it.

``python -m tests.statistics.simulated_races`` prints the table of docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thawline.statistics import looks_of, race

TRUTHS = {
    "all equal": (0, 0, 0, 0, 0, 0),
    "three best, three worse": (0, 0, 0, -1.5, -1.5, -1.5),
    "two best, a falling line": (0, 0, -1, -2, -3, -4),
    "one best, five equal": (3, 0, 0, 0, 0, 0),
    "three pairs": (0, 0, -2, -2, -4, -4),
}
"""The means of six candidates, in standard deviations of a seed's noise."""

NOISES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "shared by a seed": lambda rng, shape: 3 * rng.normal(size=(shape[0], 1)) + rng.normal(size=shape),
    "unequal spreads": lambda rng, shape: rng.normal(size=shape) * np.array([0.3, 3, 0.3, 1, 1, 3]),
    "skewed": lambda rng, shape: rng.exponential(size=shape),
    "a tenth collapses": lambda rng, shape: 0.3 * rng.normal(size=shape) - 5.0 * (rng.random(shape) < 0.1),
}
"""What a seed adds. Of skewed scores the differences of all pairs at once are not as likely as their negatives."""


@dataclass(frozen=True)
class Errors:
    """Over many races: the shares with any false drop, and with one of a best candidate; mean drops and runs saved."""

    any_false: float
    best_dropped: float
    drops: float
    saved: float


def race_errors(truth: str, noise: str, races: int, seeds: tuple[int, ...] = (7, 9, 11), alpha: float = 0.05) -> Errors:
    """The errors of so many `races` with looks after so many `seeds`."""
    means = np.array(TRUTHS[truth], dtype=float)
    looks = looks_of(seeds, alpha)
    rng = np.random.default_rng(len(truth) + len(noise))
    tallies = []
    for _ in range(races):
        drops = race(means + NOISES[noise](rng, (seeds[-1], len(means))), looks)
        false = [drop for drop in drops if means[drop.candidate] >= means[drop.winner]]
        saved = sum(seeds[-1] - drop.look.seeds for drop in drops) / (seeds[-1] * len(means))
        tallies.append((bool(false), any(means[drop.candidate] == means.max() for drop in drops), len(drops), saved))
    return Errors(*np.mean(tallies, axis=0).tolist())


if __name__ == "__main__":
    print("| truth | noise | any false drop | a best one dropped | dropped of 6 | runs saved |")
    print("| :--- | :--- | ---: | ---: | ---: | ---: |")
    for name in TRUTHS:
        for kind in NOISES:
            found = race_errors(name, kind, 2000)
            print(
                f"| {name} | {kind} | {found.any_false:.3f} | {found.best_dropped:.3f} | {found.drops:.1f} | "
                f"{100 * found.saved:.0f} % |"
            )
