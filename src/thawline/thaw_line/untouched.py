"""Running a model without leaving a trace in it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch import nn


@contextlib.contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the block the model can be run in any mode; afterwards it and all random numbers are as before."""
    attributes = [
        (module, [(name, value, _contents(value)) for name, value in vars(module).items()])
        for module in model.modules()
    ]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = [device] if device.type == "cuda" else []
    states = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, before in attributes:
            module.__dict__.clear()
            for name, value, contents in before:
                module.__dict__[name] = value
                _refill(value, contents)
        with torch.no_grad():
            for buffer, values in buffers:  # batch norms write their statistics without raising the version
                if not torch.equal(buffer, values):
                    buffer.copy_(values)
        torch.clear_autocast_cache()
        random.setstate(states[0])
        numpy.random.set_state(states[1])


def _contents(value: Any) -> Any:
    """A copy of a container, in which code may keep things such as a cache; None for anything else."""
    return value.copy() if type(value) in (dict, list, set) else None


def _refill(container: Any, contents: Any) -> None:
    if contents is None:
        return
    container.clear()
    if isinstance(container, list):
        container.extend(contents)
    else:
        container.update(contents)
