"""The key of a frozen side is of all that it computes, and a deeper one goes on from a shallower one."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
import torch
from torch import nn

from tests.thaw_line.models import (
    TIMM,
    head,
    images,
    last,
    parted,
    timm_model,
)
from thawline.network.model import TransferModel


def key_of(model: TransferModel, trainable: Collection[str]) -> str:
    return parted(model, trainable).prefix_key


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "weight": lambda model: model.backbone.layer2[0].conv1.weight.view(-1)[0].add_(1e-3),
    "running statistics": lambda model: model.backbone.layer2[0].bn1.running_mean[0].add_(1e-3),
    "normalisation of images": lambda model: model.pixel_mean[0].add_(1e-3),
    "setting of a norm": lambda model: setattr(model.backbone.layer2[0].bn1, "eps", 1e-4),
    "setting of a convolution": lambda model: setattr(model.backbone.conv1[0], "padding_mode", "reflect"),
}


def test_the_key_is_of_the_frozen_weights() -> None:
    model = timm_model("test_resnet")
    key = key_of(model, head(model))
    assert len(key) == 64
    assert key == key_of(timm_model("test_resnet"), head(model))
    with torch.no_grad():
        model.head.weight.add_(1.0)
    assert key == key_of(model, head(model))
    assert key != key_of(model, last(model, 0.3))


@pytest.mark.parametrize("change", CHANGES)
def test_the_key_changes_with_what_is_computed(change: str) -> None:
    model = timm_model("test_resnet")
    key = key_of(model, head(model))
    with torch.no_grad():
        CHANGES[change](model)
    assert key_of(model, head(model)) != key


def test_the_key_depends_on_the_size_of_the_images() -> None:
    model = timm_model("test_resnet")
    assert parted(model, head(model), 64).prefix_key != parted(model, head(model), 96).prefix_key


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "densenet121", "swin_tiny_patch4_window7_224"])
def test_a_deeper_line_is_computed_from_a_shallower_one(name: str) -> None:
    model = timm_model(name, **TIMM[name])
    shallow, middle_, deep = (parted(model, last(model, share)) for share in (0.7, 0.4, 0.0))
    whole = parted(model, last(model, 1.0))
    batch = images(3)
    for lower, upper in ((shallow, middle_), (shallow, deep), (middle_, deep), (whole, deep), (deep, deep)):
        step_up = upper.continue_from(lower)
        assert step_up is not None
        for found, expected in zip(step_up(*lower.prefix(batch)), upper.prefix(batch), strict=True):
            assert torch.equal(found, expected)
    assert shallow.continue_from(deep) is None
    assert whole.continue_from(shallow) is None


def test_a_line_of_other_weights_leads_nowhere() -> None:
    model, other = timm_model("test_resnet"), timm_model("test_resnet")
    deep = parted(model, head(model))
    assert deep.continue_from(parted(other, last(other, 0.5))) is not None
    with torch.no_grad():
        other.backbone.conv1[0].weight.add_(1.0)
    assert deep.continue_from(parted(other, last(other, 0.5))) is None


def test_what_lies_before_a_line_is_told_by_module_whatever_its_names() -> None:
    model = timm_model("test_resnet")
    line = parted(model, last(model, 0.5))
    assert not line.lies_past(())
    assert not line.lies_past([*last(model, 0.5), "head.weight", "elsewhere.weight"])
    assert line.lies_past(["backbone.conv1.0.weight"])
    # A norm's statistics are the norm's.
    assert line.lies_past(["backbone.bn1.running_mean"])
    # The same module under another name.
    model.backbone.alias = model.backbone.conv1
    assert line.lies_past(["backbone.alias.0.weight"])
