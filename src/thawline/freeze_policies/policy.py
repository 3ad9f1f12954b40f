"""What a freeze policy answers: phases, each a fixed set of trainable parameters and a length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from thawline.network import Network


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a fixed set of trainable parameters.

    Attributes:
        name: the phase's name in logs and records.
        trainable: names of the parameters that train; all others are frozen.
        epochs: its length, or None for what is left of the trainer's ``max_epochs``.
        lr_multiplier: factor on every learning rate of the optimizer.
        running_statistics: ``follow`` - a norm updates its running statistics if its own parameters train;
            ``frozen`` - no norm of the backbone does.
    """

    name: str
    trainable: frozenset[str]
    epochs: int | None = None
    lr_multiplier: float = 1.0
    running_statistics: Literal["follow", "frozen"] = "follow"


@runtime_checkable
class FreezePolicy(Protocol):
    """Decides which parameters train, and when."""

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """The phases of training for this network, in order."""
        ...
