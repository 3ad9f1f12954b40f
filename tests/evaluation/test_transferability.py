"""Transferability scores against their definitions: by hand, by direct densities, and at their bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from thawline.evaluation.transferability import best_evidence, h_score, leep, log_evidence, logme, nce, shrunk_h_score

SHAPES = [(40, 5), (12, 12), (9, 30)]


def data(n: int, d: int, classes: int = 3, apart: float = 1.0, seed: int = 0):
    """Features with one cloud a class, labels that use every class."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = apart * random.normal(size=(classes, d))
    return centres[labels] + random.normal(size=(n, d)), labels


def probabilities(n: int, classes: int, sharpness: float = 1.0, seed: int = 0):
    logits = sharpness * np.random.default_rng(seed).normal(size=(n, classes))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def direct_evidence(features, target, alpha, beta) -> float:
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    return float(multivariate_normal(np.zeros(len(target)), covariance).logpdf(target))


def published_evidence(features, target, alpha, beta) -> float:
    """The log evidence as the authors' fixed-point code has it: without the missing D - k directions of w."""
    n, d = features.shape
    k = min(n, d)
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    lam = alpha + beta * values**2
    m = beta * values * (left.T @ target) / lam
    residual = ((target - left @ (values * m)) ** 2).sum()
    total = n / 2 * np.log(beta) + d / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
    total -= beta / 2 * residual + alpha / 2 * (m**2).sum() + 0.5 * np.log(lam[:k]).sum()
    return float(total)


# LogME ----------


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.03, 20.0), (50.0, 0.2)])
def test_log_evidence_is_the_log_density_of_the_normal(n, d, alpha, beta):
    features, labels = data(n, d)
    target = (labels == 1).astype(float)
    assert log_evidence(features, target, alpha, beta) == pytest.approx(
        direct_evidence(features, target, alpha, beta), rel=1e-9
    )


def test_log_evidence_holds_for_features_without_full_rank():
    features, labels = data(20, 4)
    doubled = np.hstack([features, features, np.zeros((20, 3))])
    target = (labels == 0).astype(float)
    assert log_evidence(doubled, target, 0.7, 3.0) == pytest.approx(
        direct_evidence(doubled, target, 0.7, 3.0), rel=1e-9
    )


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_best_evidence_is_the_largest_over_alpha_and_beta(n, d):
    features, labels = data(n, d)
    target = (labels == 2).astype(float)
    best = best_evidence(features, target)
    assert best.log_evidence == pytest.approx(direct_evidence(features, target, best.alpha, best.beta), rel=1e-8)
    for alpha in best.alpha * np.array([0.5, 0.99, 1.0, 1.01, 2.0]):
        for beta in best.beta * np.array([0.5, 0.99, 1.0, 1.01, 2.0]):
            assert direct_evidence(features, target, alpha, beta) <= best.log_evidence + 1e-7
    coarse = [
        direct_evidence(features, target, alpha, beta)
        for alpha in np.logspace(-3, 3, 13)
        for beta in np.logspace(-3, 3, 13)
    ]
    assert max(coarse) <= best.log_evidence + 1e-7


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_logme_is_the_mean_best_evidence_of_the_classes_per_sample(n, d):
    features, labels = data(n, d)
    expected = np.mean([best_evidence(features, (labels == c).astype(float)).log_evidence for c in range(3)]) / n
    assert logme(features, labels) == pytest.approx(expected, rel=1e-12)


def test_the_published_formula_is_the_same_for_many_samples_and_wrong_for_few():
    features, labels = data(40, 5)
    target = (labels == 0).astype(float)
    assert published_evidence(features, target, 0.3, 4.0) == pytest.approx(log_evidence(features, target, 0.3, 4.0))
    features, labels = data(9, 30)
    target = (labels == 0).astype(float)
    exact = log_evidence(features, target, 0.3, 4.0)
    assert published_evidence(features, target, 0.3, 4.0) - exact == pytest.approx((30 - 9) / 2 * math.log(0.3))


def test_logme_is_unmoved_by_rotation_and_by_the_scale_of_the_features():
    features, labels = data(40, 5)
    turned = 13.0 * features @ np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    assert logme(turned, labels) == pytest.approx(logme(features, labels), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (30, 100)])
def test_every_score_of_features_prefers_classes_that_lie_apart(n, d):
    near, far = data(n, d, apart=0.1), data(n, d, apart=3.0)
    assert logme(*far) > logme(*near)
    assert shrunk_h_score(*far) > shrunk_h_score(*near)


def test_features_that_are_not_finite_are_refused():
    features, labels = data(10, 3)
    features[4, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        logme(features, labels)


# H-score ----------


def test_h_score_is_its_definition():
    features, labels = data(60, 4)
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    expected = np.trace(np.linalg.inv(np.cov(features.T, bias=True)) @ np.cov(means.T, bias=True))
    assert h_score(features, labels) == pytest.approx(expected, rel=1e-10)
    mapped = features @ np.random.default_rng(1).normal(size=(4, 4)) + 5.0
    assert h_score(mapped, labels) == pytest.approx(expected, rel=1e-8)
    assert 0.0 < expected < 2.0


def test_h_score_of_repeated_features_is_that_of_the_features():
    features, labels = data(60, 4)
    assert h_score(np.hstack([features, features]), labels) == pytest.approx(h_score(features, labels), rel=1e-8)


@pytest.mark.parametrize("d", [11, 40])
def test_h_score_says_nothing_where_the_samples_are_too_few(d):
    assert math.isnan(h_score(*data(12, d)))


def test_shrunk_h_score_is_its_definition_and_tends_to_the_plain_one():
    from sklearn.covariance import LedoitWolf

    for n, d in ((60, 4), (15, 40)):
        features, labels = data(n, d)
        means = np.stack([features[labels == label].mean(axis=0) for label in labels])
        shrunk = LedoitWolf().fit(features)
        expected = np.trace(np.linalg.inv(shrunk.covariance_) @ ((1 - shrunk.shrinkage_) * np.cov(means.T, bias=True)))
        assert shrunk_h_score(features, labels) == pytest.approx(expected, rel=1e-8)
    features, labels = data(20_000, 4)
    assert shrunk_h_score(features, labels) == pytest.approx(h_score(features, labels), rel=1e-2)


# LEEP and NCE ----------


def test_leep_is_its_definition():
    theta, labels = probabilities(30, 4), np.arange(30) % 3
    joint = np.array([[theta[labels == y, z].sum() / 30 for z in range(4)] for y in range(3)])
    expected = np.mean(
        [math.log(sum(joint[y, z] / joint[:, z].sum() * theta[i, z] for z in range(4))) for i, y in enumerate(labels)]
    )
    assert leep(theta, labels) == pytest.approx(expected, rel=1e-12)


def test_nce_is_its_definition():
    theta, labels = probabilities(30, 4), np.arange(30) % 3
    predicted = theta.argmax(axis=1)
    expected = 0.0
    for z in set(predicted):
        inside = labels[predicted == z]
        for y in set(inside):
            share = (inside == y).mean()
            expected += len(inside) / 30 * share * math.log(share)
    assert nce(theta, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 100.0])
def test_leep_and_nce_are_never_positive_and_leep_is_above_nce_of_a_hard_source(seed, sharpness):
    theta, labels = probabilities(50, 6, sharpness, seed), np.random.default_rng(seed).integers(0, 4, 50)
    assert leep(theta, labels) <= 0.0
    assert nce(theta, labels) <= 0.0
    hard = np.eye(6)[theta.argmax(axis=1)]
    assert leep(hard, labels) == pytest.approx(nce(hard, labels), rel=1e-10)


def test_a_source_that_settles_the_target_scores_zero_and_one_that_knows_nothing_the_entropy():
    labels = np.arange(12) % 3
    assert leep(np.eye(5)[labels], labels) == 0.0
    assert nce(np.eye(5)[labels], labels) == 0.0
    uniform = np.full((12, 5), 0.2)
    assert leep(uniform, labels) == pytest.approx(-math.log(3))
    assert nce(uniform, labels) == pytest.approx(-math.log(3))


def test_labels_need_not_count_from_zero():
    theta, labels = probabilities(30, 4), np.arange(30) % 3
    features, _ = data(30, 4)
    for score, inputs in ((leep, theta), (nce, theta), (h_score, features), (logme, features)):
        assert score(inputs, labels * 5 + 2) == score(inputs, labels)
