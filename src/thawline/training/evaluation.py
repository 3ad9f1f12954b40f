"""What an evaluation collects batch by batch: the metrics, and what is kept of each image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thawline.tasks import Task
from thawline.tasks.task import Metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kept = torch.Tensor | Sequence[torch.Tensor]


class MetricBatches:
    """Gives batches to metrics; small ones together, since a call costs as much as a small network's batch.

    Args:
        metrics: the task's.
        most_kept: numbers of outputs that are kept until the metrics get them in one call.
    """

    def __init__(self, metrics: Metrics, most_kept: float = math.inf) -> None:
        self._metrics, self._most_kept = metrics, most_kept
        self._buffer: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, outputs: Any, targets: Any) -> None:
        """Add a batch."""
        if not (isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor) and outputs.ndim <= 2):
            self._flush()
            self._metrics.update(outputs.float() if isinstance(outputs, torch.Tensor) else outputs, targets)
            return
        self._buffer.append((outputs.float(), targets))
        if sum(kept.numel() for kept, _ in self._buffer) >= self._most_kept:
            self._flush()

    def compute(self) -> dict[str, float]:
        """The metrics of all batches since the last call; NaN where one does not exist."""
        self._flush()
        values = {name: float(value) for name, value in self._metrics.compute().items()}
        self._metrics.reset()
        return values

    def _flush(self) -> None:
        if self._buffer:
            outputs, targets = zip(*self._buffer, strict=True)
            self._metrics.update(torch.cat(outputs), torch.cat(targets))
            self._buffer.clear()


@dataclass(frozen=True)
class Predictions:
    """What is kept of each image on the CPU: rows (N,) and, by name, what the task keeps (`Task.predictions`)."""

    rows: torch.Tensor
    kept: Mapping[str, Kept]

    @classmethod
    def of(cls, task: Task, outputs: Any, targets: Any, rows: torch.Tensor) -> Predictions:
        """What the task keeps of a batch."""
        kept = task.predictions(outputs, targets)
        return cls(rows.cpu(), {name: _on_cpu(value) for name, value in kept.items()})

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """The predictions of several batches or processes, in the order of the images' rows."""
        rows = torch.cat([part.rows for part in parts])
        order = rows.argsort(stable=True)
        kept = {name: _joined([part.kept[name] for part in parts], order) for name in parts[0].kept}
        return cls(rows[order], kept)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``index`` (N,) and what the task keeps, for a file; of ragged values all images' one after the other."""
        arrays = {"index": self.rows.numpy()}
        for name, value in self.kept.items():
            if isinstance(value, torch.Tensor):
                arrays[name] = value.numpy()
            else:
                arrays[name] = torch.cat(list(value)).numpy()
                arrays[f"{name}_rows"] = np.array([len(each) for each in value], dtype=np.int64)
        return arrays


def _on_cpu(value: Kept) -> Kept:
    return value.cpu() if isinstance(value, torch.Tensor) else [each.cpu() for each in value]


def _joined(parts: Sequence[Kept], order: torch.Tensor) -> Kept:
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)[order]
    images = [image for part in parts for image in part]
    return [images[place] for place in order.tolist()]
