"""Predictions held against what is known of the images: the metrics of a record, on images from anywhere."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch

from thawline.datasets.splits import PARTS
from thawline.datasets.truth import Truth, truth_below
from thawline.errors import UsageError
from thawline.execution.evaluate import Metrics
from thawline.planning.plan import Plan
from thawline.training.evaluation import MetricBatches

if TYPE_CHECKING:
    from thawline.datasets import Split


class HasPath(Protocol):
    """An image file."""

    @property
    def path(self) -> Path:
        """The file."""
        ...


_Image = TypeVar("_Image", bound=HasPath)

WHOLE = "images"
"""What a folder is called that is not divided into parts."""


@dataclass(frozen=True)
class PartMetrics:
    """The metrics of one part of a folder, and how many images they are of."""

    images: int
    metrics: Metrics


class KnownTruth:
    """The truth of folders of images, and the metrics of what is predicted of them.

    Args:
        plan: the run.
        found: what is known, by folder.

    Attributes:
        truths: what is known, by folder.
    """

    def __init__(self, plan: Plan, found: Mapping[Path, Truth]) -> None:
        task = plan.settings.task
        self._plan, self.truths = plan, dict(found)
        self._targets = {
            folder: task.evaluation_targets(known.targets, plan.transform) for folder, known in found.items()
        }
        self._batches: dict[str, MetricBatches] = {}
        self._images: Counter[str] = Counter()

    @cached_property
    def paths(self) -> list[Path]:
        """The files whose truth is known."""
        return [Path(path) for truth in self.truths.values() for path in truth.rows]

    def among(self, images: Sequence[_Image]) -> list[_Image]:
        """Those of the images that are to be predicted: below a folder with masks, say, the masks are not."""
        folders = [folder for folder, truth in self.truths.items() if truth.complete]
        known = {path for folder in folders for path in self.truths[folder].rows}
        return [
            image
            for image in images
            if os.path.realpath(image.path) in known or not any(image.path.is_relative_to(each) for each in folders)
        ]

    def add(self, outputs: Any, paths: Sequence[Path]) -> None:
        """Add the outputs of the head for a batch of images, which are these files."""
        real = [os.path.realpath(path) for path in paths]
        for folder, truth in self.truths.items():
            divided = set(truth.parts) != {"train"}
            rows = [(place, truth.rows[path]) for place, path in enumerate(real) if path in truth.rows]
            for part in dict.fromkeys(truth.parts[row] for _, row in rows):
                chosen = [(place, row) for place, row in rows if truth.parts[row] == part]
                targets = self._targets[folder].read(0, np.array([row for _, row in chosen], dtype=np.int64))
                self._add(part if divided else WHOLE, _some(outputs, [place for place, _ in chosen]), targets)

    def _add(self, part: str, outputs: Any, targets: Any) -> None:
        if part not in self._batches:
            self._batches[part] = MetricBatches(self._plan.settings.task.metrics(self._plan.outputs))
        self._batches[part].add(outputs, targets)
        self._images[part] += len(targets)

    def metrics(self) -> dict[str, PartMetrics]:
        """The metrics by part: train, val and test where a folder is divided so, else ``images``."""
        parts = [part for part in (*PARTS, WHOLE) if part in self._batches]
        return {part: PartMetrics(self._images[part], {**self._batches[part].compute()}) for part in parts}

    def seen_before(self) -> dict[str, int]:
        """How many images are, pixel for pixel, those that the run was trained or chosen on: by the run's split."""
        splits = self._plan.splits
        known = [content for truth in self.truths.values() for content in truth.contents]
        return {name: _copies(known, splits.contents, split) for name, split in splits.opened.items() if name != "test"}


def known_truth(plan: Plan, folders: Sequence[Path]) -> tuple[KnownTruth, dict[Path, str]]:
    """What is known of the images in these folders, and of the other folders why nothing is."""
    settings, splits = plan.settings, plan.splits
    found, reasons = dict[Path, Truth](), dict[Path, str]()
    for folder in folders:
        try:
            found[folder] = truth_below(
                folder, settings.dataset, splits.target, splits.classes, settings.cache.dir / "digests"
            )
        except UsageError as error:
            reasons[folder] = error.problems[0].message
    return KnownTruth(plan, found), reasons


def _some(outputs: Any, places: Sequence[int]) -> Any:
    """The outputs of some images of a batch: rows of a tensor, or entries of a list."""
    return outputs[torch.tensor(places)] if isinstance(outputs, torch.Tensor) else [outputs[place] for place in places]


def _copies(contents: Sequence[str], known: Sequence[str], split: Split) -> int:
    seen = {known[index] for index in split.indices} if known else set()
    return sum(content in seen for content in contents)
