"""Policies with one phase: which parameters train does not change during the run.

The head trains, unless a policy says otherwise, and so do an adapter's parameters: the policy decides about the rest.
"""

from __future__ import annotations

import math
import re
from typing import ClassVar, Literal, final

from pydantic import Field, field_validator, model_validator

from thawline.errors import usage_error
from thawline.freeze_policies.policy import CountedFrom, Phase
from thawline.network import Network, names_of
from thawline.specs import Spec


def _one_phase(
    network: Network,
    backbone: frozenset[str],
    statistics: Literal["follow", "frozen"] = "follow",
    *,
    train_head: bool = True,
) -> tuple[Phase, ...]:
    trainable = backbone | frozenset(network.adapter) | frozenset(network.head if train_head else ())
    return (Phase("train", trainable, running_statistics=statistics),)


class Counted(Spec):
    """How many layer groups: by count or name (`k`) or by fraction of all groups (`depth`)."""

    COUNTED_FROM: ClassVar[CountedFrom] = "output"
    DEFAULT: ClassVar[int | str] = 1
    """The count where neither is given."""

    k: int | str | None = Field(default=None)
    depth: float | None = Field(default=None, ge=0.0, le=1.0)

    @field_validator("k")
    @classmethod
    def _not_negative(cls, k: int | str | None) -> int | str | None:
        if isinstance(k, int) and k < 0:
            raise ValueError("must be 0 or more")
        return k

    @model_validator(mode="after")
    def _one_of_both(self) -> Counted:
        if self.k is not None and self.depth is not None:
            raise ValueError("give k (a count or a group's name) or depth (a fraction), not both")
        return self

    def count(self, network: Network) -> int:
        """The number of layer groups of `network`, counted from `COUNTED_FROM`."""
        n = len(network.groups)
        if self.depth is not None:
            return math.floor(self.depth * n + 0.5)
        k = self.DEFAULT if self.k is None else self.k
        if k == "all":
            return n
        if isinstance(k, str):
            index = network.group(k, "freeze_policy.k").index
            return n - index if self.COUNTED_FROM == "output" else index + 1
        if k > n:
            raise usage_error("freeze_policy.k", f"k = {k} is more than the backbone's {n} layer groups")
        return k


@final
class LinearProbe(Spec):
    """Feature extraction: the backbone is fixed and only the head trains."""

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the head."""
        return _one_phase(network, frozenset())


@final
class FullFineTuning(Spec):
    """Everything trains."""

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains all."""
        return _one_phase(network, frozenset(network.backbone))


@final
class LastK(Counted):
    """The `k` layer groups nearest to the output train. k = 0 is the linear probe, k = all is full fine-tuning.

    `k` is a count, ``all``, or the name of the deepest group that trains; `depth` is a fraction of all groups, rounded
    to the nearest count.
    """

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the top k groups and the head."""
        return _one_phase(network, network.top(self.count(network)))


@final
class FirstK(Counted):
    """The `k` layer groups nearest to the input train, and the head (Lee et al. 2023, "Surgical Fine-Tuning").

    `k` is a count, ``all``, or the name of the last group that trains; `depth` is a fraction of all groups.
    """

    COUNTED_FROM: ClassVar[CountedFrom] = "input"

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the bottom k groups and the head."""
        return _one_phase(network, names_of(network.groups[: self.count(network)]))


@final
class Blocks(Spec):
    """Chosen layer groups train, by index (negative: from the output) or name (Lee et al. 2023).

    `train_head` is false where the source's head fits the target's classes as it is (``head=source_rows``), as in the
    paper's experiments on shifted inputs: then the groups alone train.
    """

    blocks: tuple[int | str, ...] = Field(min_length=1)
    train_head: bool = True

    @field_validator("blocks", mode="before")
    @classmethod
    def _one_is_a_list(cls, blocks: object) -> object:
        return [blocks] if isinstance(blocks, (int, str)) else blocks

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the chosen groups and the head."""
        chosen = names_of(network.group(key, "freeze_policy.blocks") for key in self.blocks)
        return _one_phase(network, chosen, train_head=self.train_head)


@final
class OneBlock(Spec):
    """One layer group trains, by index (negative: from the output) or name; a sweep over it tries each in turn.

    ``freeze_policy=one_block 'freeze_policy.block=range(0,n)'`` finds the group that is best to tune (Lee et al. 2023,
    "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts"). `train_head` as in `Blocks`.
    """

    block: int | str
    train_head: bool = True

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the group and the head."""
        chosen = frozenset(network.group(self.block, "freeze_policy.block").parameters)
        return _one_phase(network, chosen, train_head=self.train_head)


@final
class ConvolutionsFrozen(Spec):
    """All convolutions and the norms between them are fixed; fully connected layers and the head train."""

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains everything but convolutions and norms."""
        return _one_phase(network, frozenset(network.backbone) - network.convolutions - network.norms)


@final
class NormOnly(Spec):
    """The affine parameters of normalisation layers train.

    Source: Frankle et al. 2021, "Training BatchNorm and Only BatchNorm".

    `running_statistics`: ``follow`` - batch norms also update their running statistics and normalise by batch in
    training; ``frozen`` - they keep the source statistics.
    """

    running_statistics: Literal["follow", "frozen"] = "follow"

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the norms and the head."""
        norms = network.norms & frozenset(network.backbone)
        if not norms:
            raise usage_error("freeze_policy", "this backbone has no normalisation layer with parameters")
        return _one_phase(network, norms, self.running_statistics)


@final
class BiasOnly(Spec):
    """Biases train (Ben Zaken et al. 2022, "BitFit"); weights are fixed, and norms keep their running statistics."""

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the biases and the head."""
        biases = network.biases & frozenset(network.backbone)
        if not biases:
            raise usage_error("freeze_policy", "this backbone has no bias")
        return _one_phase(network, biases, "frozen")


@final
class Pattern(Spec):
    """Parameters whose name matches a regular expression train (``re.search`` on ``backbone.layer4.0...``)."""

    patterns: tuple[str, ...] = Field(min_length=1)

    @field_validator("patterns", mode="before")
    @classmethod
    def _one_is_a_list(cls, patterns: object) -> object:
        return [patterns] if isinstance(patterns, str) else patterns

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains what matches, and the head. A pattern that matches nothing is an error."""
        chosen: set[str] = set()
        for pattern in self.patterns:
            matched = {name for name in network.parameters if re.search(pattern, name)}
            if not matched:
                raise usage_error("freeze_policy.patterns", f"{pattern!r} matches no parameter")
            chosen |= matched
        return _one_phase(network, frozenset(chosen))
