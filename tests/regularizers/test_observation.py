"""Which values a regularizer reads of a network, and how they lie."""

from __future__ import annotations

import math

import pytest
import torch

from tests.regularizers.bench import (
    bench,
)
from thawline.regularizers.observation import as_channels, as_map, chosen_layers, group_outputs, layout_of


@pytest.mark.parametrize(
    ("name", "size", "groups", "stages"),
    [
        ("resnet18", 64, {"stem": "act1", "layer1.0": "layer1.0", "layer4.1": "layer4.1"},
         ["act1", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        ("mobilenetv2_035", 64, {"stem": "bn1", "blocks.1.0": "blocks.1.0"}, None),
        ("test_convnext", 64, {"stem": "stem"}, None),
        ("test_vit", 32, {"stem": "patch_embed", "blocks.5": "norm"}, ["blocks.0", "blocks.2", "blocks.4", "norm"]),
    ],
)  # fmt: skip
def test_the_value_that_leaves_a_group(name, size, groups, stages):
    model, images = bench(name, size=size, samples=2)
    found = group_outputs(model.observers[0], images)
    assert {group: found[group].path for group in groups} == groups
    if stages is not None:
        assert [layer.path for layer in chosen_layers(model.observers[0], "stages", images, "f")] == stages


@pytest.mark.slow
def test_an_activation_belongs_to_its_convolution_and_a_pooling_does_not():
    model, images = bench("vgg11", size=32, samples=2)
    found = group_outputs(model.observers[0], images)
    assert [layer.path for layer in found.values()] == [
        "features.1", "features.4", "features.7", "features.9", "features.12", "features.14", "features.17",
        "features.19", "pre_logits.drop", "pre_logits.act2",
    ]  # fmt: skip
    layers = chosen_layers(model.observers[0], ("features.0", "features.3"), images, "f")
    assert [(layer.name, layer.path) for layer in layers] == [
        ("features.0", "features.0"),
        ("features.3", "features.4"),
    ]


def test_what_is_recorded_is_what_the_module_gave():
    """A residual sum or an activation in place comes after it."""
    model, images = bench()
    model.observers[0].watch("layer1.0.bn2")
    given = []
    module = model.model.get_submodule("backbone.layer1.0.bn2")
    module.register_forward_hook(lambda m, i, output: given.append(output.clone()))
    with torch.no_grad():
        plain = model.model(images)
        with model.observers[0].watching():
            watched = model.model(images)
    assert torch.equal(model.observers[0].activations["layer1.0.bn2"], given[-1])
    assert torch.equal(plain, watched)


@pytest.mark.parametrize(
    ("shape", "axis", "prefix", "size"),
    [
        ((64, 8, 8), 1, 0, (8, 8)),
        ((7, 7, 96), 3, 0, (7, 7)),
        ((8, 8, 8), 1, 0, (8, 8)),
        ((17, 64), 2, 1, (4, 4)),
        ((16, 64), 2, 0, (4, 4)),
        ((197, 192), 2, 1, (14, 14)),
        ((198, 192), 2, 2, (14, 14)),
    ],
)
def test_how_values_lie(shape, axis, prefix, size):
    layout = layout_of(shape, (32, 32))
    assert (layout.channel_axis, layout.prefix_tokens, layout.size) == (axis, prefix, size)
    values = torch.randn(2, *shape)
    channels = shape[axis - 1]
    assert as_channels(values, layout).shape == (2, channels, math.prod(shape) // channels)
    assert as_map(values, layout).shape == (2, channels, *size)
    if axis == 3:
        assert torch.equal(as_map(values, layout), values.permute(0, 3, 1, 2))
    if axis == 2:
        assert torch.equal(as_map(values, layout)[:, :, 0, 0], values[:, prefix])


def test_wide_pictures_have_wide_maps():
    assert layout_of((64, 4, 8), (32, 64)).size == (4, 8)
    assert layout_of((4, 8, 64), (32, 64)).channel_axis == 3
    assert layout_of((33, 64), (32, 64)) == layout_of((33, 64), (16, 32))
    assert layout_of((33, 64), (32, 64)).size == (4, 8)
