"""What a phase reads and how outputs come from it: images and the whole model, or the thaw line's stored values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thawline.freeze_policies import Phase
from thawline.runs.plan import Plan
from thawline.runs.workbench import Workbench
from thawline.tasks.classification import Forwards
from thawline.tasks.data import Part, Rows
from thawline.tasks.model import TransferModel
from thawline.thaw_line.decoded_images import DecodedImages, decoded
from thawline.transforms import Transform

if TYPE_CHECKING:
    from thawline.backbones import Backbone

_MOST_UNUSED = 4
"""A set is kept whole while it has at most this many times the samples that a run reads."""

Decoded = Callable[[Rows], torch.Tensor]
"""Rows of a data set -> uint8 images (B, 3, H, W) at the transform's size."""


@dataclass(frozen=True)
class ImageInputs:
    """Decoded images as they are: uint8 (B, 3, H, W)."""

    decoded: Decoded

    def read(self, epoch: int, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The images of these samples."""
        return (self.decoded(rows),)


@dataclass(frozen=True)
class AugmentedInputs:
    """Decoded images, each augmented as a function of (data seed, epoch, index)."""

    decoded: Decoded
    transform: Transform
    data_seed: int

    def read(self, epoch: int, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The views of these samples in this epoch."""
        images = self.decoded(rows)
        views = [
            self.transform.augment(image, self.data_seed, epoch, int(row))
            for image, row in zip(images, rows, strict=True)
        ]
        return (torch.stack(views),)


@dataclass(frozen=True)
class PhaseInputs:
    """The parts of a fit, the forwards that fit them, and what was decided about the thaw line and why."""

    parts: dict[str, Part]
    forwards: Forwards
    thaw_line: dict[str, Any] = field(default_factory=dict)


def phase_inputs(plan: Plan, model: TransferModel, backbone: Backbone, bench: Workbench, phase: Phase) -> PhaseInputs:
    """The inputs of a phase whose trainable set `model` has already."""
    decoded = decoded_images(plan, bench)
    transform = plan.transform
    plain = ImageInputs(decoded)
    train = AugmentedInputs(decoded, transform, plan.settings.data_seed) if transform.is_random else plain
    splits = plan.splits
    parts = {
        "train": Part(splits.train.indices, splits.train.images.labels, train),
        "val": Part(splits.val.indices, splits.val.images.labels, plain),
        "test": Part(splits.test.indices, splits.test.images.labels, plain),
    }
    return PhaseInputs(parts, Forwards(model, model), {"mode": "whole"})


def decoded_images(plan: Plan, bench: Workbench) -> Decoded:
    """The decoded images of the plan's data set, each decoded once where the store or the memory takes them."""
    transform, splits = plan.transform, plan.splits
    indices = rows_in_use(plan)
    fixed = {name: getattr(transform, name) for name in ("resize", "crop_pct", "interpolation")}

    def make() -> DecodedImages:
        return decoded(
            bench.store(plan.settings.cache),
            splits.train.images,
            fixed,
            transform.decode,
            transform.output_size,
            fingerprint=splits.fingerprint,
            indices=indices,
        )

    key = f"{splits.fingerprint} {fixed} {transform.output_size} {plan.settings.cache!r} {hash(indices.tobytes())}"
    return bench.once("decoded", key, make).read


def rows_in_use(plan: Plan) -> Rows:
    """The rows that are kept for the runs of a sweep: all of the set, so that every seed and subset shares them.

    Where the run reads only a small part of a large set, that part alone.
    """
    splits = plan.splits
    used = np.unique(np.concatenate([splits.train.indices, splits.val.indices, splits.test.indices]))
    total = len(splits.train.images)
    return np.arange(total) if total <= _MOST_UNUSED * len(used) else used
