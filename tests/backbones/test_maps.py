"""Backbones that give feature maps: strides, channels, layer groups, names, adapters, and the maps themselves."""

from __future__ import annotations

import pytest
import torch

from thawline.adapters import LoRA, attach
from thawline.backbones import TimmBackbone, TorchvisionBackbone
from thawline.backbones.maps import as_maps
from thawline.errors import UsageError

TIMM = {
    "test_resnet": {4: 32, 8: 48, 16: 192, 32: 96},
    "test_convnext": {4: 24, 8: 32, 16: 48, 32: 64},
    "test_efficientnet": {4: 24, 8: 32, 16: 48, 32: 64},
    "test_vit": {16: 64},
}
PLACES = {
    "resnet18": {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"},
    "vgg11_bn": {4: "features.13", 8: "features.20", 16: "features.27"},
    "googlenet": {4: "conv3", 8: "inception3b", 16: "inception4e", 32: "inception5b"},
    "mobilenet_v3_small": {4: "features.1", 8: "features.3", 16: "features.8", 32: "features.12"},
    "densenet121": {4: "features.denseblock1", 8: "features.denseblock2", 16: "features.denseblock3"},
}
"""torchvision's networks: the module whose output is the deepest map of each stride."""
# What takes seconds to trace.
LARGE = {"densenet121", "googlenet", "vgg11_bn"}
BOTH = [(TimmBackbone, name, tuple(TIMM[name])) for name in TIMM]
BOTH += [(TorchvisionBackbone, name, tuple(PLACES[name])) for name in PLACES]


def spec(kind, name):
    return kind(name=name, input_size=64)


def built(kind, name, strides):
    return as_maps(spec(kind, name).build(seed=0), strides, "block")


def inputs(size=64):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def maps_of(backbone, images):
    with torch.no_grad():
        return backbone.module.eval()(images)


@pytest.mark.parametrize("name", TIMM)
def test_maps_of_timm_are_those_of_its_own_forward(name):
    backbone = built(TimmBackbone, name, tuple(TIMM[name]))
    assert dict(backbone.channels) == TIMM[name]
    assert backbone.feature_dim == list(TIMM[name].values())[-1]
    network, images = spec(TimmBackbone, name).build(seed=0).module.eval(), inputs()
    network = getattr(network, "encoder", network)
    with torch.no_grad():
        every = network.forward_intermediates(images, norm=False, intermediates_only=True)
    deepest = {64 // each.shape[-1]: each for each in every}
    for stride, found in zip(TIMM[name], maps_of(backbone, images), strict=True):
        assert torch.equal(found, deepest[stride])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in PLACES]
)
def test_maps_of_torchvision_are_the_outputs_of_the_last_block_of_a_stride(name):
    backbone = built(TorchvisionBackbone, name, tuple(PLACES[name]))
    network, images, seen = spec(TorchvisionBackbone, name).build(seed=0).module.eval(), inputs(), {}
    for stride, path in PLACES[name].items():
        module = network.get_submodule(path)
        module.register_forward_hook(lambda module, given, output, stride=stride: seen.update({stride: output}))
    with torch.no_grad():
        network(images)
    found = maps_of(backbone, images)
    assert list(backbone.channels.items()) == [(stride, each.shape[1]) for stride, each in seen.items()]
    for stride, one in zip(PLACES[name], found, strict=True):
        assert one.shape[-1] == 64 // stride
        torch.testing.assert_close(one, seen[stride])


@pytest.mark.parametrize(
    ("kind", "name", "strides"),
    [pytest.param(*each, marks=pytest.mark.slow) if each[1] in LARGE else each for each in BOTH],
    ids=str,
)
def test_names_and_groups_are_those_of_the_library_and_what_trains_has_a_gradient(kind, name, strides):
    whole, backbone = spec(kind, name).skeleton(), built(kind, name, strides)
    skeleton = as_maps(spec(kind, name).skeleton(), strides, "block")
    state = backbone.module.state_dict()
    assert {key.removeprefix("encoder.") for key in state} == {
        key.removeprefix("encoder.") for key in whole.module.state_dict()
    }
    kept = parameters_of(backbone)
    names = [[f"encoder.{name.removeprefix('encoder.')}" for name in group.parameters] for group in whole.groups]
    expected = [[name for name in group if name in kept] for group in names]
    assert [list(group.parameters) for group in backbone.groups] == [group for group in expected if group]
    assert [group.index for group in backbone.groups] == list(range(len(backbone.groups)))
    assert (skeleton.channels, skeleton.feature_dim) == (backbone.channels, backbone.feature_dim)
    assert skeleton.groups == backbone.groups
    shapes = {key: (value.shape, value.dtype) for key, value in state.items()}
    assert {key: (value.shape, value.dtype) for key, value in skeleton.module.state_dict().items()} == shapes
    assert all(parameter.is_meta for parameter in skeleton.module.parameters())
    sum(each.square().sum() for each in backbone.module.eval()(inputs())).backward()
    assert [key for key, value in backbone.module.named_parameters() if value.grad is None] == []


def parameters_of(backbone):
    return {name for name, _ in backbone.module.named_parameters()}


def test_what_no_map_uses_is_a_buffer_and_no_layer_group():
    whole, backbone = spec(TimmBackbone, "test_resnet").skeleton(), built(TimmBackbone, "test_resnet", (4, 8))
    every = {f"encoder.{name}" for name, _ in whole.module.named_parameters()}
    left = every - parameters_of(backbone)
    assert left == {name for name in every if name.startswith(("encoder.layer3", "encoder.layer4"))}
    assert left <= {name for name, _ in backbone.module.named_buffers()}
    assert len(backbone.groups) == len(whole.groups) - 2


@pytest.mark.parametrize(
    ("kind", "name"), [(TimmBackbone, name) for name in TIMM] + [(TorchvisionBackbone, "resnet18")]
)
def test_lora_starts_as_the_network_is_and_changes_its_maps(kind, name):
    strides = tuple(TIMM.get(name, PLACES.get(name)))
    backbone, images = built(kind, name, strides), inputs()
    before = maps_of(backbone, images)
    attached = attach(LoRA(), backbone.module, backbone.groups, backbone.input_size, seed=0)
    for one, other in zip(before, maps_of(backbone, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.manual_seed(2)
    parameters = dict(backbone.module.named_parameters())
    assert attached.parameters
    with torch.no_grad():
        for added in attached.parameters:
            parameters[added].add_(0.3 * torch.randn_like(parameters[added]))
    assert not torch.allclose(before[-1], maps_of(backbone, images)[-1], rtol=1e-2)


def test_a_stride_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(
        UsageError, match=r"test_resnet has no map of stride 64 at 64 x 64 pixels; it has 2, 4, 8, 16, 32$"
    ):
        built(TimmBackbone, "test_resnet", (4, 64))
