"""The thaw lines of a session: one model at a time, its partitions, and where their values are stored."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from thawline.runtime.memory import free_what_earlier_runs_made
from thawline.runtime.steps import step

if TYPE_CHECKING:
    import torch

    from thawline.freeze_policies import Phase
    from thawline.network.model import TransferModel
    from thawline.planning.needs import LineNeed
    from thawline.planning.start import ModelKey
    from thawline.store.store import Entry
    from thawline.thaw_line.partition import ThawLine

_MOST_LINES = 16


class SharedLines:
    """The last model that was built, and what is known of its thaw lines: runs that are built alike share both."""

    def __init__(self) -> None:
        self._lines: dict[str, list[tuple[ThawLine, Entry]]] = {}
        self._model_key: ModelKey | None = None
        self._model: TransferModel | None = None
        self._partitions: dict[tuple[object, ...], ThawLine] = {}

    def reuse_model(self, key: ModelKey, fresh: TransferModel) -> TransferModel:
        """A model with the state of `fresh`: that of the run before, if it is built alike, so that its partitions hold.

        Args:
            key: equal for models that are built alike and start from the same source weights.
            fresh: a new model.
        """
        if (
            self._model is None
            or key != self._model_key
            or self._model.state_dict().keys() != fresh.state_dict().keys()
        ):
            is_first = self._model is None
            self._model_key, self._model = key, fresh
            # Both hold the old model.
            self._partitions, self._lines = {}, {}
            if not is_first:
                free_what_earlier_runs_made()
            return fresh
        import torch

        model = self._model.to(fresh.pixel_mean.device)
        with torch.no_grad():
            model.load_state_dict(fresh.state_dict())
        model.set_trainable(())
        return model

    def has(self, model: TransferModel) -> bool:
        """Whether this is the model whose lines are kept."""
        return model is self._model

    def of_phase(
        self,
        model: TransferModel,
        phase: Phase | LineNeed,
        example: torch.Tensor,
        *,
        of_maps: bool = False,
        updated: Collection[str] = (),
    ) -> ThawLine:
        """The partition of a model that is about to train a phase; with `of_maps`, of all but its head.

        `updated` are the names of the tensors that are no longer the source's. Where none of them lies before the line,
        the partition is kept for the runs to come.
        """
        key = (phase.trainable, phase.running_statistics, tuple(example.shape), example.device, id(model))
        kept = self._partitions.get(key)
        if kept is not None and not kept.lies_past(updated):
            return kept
        from thawline.thaw_line.partition import partition

        with step("tracing the network"):
            if of_maps:
                names = {name for name, _ in model.trunk.named_parameters()}
                line = partition(model.trunk, names & phase.trainable, example)
            else:
                line = partition(model, phase.trainable, example)
        if model is self._model and not line.lies_past(updated):
            self._partitions[key] = line
        return line

    def to_come(
        self, model: TransferModel, needs: Iterable[LineNeed], example: torch.Tensor, *, of_maps: bool
    ) -> Iterator[tuple[LineNeed, ThawLine]]:
        """The lines of phases to come, of a model of which nothing has trained yet; it is left as the last one has it.

        Left out is what has none, and what follows from weights that the phases before train.
        """
        from thawline.thaw_line.partition import UntraceableError

        for need in needs:
            model.set_trainable(need.trainable, statistics_frozen=need.running_statistics == "frozen")
            model.train()
            with contextlib.suppress(UntraceableError):
                line = self.of_phase(model, need, example, of_maps=of_maps)
                if not line.is_whole and not line.lies_past(need.trained):
                    yield need, line

    def before(self, line: ThawLine, rows: str) -> tuple[ThawLine, Entry] | None:
        """The deepest line before this one whose values are stored for the same rows, as they are: not rounded."""
        known = self._lines.get(rows, [])
        for other, entry in sorted(known, key=lambda pair: -pair[0].prefix_flops_per_sample):
            exact = all(array.stored_as == array.dtype for array in entry.spec.arrays)
            if exact and line.continue_from(other) is not None:
                return other, entry
        return None

    def remember(self, line: ThawLine, rows: str, entry: Entry) -> None:
        """Values at `line` are stored for these rows: deeper lines can start from them.

        A line of a model that only passes through, such as a pack's, is not kept: it would hold the model.
        """
        if not any(line is kept for kept in self._partitions.values()):
            return
        known = self._lines.setdefault(rows, [])
        known[:] = [*(pair for pair in known if pair[0] is not line), (line, entry)][-_MOST_LINES:]
