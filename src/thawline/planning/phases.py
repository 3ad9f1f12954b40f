"""The phases of a run: what a freeze policy answers for a network, checked, each with its number of epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from thawline.errors import counted, usage_error
from thawline.freeze_policies import FreezePolicy, Phase
from thawline.network import Network

_MAX_NAMED = 8


def phases_of(policy: FreezePolicy, network: Network, max_epochs: int) -> tuple[Phase, ...]:
    """The policy's phases with their lengths.

    Raises:
        UsageError: a phase does not fit the network, or they take more than `max_epochs`.
    """
    phases = policy.phases(network)
    if not phases:
        raise usage_error("freeze_policy", f"{type(policy).__name__} gives no phase")
    _check(phases, network)
    return _with_lengths(phases, max_epochs)


def _check(phases: Sequence[Phase], network: Network) -> None:
    """Refuse what a policy of one's own may get wrong: training would fail on it, or leave it out without a word."""
    known = frozenset(network.parameters)
    for index, phase in enumerate(phases):
        unknown = sorted(phase.trainable - known)
        if unknown:
            names = ", ".join(unknown[:_MAX_NAMED])
            raise usage_error("freeze_policy", f"phase {phase.name!r} trains what the model does not have: {names}")
        if not phase.trainable:
            raise usage_error("freeze_policy", f"phase {phase.name!r} trains nothing")
        if phase.epochs is not None and phase.epochs < 1:
            raise usage_error("freeze_policy", f"phase {phase.name!r} has {phase.epochs} epochs")
        if phase.name in {earlier.name for earlier in phases[:index]}:
            raise usage_error("freeze_policy", f"two phases have the name {phase.name!r}")


def _with_lengths(phases: tuple[Phase, ...], max_epochs: int) -> tuple[Phase, ...]:
    """Phases without a length share what the others leave of `max_epochs`."""
    given = [_given_length(phase, max_epochs) for phase in phases]
    open_ended = [index for index, epochs in enumerate(given) if epochs is None]
    taken = sum(epochs for epochs in given if epochs is not None)
    if taken + len(open_ended) > max_epochs:
        needed = f"at least {taken + len(open_ended)}" if open_ended else str(taken)
        raise usage_error(
            "trainer.max_epochs",
            f"{counted(max_epochs, 'epoch')} {'is' if max_epochs == 1 else 'are'} too few for the policy's "
            f"{len(phases)} phases: they take {needed}",
        )
    shares = {
        index: (max_epochs - taken) // len(open_ended) + (rank < (max_epochs - taken) % len(open_ended))
        for rank, index in enumerate(open_ended)
    }
    return tuple(
        dataclasses.replace(phase, epochs=shares[index] if epochs is None else epochs, fraction=None)
        for index, (phase, epochs) in enumerate(zip(phases, given, strict=True))
    )


def _given_length(phase: Phase, max_epochs: int) -> int | None:
    """The epochs that the phase asks for; a fraction takes one at least."""
    return phase.epochs if phase.fraction is None else max(1, round(phase.fraction * max_epochs))
