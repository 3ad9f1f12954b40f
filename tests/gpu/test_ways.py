"""The training steps that the benchmark for a GPU compares, of a convolutional network in half precision."""

from __future__ import annotations

import pytest
import torch
from benchmarks.suffix_ways import NotHereError, Suffix, as_graph, as_it_is, five_seeds
from torch import nn

from tests.gpu.device import HAS_GPU, MARK

pytestmark = MARK


@pytest.fixture
def suffix() -> Suffix:
    device = torch.device("cuda" if HAS_GPU else "cpu")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).to(device, memory_format=torch.channels_last)
    values = torch.randn(16, 4, 8, 8).to(device, torch.bfloat16, memory_format=torch.channels_last)
    labels = torch.arange(16, device=device) % 3
    return Suffix(network, lambda: (values.cpu(),), (values,), labels, torch.bfloat16, 0.0)


def loss(suffix: Suffix) -> float:
    with torch.no_grad():
        return float(suffix.loss(suffix.forward))


def test_one_step_after_the_other_trains(suffix):
    before = loss(suffix)
    step = as_it_is(suffix)
    for _ in range(20):
        step()
    assert loss(suffix) < before


def test_a_recorded_step_trains_when_it_is_played(suffix):
    if not HAS_GPU:
        with pytest.raises(NotHereError):
            as_graph(suffix)
        return
    step = as_graph(suffix)
    before = loss(suffix)
    for _ in range(20):
        step()
    torch.cuda.synchronize()
    assert loss(suffix) < before


def test_five_seeds_leave_the_network_as_it_was(suffix):
    before = {name: value.clone() for name, value in suffix.forward.state_dict().items()}
    step = five_seeds(suffix)
    for _ in range(3):
        step()
    for name, value in suffix.forward.state_dict().items():
        assert torch.equal(value, before[name]), name
