"""What a phase reads, and how outputs come from it: images through the whole model, or the thaw line's stored values."""

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
from thawline.transforms import Transform

if TYPE_CHECKING:
    from thawline.backbones import Backbone

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
            self.transform.augment(image, self.data_seed, epoch, int(row)) for image, row in zip(images, rows, strict=True)
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
    """The decoded images of the plan's data set, each decoded once."""
    images = plan.splits.train.images
    transform = plan.transform

    def make() -> Decoded:
        kept: dict[int, torch.Tensor] = {}

        def read(rows: Rows) -> torch.Tensor:
            for row in rows.tolist():
                if row not in kept:
                    kept[row] = transform.decode(images.read(row))
            return torch.stack([kept[row] for row in rows.tolist()])

        return read

    return bench.once("decoded", f"{plan.splits.fingerprint} {transform!r}", make)
