"""Which lines one pass stores beside the one that a phase needs now: those that runs to come will need."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from thawline.execution.arithmetic import mixed_precision
from thawline.execution.line_values import LineValues
from thawline.freeze_policies import Phase
from thawline.heads import strides_of
from thawline.network.model import TransferModel
from thawline.planning.needs import LineNeed
from thawline.planning.stored_phases import alike
from thawline.store.store import Store
from thawline.thaw_line.cost import worth_most


@dataclass
class _Wanted:
    """The values at a line, and how many epochs of all runs together will read them."""

    values: LineValues
    epochs: int

    def worth(self) -> tuple[float, int]:
        """The seconds that they save once they are stored, and their bytes."""
        decision = self.values.decide(epochs=self.epochs, runs_sharing=1, already_stored=True)
        return decision.seconds_compute - decision.seconds_store, self.values.total_bytes


def lines_to_come(
    own: LineValues, model: TransferModel, phase: Phase, example: Tensor, store: Store
) -> list[LineValues] | None:
    """The lines whose values are to be stored along with a phase's; None where its own had better leave them the room.

    Args:
        own: the values that the phase needs now, which are not stored.
        model: ready to train the phase; nothing of it has been trained yet.
        phase: the phase.
        example: images for the model.
        store: where the values go.
    """
    needs = own.run.session.needs.alike(alike(own.run.plan))
    others = [need for need in needs if not _is_of(need, phase)]
    if not others:
        return []
    epochs = sum(need.epochs * runs for need, runs in needs.items() if _is_of(need, phase))
    key = own.specs["train"].identity
    wanted = {key: _Wanted(own, max(1, epochs))}
    for need, values in _found(own, model, phase, others, example):
        same = wanted.setdefault(values.specs["train"].identity, _Wanted(values, 0))
        same.epochs += need.epochs * needs[need]
    missing = {each: one for each, one in wanted.items() if each == key or not one.values.keep(store)}
    room = store.room()
    if own.total_bytes > room:
        return []  # the store says why
    if sum(one.values.total_bytes for one in missing.values()) > room:
        chosen = worth_most({each: one.worth() for each, one in missing.items()}, room)
        if key not in chosen:
            return None
        missing = {each: one for each, one in missing.items() if each in chosen}
    return [one.values for each, one in missing.items() if each != key]


def _is_of(need: LineNeed, phase: Phase) -> bool:
    return (need.trainable, need.running_statistics) == (phase.trainable, phase.running_statistics)


def _found(
    own: LineValues, model: TransferModel, phase: Phase, needs: list[LineNeed], example: Tensor
) -> Iterator[tuple[LineNeed, LineValues]]:
    """The values that such needs ask for, where it is decided to store them."""
    run = own.run
    lines, runs = run.session.lines, run.session.runs
    if not lines.has(model):
        # Such as a pack's, which no other run gets.
        model = lines.reuse_model(run.plan.model_key, copy.deepcopy(model))
    try:
        with mixed_precision(run.settings):
            found = list(lines.to_come(model, needs, example, of_maps=bool(strides_of(run.settings.head))))
    finally:
        model.set_trainable(phase.trainable, statistics_frozen=phase.running_statistics == "frozen")
        model.train()
    for need, line in found:
        values = replace(own, line=line)
        decided = values.decide(epochs=need.run_epochs, runs_sharing=runs, already_stored=False, on_the_way=True)
        if decided.store:
            yield need, values
