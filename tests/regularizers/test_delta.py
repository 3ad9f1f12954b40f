"""DELTA: the distance of the maps, weighted by what each filter is worth."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.regularizers.bench import (
    CLASSES,
    ONE_STEP,
    bench,
    first_row,
    move,
)
from thawline.backbones import TimmBackbone, TorchvisionBackbone
from thawline.regularizers import (
    DELTA,
)
from thawline.regularizers.delta import FilterAblation, attention


@pytest.mark.parametrize("importance", ["ablation", "gradient", "uniform"])
def test_delta_is_zero_at_the_source_and_each_layers_weights_sum_to_one(importance):
    model, images = bench()
    made = {}

    def remember(key, make):
        made.update(make())
        return made

    context = copy.copy(model.context)
    object.__setattr__(context, "remember", remember)
    spec = DELTA(weight=0.01, importance=importance, importance_samples=6)
    term = spec.attach(context)
    assert list(made) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    for path, weights in made.items():
        assert weights.sum().item() == pytest.approx(1.0, abs=1e-6), path
        assert (weights > 0).all()
        assert (weights == weights[0]).all() == (importance == "uniform")
    assert model.value(term, images).item() == 0.0
    move(model.model, 0.01)
    assert model.value(term, images).item() > 0.0


def test_delta_is_the_weighted_distance_of_the_maps():
    model, images = bench()
    spec = DELTA(weight=0.01, layers=("layer2", "layer4"), importance="uniform")
    term = spec.attach(model.context)
    move(model.model, 0.02)
    value = model.value(term, images)
    expected = 0.0
    for path in ("layer2", "layer4"):
        ours, theirs = (observer.activations[path].detach() for observer in model.observers)
        _, c, h, w = ours.shape
        per_channel = (ours - theirs).square().sum(dim=(0, 2, 3)) / (h * w)
        expected += 0.5 * c * (per_channel / c).sum().item()
    assert value.item() == pytest.approx(expected, rel=1e-5)
    mean = DELTA(weight=0.01, layers=("layer2", "layer4"), importance="uniform", reduction="mean").attach(model.context)
    assert model.value(mean, images).item() == pytest.approx(expected / len(images), rel=1e-5)


@pytest.mark.parametrize(
    ("library", "path"),
    [
        (TimmBackbone(name="test_resnet"), "layer3.0.conv2"),
        # This one calls one activation several times in a block, before the filter and after it.
        (TorchvisionBackbone(name="resnet18"), "layer4.1.conv2"),
    ],
)
def test_a_filters_importance_is_the_rise_of_the_loss_without_it(library, path):
    model, images = bench(library)
    source, drawn = model.context.origin, model.context.samples("train")
    move(source.model, 0.02)  # a fresh residual branch ends in a norm that multiplies by 0
    rows = torch.randn(CLASSES, 96 if path == "layer3.0.conv2" else 512, dtype=torch.float64)
    # One that errs: where the loss is next to 0, so is every rise.

    def classifier(features):
        return features.double() @ rows.t()

    batches = [np.arange(0, 5), np.arange(5, 12)]
    ablated = FilterAblation(source, classifier, [images[batch] for batch in batches], drawn.labels, batches)
    weight = source.backbone.get_submodule(path).weight
    rise = ablated.rise_by_ablation(path, 1, len(weight))
    assert rise.abs().max() > 1e-3

    def loss():
        with torch.no_grad(), source.watching():
            source.model(images)
            return F.cross_entropy(classifier(source.features), torch.from_numpy(drawn.labels)).item()

    whole = loss()
    for channel in (0, 7, len(weight) - 1):
        kept = weight[channel].clone()
        with torch.no_grad():
            weight[channel] = 0.0
            assert rise[channel].item() == pytest.approx(loss() - whole, abs=1e-6)
            weight[channel] = kept
    assert loss() == whole


def test_the_first_order_importance_is_the_slope_of_the_loss():
    model, images = bench()
    source, drawn = model.context.origin, model.context.samples("train")
    move(source.model, 0.02)
    rows = torch.randn(CLASSES, 96, dtype=torch.float64)

    def classifier(features):
        return features.double() @ rows.t()

    ablated = FilterAblation(source, classifier, [images], drawn.labels, [np.arange(12)])
    slope = ablated.rise_by_gradient("layer3", 1, 192)
    assert slope.abs().max() > 1e-3
    module = source.backbone.get_submodule("layer3")
    for channel in (0, 100):
        losses = []
        for scale in (1e-2, -1e-2):
            factor = torch.ones(1, 192, 1, 1)
            factor[0, channel] = 1.0 - scale
            handle = module.register_forward_hook(lambda m, i, output, factor=factor: output * factor)
            with torch.no_grad(), source.watching():
                source.model(images)
                losses.append(F.cross_entropy(classifier(source.features), torch.from_numpy(drawn.labels)).item())
            handle.remove()
        assert slope[channel].item() == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=2e-4)


def test_attention_prefers_what_hurts_most_to_lose():
    rise = torch.tensor([0.0, 1.0, 3.0])
    weights = attention(rise)
    standardised = (rise - rise.mean()) / rise.std(correction=0)
    assert torch.allclose(weights, (standardised / 5).softmax(dim=0))
    assert torch.equal(attention(torch.full((4,), 0.3)), torch.full((4,), 0.25))


def test_delta_is_zero_at_the_start_of_a_run_with_frozen_statistics(train):
    record = train("freeze_policy=bias_only", *ONE_STEP, "regularizer=delta", "regularizer.delta.importance_samples=8",
                   "regularizer.l2_head.weight=0", "optimizer.lr=0.1")  # fmt: skip
    assert first_row(record)["train/delta"] == 0.0
    assert first_row(record)["train/objective"] == pytest.approx(first_row(record)["train/loss"], rel=1e-6)
    assert record.history[1]["train/delta"] > 0.0
    layers = record.phases[0].regularizers["delta"].layers
    assert {name: entry["module"] for name, entry in layers.items()} == {
        "stem": "act1", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4"
    }  # fmt: skip
