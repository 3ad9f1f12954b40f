"""The regularizers of a fit at work: what they add to the main loss, and what is logged of each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from thawline.errors import usage_error
from thawline.records import RegularizerRecord
from thawline.regularizers import Term, TrainingStep, Weight
from thawline.regularizers.observation import Observer
from thawline.training.batches import Batch

AUXILIARY = "regularizers"
"""The name of the optimizer group of what regularizers train themselves."""


@dataclass(frozen=True)
class Penalty:
    """One regularizer's term with its weight."""

    weight: Weight | None
    term: Term


class Penalties:
    """The terms of a fit, by the regularizers' names.

    The objective is ``loss + sum_i weight_i term_i``. Each term is a mean over this device's part of the batch (or is
    scaled so that the shares of the devices add up), as the main loss is.

    Args:
        penalties: the attached regularizers.
        student: observes the model in training; None where no regularizer looks at its forward pass.
        others: observe the source and the teachers.
    """

    def __init__(
        self,
        penalties: Mapping[str, Penalty] | None = None,
        student: Observer | None = None,
        others: Sequence[Observer] = (),
    ) -> None:
        self._penalties, self._student = dict(penalties or {}), student
        self._observers = [*([student] if student else []), *others]
        self._terms = {name: p for name, p in self._penalties.items() if p.term.value is not None}
        auxiliary = {name: p.term.auxiliary for name, p in self._penalties.items()}
        self.auxiliary = nn.ModuleDict({name: module for name, module in auxiliary.items() if module is not None})

    @property
    def columns(self) -> list[str]:
        """What `objective` measures in each step, in its order; empty without terms."""
        parts = [column for name in self._terms for column in (f"train/{name}", f"train/{name}/weight")]
        return [*parts, "train/objective"] if parts else []

    @property
    def report(self) -> dict[str, RegularizerRecord]:
        """What the record keeps of each regularizer: what it says of itself, and the parameters that train with it."""
        return {
            name: RegularizerRecord.model_validate(
                {**penalty.term.report, "companion_parameters": _size(penalty.term.auxiliary)}
            )
            for name, penalty in self._penalties.items()
        }

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block, the forward pass of the model in training is recorded."""
        with self._student.watching() if self._student else contextlib.nullcontext():
            yield

    def objective(self, loss: Tensor, batch: Batch, step: int, steps: int) -> tuple[Tensor, Tensor]:
        """The sum of the main loss and the weighted terms, and the measured `columns`.

        Args:
            loss: the main loss of this device's part of the batch, a scalar.
            batch: the batch.
            step: the optimizer step in the phase, from 0.
            steps: how many the phase has.

        Raises:
            UsageError: a weight is a ratio to the loss, and its term is 0.
        """
        if not self._terms:
            return loss, loss.detach().new_empty(0, dtype=torch.float64)
        seen = _step_of(batch, with_images=self._student is not None)
        total, measured = loss, []
        for name, penalty in self._terms.items():
            if penalty.term.value is None or penalty.weight is None:
                continue
            value = penalty.term.value(seen)
            weight = _weight(name, penalty.weight, loss, value, batch, step, steps)
            total = total + weight * value
            shown = weight.double() if isinstance(weight, Tensor) else value.new_full((), weight, dtype=torch.float64)
            measured += [value.detach().double(), shown]
        for observer in self._observers:
            observer.forget()
        return total, torch.stack([*measured, total.detach().double()])

    def close(self) -> None:
        """Take every hook off the model and drop what was recorded."""
        for penalty in self._penalties.values():
            penalty.term.remove()
        for observer in self._observers:
            observer.close()


def _size(auxiliary: nn.Module | None) -> int:
    return sum(p.numel() for p in auxiliary.parameters() if p.requires_grad) if auxiliary is not None else 0


def _step_of(batch: Batch, *, with_images: bool) -> TrainingStep:
    whole = round(_world_size() * len(batch.rows) / batch.share)
    return TrainingStep(batch.inputs[0] if with_images else None, batch.targets, whole, whole_batch)


def _weight(
    name: str, weight: Weight, loss: Tensor, value: Tensor, batch: Batch, step: int, steps: int
) -> float | Tensor:
    if weight.ratio_to_loss is None:
        return weight.at(step, steps)
    means = torch.stack([loss.detach().double(), value.detach().double()]) * batch.share
    if _world_size() > 1:
        dist.all_reduce(means)
    if means[1] == 0:
        message = f"ratio_to_loss divides by the term, which is 0 at step {step}; use a number or a schedule"
        raise usage_error(f"regularizer.{name}.weight", message)
    return weight.ratio_to_loss * means[0] / means[1]


def whole_batch(rows: Tensor) -> Tensor:
    """The rows (B, ...) of every device one after the other, with their gradient."""
    if _world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    counts = [torch.zeros((), dtype=torch.int64, device=rows.device) for _ in range(_world_size())]
    dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    most = max(int(count) for count in counts)
    padded = F.pad(rows.flatten(1), (0, 0, 0, most - len(rows)))
    parts: list[Tensor] = [part[: int(count)] for part, count in zip(all_gather(padded), counts, strict=True)]
    return torch.cat(parts).reshape(-1, *rows.shape[1:])


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
