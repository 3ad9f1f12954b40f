"""What a phase reads and how outputs come from it: images and the whole model, or the thaw line's stored values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import get_worker_info

from thawline.execution.arithmetic import mixed_precision
from thawline.execution.decoding import decoded_images
from thawline.execution.line_values import LineValues
from thawline.execution.lines_to_come import lines_to_come
from thawline.freeze_policies import Phase
from thawline.heads import strides_of
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan
from thawline.planning.stored_phases import why_whole
from thawline.records import StoredValue, ThawLineRecord
from thawline.store.decoded_images import DecodedImages
from thawline.store.store import Entry, StoreRefusedError, readable_bytes
from thawline.tasks import SpatialTask, Views
from thawline.tasks.targets import Target
from thawline.thaw_line.partition import UntraceableError
from thawline.training.batches import Inputs, Rows, SplitData
from thawline.training.module import Forwards

_EXAMPLE_BATCH = 2


@dataclass(frozen=True)
class ImageInputs:
    """Decoded images as they are: uint8 (B, 3, H, W); with `pinned` in page-locked memory."""

    decoded: DecodedImages
    pinned: bool = False

    def read(self, epoch: int, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The images of these samples."""
        return (self.decoded.read(rows, pinned=_pinned_here(self.pinned)),)

    @property
    def at_hand(self) -> bool:
        """Whether they are kept."""
        return self.decoded.is_kept

    def open(self) -> None:
        """Decode them now, where they can be kept."""
        self.decoded.keep()

    def read_ahead(self, rows: Rows) -> None:
        """Begin to decode them, where they are not kept."""
        self.decoded.read_ahead(rows)


@dataclass(frozen=True)
class AugmentedInputs:
    """Decoded images, each augmented as a function of (data seed, epoch, index), and of targets that move with it."""

    decoded: DecodedImages
    views: Views
    placed: Callable[[int], Target | None] = lambda row: None
    at_hand: bool = False

    def read(self, epoch: int, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The views of these samples in this epoch."""
        pairs = zip(self.decoded.read(rows), rows.tolist(), strict=True)
        return (torch.stack([self.views.image(image, epoch, row, self.placed(row)) for image, row in pairs]),)

    def open(self) -> None:
        """Decode them now, where they can be kept."""
        self.decoded.keep()

    def read_ahead(self, rows: Rows) -> None:
        """Begin to decode them, where they are not kept."""
        self.decoded.read_ahead(rows)


class WithHead(nn.Module):
    """The thawed side of a line that ends at the feature maps: what is left of the backbone, and the head."""

    def __init__(self, suffix: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.suffix, self.head = suffix, head

    def forward(self, *values: torch.Tensor, targets: Any = None) -> Any:
        """The outputs of the head for the line's values."""
        maps = self.suffix(*values)
        return self.head(maps) if targets is None else self.head(maps, targets)


@dataclass(frozen=True)
class LineInputs:
    """The stored values of a thaw line: for each view, one row for each of `indices` (sorted).

    With `pinned` they are read into page-locked memory, from which a GPU copies them without a copy in between.
    """

    entry: Entry
    indices: Rows
    views: int = 1
    pinned: bool = False
    at_hand: bool = True

    def read(self, epoch: int, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The values of these samples in this epoch's view."""
        stored = (epoch % self.views) * len(self.indices) + np.searchsorted(self.indices, rows)
        return self.entry.read(stored, pinned=_pinned_here(self.pinned))

    def open(self) -> None:
        """The entry is open."""

    def read_ahead(self, rows: Rows) -> None:
        """What is stored is read at once."""


def _pinned_here(wanted: bool) -> bool:
    """Processes that read ahead are forks, and must not call CUDA."""
    return wanted and get_worker_info() is None


@dataclass(frozen=True)
class PhaseInputs:
    """The parts of a fit, the forwards that fit them, and what was decided about the thaw line and why."""

    parts: dict[str, SplitData]
    forwards: Forwards
    thaw_line: ThawLineRecord = field(default_factory=ThawLineRecord)


def phase_inputs(
    run: RunContext, model: TransferModel, phase: Phase, *, updated: Collection[str] = frozenset()
) -> PhaseInputs:
    """The inputs of a phase whose trainable set `model` has already.

    Args:
        run: its plan and session.
        model: in the modes in which it trains.
        phase: the phase.
        updated: the names of the tensors that no longer are the source's.
    """
    plan, decoded = run.plan, decoded_images(run)
    images = image_inputs(plan, decoded, pinned=run.device.type == "cuda")
    whole = PhaseInputs(_parts(plan, images), Forwards(model, model))
    reason = why_whole(plan)
    if reason:
        return _explained(whole, reason)
    example, of_maps = _example(plan, model), bool(strides_of(plan.settings.head))
    try:
        with mixed_precision(plan.settings):
            line = run.session.lines.of_phase(model, phase, example, of_maps=of_maps, updated=updated)
    except UntraceableError as error:
        return _explained(whole, f"not traceable: {error}")
    if line.is_whole:
        return _explained(
            whole,
            f"no frozen side: {line.reason}",
            prefix_flops_per_sample=0,
            suffix_flops_per_sample=line.suffix_flops_per_sample,
        )
    values = LineValues(run, line, decoded, images)
    return _from_store(values, model, phase, None if updated else example)


def _explained(inputs: PhaseInputs, reason: str, **facts: Any) -> PhaseInputs:
    return PhaseInputs(inputs.parts, inputs.forwards, ThawLineRecord(reason=reason, **facts))


def image_inputs(
    plan: Plan, decoded: DecodedImages, *, pinned: bool = False
) -> dict[str, ImageInputs | AugmentedInputs]:
    """The images of each split as a model reads them, augmented in training."""
    plain = ImageInputs(decoded, pinned)
    train: ImageInputs | AugmentedInputs = plain
    if plan.transform.is_random:
        train = AugmentedInputs(decoded, _views(plan))
        task = plan.settings.task
        if isinstance(task, SpatialTask):
            targets = task.training_targets(plan.splits.images.targets, train.views)
            train = replace(train, placed=targets.placed)
    return {"train": train, "val": plain, "test": plain}


def _views(plan: Plan) -> Views:
    return Views(plan.transform, plan.settings.data_seed, plan.settings.cache.views)


def _parts(plan: Plan, inputs: Mapping[str, Inputs]) -> dict[str, SplitData]:
    task, targets = plan.settings.task, plan.splits.images.targets
    trained, evaluated = task.training_targets(targets, _views(plan)), task.evaluation_targets(targets, plan.transform)
    return {
        name: SplitData(split.indices, trained if name == "train" else evaluated, inputs[name])
        for name, split in plan.splits.opened.items()
    }


def _example(plan: Plan, model: TransferModel) -> torch.Tensor:
    height, width = plan.transform.output_size
    return torch.zeros((_EXAMPLE_BATCH, 3, height, width), dtype=torch.uint8, device=model.pixel_mean.device)


def _from_store(values: LineValues, model: TransferModel, phase: Phase, example: torch.Tensor | None) -> PhaseInputs:
    """The stored inputs of a phase, or the whole model on images where storing does not pay or the store refuses.

    `example` is an input of the model if nothing has been trained yet: then one pass serves runs that are to come, too.
    """
    run, line, plan = values.run, values.line, values.run.plan
    store = run.session.data.store(plan.settings.cache)
    whole = PhaseInputs(_parts(plan, values.images), Forwards(model, model))
    facts: dict[str, Any] = {
        "values": [StoredValue(name=v.name, shape=list(v.shape), dtype=str(v.dtype)) for v in line.values],
        "bytes_per_sample": line.bytes_per_sample,
        "prefix_flops_per_sample": line.prefix_flops_per_sample,
        "suffix_flops_per_sample": line.suffix_flops_per_sample,
        "line": line.reason,
    }
    if store is None:
        return _explained(whole, "cache=off", **facts)
    are_stored = values.are_stored(store)
    epochs = sum(phase.epochs or 0 for phase in plan.phases)
    decision = values.decide(epochs=epochs, runs_sharing=run.session.runs, already_stored=are_stored)
    facts["decision"] = decision.reason
    if not decision.store:
        return _explained(whole, decision.reason, **facts)
    others: list[LineValues] | None = []
    if example is not None and not are_stored:
        others = lines_to_come(values, model, phase, example, store)
    if others is None:
        kept = f"{readable_bytes(values.total_bytes)} are kept for lines that save more a byte"
        return _explained(whole, f"not stored: {kept} (cache.max_bytes)", **facts)
    try:
        made = {values.specs[part].identity: values.entry(store, part, others) for part in values.parts}
    except StoreRefusedError as refusal:
        return _explained(whole, refusal.reason, **facts)
    about = ThawLineRecord(
        stored=True,
        reason=decision.reason,
        dtype=plan.settings.cache.dtype,
        bytes=values.total_bytes,
        entries=list(made),
        passes=[passed for _, passed in made.values() if passed is not None],
        **facts,
    )
    stored = {part: _line_inputs(values, part, made[spec.identity][0]) for part, spec in values.specs.items()}
    forwards = Forwards(line.train_suffix, line.eval_suffix)
    if strides_of(plan.settings.head):
        forwards = Forwards(WithHead(line.train_suffix, model.head), WithHead(line.eval_suffix, model.head))
    return PhaseInputs(_parts(plan, {**stored, "test": stored["val"]}), forwards, about)


def _line_inputs(values: LineValues, part: str, entry: Entry) -> LineInputs:
    return LineInputs(entry, values.indices(part), max(1, values.views(part)), values.run.device.type == "cuda")
