"""Models that cannot be parted say why."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from torch import Tensor, nn

from tests.thaw_line.models import (
    Sum,
    line_of,
)
from thawline.thaw_line.partition import UntraceableError, partition


def test_names_that_are_no_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^not parameters of the model: 0\.wight$"):
        partition(nn.Sequential(nn.Linear(2, 2)), ["0.wight"], torch.randn(1, 2))


class Listed(nn.Module):
    """Keeps its weight where torch does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.hidden = [nn.Parameter(torch.ones(6))]

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) * (self.hidden[0] * 2)


VALUES = "the code of the model depends on the values of the input"
CHANGING = "the code of the model depends on what trains or is random"
SAMPLES = "depends on the number of samples"
UNSEEN = "out of the tracer's sight"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Sum(lambda self, x: x if x.sum() > 0 else self.last(x)), VALUES),
        (Sum(lambda self, x: x * float(x.mean())), VALUES),
        (Sum(lambda self, x: self.last(x) if self.last.bias.mean() > 0 else x), CHANGING),
        (Sum(lambda self, x: self.last(x) if torch.rand(()) > 0.5 else x), CHANGING),
        (Sum(lambda self, x: x[: int(x.shape[0])]), f"the code of the model {SAMPLES}"),
        (Sum(lambda self, x: torch.stack(list(x.unbind(0)))), f"the number of values of unbind {SAMPLES}"),
        (Sum(lambda self, x: self.missing(x)), "AttributeError: 'Sum' object has no attribute 'missing'"),
        (Sum(lambda self, x: self.last(x[:, :3])), "RuntimeError in last: "),
        (Sum(lambda self, x: self.last(x) * random.gauss(0.0, 1.0)), f"the model draws random numbers {UNSEEN}"),
        (Sum(lambda self, x: self.last(x) * numpy.random.normal()), f"the model draws random numbers {UNSEEN}"),
        (Sum(lambda self, x: self.last(x) * torch.ones(6).bernoulli_()), f"the model draws random numbers {UNSEEN}"),
        (Listed(), f"the model computes with parameters {UNSEEN}"),
    ],
)
def test_what_cannot_be_parted_says_why(model: nn.Module, reason: str) -> None:
    if isinstance(model, Sum):
        model.last = nn.Linear(6, 6)
    modes = [module.training for module in model.modules()]
    with pytest.raises(UntraceableError) as error:
        partition(model, [name for name, _ in model.named_parameters()][-1:], torch.randn(2, 6))
    assert error.value.reason.startswith(reason)
    assert "\n" not in error.value.reason
    assert modes == [module.training for module in model.modules()]
    assert torch.arange(2).tolist() == [0, 1]


def test_gradients_that_are_switched_off_past_what_trains_cannot_be_parted() -> None:
    def forward(self: Sum, x: Tensor) -> Tensor:
        x = self.first(x)
        with torch.no_grad():
            x = x * 2
        return self.last(x)

    model = Sum(forward, first=nn.Linear(6, 6), last=nn.Linear(6, 6))
    line_of(model, ["last.weight"], torch.randn(2, 6))
    with pytest.raises(UntraceableError, match="the model switches gradients off past what trains"):
        partition(model, ["first.weight"], torch.randn(2, 6))


def test_a_graph_that_is_not_the_model_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.calls = nn.Linear(6, 6), [0]

        def forward(self, x: Tensor) -> Tensor:
            global_calls[0] += 1
            return self.last(x) * global_calls[0]

    global_calls = [0]
    with pytest.raises(UntraceableError, match="the traced graph does not compute the model's output"):
        partition(Counting(), ["last.weight"], torch.randn(2, 6))
