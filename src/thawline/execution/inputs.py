"""What a phase reads and how outputs come from it: images and the whole model, or the thaw line's stored values."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from thawline.execution.arithmetic import channels_last, mixed_precision
from thawline.execution.decoding import decoded_images
from thawline.freeze_policies import Phase
from thawline.heads import strides_of
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan
from thawline.records import StoredValue, ThawLineRecord
from thawline.store.decoded_images import DecodedImages
from thawline.store.store import ArraySpec, Entry, EntrySpec, Store, StoreRefusedError
from thawline.tasks import SpatialTask, Views
from thawline.tasks.targets import Target
from thawline.thaw_line.cost import decide, machine_rates
from thawline.thaw_line.partition import ThawLine, UntraceableError
from thawline.training.batches import Rows, SplitData
from thawline.training.module import Forwards

_EXAMPLE_BATCH = 2


@dataclass(frozen=True)
class ImageInputs:
    """Decoded images as they are: uint8 (B, 3, H, W)."""

    decoded: DecodedImages

    def read(self, epoch: int, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The images of these samples."""
        return (self.decoded.read(rows),)


@dataclass(frozen=True)
class AugmentedInputs:
    """Decoded images, each augmented as a function of (data seed, epoch, index), and of targets that move with it."""

    decoded: DecodedImages
    views: Views
    placed: Callable[[int], Target | None] = lambda row: None

    def read(self, epoch: int, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The views of these samples in this epoch."""
        pairs = zip(self.decoded.read(rows), rows.tolist(), strict=True)
        return (torch.stack([self.views.image(image, epoch, row, self.placed(row)) for image, row in pairs]),)


@dataclass(frozen=True)
class WithHead:
    """The thawed side of a line that ends at the feature maps: what is left of the backbone, and the head."""

    suffix: nn.Module
    head: nn.Module

    def __call__(self, *values: torch.Tensor, targets: Any = None) -> Any:
        """The outputs of the head for the line's values."""
        maps = self.suffix(*values)
        return self.head(maps) if targets is None else self.head(maps, targets)


@dataclass(frozen=True)
class LineInputs:
    """The stored values of a thaw line: for each view, one row for each of `indices` (sorted)."""

    entry: Entry
    indices: Rows
    views: int = 1

    def read(self, epoch: int, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The values of these samples in this epoch's view."""
        return self.entry.read((epoch % self.views) * len(self.indices) + np.searchsorted(self.indices, rows))


@dataclass(frozen=True)
class PhaseInputs:
    """The parts of a fit, the forwards that fit them, and what was decided about the thaw line and why."""

    parts: dict[str, SplitData]
    forwards: Forwards
    thaw_line: ThawLineRecord = field(default_factory=ThawLineRecord)


def phase_inputs(
    run: RunContext, model: TransferModel, phase: Phase, *, whole_because: str = "", pristine: bool = True
) -> PhaseInputs:
    """The inputs of a phase whose trainable set `model` has already.

    Args:
        run: its plan and session.
        model: in the modes in which it trains.
        phase: the phase.
        whole_because: why this phase must see the whole model, if it must.
        pristine: whether everything that this phase freezes still has its source weights.
    """
    plan, decoded = run.plan, decoded_images(run)
    images = image_inputs(plan, decoded)
    whole = PhaseInputs(_parts(plan, images), Forwards(model, model))
    reason = whole_because or _why_not(plan)
    if reason:
        return _explained(whole, reason)
    try:
        with mixed_precision(plan.settings):
            line = run.session.lines.of_phase(
                model, phase, _example(plan, model), reuse=pristine, of_maps=bool(strides_of(plan.settings.head))
            )
    except UntraceableError as error:
        return _explained(whole, f"not traceable: {error}")
    if line.is_whole:
        return _explained(
            whole,
            f"no frozen side: {line.reason}",
            prefix_flops_per_sample=0,
            suffix_flops_per_sample=line.suffix_flops_per_sample,
        )
    return _LineStore(run, line, decoded, images).inputs(model) or whole


def _why_not(plan: Plan) -> str:
    cache = plan.settings.cache
    if cache.mode == "off":
        return "cache=off"
    if plan.settings.trainer.shards_weights:
        return "trainer.strategy=fsdp: the weights of both sides are sharded"
    if plan.settings.trainer.precision.endswith("-true") and plan.settings.trainer.precision != "32-true":
        return f"precision={plan.settings.trainer.precision} changes the weights' type when the fit starts"
    if plan.transform.is_random and not cache.views:
        return "augmentation makes new images in every epoch; cache.views=V stores V views of each"
    return ""


def _explained(inputs: PhaseInputs, reason: str, **facts: Any) -> PhaseInputs:
    return PhaseInputs(inputs.parts, inputs.forwards, ThawLineRecord(reason=reason, **facts))


def image_inputs(plan: Plan, decoded: DecodedImages) -> dict[str, ImageInputs | AugmentedInputs]:
    """The images of each split as a model reads them, augmented in training."""
    plain = ImageInputs(decoded)
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


def _parts(plan: Plan, inputs: dict[str, Any]) -> dict[str, SplitData]:
    task, targets = plan.settings.task, plan.splits.images.targets
    trained, evaluated = task.training_targets(targets, _views(plan)), task.evaluation_targets(targets, plan.transform)
    return {
        name: SplitData(split.indices, trained if name == "train" else evaluated, inputs[name])
        for name, split in plan.splits.opened.items()
    }


def _example(plan: Plan, model: TransferModel) -> torch.Tensor:
    height, width = plan.transform.output_size
    return torch.zeros((_EXAMPLE_BATCH, 3, height, width), dtype=torch.uint8, device=model.pixel_mean.device)


def _kind_of(device: torch.device) -> str:
    """What computes: other GPUs may give other last bits, while several of one kind give the same."""
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


class _LineStore:
    """The values of one thaw line for all parts of a run, from the store."""

    def __init__(
        self,
        run: RunContext,
        line: ThawLine,
        decoded: DecodedImages,
        images: dict[str, ImageInputs | AugmentedInputs],
    ) -> None:
        self._run, self._line, self._decoded, self._images = run, line, decoded, images
        self._views = run.settings.cache.views if run.plan.transform.is_random else 0

    def inputs(self, model: TransferModel) -> PhaseInputs | None:
        """The stored inputs, or the whole model on images where storing does not pay or the store refuses."""
        plan, line = self._run.plan, self._line
        store = self._run.session.data.store(plan.settings.cache)
        whole = PhaseInputs(_parts(plan, self._images), Forwards(model, model))
        facts: dict[str, Any] = {
            "values": [StoredValue(name=v.name, shape=list(v.shape), dtype=str(v.dtype)) for v in line.values],
            "bytes_per_sample": line.bytes_per_sample,
            "prefix_flops_per_sample": line.prefix_flops_per_sample,
            "suffix_flops_per_sample": line.suffix_flops_per_sample,
            "line": line.reason,
        }
        if store is None:
            return _explained(whole, "cache=off", **facts)
        specs = {name: self._spec(name) for name in ("train", "val")}
        decision = self._decide(store, specs)
        facts["decision"] = decision.reason
        if not decision.store:
            return _explained(whole, decision.reason, **facts)
        try:
            entries = {spec.identity: self._entry(store, name, spec) for name, spec in specs.items()}
        except StoreRefusedError as refusal:
            return _explained(whole, refusal.reason, **facts)
        stored = {name: self._line_inputs(name, entries[spec.identity]) for name, spec in specs.items()}
        parts = _parts(plan, {**stored, "test": stored["val"]})
        dtype = plan.settings.cache.dtype
        bytes_stored = sum(spec.total_bytes for spec in {spec.identity: spec for spec in specs.values()}.values())
        about = ThawLineRecord(stored=True, reason=decision.reason, dtype=dtype, bytes=bytes_stored, **facts)
        forwards = Forwards(line.train_suffix, line.eval_suffix)
        if strides_of(plan.settings.head):
            forwards = Forwards(WithHead(line.train_suffix, model.head), WithHead(line.eval_suffix, model.head))
        return PhaseInputs(parts, forwards, about)

    def _views_of(self, part: str) -> int:
        return self._views if part == "train" else 0

    def _indices(self, part: str) -> Rows:
        """The rows that are stored: all that any run of the sweep may read; of augmented views, the training rows."""
        return np.sort(self._run.plan.splits.train.indices) if self._views_of(part) else self._decoded.indices

    def _spec(self, part: str) -> EntrySpec:
        import timm

        plan, line = self._run.plan, self._line
        views, indices = self._views_of(part), self._indices(part)
        low = plan.settings.cache.dtype
        arrays = []
        for value in line.values:
            dtype = str(value.dtype).removeprefix("torch.")
            stored_as = low if dtype == "float32" and low != "float32" else ""
            arrays.append(ArraySpec(value.name, value.shape, dtype, stored_as))
        key = {
            "kind": "thaw line",
            "prefix": line.prefix_key,
            "images": self._decoded.spec.identity,
            "views": {"count": views, "seed": plan.settings.data_seed, "transform": plan.transform.deciding()}
            if views
            else 0,
            "rows": indices.tolist() if views else 0,
            "device": _kind_of(self._run.device),
            "precision": plan.settings.trainer.precision,
            "channels_last": channels_last(plan.settings, self._run.session.networks.skeleton(plan.settings).module),
            "torch": torch.__version__,
            "timm": timm.__version__,
        }
        ends = "the head" if strides_of(plan.settings.head) and line.reason == "nothing trains" else line.reason
        title = f"thaw line before {ends}" + (f", {views} views" if views else "")
        return EntrySpec(key, tuple(arrays), len(indices) * max(1, views), title=title)

    def _decide(self, store: Store, specs: dict[str, EntrySpec]) -> Any:
        plan, cache = self._run.plan, self._run.settings.cache
        kinds = {spec.identity: spec for spec in specs.values()}
        stored = [store.open(spec) for spec in kinds.values()]
        for entry in stored:
            if entry is not None:
                entry.close()
        height, width = plan.transform.output_size
        cache.dir.mkdir(parents=True, exist_ok=True)
        return decide(
            cache.mode,
            prefix_flops_per_sample=self._line.prefix_flops_per_sample,
            bytes_per_sample=self._line.bytes_per_sample,
            input_bytes_per_sample=3 * height * width,
            samples=sum(spec.samples for spec in kinds.values()),
            epochs=sum(phase.epochs or 0 for phase in plan.phases),
            runs_sharing=self._run.session.runs,
            already_stored=all(entry is not None for entry in stored),
            budget_bytes=cache.max_bytes,
            free_bytes=shutil.disk_usage(cache.dir).free,
            rates=machine_rates(self._run.device.type),
        )

    def _entry(self, store: Store, part: str, spec: EntrySpec) -> Entry:
        """The stored values of a part, computed now if they are not there: from a shallower line's if there is one."""
        images, indices, line, lines = self._images[part], self._indices(part), self._line, self._run.session.lines

        def from_images(rows: Rows) -> tuple[torch.Tensor, ...]:
            view, sample = divmod(rows, len(indices))
            batches = [images.read(int(epoch), indices[sample[view == epoch]])[0] for epoch in np.unique(view)]
            return self._computed(line.prefix, (torch.cat(batches),))

        produce: Callable[[Rows], tuple[torch.Tensor, ...]] = from_images
        rows_key = f"{self._decoded.spec.identity} {spec.samples} {self._views_of(part)}"
        shallower = lines.shallower(line, rows_key)
        if shallower is not None:
            entry, onward = shallower

            def from_shallower(rows: Rows) -> tuple[torch.Tensor, ...]:
                return self._computed(onward, entry.read(rows))

            produce = from_shallower
        made = store.build(spec, produce, self._run.settings.trainer.eval_batch_size)
        lines.remember(line, rows_key, made)
        return made

    def _computed(self, side: nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The line's values as the run's own forward pass computes them, on its device and in its precision."""
        device = self._run.device
        with torch.no_grad(), mixed_precision(self._run.settings):
            values = side(*(value.to(device) for value in inputs))
        kinds = (value.dtype for value in self._line.values)
        return tuple(value.to(device="cpu", dtype=kind) for value, kind in zip(values, kinds, strict=True))

    def _line_inputs(self, part: str, entry: Entry) -> LineInputs:
        return LineInputs(entry, self._indices(part), max(1, self._views_of(part)))
