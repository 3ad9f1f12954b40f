"""The maps that a head reads: those of the backbone by stride, or a simple pyramid made of a single one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thawline.errors import UsageError
from thawline.heads.pyramid import Maps, SimplePyramid
from thawline.network import Features


@pytest.mark.parametrize(
    ("stride", "wanted", "sizes"),
    [
        (16, {4: 16, 8: 32, 16: 64, 32: 64}, [(24, 16), (12, 8), (6, 4), (3, 2)]),
        (8, {4: 32, 8: 64, 16: 64, 32: 64}, [(12, 8), (6, 4), (3, 2), (1, 1)]),
        # 14: 3.5, 7, 14 and 28
        (14, {4: 16, 8: 32, 16: 64, 32: 64}, [(24, 16), (12, 8), (6, 4), (3, 2)]),
    ],
)
def test_a_pyramid_of_a_single_map(stride, wanted, sizes):
    pyramid = SimplePyramid(64, stride, (4, 8, 16, 32))
    assert pyramid.channels == wanted
    only = torch.randn(2, 64, 6, 4)
    maps = pyramid((only,))
    assert [tuple(each.shape) for each in maps] == [
        (2, channels, *size) for channels, size in zip(wanted.values(), sizes, strict=True)
    ]
    own = list(wanted).index({14: 16}.get(stride, stride))
    assert torch.equal(maps[own], only)
    assert torch.equal(maps[own + 1], nn.functional.max_pool2d(only, 2))
    assert len([layer for layer in pyramid.levels[0].modules() if isinstance(layer, nn.ConvTranspose2d)]) == own


def test_the_strides_choose_among_the_backbones_maps():
    features = Features(32, {4: 8, 8: 16, 16: 32}, (64, 64))
    maps = Maps(features, (4, 16))
    given = tuple(
        torch.randn(1, channels, 64 // stride, 64 // stride) for stride, channels in features.channels.items()
    )
    first, last = maps(given)
    assert first is given[0] and last is given[2]
    assert maps.channels == {4: 8, 16: 32}
    assert not list(maps.parameters())


def test_a_head_of_one_map_takes_the_only_map_there_is():
    maps = Maps(Features(32, {16: 32}, (64, 64)), (32,))
    only = torch.randn(1, 32, 4, 4)
    assert maps((only,))[0] is only
    assert maps.channels == {16: 32}


def test_a_stride_without_a_map_is_named_with_those_that_there_are():
    with pytest.raises(UsageError, match=r"head\.strides: the backbone has no map at stride 2, 64 \(it has 4, 8\)"):
        Maps(Features(16, {4: 8, 8: 16}, (64, 64)), (2, 4, 64))
