"""What a freeze policy answers: phases, each a fixed set of trainable parameters and a length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from thawline.network import Network

CountedFrom = Literal["output", "input"]
"""The end of the network that a number of layer groups is counted from."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a fixed set of trainable parameters.

    Attributes:
        name: the phase's name in logs and records.
        trainable: names of the parameters that train; all others are frozen.
        epochs: its length; None where `fraction` says it, or for what the other phases leave of the trainer's
            ``max_epochs``.
        fraction: its length as a share of the trainer's ``max_epochs``, between 0 and 1.
        patience: the phase ends early after this many epochs without a better validation metric.
        lr_multiplier: factor on every learning rate of the optimizer.
        optimizer_state: ``keep`` - parameters that trained in the phase before go on with their state in its
            optimizer (momentum, second moments), as it was at the epoch whose weights this phase starts from;
            ``drop`` - all start anew.
        running_statistics: ``follow`` - a norm updates its running statistics if its own parameters train;
            ``frozen`` - no norm of the backbone does.
    """

    name: str
    trainable: frozenset[str]
    epochs: int | None = None
    fraction: float | None = None
    patience: int | None = None
    lr_multiplier: float = 1.0
    optimizer_state: Literal["keep", "drop"] = "drop"
    running_statistics: Literal["follow", "frozen"] = "follow"


@runtime_checkable
class FreezePolicy(Protocol):
    """Decides which parameters train, and when."""

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """The phases of training for this network, in order."""
        ...


@runtime_checkable
class CountsLayerGroups(Protocol):
    """A freeze policy whose `k` or `depth` is a number of layer groups that train, and the end it is counted from.

    Reports draw the runs of such a policy along this number. The `k` of any other policy is a setting like others.
    """

    COUNTED_FROM: ClassVar[CountedFrom]
