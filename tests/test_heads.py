"""The modules that heads build: their layers, and how they start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thawline.heads import MLP, Linear, SourceRows
from thawline.network import Features, SourceClassifier

CLASSES = ("cat", "dog", "owl")


def test_a_head_of_zeros_gives_uniform_predictions():
    head = Linear(init="zeros").build(Features(4), CLASSES, None, seed=3)
    assert torch.equal(head(torch.randn(5, 4)), torch.zeros(5, 3))


def test_the_seed_decides_how_a_head_starts():
    def weight(seed):
        return Linear().build(Features(4), CLASSES, None, seed=seed).weight

    assert torch.equal(weight(3), weight(3))
    assert not torch.equal(weight(3), weight(4))


@pytest.mark.parametrize(
    ("normalization", "kinds"),
    [
        ("none", [nn.Linear, nn.GELU, nn.Dropout] * 2),
        ("batch", [nn.Linear, nn.BatchNorm1d, nn.GELU, nn.Dropout] * 2),
        ("layer", [nn.Linear, nn.LayerNorm, nn.GELU, nn.Dropout] * 2),
    ],
)
def test_the_layers_of_an_mlp(normalization, kinds):
    spec = MLP(hidden=(6, 5), dropout=0.25, normalization=normalization, activation="gelu")
    head = spec.build(Features(4), CLASSES, None, seed=0)
    assert [type(layer) for layer in head] == [*kinds, nn.Linear]
    assert [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)] == [(4, 6), (6, 5), (5, 3)]
    assert {m.p for m in head if isinstance(m, nn.Dropout)} == {0.25}


def test_a_class_starts_from_the_mean_of_its_source_rows():
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]), torch.tensor([1.0, 2.0, 7.0])
    source = SourceClassifier(weight, bias, ("tiger", "lion", "wolf"))
    head = SourceRows(rows={"cat": ["tiger", 1], "dog": "wolf"}).build(Features(2), CLASSES, source, seed=0)
    assert head.weight[:2].tolist() == [[2.0, 4.0], [9.0, 9.0]]
    assert head.bias[:2].tolist() == [1.5, 7.0]
    fresh = Linear().build(Features(2), CLASSES, None, seed=0)
    assert torch.equal(head.weight[2], fresh.weight[2])
    assert head.bias[2] == fresh.bias[2]
