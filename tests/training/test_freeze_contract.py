"""The freeze contract stops a run whose optimizer, policy or model does not do what the phase says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TINY, records

OPTIMIZERS = '''
import gc

import torch
from thawline.network.model import TransferModel


class Harmful(torch.optim.SGD):
    """SGD that breaks the freeze contract in one way; k = 1: layer4 and the head train."""

    def __init__(self, params, lr, harm, weight_decay=0.0):
        super().__init__(params, lr=lr)
        self.harm, self.steps = harm, 0
        groups = self.param_groups
        if harm == "twice":
            groups.append({**groups[0], "params": groups[0]["params"][:1]})
        elif harm == "left out":
            groups[0]["params"].pop()
        elif harm == "holds a frozen weight":
            groups[0]["params"].append(self.model.backbone.conv1[0].weight)
        elif harm == "no gradient":
            weight = self.model.head.weight
            weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))

    @property
    def model(self):
        (model,) = [m for m in gc.get_objects() if type(m) is TransferModel and m.head.weight.requires_grad]
        return model

    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none)
        if self.harm == "frozen gradient":
            weight = self.model.backbone.conv1[0].weight
            weight.grad = torch.zeros_like(weight)

    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        stem = self.model.backbone.conv1
        if self.harm == "moves a frozen weight" or (self.harm == "moves one late" and self.steps == 3):
            stem[0].weight.data[0, 0, 0, 0] += 1e-7
        elif self.harm == "changes a frozen buffer":
            stem[1].running_mean[0] += 1e-7
        elif self.harm == "counts a frozen batch":
            stem[1].num_batches_tracked += 1
        return loss
'''


ALLOW = ("--allow", "mine", "--config-dir", "conf", "cache.mode=off")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("twice", "not in exactly one optimizer group: backbone.layer4.0.conv1.weight"),
        ("left out", "not in exactly one optimizer group: backbone.layer4.0.downsample.2.bias"),
        ("holds a frozen weight", "the optimizer holds what does not train: backbone.conv1.0.weight"),
        ("no gradient", "trainable parameters have no gradient: head.weight"),
        ("frozen gradient", "frozen parameters have a gradient: backbone.conv1.0.weight"),
        (
            "moves a frozen weight",
            "frozen tensors changed after the first optimizer step: backbone.conv1.0.weight",
        ),
        ("moves one late", "frozen tensors changed at the end of the fit: backbone.conv1.0.weight"),
        (
            "changes a frozen buffer",
            "frozen tensors changed after the first optimizer step: backbone.conv1.1.running_mean",
        ),
        (
            "counts a frozen batch",
            "frozen tensors changed after the first optimizer step: backbone.conv1.1.num_batches_tracked",
        ),
    ],
)
def test_a_breach_stops_the_run_and_names_the_tensors(own_class, thawline, harm, message):
    own_class("optimizers", OPTIMIZERS, "optimizer/harmful", "_target_: mine.optimizers.Harmful\nlr: 0.01\nharm: x\n")
    result = thawline("train", *TINY, *ALLOW, "optimizer=harmful", f"optimizer.harm={harm}", "freeze_policy.k=1")
    assert result.status == 1
    assert f"FreezeContractBreach: {message}" in " ".join(result.err.split())
    assert records() == []
    (file,) = Path("outputs/runs").glob("*/traceback-1.txt")
    assert message in file.read_text()


POLICY = '''
from typing import final
from thawline.freeze_policies import Phase
from thawline.network import Network
from thawline.specs import Spec


@final
class Lies(Spec):
    """A policy that does not fit the network."""

    def phases(self, network: Network) -> tuple[Phase, ...]:
        head = frozenset(network.head)
        return {phases}
'''


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (
            '(Phase("train", head | {"backbone.fc9.weight"}),)',
            "freeze_policy: phase 'train' trains what the model does not have: backbone.fc9.weight",
        ),
        ("()", "freeze_policy: Lies gives no phase"),
        ('(Phase("train", head, epochs=0), Phase("more", head))', "freeze_policy: phase 'train' has 0 epochs"),
        ('(Phase("train", frozenset()),)', "freeze_policy: phase 'train' trains nothing"),
        ('(Phase("train", head), Phase("train", head))', "freeze_policy: two phases have the name 'train'"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_before_training(own_class, thawline, phases, message):
    own_class("policies", POLICY.replace("{phases}", phases), "freeze_policy/lies", "_target_: mine.policies.Lies\n")
    result = thawline("train", *TINY, *ALLOW, "freeze_policy=lies")
    assert (result.status, " ".join(result.err.split())) == (2, f"error: {message}")
    assert not Path("outputs/runs").exists()
