"""How often the intervals and tests of a report hold what they promise, by simulation.

``python -m tests.statistics.coverage`` prints the table of docs/statistics.md. Seeds and images are drawn from
populations whose truth is known: a model of seed s is right on image i if ``mean + a_i + b_s + e_si > 0``, all normal,
so its accuracy over new seeds and images is known in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from thawline import statistics
from thawline.evaluation.images import image_weights
from thawline.evaluation.images.counts import of_counts
from thawline.evaluation.images.precision import Ranking, interpolated_precision

REPEATS = 2000


@dataclass(frozen=True)
class Simulated:
    """A line of the table: what is promised, and the share that was observed; `beside` is what t over seeds gives."""

    name: str
    case: str
    promised: str
    least: float
    most: float
    observed: float
    beside: float | None = None


@dataclass(frozen=True)
class Accuracies:
    """A population of right and wrong: the mean of a normal score, and its spreads over images and over seeds."""

    mean: float
    images: float
    seeds: float

    @property
    def truth(self) -> float:
        return float(norm.cdf(self.mean / math.sqrt(1 + self.images**2 + self.seeds**2)))

    def draw(self, draws, seeds, images):
        noise = draws.normal(size=(seeds, images))
        of_images = self.images * draws.normal(size=images)
        return self.mean + of_images + self.seeds * draws.normal(size=(seeds, 1)) + noise > 0


def accuracies(seeds: int, images: int, population: Accuracies, name: str) -> Simulated:
    draws = np.random.default_rng([seeds, images, int(100 * population.seeds)])
    hits = over_seeds = 0
    for _ in range(REPEATS):
        right = population.draw(draws, seeds, images).astype(float)
        low, high = statistics.two_way(right).interval(bounds=(0.0, 1.0), proportion=True)
        hits += low <= population.truth <= high
        if seeds > 1:
            low, high = statistics.t_interval(right.mean(axis=1))
            over_seeds += low <= population.truth <= high
    promised = "95 %" if seeds > 1 else "95 %, other images"
    case = f"{seeds} {'seed' if seeds == 1 else 'seeds'}, {images} images, {name}"
    return Simulated(
        "accuracy", case, promised, 0.925, 0.985, hits / REPEATS, over_seeds / REPEATS if seeds > 1 else None
    )


def differences(seeds: int, images: int, by_seed: float, own: float = 0.0) -> Simulated:
    """Two models that share images and seeds; each seed moves their difference too, and so do images hard for one."""
    draws = np.random.default_rng([seeds, images])
    hits = over_seeds = 0
    spread = math.sqrt(1 + 1.0 + by_seed**2 + own**2)
    truth = float(norm.cdf(1.2 / spread) - norm.cdf(1.0 / spread))
    for _ in range(REPEATS):
        of_images = draws.normal(size=images)
        both = []
        for mean in (1.2, 1.0):
            hard = of_images + (own * draws.normal(size=images) if own else 0.0)
            noise = by_seed * draws.normal(size=(seeds, 1)) + draws.normal(size=(seeds, images))
            both.append(mean + hard + noise > 0)
        d = both[0].astype(float) - both[1]
        low, high = statistics.two_way(d).interval(difference=True)
        hits += low <= truth <= high
        low, high = statistics.t_interval(d.mean(axis=1))
        over_seeds += low <= truth <= high
    effect = "no seed effect" if not by_seed else "strong seed effect"
    case = f"{seeds} seeds, {images} images, {'images hard for one of them' if own else effect}"
    return Simulated("difference of two accuracies", case, "95 %", 0.93, 0.995, hits / REPEATS, over_seeds / REPEATS)


def mean_iou(seeds: int, images: int, repeats: int = 600) -> Simulated:
    """Five classes of which an image shows some; what is found of them depends on image and seed."""
    classes = 5

    def draw(draws, seeds, images):
        shown = draws.random((images, classes)) < np.array([0.95, 0.8, 0.6, 0.5, 0.4])
        truth = shown * draws.gamma(2.0, 500.0, (images, classes))
        ease = draws.normal(1.2, 0.7, (images, 1)) + draws.normal(0, 0.15, (seeds, 1, 1))
        share = norm.cdf(ease + draws.normal(0, 0.5, (seeds, images, classes)))
        wrong = 0.1 * truth.mean() * draws.gamma(1.0, 1.0, (seeds, images, classes))
        return truth, truth * share, truth * share + wrong

    def value(truth, shared, said, weights):
        return of_counts("mean_iou", {"intersection": shared, "predicted": said, "truth": truth}, weights)

    draws = np.random.default_rng([images, seeds])
    # The population's value: many seeds, each on many images.
    truths = []
    for _ in range(200):
        truth, shared, said = draw(draws, 1, 4000)
        truths.append(value(truth, shared[0], said[0], np.ones((1, 4000), np.float32))[0])
    target = float(np.mean(truths))
    weights, ones = image_weights(images, 250), np.ones((1, images), np.float32)
    hits = over_seeds = 0
    for _ in range(repeats):
        truth, shared, said = draw(draws, seeds, images)
        values = [value(truth, shared[s], said[s], ones)[0] for s in range(seeds)]
        resampled = np.stack([value(truth, shared[s], said[s], weights) for s in range(seeds)])
        low, high = statistics.two_way_resampled(values, resampled, images).interval(bounds=(0.0, 1.0))
        hits += low <= target <= high
        if seeds > 1:
            low, high = statistics.t_interval(values)
            over_seeds += low <= target <= high
    name, observed = "mean IoU, bootstrap over images", hits / repeats
    if seeds == 1:
        # The shortfall that docs/statistics.md warns of: one seed knows nothing of the others.
        return Simulated(name, f"1 seed of seeds that differ, {images} images", "nothing", 0.6, 0.8, observed)
    return Simulated(name, f"{seeds} seeds, {images} images", "95 %", 0.92, 0.985, observed, over_seeds / repeats)


def average_precision(images: int, repeats: int = 600) -> Simulated:
    """One seed and one class: objects of which most are found, and false findings, with overlapping scores."""

    def draw(draws, images):
        there = draws.poisson(6, images)
        ease = np.repeat(draws.normal(0.0, 0.5, images), there)
        image = np.repeat(np.arange(images), there)
        found = draws.normal(1.0 + ease) > 0
        wrong = np.repeat(np.arange(images), draws.poisson(4, images))
        scores = np.concatenate([draws.normal(1.5 + ease[found]), draws.normal(0.0, 1.0, len(wrong))])
        order = np.argsort(-scores)
        right = np.concatenate([np.ones(found.sum(), bool), np.zeros(len(wrong), bool)])[order, None]
        return Ranking(np.concatenate([image[found], wrong])[order], right, np.zeros_like(right), there)

    draws = np.random.default_rng(images)
    ones = np.ones((1, 20_000), np.float32)
    target = float(np.mean([interpolated_precision(draw(draws, 20_000), ones, slice(None)) for _ in range(20)]))
    weights, hits = image_weights(images, 250), 0
    for _ in range(repeats):
        ranking = draw(draws, images)
        value = float(interpolated_precision(ranking, np.ones((1, images), np.float32), slice(None))[0])
        resampled = interpolated_precision(ranking, weights, slice(None))
        low, high = statistics.two_way_resampled([value], resampled[None], images).interval(bounds=(0.0, 1.0))
        hits += low <= target <= high
    case = f"1 seed, {images} images"
    return Simulated("average precision, bootstrap over images", case, "95 %, other images", 0.92, 0.98, hits / repeats)


def running(rows: int, seeds: int) -> Simulated:
    """Rows as far apart as the demo's depths; the best one must stay in."""
    draws = np.random.default_rng([rows, seeds])
    means = 0.9 - 0.02 * np.linspace(0, 1, rows) ** 2
    hits = 0
    for _ in range(REPEATS):
        shared = draws.normal(0, 0.006, seeds)
        hits += statistics.in_the_running(means[:, None] + shared + draws.normal(0, 0.006, (rows, seeds)))[0]
    return Simulated(
        "the best row stays in the running", f"{rows} rows, {seeds} seeds", "≥ 95 %", 0.95, 1, hits / REPEATS
    )


def running_on_other_images(rows: int, seeds: int, images: int) -> Simulated:
    """Rows that are alike on all images there are, each with images that are hard for it alone, tested on a few."""
    draws = np.random.default_rng([rows, seeds, images])
    hits = 0
    for _ in range(REPEATS):
        hard = draws.normal(size=images) + draws.normal(size=(rows, 1, images))
        right = 1.5 + hard + draws.normal(size=(rows, seeds, images)) > 0
        hits += statistics.in_the_running(right.mean(axis=2), resolution=1 / images)[0]
    case = f"{rows} rows alike on other images, {seeds} seeds, {images} images"
    return Simulated("one of the best rows stays in the running", case, "nothing", 0.3, 0.9, hits / REPEATS)


def verdict_error(rows: int, seeds: int) -> Simulated:
    """Rows that are all alike: any verdict of better or worse than the first one is an error."""
    draws = np.random.default_rng([rows, seeds, 3])
    hits = 0
    for _ in range(REPEATS):
        scores = draws.normal(size=(rows, seeds))
        hits += any(statistics.beaten(scores[0] - other, rows) for other in scores[1:])
    case = f"{rows - 1} {'comparison' if rows == 2 else 'comparisons'}, {seeds} seeds"
    return Simulated("any false better or worse", case, "≤ 5 % each", 0.0, 0.12, hits / REPEATS)


def joint_error(rows: int, seeds: int) -> Simulated:
    """Rows that are all alike: any p below .05 is an error."""
    draws = np.random.default_rng([rows, seeds, 1])
    hits = 0
    for _ in range(REPEATS):
        scores = draws.normal(size=(seeds, rows + 1))
        hits += min(statistics.joint_sign_flips(scores[:, 1:] - scores[:, :1])) < 0.05
    case = f"{rows} comparisons, {seeds} seeds"
    return Simulated("any false p < .05 among joint sign flips", case, "≤ 5 %", 0.0, 0.055, hits / REPEATS)


def equivalence_error_over_images(seeds: int, images: int) -> Simulated:
    """One model right on everything, another wrong on a share of the images that is the margin, for every seed."""
    draws = np.random.default_rng([seeds, images, 2])
    hits = 0
    for _ in range(REPEATS):
        d = np.repeat(draws.random((1, images)) < 0.01, seeds, axis=0)
        interval = statistics.two_way(d).interval(statistics.EQUIVALENCE_CONFIDENCE, difference=True)
        hits += statistics.equivalent(interval, 0.01)
    case = f"{seeds} seeds, {images} images, models nearly without a mistake"
    return Simulated("called equivalent at the margin", case, "≤ 5 %", 0.0, 0.07, hits / REPEATS)


def equivalence_error(seeds: int) -> Simulated:
    """A difference of exactly the margin: calling it equivalent is an error."""
    draws = np.random.default_rng([seeds, 2])
    hits = 0
    for _ in range(REPEATS):
        d = 0.01 + draws.normal(0, 0.004, seeds)
        hits += statistics.equivalent(statistics.t_interval(d, statistics.EQUIVALENCE_CONFIDENCE), 0.01)
    return Simulated("called equivalent at the margin", f"{seeds} seeds", "≤ 5 %", 0.0, 0.06, hits / REPEATS)


PLAIN, STRONG = Accuracies(1.5, 1.0, 0.0), Accuracies(1.5, 1.0, 0.3)
EASY = Accuracies(3.2, 1.0, 0.0)
TABLE: tuple[Callable[[], Simulated], ...] = (
    lambda: accuracies(1, 36, EASY, "nearly all right"),
    lambda: accuracies(1, 269, PLAIN, "no seed effect"),
    lambda: accuracies(5, 36, EASY, "nearly all right"),
    lambda: accuracies(5, 269, PLAIN, "no seed effect"),
    lambda: accuracies(5, 2000, PLAIN, "no seed effect"),
    lambda: accuracies(10, 269, PLAIN, "no seed effect"),
    lambda: accuracies(2, 269, STRONG, "strong seed effect"),
    lambda: accuracies(3, 269, STRONG, "strong seed effect"),
    lambda: accuracies(5, 269, STRONG, "strong seed effect"),
    lambda: accuracies(10, 269, STRONG, "strong seed effect"),
    lambda: differences(3, 269, 0.0),
    lambda: differences(5, 269, 0.0),
    lambda: differences(3, 269, 0.2),
    lambda: differences(5, 269, 0.2),
    lambda: differences(5, 269, 0.0, own=1.0),
    lambda: mean_iou(1, 100),
    lambda: mean_iou(3, 100),
    lambda: mean_iou(5, 100),
    lambda: average_precision(72),
    lambda: running(10, 3),
    lambda: running(10, 5),
    lambda: running(10, 10),
    lambda: running_on_other_images(5, 5, 269),
    lambda: verdict_error(2, 5),
    lambda: verdict_error(10, 5),
    lambda: joint_error(9, 6),
    lambda: joint_error(9, 10),
    lambda: equivalence_error(3),
    lambda: equivalence_error(6),
    lambda: equivalence_error_over_images(3, 72),
    lambda: equivalence_error_over_images(3, 300),
    lambda: equivalence_error_over_images(3, 1000),
)


def lines(found: list[Simulated]) -> list[str]:
    """The lines of the table in docs/statistics.md."""
    told = []
    for one in found:
        beside = "" if one.beside is None else f"{100 * one.beside:.1f} %"
        told.append(f"| {one.name} | {one.case} | {one.promised} | {100 * one.observed:.1f} % | {beside} |")
    return told


if __name__ == "__main__":
    print("\n".join(lines([simulate() for simulate in TABLE])))
