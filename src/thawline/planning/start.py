"""What a run starts from, as keys: equal for runs that can share what follows from it alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Start:
    """The weights that a run starts from.

    Attributes:
        backbone: the source network, as its configuration describes it.
        weights: what the weights are by content: a file's hash, a tag or a run; None: random.
        seed: what decides random weights; None where they are not.
    """

    backbone: str
    weights: str | None
    seed: int | None


@dataclass(frozen=True)
class ModelKey:
    """A model as it is built, before any training.

    Attributes:
        start: its weights.
        adapter: what is put into it.
        head: what is put on it.
        drawn: the seed, where it decides more than the start of what trains; else None.
        outputs: the names of the head's outputs.
        input_size: (H, W).
        arithmetic: precision, layout and device; values at a thaw line are of one of them.
    """

    start: Start
    adapter: str
    head: str
    drawn: int | None
    outputs: tuple[str, ...]
    input_size: tuple[int, int]
    arithmetic: tuple[str, str, str]
