"""The feature maps of one model of every family of timm are bit-equal when parted."""

from __future__ import annotations

import gc
import re
import warnings

import pytest
import timm
import torch
from torch import nn

from tests.thaw_line.models import MEAN, STD, images
from tests.thaw_line.test_timm_families import FAMILIES, OTHER_KERNELS_FOR_ONE_SAMPLE, SIZES
from thawline.backbones.backbone import Backbone
from thawline.backbones.features import as_backbone
from thawline.backbones.maps import as_maps
from thawline.errors import UsageError
from thawline.network.model import TransferModel
from thawline.preprocessing import Preprocessing
from thawline.records import WeightsRecord
from thawline.thaw_line.partition import UntraceableError, partition

NO_MAPS = {
    "gemma4_vit": r"Tensor.item\(\) cannot be called on meta tensors",
}
"""The families that give no maps, and why: Gemma's are known for real images only."""
UNTRACEABLE = {
    "volo": "training and evaluation have no thaw line in common",
    "vovnet": "module is not installed as a submodule",  # it calls a slice of its stem, which is a new module
}
"""The families whose maps cannot be parted, and why: they run without the store."""
MIXING = {"csatv2": "mixes the samples of a batch"}
"""The families with a layer that ends the frozen side though nothing trains, and what it does."""


def backbone_of(family: str) -> Backbone:
    """The family's smallest model with random weights, at the smallest size that it takes."""
    torch.manual_seed(0)
    size = SIZES.get(family, 64)
    arguments: dict[str, object] = {"num_classes": 0}
    if family == "deepseek_vit":
        arguments["depth"] = 2  # 24 of its blocks are 412 M parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if family == "crossvit":
                raise TypeError  # it resizes images by itself
            network = timm.create_model(FAMILIES[family], img_size=size, **arguments)
        except TypeError:
            network = timm.create_model(FAMILIES[family], **arguments)
    module, width, groups = as_backbone(network, (size, size), "block", family)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d) and each.running_mean is not None and each.running_var is not None:
            each.running_mean.normal_(0.0, 0.1)
            each.running_var.uniform_(0.5, 1.5)
    known = Preprocessing(mean=MEAN, std=STD)
    return Backbone(
        module, family, width, (size, size), known, groups, None, WeightsRecord(description="random", sha256=None)
    )


def with_all_maps(backbone: Backbone) -> Backbone:
    """The backbone with the deepest map of every stride that it has, or with its only one."""
    try:
        return as_maps(backbone, (3,), "block")  # no network has this stride, and the refusal says which there are
    except UsageError as error:
        (problem,) = error.problems
        said = re.search(r"it has ([\d, ]+)$", problem.message)
        if said is None:
            raise
        return as_maps(backbone, [int(stride) for stride in said[1].split(", ")], "block")


def own_maps(network: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The last map of each extent, by the network's own word."""
    found = network.forward_intermediates(inputs, norm=False, output_fmt="NCHW", intermediates_only=True)
    return list({each.shape[2:]: each for each in found}.values())


def assert_bit_equal(backbone: Backbone, k: int, sizes: tuple[int, ...]) -> None:
    """The trunk of which the last `k` layer groups train is itself when parted, in evaluation."""
    groups = backbone.groups[len(backbone.groups) - k :]
    trainable = {f"backbone.{name}" for group in groups for name in group.parameters}
    model = TransferModel(backbone.module, nn.Identity(), MEAN, STD)
    model.train()
    model.set_trainable(trainable)
    inputs = images(3, backbone.input_size[0])
    trunk = model.trunk
    line = partition(trunk, trainable, inputs[:2])
    model.eval()
    trunk.eval()
    assert not line.is_whole
    if k == 0 and backbone.name in MIXING:
        assert line.reason.endswith(MIXING[backbone.name])
    elif k == 0:
        assert not line.suffix_flops_per_sample
    for size in sizes:
        with torch.no_grad():
            expected, found = trunk(inputs[:size]), line.eval_suffix(*line.prefix(inputs[:size]))
        assert len(expected) == len(found) == len(backbone.channels)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other), (k, size)


@pytest.mark.slow
def test_families_without_maps_are_families() -> None:
    assert NO_MAPS.keys() | UNTRACEABLE.keys() | MIXING.keys() <= FAMILIES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_maps_of_one_model_of_every_family(family: str) -> None:
    whole = backbone_of(family)
    if family in NO_MAPS:
        with pytest.raises(UsageError, match=NO_MAPS[family]):
            with_all_maps(whole)
        return
    backbone = with_all_maps(whole)
    inputs = torch.rand(2, 3, *backbone.input_size)
    with torch.no_grad():
        maps = backbone.module.eval()(inputs)
        own = own_maps(backbone.module.encoder, inputs)
    if family == "crossvit":
        own = own[-1:]  # the maps of its two branches are both nearest to stride 4
    assert [each.shape[1] for each in maps] == list(backbone.channels.values())
    assert len(maps) == len(own)
    for one, other in zip(maps, own, strict=True):
        torch.testing.assert_close(one, other)
    sizes = (2, 3) if family in OTHER_KERNELS_FOR_ONE_SAMPLE else (1, 2, 3)
    for k in (0, len(backbone.groups) // 2):
        if family in UNTRACEABLE:
            with pytest.raises(UntraceableError, match=UNTRACEABLE[family]):
                assert_bit_equal(backbone, k, sizes)
        else:
            assert_bit_equal(backbone, k, sizes)
    del backbone, whole
    gc.collect()
