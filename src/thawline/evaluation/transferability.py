"""Transferability scores: what a source model promises for a target, from one forward pass and no training.

LEEP and NCE read the source classifier's probabilities, H-score and LogME the features. Higher is better for each;
none is on the scale of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]

_GRID = 241
_WIDEST = 12.0
"""The search for the ratio of signal to noise spans 10^±12 around the scale of the features."""


def leep(probabilities: Floats, labels: Labels) -> float:
    """The log expected empirical prediction, at most 0.

    ``mean_i log sum_z P(y_i | z) theta(x_i)_z`` with ``P(y, z) = mean_i theta(x_i)_z [y_i = y]``: the mean log
    likelihood of the target labels under a predictor that draws a source class z from the source model and then a
    target class from what the data say of z.

    Args:
        probabilities: the source classifier's, (N, C_s), each row sums to 1.
        labels: the target classes, (N,).

    Source: C. Nguyen et al., LEEP: A New Measure to Evaluate Transferability, ICML 2020, eq. 1 and 2.
    """
    probabilities = np.asarray(probabilities, np.float64)
    classes, positions = np.unique(labels, return_inverse=True)
    joint = np.zeros((len(classes), probabilities.shape[1]))
    np.add.at(joint, positions, probabilities / len(labels))
    of_source = joint.sum(axis=0)
    conditional = np.divide(joint, of_source, out=np.zeros_like(joint), where=of_source > 0)
    likelihood = np.einsum("nz,nz->n", probabilities, conditional[positions])
    return min(0.0, float(np.log(likelihood).mean()))


def nce(probabilities: Floats, labels: Labels) -> float:
    """The negative conditional entropy ``-H(Y | Z)`` of the target labels given the source's hard predictions.

    At most 0; 0 where the predicted source class settles the target class.

    Args:
        probabilities: the source classifier's, (N, C_s); only the largest of each row counts.
        labels: the target classes, (N,).

    Source: A. Tran, C. Nguyen and T. Hassner, Transferability and Hardness of Supervised Classification Tasks,
    ICCV 2019, sec. 3.2.
    """
    predicted = np.asarray(probabilities).argmax(axis=1)
    _, target = np.unique(labels, return_inverse=True)
    joint = np.zeros((predicted.max() + 1, target.max() + 1))
    np.add.at(joint, (predicted, target), 1.0 / len(labels))
    conditional = np.divide(joint, joint.sum(axis=1, keepdims=True), out=np.ones_like(joint), where=joint > 0)
    return min(0.0, float((joint * np.log(conditional)).sum()))


def h_score(features: Floats, labels: Labels) -> float:
    """``tr(cov(f)^-1 cov(E[f | y]))``: how much of the features' variance lies between the classes, 0 to C - 1.

    NaN where the centred features have as many dimensions as they can have (N - 1): the score is then C - 1 whatever
    the features are, because N samples in general position are always separable (see `shrunk_h_score`).

    Args:
        features: (N, D).
        labels: the target classes, (N,).

    Source: Y. Bao et al., An Information-Theoretic Approach to Transferability in Task Transfer Learning, ICIP 2019.
    """
    spectrum = _Spectrum.of(features, centred=True)
    kept = spectrum.rank
    if kept >= len(labels) - 1:
        return math.nan
    return float(_between(spectrum.left[:, :kept], labels).sum())


def shrunk_h_score(features: Floats, labels: Labels) -> float:
    """The H-score with Ledoit and Wolf's shrunk covariance: ``tr(cov_a(f)^-1 (1 - a) cov(E[f | y]))``.

    ``cov_a = (1 - a) cov + a mean-variance I``. It tells sources apart also where there are fewer samples than
    features, as there are in most transfers.

    Args:
        features: (N, D).
        labels: the target classes, (N,).

    Source: S. Ibrahim, N. Ponomareva and R. Mazumder, Newer is not always better, ECML PKDD 2022.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    features = np.asarray(features, np.float64)
    kept = 1.0 - float(ledoit_wolf_shrinkage(features))
    spectrum = _Spectrum.of(features, centred=True)
    variances = spectrum.values**2 / len(features)
    floor = (1.0 - kept) * variances.sum() / features.shape[1]
    within = kept * variances + floor
    shares = np.divide(kept * variances, within, out=np.zeros_like(within), where=within > 0)
    return float((shares * _between(spectrum.left, labels)).sum())


def logme(features: Floats, labels: Labels) -> float:
    """The largest log evidence of a linear Gaussian model of each class's indicator, per sample, mean over classes.

    For a class with indicator y in {0, 1}: ``y = F w + e``, ``w ~ N(0, I / alpha)``, ``e ~ N(0, I / beta)``, so
    ``y ~ N(0, I / beta + F F' / alpha)``; the evidence is maximised over alpha and beta. The published fixed-point
    code omits ``-(D - k) / 2 log alpha`` for rank k < D, hence is wrong for N < D; this is the exact value.

    Args:
        features: (N, D), not centred, as the authors take them.
        labels: the target classes, (N,).

    Source: K. You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021, eq. 2.
    """
    spectrum = _Spectrum.of(features)
    values = [
        _best_evidence(spectrum, np.asarray(labels == label, np.float64)).log_evidence for label in np.unique(labels)
    ]
    return float(np.mean(values)) / len(labels)


@dataclass(frozen=True)
class Evidence:
    """The largest log evidence of a linear Gaussian model and where it lies."""

    log_evidence: float
    alpha: float
    beta: float


def best_evidence(features: Floats, target: Floats) -> Evidence:
    """The largest log evidence over alpha and beta of ``target ~ N(0, I / beta + F F' / alpha)``; F (N, D), (N,)."""
    return _best_evidence(_Spectrum.of(features), np.asarray(target, np.float64))


def log_evidence(features: Floats, target: Floats, alpha: float, beta: float) -> float:
    """The exact log density of `target` (N,) under ``N(0, I / beta + F F' / alpha)`` with F = `features` (N, D)."""
    spectrum = _Spectrum.of(features)
    inside, outside = spectrum.parts(np.asarray(target, np.float64))
    n = len(target)
    variances = 1.0 / beta + spectrum.values**2 / alpha
    logs = np.log(variances).sum() - (n - len(variances)) * math.log(beta)
    return float(-0.5 * (n * math.log(2 * math.pi) + logs + (inside**2 / variances).sum() + beta * outside))


def _best_evidence(spectrum: _Spectrum, target: Floats) -> Evidence:
    """With gamma = beta / alpha the best noise is known in closed form, which leaves one dimension to search."""
    from scipy.optimize import minimize_scalar

    n = len(target)
    inside, outside = spectrum.parts(target)
    squares = spectrum.values**2
    scale = squares.max(initial=0.0) or 1.0

    def noise(log_gamma: float) -> float:
        variance = ((inside**2 / (1.0 + math.exp(log_gamma) * squares)).sum() + outside) / n
        return max(float(variance), np.finfo(np.float64).tiny)

    def negative(log_gamma: float) -> float:
        logs = np.log1p(math.exp(log_gamma) * squares).sum()
        return 0.5 * float(n * (math.log(2 * math.pi * noise(log_gamma)) + 1.0) + logs)

    # The profile may have more than one hill, so the highest of a grid is climbed.
    grid = (np.linspace(-_WIDEST, _WIDEST, _GRID)) * math.log(10) - math.log(scale)
    heights = [negative(point) for point in grid]
    top = int(np.argmin(heights))
    bounds = (grid[max(0, top - 1)], grid[min(_GRID - 1, top + 1)])
    found = minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    best = float(found.x) if found.fun <= heights[top] else float(grid[top])
    beta = 1.0 / noise(best)
    return Evidence(-negative(best), beta / math.exp(best), beta)


@dataclass(frozen=True)
class _Spectrum:
    """The thin singular value decomposition of features: left vectors (N, r), values (r,), r = min(N, D)."""

    left: Floats
    values: Floats

    @classmethod
    def of(cls, features: Floats, *, centred: bool = False) -> _Spectrum:
        matrix = np.asarray(features, np.float64)
        if not np.isfinite(matrix).all():
            raise ValueError("features that are not finite have no transferability score")
        if centred:
            matrix = matrix - matrix.mean(axis=0)
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
        return cls(left, values)

    @property
    def rank(self) -> int:
        """How many values are not zero up to rounding."""
        most = self.values.max(initial=0.0)
        return int((self.values > most * max(len(self.left), len(self.values)) * np.finfo(np.float64).eps).sum())

    def parts(self, target: Floats) -> tuple[Floats, float]:
        """`target` (N,) in the basis of the left vectors, (r,), and the squared length of what they do not reach."""
        inside = self.left.T @ target
        rest = target - self.left @ inside
        return inside, float(rest @ rest) if len(target) > len(self.values) else 0.0


def _between(vectors: Floats, labels: Labels) -> Floats:
    """The share of each orthonormal column of `vectors` (N, r) that lies between the class means, (r,)."""
    total = np.zeros(vectors.shape[1])
    for label in np.unique(labels):
        members = vectors[labels == label]
        total += len(members) * members.mean(axis=0) ** 2
    return total
