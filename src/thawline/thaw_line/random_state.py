"""The state of all random numbers that a model's code could draw."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from torch import Tensor


def random_state() -> tuple[Tensor, Any, Any]:
    """The state of the random numbers of torch, Python and NumPy."""
    return torch.get_rng_state(), random.getstate(), numpy.random.get_state(legacy=False)["state"]


def same_random_state(one: tuple[Tensor, Any, Any], other: tuple[Tensor, Any, Any]) -> bool:
    """Whether no random number was drawn between the two."""
    places = one[2]["pos"] == other[2]["pos"] and numpy.array_equal(one[2]["key"], other[2]["key"])
    return torch.equal(one[0], other[0]) and one[1] == other[1] and places
