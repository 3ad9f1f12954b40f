"""Parameter groups: what is decayed, at which rate; and schedules as numbers."""

from __future__ import annotations

import math

import pytest
import torch

from tests.freeze_policies.test_freeze_policies import BLOCK, NETWORK
from thawline.errors import UsageError
from thawline.optimization.optimizers import Optimizer
from thawline.optimization.schedulers import Constant, Cosine, Step
from thawline.specs import validate


def optimizer(**fields) -> Optimizer:
    return validate(Optimizer, {"_target_": "torch.optim.SGD", "lr": 0.1, **fields}, "optimizer")


def groups(names, head=1.0, **fields) -> list[tuple[str, set[str], float, float]]:
    found = optimizer(**fields).parameter_groups(names, NETWORK, head=head)
    return [(group["name"], set(group["params"]), pytest.approx(group["lr"]), group["weight_decay"]) for group in found]


def test_norms_and_biases_are_not_decayed_by_default():
    names = {*NETWORK.groups[2].parameters, *NETWORK.head}
    assert groups(names, weight_decay=0.5) == [
        ("backbone", {"backbone.fc.weight"}, 0.1, 0.5),
        ("backbone (no decay)", {"backbone.fc.bias"}, 0.1, 0.0),
        ("head", {"head.weight"}, 0.1, 0.5),
        ("head (no decay)", {"head.bias"}, 0.1, 0.0),
    ]
    assert groups(set(BLOCK), weight_decay=0.5) == [
        ("backbone", {"backbone.block.conv.weight"}, 0.1, 0.5),
        ("backbone (no decay)", {*BLOCK} - {"backbone.block.conv.weight"}, 0.1, 0.0),
    ]
    decayed = groups(names, weight_decay=0.5, weight_decay_on_norm_and_bias=True)
    assert [(name, decay) for name, _, _, decay in decayed] == [("backbone", 0.5), ("head", 0.5)]


def test_the_head_has_its_own_rate():
    assert [(name, lr) for name, _, lr, _ in groups(set(NETWORK.parameters), head=10)] == [
        ("backbone", 0.1),
        ("head", 1.0),
    ]


def test_every_trainable_parameter_is_in_exactly_one_group_of_the_built_optimizer():
    parameters = {name: torch.nn.Parameter(torch.zeros(2)) for name in NETWORK.parameters}
    built = optimizer(weight_decay=0.1, momentum=0.9).build(parameters, NETWORK)
    held = [id(p) for group in built.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in parameters.values())
    assert {group["momentum"] for group in built.param_groups} == {0.9}


@pytest.fixture
def not_a_number_where_nothing_was_written():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_a_first_step_that_a_scaler_leaves_out_leaves_nothing_behind(not_a_number_where_nothing_was_written):
    # torch's fused SGD makes room for its momentum in that step, and writes nothing into it.
    weight = torch.nn.Parameter(torch.ones(8))
    built = optimizer(momentum=0.5).build({"head.weight": weight}, NETWORK, may_fuse=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for slope in (3e38, 4.0, 2.0):
        built.zero_grad()
        scaler.scale((slope * weight).sum()).backward()
        scaler.step(built)
        scaler.update()
    assert scaler.get_scale() == 2.0
    # Gradients 4 and 2; the second step goes by 2 + 0.5 * 4.
    torch.testing.assert_close(weight.detach(), torch.full((8,), 1.0 - 0.1 * 4 - 0.1 * 4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"_target_": "torch.optim.SGD", "lr": 0.1, "momentun": 0.9},
            "takes no argument 'momentun'; nearest: momentum",
        ),
        ({"_target_": "torch.nn.Linear", "lr": 0.1}, "torch.nn.Linear is not an optimizer of torch.optim"),
        ({"_target_": "torch.optim.SGD", "lr": -1}, "Input should be greater than 0 (got -1)"),
        ({"_target_": "torch.optim.SGDD", "lr": 1}, "torch.optim has no class 'SGDD'; nearest: SGD"),
    ],
)
def test_what_no_optimizer_takes_is_refused(fields, message):
    with pytest.raises(UsageError, match=r"^optimizer") as caught:
        validate(Optimizer, fields, "optimizer")
    assert message in str(caught.value)


def test_schedules():
    assert [Constant(warmup=0.5).factor(step, 4) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert [Step(milestones=(0.5, 0.75)).factor(step, 4) for step in range(4)] == pytest.approx([1, 1, 0.1, 0.01])
    # 0.29 * 100 is a little less than 29.
    assert [Step(milestones=(0.29,)).factor(step, 100) for step in (28, 29)] == pytest.approx([1, 0.1])
    cosine = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [Cosine().factor(step, 4) for step in range(4)] == pytest.approx(cosine)
    assert Cosine(final=0.1).factor(4, 4) == pytest.approx(0.1)
