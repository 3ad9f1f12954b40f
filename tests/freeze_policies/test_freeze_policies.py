"""Which parameters each policy trains, by name."""

from __future__ import annotations

import pytest

from thawline.errors import UsageError
from thawline.freeze_policies import (
    BiasOnly,
    Blocks,
    ConvolutionsFrozen,
    FirstK,
    FullFineTuning,
    LastK,
    LinearProbe,
    NormOnly,
    Pattern,
)
from thawline.layer_groups import LayerGroup
from thawline.network import Network
from thawline.specs import resolve

STEM = ("backbone.stem.weight", "backbone.stem_norm.weight", "backbone.stem_norm.bias")
BLOCK = (
    "backbone.block.conv.weight",
    "backbone.block.conv.bias",
    "backbone.block.norm.weight",
    "backbone.block.norm.bias",
)
TOP = ("backbone.fc.weight", "backbone.fc.bias")
HEAD = ("head.weight", "head.bias")
NETWORK = Network(
    groups=(LayerGroup(0, "stem", STEM), LayerGroup(1, "block", BLOCK), LayerGroup(2, "fc", TOP)),
    head=HEAD,
    norms=frozenset({*STEM[1:], *BLOCK[2:]}),
    biases=frozenset(name for name in (*STEM, *BLOCK, *TOP, *HEAD) if name.endswith("bias")),
    convolutions=frozenset({STEM[0], *BLOCK[:2]}),
)


def trained(policy) -> set[str]:
    (phase,) = policy.phases(NETWORK)
    return set(phase.trainable)


@pytest.mark.parametrize(
    ("policy", "backbone"),
    [
        (LinearProbe(), ()),
        (FullFineTuning(), (*STEM, *BLOCK, *TOP)),
        (LastK(), TOP),
        (LastK(k=0), ()),
        (LastK(k=2), (*BLOCK, *TOP)),
        (LastK(k=3), (*STEM, *BLOCK, *TOP)),
        (LastK(k="all"), (*STEM, *BLOCK, *TOP)),
        (LastK(k="block"), (*BLOCK, *TOP)),
        (LastK(depth=0.0), ()),
        (LastK(depth=0.5), (*BLOCK, *TOP)),
        (LastK(depth=1.0), (*STEM, *BLOCK, *TOP)),
        (FirstK(k=1), STEM),
        (FirstK(k="block"), (*STEM, *BLOCK)),
        (Blocks(blocks=[-1, "stem"]), (*STEM, *TOP)),
        (Blocks(blocks=1), BLOCK),
        (ConvolutionsFrozen(), TOP),
        (NormOnly(), (*STEM[1:], *BLOCK[2:])),
        (BiasOnly(), (STEM[2], BLOCK[1], BLOCK[3], TOP[1])),
        (Pattern(patterns=[r"\.conv\.", "^backbone.fc"]), (*BLOCK[:2], *TOP)),
    ],
)
def test_trained_names(policy, backbone):
    assert trained(policy) == {*backbone, *HEAD}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (LastK(k=4), "freeze_policy.k: k = 4 is more than the backbone's 3 layer groups"),
        (FirstK(k=9), "freeze_policy.k: k = 9 is more than the backbone's 3 layer groups"),
        (LastK(k="blok"), "freeze_policy.k: there is no layer group 'blok'; nearest: block"),
        (Blocks(blocks=[3]), "freeze_policy.blocks: there is no layer group 3: the backbone has 3"),
        (Pattern(patterns="layer7"), "freeze_policy.patterns: 'layer7' matches no parameter"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(policy, message):
    with pytest.raises(UsageError) as caught:
        policy.phases(NETWORK)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("node", "field"),
    [
        ({"_target_": "thawline.freeze_policies.LastK", "k": -1}, "freeze_policy.k"),
        ({"_target_": "thawline.freeze_policies.LastK", "k": 1, "depth": 0.5}, "freeze_policy"),
        ({"_target_": "thawline.freeze_policies.LastK", "depth": 1.5}, "freeze_policy.depth"),
        ({"_target_": "thawline.freeze_policies.Pattern", "patterns": "("}, "freeze_policy.patterns"),
        ({"_target_": "thawline.freeze_policies.Blocks", "blocks": []}, "freeze_policy.blocks"),
        ({"_target_": "thawline.freeze_policies.LastQ"}, "freeze_policy._target_"),
    ],
)
def test_wrong_fields_are_named(node, field):
    with pytest.raises(UsageError) as caught:
        resolve(node, "freeze_policy")
    assert [problem.field for problem in caught.value.problems] == [field]
