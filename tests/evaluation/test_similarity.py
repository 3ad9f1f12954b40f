"""Drift, linear CKA and feature distance: what must hold for any network, on numbers that are known."""

from __future__ import annotations

import math

import pytest
import torch

from thawline.evaluation.similarity import Drift, drift, feature_distance, linear_cka

SHAPES = [(200, 8, 8), (200, 8, 30), (20, 64, 64), (20, 64, 9)]


def features(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3.0


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(features(d, d, 9) - 3.0).Q


def test_drift_is_exactly_zero_where_nothing_moved_and_exact_where_it_did():
    source = {"a": torch.tensor([[3.0, 0.0], [0.0, 0.0]]), "b": torch.tensor([4.0])}
    tuned = {"a": torch.tensor([[3.0, 0.0], [5.0, 0.0]]), "b": torch.tensor([-8.0])}
    assert drift(source, source, ["a", "b"]) == Drift(0.0, 0.0)
    assert drift(source, tuned, ["a"]) == Drift(5.0, 5.0 / 3.0)
    assert drift(source, tuned, ["a", "b"]) == Drift(13.0, 13.0 / 5.0)


def test_drift_sees_the_smallest_step_and_half_precision():
    one = torch.ones(3, dtype=torch.float16)
    next_up = one.clone()
    next_up[1] = torch.nextafter(next_up[1], torch.tensor(2.0, dtype=torch.float16))
    assert drift({"a": one}, {"a": next_up}, ["a"]).distance == 2.0**-10


def test_drift_away_from_zero_has_no_share():
    moved = drift({"a": torch.zeros(2)}, {"a": torch.tensor([0.0, 2.0])}, ["a"])
    assert moved.distance == 2.0
    assert math.isnan(moved.relative)
    assert drift({"a": torch.zeros(2)}, {"a": torch.zeros(2)}, ["a"]) == Drift(0.0, 0.0)


@pytest.mark.parametrize(("n", "d", "_"), SHAPES)
def test_cka_is_one_under_rotation_scaling_and_shift(n, d, _):
    x = features(n, d)
    assert linear_cka(x, x) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, 7.5 * x @ rotation(d) + 100.0) == pytest.approx(1.0, abs=1e-9)
    assert linear_cka(x.float(), -0.01 * x.float()) == pytest.approx(1.0, abs=1e-9)


def test_cka_is_not_one_under_any_other_linear_map():
    x = features(200, 8)
    assert linear_cka(x, x * torch.tensor([30.0] + 7 * [1.0])) < 0.8


@pytest.mark.parametrize(("n", "d", "e"), SHAPES)
def test_cka_is_its_definition_in_whichever_form_is_cheaper(n, d, e):
    x, y = features(n, d), features(n, e, 1)
    xc, yc = x - x.mean(0), y - y.mean(0)
    defined = (yc.T @ xc).norm() ** 2 / ((xc.T @ xc).norm() * (yc.T @ yc).norm())
    assert linear_cka(x, y) == pytest.approx(float(defined), rel=1e-10)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)


def test_cka_is_zero_of_what_is_uncorrelated_and_none_of_what_is_constant():
    x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(x, y) == 0.0
    assert math.isnan(linear_cka(x, torch.ones(4, 3)))


def test_cka_needs_the_same_samples():
    with pytest.raises(ValueError, match="3 and of 4 samples"):
        linear_cka(torch.ones(3, 2), torch.ones(4, 2))


def test_feature_distance_is_zero_before_training_and_known_after():
    source = features(50, 4).float()
    assert torch.equal(feature_distance(source, source), torch.zeros(4, dtype=torch.float64))
    moved = source.clone()
    moved[:, 2] += 0.5
    distance = feature_distance(source, moved)
    assert distance[2] == pytest.approx(0.5, abs=1e-6)
    assert distance[[0, 1, 3]].tolist() == [0.0, 0.0, 0.0]
    twice = feature_distance(source.repeat(2, 1), moved.repeat(2, 1))
    assert torch.allclose(twice, distance)


def test_features_of_other_widths_have_no_distance():
    with pytest.raises(ValueError, match=r"features of shape \(4, 3\) and \(4, 2\) have no distance"):
        feature_distance(torch.zeros(4, 3), torch.zeros(4, 2))
