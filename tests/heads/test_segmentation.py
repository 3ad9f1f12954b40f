"""Heads of semantic segmentation: logits at the input's size from maps of any size, a start that the seed decides."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thawline.errors import UsageError
from thawline.heads.segmentation import FCN, FPN, DeepLab, SegmentationLinear, SmpDecoder
from thawline.network import Features
from thawline.specs import validate

CLASSES = ("sky", "road", "tree")
SIZE = (100, 73)  # divided by no stride
PYRAMID = Features(40, {4: 8, 8: 16, 16: 24, 32: 40}, SIZE)
DEEPEST = Features(40, {32: 40}, SIZE)
ONLY = Features(32, {16: 32}, (96, 64))
HEADS = [SegmentationLinear(), SegmentationLinear(normalization="batch"), FCN(), DeepLab(), FPN()]


def maps_of(features, images=2):
    height, width = features.size
    return tuple(
        torch.randn(images, channels, -(-height // stride), -(-width // stride))
        for stride, channels in features.channels.items()
    )


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_logits_have_the_inputs_size(head):
    for features in (PYRAMID if len(head.strides) > 1 else DEEPEST, ONLY):
        module = head.build(features, CLASSES, None, seed=0)
        logits = module(maps_of(features))
        assert logits.shape == (2, 3, *features.size)
        logits.sum().backward()
        assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_the_seed_alone_decides_how_a_head_starts(head):
    def state(seed, other_randomness):
        torch.manual_seed(other_randomness)
        before = torch.get_rng_state()
        module = head.build(ONLY, CLASSES, None, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat([value.flatten().double() for value in module.state_dict().values()])

    assert torch.equal(state(3, 0), state(3, 1))
    assert not torch.equal(state(3, 0), state(4, 0))


def test_a_linear_head_is_one_matrix_on_the_channels():
    module = SegmentationLinear().build(DEEPEST, CLASSES, None, seed=0)
    (deepest,) = maps = maps_of(DEEPEST)
    (weight, bias) = (value.flatten(1) if value.ndim > 1 else value for value in module.state_dict().values())
    by_hand = torch.einsum("kc,bchw->bkhw", weight, deepest) + bias[:, None, None]
    expected = F.interpolate(by_hand, SIZE, mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(maps), expected)


def adding_pyramid(dropout=0.0):
    """A pyramid of two levels with weights of one and no bias, on maps of one channel."""
    features = Features(1, {4: 1, 8: 1}, (16, 16))
    module = FPN(strides=(4, 8), width=8, normalization="none", dropout=dropout).build(
        features, ("only",), None, seed=0
    )
    center = torch.zeros(8, 8, 3, 3)
    center[range(8), range(8), 1, 1] = 1.0
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(center if value.shape == center.shape else torch.full_like(value, float("weight" in name)))
    return module


def test_a_pyramid_adds_each_level_to_the_finer_one():
    module = adding_pyramid()
    fine, coarse = torch.rand(1, 1, 4, 4), torch.rand(1, 1, 2, 2)
    # The coarse level as it is, and the fine one with the coarse one added, by the nearest pixel; eight channels each.
    merged = (
        F.interpolate(coarse, (4, 4), mode="bilinear") + fine + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    torch.testing.assert_close(module((fine, coarse)), F.interpolate(8 * merged, (16, 16), mode="bilinear"))


def test_dropout_drops_whole_channels_of_all_levels_at_once():
    """Of eight equal channels a few are left, twice as large: the same multiple of one of them everywhere."""
    maps = torch.rand(4, 1, 4, 4) + 0.5, torch.rand(4, 1, 2, 2) + 0.5
    module = adding_pyramid(dropout=0.5)
    of_one_channel = module.eval()(maps) / 8
    torch.manual_seed(0)
    left = F.dropout2d(torch.ones(4, 8, 1, 1), p=0.5).count_nonzero(dim=1)
    assert len(left.unique()) > 1
    torch.manual_seed(0)
    torch.testing.assert_close(module.train()(maps), 2 * left[..., None] * of_one_channel)


def test_group_normalisation_counts_each_image_by_itself():
    module = FPN().build(PYRAMID, CLASSES, None, seed=0).train()
    maps = maps_of(PYRAMID, images=3)
    alone = torch.cat([module(tuple(each[row : row + 1] for each in maps)) for row in range(3)])
    torch.testing.assert_close(module(maps), alone)
    for normalization, kind in (("none", nn.Identity), ("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)):
        built = FPN(normalization=normalization).build(PYRAMID, CLASSES, None, seed=0)
        assert sum(isinstance(layer, kind) for layer in built.modules()) == 4


def test_strides_that_make_no_sense_are_named():
    for strides in ((), (8, 4), (4, 4), (0, 4)):
        with pytest.raises(UsageError, match=r"head\.strides: strides are whole numbers above 0, in ascending order"):
            validate(FPN, {"strides": strides}, "head")


def test_a_missing_library_is_one_message_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UsageError, match=r"head: smp_decoder needs more: pip install 'thawline\[segmentation\]'"):
        SmpDecoder().build(PYRAMID, CLASSES, None, seed=0)


@pytest.mark.parametrize("decoder", ["unet", "upernet", "segformer"])
def test_decoders_of_segmentation_models_pytorch_read_maps_of_any_size(decoder):
    pytest.importorskip("segmentation_models_pytorch", reason="the extra thawline[segmentation] is not installed")
    for features in (PYRAMID, ONLY):
        module = SmpDecoder(decoder=decoder, width=32).build(features, CLASSES, None, seed=0)
        again = SmpDecoder(decoder=decoder, width=32).build(features, CLASSES, None, seed=0).state_dict()
        assert all(torch.equal(value, again[name]) for name, value in module.state_dict().items())
        assert module(maps_of(features)).shape == (2, 3, *features.size)
