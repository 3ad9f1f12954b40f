"""Policies with one phase: which parameters train does not change during the run. The head always trains."""

from __future__ import annotations

import math
import re
from typing import Literal, final

from pydantic import Field, field_validator, model_validator

from thawline.errors import usage_error
from thawline.freeze_policies.policy import Phase
from thawline.network import Network, names_of
from thawline.specs import Spec


def _one_phase(
    network: Network, backbone: frozenset[str], statistics: Literal["follow", "frozen"] = "follow"
) -> tuple[Phase, ...]:
    trainable = backbone | frozenset(network.head)
    if not trainable:
        raise usage_error("freeze_policy", "nothing would train: the policy and the head have no parameters")
    return (Phase("train", trainable, running_statistics=statistics),)


class _Counted(Spec):
    """How many layer groups: by count or name (`k`) or by fraction of all groups (`depth`); one group if neither."""

    k: int | str | None = Field(default=None)
    depth: float | None = Field(default=None, ge=0.0, le=1.0)

    @field_validator("k")
    @classmethod
    def _not_negative(cls, k: int | str | None) -> int | str | None:
        if isinstance(k, int) and k < 0:
            raise ValueError("must be 0 or more")
        return k

    @model_validator(mode="after")
    def _one_of_both(self) -> _Counted:
        if self.k is not None and self.depth is not None:
            raise ValueError("give k (a count or a group's name) or depth (a fraction), not both")
        return self

    def _count(self, network: Network, *, from_output: bool) -> int:
        n = len(network.groups)
        if self.depth is not None:
            return math.floor(self.depth * n + 0.5)
        k = 1 if self.k is None else self.k
        if k == "all":
            return n
        if isinstance(k, str):
            index = network.group(k, "freeze_policy.k").index
            return n - index if from_output else index + 1
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
class LastK(_Counted):
    """The `k` layer groups nearest to the output train. k = 0 is the linear probe, k = all is full fine-tuning.

    `k` is a count, ``all``, or the name of the deepest group that trains; `depth` is a fraction of all groups, rounded
    to the nearest count.
    """

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the top k groups and the head."""
        return _one_phase(network, network.top(self._count(network, from_output=True)))


@final
class FirstK(_Counted):
    """The `k` layer groups nearest to the input train, and the head (Lee et al. 2023, "Surgical Fine-Tuning").

    `k` is a count, ``all``, or the name of the last group that trains; `depth` is a fraction of all groups.
    """

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the bottom k groups and the head."""
        return _one_phase(network, names_of(network.groups[: self._count(network, from_output=False)]))


@final
class Blocks(Spec):
    """Chosen layer groups train, by index (negative: from the output) or name (Lee et al. 2023)."""

    blocks: tuple[int | str, ...] = Field(min_length=1)

    @field_validator("blocks", mode="before")
    @classmethod
    def _one_is_a_list(cls, blocks: object) -> object:
        return [blocks] if isinstance(blocks, (int, str)) else blocks

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase; trains the chosen groups and the head."""
        return _one_phase(network, names_of(network.group(key, "freeze_policy.blocks") for key in self.blocks))


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
