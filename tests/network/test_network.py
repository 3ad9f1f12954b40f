"""The model and its names: what trains is exactly what is asked for."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import EvoNorm2dS0, FilterResponseNormTlu2d, RmsNorm
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from thawline.layer_groups import LayerGroup, layer_groups
from thawline.network.model import TransferModel, network_of


def model(name="test_convnext"):
    backbone = timm.create_model(name, num_classes=0)
    made = TransferModel(backbone, nn.Linear(backbone.num_features, 3), (0.5,) * 3, (0.25,) * 3)
    return made, network_of(made, layer_groups(backbone))


def test_names_that_are_no_parameters_are_refused():
    made, network = model()
    with pytest.raises(ValueError, match=r"not parameters of the model: \['backbone.steam', 'head.wait'\]"):
        made.set_trainable([*network.head, "head.wait", "backbone.steam"])


def test_exactly_the_named_parameters_train_also_the_second_time():
    made, network = model()
    for names in (network.parameters, network.head, (*network.top(1), *network.head)):
        made.set_trainable(names)
        assert {name for name, p in made.named_parameters() if p.requires_grad} == set(names)


def test_norms_of_other_libraries_are_norms():
    own = (EvoNorm2dS0(4, groups=2), FilterResponseNormTlu2d(4), RmsNorm(4))
    assert not any(isinstance(norm, (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)) for norm in own)
    made = TransferModel(nn.Sequential(nn.Conv2d(3, 4, 1), *own), nn.Linear(4, 3), (0.5,) * 3, (0.25,) * 3)
    names = {name for name, _ in made.backbone.named_parameters()}
    network = network_of(made, [LayerGroup(0, "all", tuple(sorted(names)))])
    assert network.norms == {f"backbone.{name}" for name in names if not name.startswith("0.")}
    assert network.convolutions == {"backbone.0.weight", "backbone.0.bias"}


def test_pixels_are_normalised_as_the_weights_want():
    made, _ = model()
    made.backbone, made.head = nn.Identity(), nn.Identity()
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert made(images).flatten().tolist() == pytest.approx([(v / 255 - 0.5) / 0.25 for v in (0, 128, 255)], rel=1e-6)
