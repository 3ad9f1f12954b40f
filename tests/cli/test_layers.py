"""What a user reads before training: the layer groups of a backbone, and what can be chosen."""

from __future__ import annotations

import json

import pytest


def test_layers_shows_what_k_means(thawline):
    rows = json.loads(thawline("layers", "resnet18", "input_size=64", "--json").out)
    assert [row["name"] for row in rows] == [
        "stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1",
    ]  # fmt: skip
    assert [row["k"] for row in rows] == list(range(9, 0, -1))
    assert sum(row["parameters"] for row in rows) == 11_176_512
    assert rows[-1]["parameters"] == 2 * (512 * 512 * 9 + 2 * 512)
    assert rows[1]["output_shape"] == [64, 16, 16]
    assert rows[1]["multiply_adds"] == 2 * 64 * 64 * 9 * 16 * 16


def test_layers_takes_stages_any_timm_name_and_torchvision(thawline):
    names = [row["name"] for row in json.loads(thawline("layers", "resnet18", "--granularity", "stage", "--json").out)]
    assert len(names) == 5
    assert thawline("layers", "resnet10t", "input_size=64").status == 0
    assert "inception5b" in thawline("layers", "torchvision/googlenet").out
    # timm has weights of mobilenetv2_100, the option's own network, and none of this one.
    small = ("mobilenetv2", "name=mobilenetv2_035"), ("mobilenetv2_035",)
    assert len({thawline("layers", *names, "input_size=64", "--json").out for names in small}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet17",), "there is no backbone 'resnet17'; nearest: resnet18"),
        (("torchvision/googlnet",), "torchvision has no model 'googlnet'; nearest: googlenet"),
        (("resnet18", "input_sze=64"), "backbone.input_sze: unknown field; nearest: input_size"),
    ],
)
def test_layers_names_what_is_wrong(thawline, arguments, message):
    result = thawline("layers", *arguments)
    assert result.status == 2
    assert message in result.err


def test_list_shows_options_by_group_and_filter(thawline):
    assert set(json.loads(thawline("list", "optimizer", "--json").out)["conf/optimizer"]) == {"adamw", "sgd"}
    found = json.loads(thawline("list", "backbones", "vgg1*", "--json").out)
    assert set(found["conf/backbone"]) == {"vgg16", "vgg16_bn"}
    assert {"vgg11", "vgg13_bn", "vgg19"} <= set(found["timm"])
    assert "torchvision/vgg11" in found["torchvision"]
    wrong = thawline("list", "optimisers")
    assert wrong.status == 2
    assert "nearest: optimizer" in wrong.err
