"""StochNorm: batch norm at its end, and one branch for each channel."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.conftest import TINY
from tests.execution.test_train import numbers
from tests.regularizers.bench import (
    VIT,
    bench,
)
from thawline.regularizers import (
    StochNorm,
)


def test_stochnorm_with_p_1_is_batch_norm_bit_for_bit(train):
    fixed = ("freeze_policy=full", "cache.mode=off")
    plain = train(*fixed)
    stochastic = train(*fixed, "regularizer=stoch_norm", "regularizer.stoch_norm.p=1")
    assert stochastic.identity != plain.identity
    assert numbers(stochastic) == numbers(plain)
    half = train(*fixed, "regularizer=stoch_norm")
    assert half.history[0]["train/loss"] != plain.history[0]["train/loss"]
    assert half.phases[0].regularizers["stoch_norm"].batch_norms == 15
    assert "train/objective" not in half.history[0]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_each_channel_takes_one_of_the_two_branches(name):
    model, _ = bench(name)
    norms = [m for m in model.model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    norm = norms[0]
    with torch.no_grad():
        norm.running_mean.fill_(0.7)
    before, states = norm.running_mean.clone(), copy.deepcopy(norm.state_dict())
    x = torch.randn(8, norm.num_features, 4, 4)
    by_running, by_batch = copy.deepcopy(norm).eval()(x), copy.deepcopy(norm).train()(x)
    term = StochNorm(p=0.5).attach(model.context)
    assert list(norm.state_dict()) == list(states)
    norm.train()
    torch.manual_seed(0)
    output = norm(x)
    took_batch = [torch.equal(output[:, c], by_batch[:, c]) for c in range(norm.num_features)]
    took_running = [torch.equal(output[:, c], by_running[:, c]) for c in range(norm.num_features)]
    assert all(one != other for one, other in zip(took_batch, took_running, strict=True))
    assert 0 < sum(took_batch) < norm.num_features
    assert not torch.equal(norm.running_mean, before)
    updated = copy.deepcopy(norm)
    norm.load_state_dict(states)
    norm.eval()
    assert torch.equal(norm(x), by_running)
    assert torch.equal(norm.running_mean, before)
    term.remove()
    norm.train()
    assert torch.equal(norm(x), by_batch)
    assert torch.equal(norm.running_mean, updated.running_mean)
    assert term.value is None


def test_a_network_without_batch_norm_cannot_have_stochnorm(thawline):
    result = thawline("train", *TINY, *VIT, "regularizer=stoch_norm")
    assert result.status == 2
    assert "error: regularizer.stoch_norm: this backbone has no batch norm with running statistics\n" in result.err
