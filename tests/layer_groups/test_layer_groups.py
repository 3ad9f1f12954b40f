"""Layer groups: every parameter in exactly one, in forward order, a step of depth that means the same everywhere."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import traceback
import warnings

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from thawline.backbones import TimmBackbone, TorchvisionBackbone
from thawline.layer_groups import forward_order, group_table, layer_groups, used_parameters

RESNET18 = ["stem", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))]

SMALLEST = (
    # The smallest model of each family (module) of timm that is not the size of a house.
    ("beit", "beit_base_patch16_224"),
    ("byobnet", "test_byobnet"),
    ("cait", "cait_xxs24_224"),
    ("coat", "coat_tiny"),
    ("convit", "convit_tiny"),
    ("convnext", "test_convnext"),
    ("crossvit", "crossvit_tiny_240"),
    ("csatv2", "csatv2"),
    ("dla", "dla46x_c"),
    ("dpn", "dpn48b"),
    ("efficientformer", "efficientformer_l1"),
    ("efficientnet", "test_efficientnet"),
    ("efficientvim", "efficientvim_m1"),
    ("eva", "vit_tiny_patch14_reg4_dinov2.lvd142m"),
    ("hrnet", "hrnet_w18_small"),
    ("inception_v4", "inception_v4"),
    ("levit", "levit_128s"),
    ("metaformer", "poolformer_s12"),
    ("mobilenetv3", "mobilenetv3_small_050"),
    ("nfnet", "test_nfnet"),
    ("pit", "pit_ti_224"),
    ("pvt_v2", "pvt_v2_b0"),
    ("rdnet", "rdnet_tiny"),
    ("resnet", "test_resnet"),
    ("sequencer", "sequencer2d_s"),
    ("swin_transformer", "swin_tiny_patch4_window7_224"),
    ("tiny_vit", "tiny_vit_5m_224"),
    ("vgg", "vgg11_bn"),
    ("vision_transformer", "test_vit"),
    ("volo", "volo_d1_224"),
    ("xcit", "xcit_nano_12_p16_224"),
)
QUICK = (
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "vgg11_bn",
    "mobilenetv3_small_050",
    "pit_ti_224",
)


@contextlib.contextmanager
def hushed():
    """Some of timm's old models warn at construction."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def on_meta(name, **arguments):
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    with hushed(), torch.device("meta"):
        return timm.create_model(name, num_classes=0, **arguments)


def names(groups):
    return [group.name for group in groups]


def assert_partition(module, groups, input_size=None):
    """Every parameter in exactly one group; in forward order; each group has a weight and a name of its own."""
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    flat = [name for group in groups for name in group.parameters]
    assert sorted(flat) == sorted(shapes)
    assert tuple(flat) == forward_order(module, input_size)
    assert [group.index for group in groups] == list(range(len(groups)))
    assert len(set(names(groups))) == len(groups)
    assert groups[0].name == "stem"
    for group in groups:
        assert any(sum(size > 1 for size in shapes[name]) > 1 for name in group.parameters), group.name


def test_resnet18_has_a_stem_and_eight_blocks():
    module = on_meta("resnet18")
    groups = layer_groups(module)
    assert names(groups) == RESNET18
    assert groups[0].parameters == ("conv1.weight", "bn1.weight", "bn1.bias")
    assert groups[3].parameters == (
        "layer2.0.conv1.weight",
        "layer2.0.bn1.weight",
        "layer2.0.bn1.bias",
        "layer2.0.conv2.weight",
        "layer2.0.bn2.weight",
        "layer2.0.bn2.bias",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.weight",
        "layer2.0.downsample.1.bias",
    )
    assert names(layer_groups(module, "stage")) == ["stem", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("granularity", ["block", "stage"])
def test_groups_are_a_partition_in_forward_order(name, granularity):
    module = on_meta(name)
    assert_partition(module, layer_groups(module, granularity))


def test_real_and_meta_networks_have_the_same_groups_and_stay_as_they_are():
    for name in ("test_vit", "coat_lite_tiny", "levit_128s"):  # the last ones keep what a forward pass makes
        with hushed():
            module = timm.create_model(name, num_classes=0)
        module.blocks[0].eval() if name == "test_vit" else module.eval()
        modes = [part.training for part in module.modules()]
        state, randomness = copy.deepcopy(module.state_dict()), torch.get_rng_state()
        with hushed():
            assert layer_groups(module) == layer_groups(on_meta(name)) == layer_groups(module)
        group_table(module, layer_groups(module))
        assert torch.equal(torch.get_rng_state(), randomness)
        assert [part.training for part in module.modules()] == modes
        assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
        with torch.no_grad():
            assert module.eval()(torch.zeros(1, *module.pretrained_cfg["input_size"])).device.type == "cpu"


# A norm of its own behind the last block ----------


class _Scaled(nn.Module):
    """A convolution and a scale (1, C, 1, 1) behind it, as normalisation-free networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.scale = nn.Module()
        self.scale.gain = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.fc = nn.Linear(4, 5)

    def forward(self, images):
        return self.fc((self.conv(images) * self.scale.gain).mean(dim=(2, 3)))


def test_a_scale_stored_with_four_dimensions_is_no_weight():
    groups = layer_groups(_Scaled(), input_size=(16, 16))
    assert [group.parameters for group in groups] == [
        ("conv.weight", "conv.bias", "scale.gain"),
        ("fc.weight", "fc.bias"),
    ]


def test_a_top_group_of_nothing_but_a_norm_joins_the_block_below():
    module = on_meta("convnext_tiny")
    groups = layer_groups(module)
    assert len(groups) == 19  # timm's matcher says 20: the last one is head.norm
    assert groups[-1].name == "stages.3.blocks.2"
    assert groups[-1].parameters[-2:] == ("head.norm.weight", "head.norm.bias")
    assert groups[0].parameters == ("stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias")


def test_vgg16_bn_counts_like_vgg16():
    plain, normalised = on_meta("vgg16"), on_meta("vgg16_bn")
    assert len(layer_groups(plain)) == len(layer_groups(normalised)) == 15
    weights = [
        [math.prod(shape) for name, shape in ((n, p.shape) for n, p in module.named_parameters()) if len(shape) > 1]
        for module in (plain, normalised)
    ]
    assert weights[0] == weights[1]
    groups = layer_groups(normalised)
    assert groups[1].parameters == ("features.3.weight", "features.3.bias", "features.4.weight", "features.4.bias")
    assert names(groups)[-2:] == ["pre_logits.fc1", "pre_logits.fc2"]
    theirs = TorchvisionBackbone(name="vgg16_bn").skeleton()
    assert len(theirs.groups) == 15


def test_what_no_pattern_matches_stands_where_the_data_meets_it():
    # conv_head comes last, and is a group of its own.
    mobilenet = layer_groups(on_meta("mobilenetv3_small_050"))
    assert mobilenet[-1].parameters == ("conv_head.weight", "conv_head.bias")
    # The relative positions are shared by all blocks, the first of which needs them: they are no part of the top.
    shared = layer_groups(on_meta("vit_srelpos_small_patch16_224"))
    assert "shared_rel_pos.mlp.fc1.weight" in shared[0].parameters
    assert shared[-1].parameters[-2:] == ("norm.weight", "norm.bias")
    # timm puts this class token into the stem, but only the last blocks use it.
    volo = layer_groups(on_meta("volo_d1_224"))
    assert "cls_token" not in volo[0].parameters
    assert "cls_token" in volo[-3].parameters


def test_rdnet_refuses_coarse_groups_and_gets_the_fine_ones():
    module = on_meta("rdnet_tiny")
    with pytest.raises(AssertionError):
        module.group_matcher(coarse=True)
    assert layer_groups(module, "stage") == layer_groups(module, "block")


@pytest.mark.parametrize(
    ("name", "blocks", "stages"),
    [("poolformer_s12", 16, 5), ("csatv2", 22, 5), ("pit_ti_224", 15, 4)],
)
def test_families_without_a_matcher_are_grouped_by_their_module_tree(name, blocks, stages):
    module = on_meta(name)
    assert not hasattr(module, "group_matcher")
    for granularity, count in (("block", blocks), ("stage", stages)):
        groups = layer_groups(module, granularity)
        assert_partition(module, groups)
        assert len(groups) == count, names(groups)


# Module trees ----------


@pytest.mark.parametrize(
    ("name", "blocks", "stages"),
    [
        ("resnet18", 9, 5),
        ("googlenet", 12, 12),
        ("vit_b_16", 13, 13),
        ("convnext_tiny", 22, 8),
        ("swin_t", 16, 8),
        ("mobilenet_v2", 19, 19),
        ("densenet121", 62, 8),
        ("regnet_y_400mf", 17, 5),
        ("squeezenet1_1", 9, 9),
    ],
)
def test_torchvision_networks_are_grouped_by_their_module_tree(name, blocks, stages):
    backbone = TorchvisionBackbone(name=name).skeleton()
    assert_partition(backbone.module, backbone.groups, backbone.input_size)
    assert len(backbone.groups) == blocks, names(backbone.groups)
    assert len(TorchvisionBackbone(name=name, granularity="stage").skeleton().groups) == stages


def test_the_same_network_of_both_libraries_has_the_same_groups():
    theirs = TorchvisionBackbone(name="resnet18").skeleton().groups
    assert names(theirs) == RESNET18
    assert [set(group.parameters) for group in theirs] == [set(g.parameters) for g in layer_groups(on_meta("resnet18"))]


def test_parameters_directly_on_an_opened_module_join_the_first_group():
    groups = TorchvisionBackbone(name="vit_b_16").skeleton().groups
    assert groups[0].parameters == ("conv_proj.weight", "conv_proj.bias", "class_token", "encoder.pos_embedding")
    assert groups[-1].parameters[-2:] == ("encoder.ln.weight", "encoder.ln.bias")


class Backwards(nn.Module):
    """Uses its parts in another order than it defines them, and one parameter not at all."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 5)
        self.spare = nn.Parameter(torch.zeros(3))
        self.first = nn.Linear(3, 4)

    def forward(self, images):
        return self.last(self.first(images.mean((2, 3))))


class Untraceable(Backwards):
    """Looks at a value, which the meta device has not."""

    def forward(self, images):
        return super().forward(images) if images.sum().item() > 0 else images


def test_the_order_is_that_of_use():
    module = Backwards()
    assert used_parameters(module) == ("first.weight", "first.bias", "last.weight", "last.bias")
    groups = layer_groups(module)
    assert names(groups) == ["stem", "last"]
    assert groups[0].parameters == ("spare", "first.weight", "first.bias")


def test_a_network_that_cannot_be_traced_keeps_the_order_of_definition():
    module = Untraceable()
    groups = layer_groups(module)
    assert [name for group in groups for name in group.parameters] == [name for name, _ in module.named_parameters()]
    rows = group_table(module, groups)
    assert [row.output_shape for row in rows] == [None, None]
    assert [row.multiply_adds for row in rows] == [None, None]
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in module.parameters())


# The table ----------


def test_the_table_says_what_k_means():
    module = on_meta("resnet18")
    rows = group_table(module, layer_groups(module))
    assert [row.k for row in rows] == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert [row.output_shape for row in rows[:4]] == [(64, 56, 56), (64, 56, 56), (64, 56, 56), (128, 28, 28)]
    assert rows[-1].output_shape == (512,)
    assert rows[0].parameters == 64 * 3 * 7 * 7 + 2 * 64
    assert rows[0].multiply_adds == 64 * 3 * 7 * 7 * 112 * 112
    assert rows[1].multiply_adds == 2 * 64 * 64 * 3 * 3 * 56 * 56
    assert math.isclose(sum(row.share for row in rows), 1.0)
    doubled = group_table(module, layer_groups(module), (448, 448))
    assert [row.multiply_adds for row in doubled] == [4 * row.multiply_adds for row in rows]


def test_the_table_counts_the_products_of_attention():
    module = on_meta("test_vit")  # 6 blocks of width 64 on 101 tokens, perceptrons of 192
    row = group_table(module, layer_groups(module))[1]
    linear = 101 * 64 * (3 * 64 + 64 + 2 * 192)
    assert row.parameters == 41_728
    assert row.multiply_adds == linear + 2 * 101 * 101 * 64
    assert row.output_shape == (101, 64)


def test_the_value_that_leaves_a_group_is_not_the_next_ones_rearrangement():
    module = on_meta("convnext_tiny")
    shapes = [row.output_shape for row in group_table(module, layer_groups(module))]
    assert shapes == [(96, 56, 56)] * 4 + [(192, 28, 28)] * 3 + [(384, 14, 14)] * 9 + [(768, 7, 7)] * 2 + [(768,)]


@pytest.mark.parametrize("module", [torch, torch.amp])
def test_a_network_that_turns_autocast_off_where_its_input_is_has_groups_in_forward_order(module):
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, images):
            with module.autocast(images.device.type, enabled=False):
                return self.second(self.first(images)).mean((2, 3))

    autocast = module.autocast
    order = list(forward_order(Careful(), (8, 8)))
    assert order == ["first.weight", "first.bias", "second.weight", "second.bias"]
    assert module.autocast is autocast


# What timm says of a width may be wrong ----------


def test_the_width_of_the_features_is_measured():
    for name, said, width in (("mobilenetv3_small_100", 576, 1024), ("efficientvit_b0", 128, 1280)):
        assert on_meta(name).num_features == said
        assert TimmBackbone(name=name).skeleton().feature_dim == width


# All of them ----------


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), SMALLEST)
def test_each_family_of_timm_is_grouped_as_a_real_network_too(family, name):
    name = name.partition(".")[0]
    groups = layer_groups(on_meta(name))
    with hushed():
        module = timm.create_model(name, num_classes=0)
    assert_partition(module, groups)
    assert groups == layer_groups(module)


@pytest.mark.slow
def test_every_model_of_timm_has_layer_groups():
    wrong, checked = [], 0
    for name in timm.list_models():
        try:
            for granularity in ("block", "stage"):
                with hushed():
                    backbone = TimmBackbone(name=name, granularity=granularity).skeleton()
                assert_partition(backbone.module, backbone.groups, backbone.input_size)
            checked += 1
        except Exception:  # noqa: BLE001  # every exception is listed with the model's name
            wrong.append(f"{name}: {traceback.format_exc(limit=-1)}")
    print(f"{checked} models of timm {timm.__version__}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_every_classification_model_of_torchvision_has_layer_groups():
    for name in models.list_models(module=models):
        backbone = TorchvisionBackbone(name=name).skeleton()
        assert_partition(backbone.module, backbone.groups, backbone.input_size)
