"""What the libraries save of a network, and what a test of backbones asks of it."""

from __future__ import annotations

import pytest
import timm
import torch

from thawline.errors import UsageError

RESNET = "test_resnet"


def library_state(name=RESNET, classes=7, **arguments):
    """A state dict as timm saves it, classifier and all."""
    torch.manual_seed(3)
    return timm.create_model(name, num_classes=classes, **arguments).state_dict()


def assert_holds(module, state):
    own = module.state_dict()
    assert own.keys() <= state.keys()
    assert all(torch.equal(own[name], state[name]) for name in own)


def refusal(call):
    """The one problem of a refused call: (field, message)."""
    with pytest.raises(UsageError) as caught:
        call()
    (problem,) = caught.value.problems
    return problem.field, problem.message
