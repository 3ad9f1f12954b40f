"""Learning rates by depth: a factor on the optimizer's rate for each layer group and the head, fixed or measured.

A factor is multiplied into the ``lr`` of the optimizer's parameter groups, so every scheduler keeps it; a ``lr_scale``
beside it (as timm writes) would be read by timm's own schedulers alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

from pydantic import Field

from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor

Gradients = Mapping[str, "Tensor"]
"""A gradient for each parameter name."""


@runtime_checkable
class LearningRates(Protocol):
    """Decides how the learning rate depends on depth."""

    @property
    def head(self) -> float:
        """The factor of the head."""
        ...

    def by_depth(self, groups: int) -> tuple[float, ...] | None:
        """The factor of each of the `groups` layer groups, from input to output; None where all train alike."""
        ...


@runtime_checkable
class MeasuredRates(LearningRates, Protocol):
    """Learning rates that are measured on training samples before each epoch."""

    @property
    def batches(self) -> int:
        """How many training batches are read, one gradient of each."""
        ...

    def weights(
        self, gradients: Iterable[Gradients], parameters: Mapping[str, Tensor], parts: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """The factor, 0 to 1, of each part.

        Args:
            gradients: of the loss, over the trainable parameters.
            parameters: the trainable parameters by name.
            parts: the names of the parameters of each part of the network: its layer groups, the adapter and the head.
        """
        ...


class _WithHead(Spec):
    """The head trains at `head` times the optimizer's rate."""

    head: float = Field(default=1.0, gt=0.0)


@final
class Uniform(_WithHead):
    """All layer groups train at the optimizer's rate, the head at `head` times that."""

    def by_depth(self, groups: int) -> None:
        """No factor."""
        return


@final
class LayerDecay(_WithHead):
    """Layer group i of n trains at ``lr * decay ** (n - i)``, the head (i = n) at ``lr`` (times `head`).

    Clark et al. 2020 (ELECTRA), Bao et al. 2022 (BEiT); He et al. 2022 (MAE) fine-tune ViT-B with 0.65 or 0.75.
    ``decay = 1`` is full fine-tuning; towards 0 it tends to the linear probe.
    """

    decay: float = Field(default=0.75, gt=0.0, le=1.0)

    def by_depth(self, groups: int) -> tuple[float, ...]:
        """Rising factors."""
        return tuple(self.decay ** (groups - index) for index in range(groups))


@final
class Discriminative(Spec):
    """Each layer group trains at the rate of the one above it divided by `factor`, the last one at ``lr / factor``.

    Howard & Ruder 2018 (ULMFiT): ``lr_(l-1) = lr_l / 2.6`` from the head on. The head, which starts anew, trains at
    `head` times that; 1 is the paper's own.
    """

    factor: float = Field(default=2.6, ge=1.0)
    head: float = Field(default=10.0, gt=0.0)

    def by_depth(self, groups: int) -> tuple[float, ...]:
        """Rising factors."""
        return tuple(self.factor ** (index - groups) for index in range(groups))


@final
class AutoRGN(_WithHead):
    """Rates by relative gradient norm (Lee et al. 2023, "Surgical Fine-Tuning", Auto-RGN).

    Before each epoch, ``w_i = ‖g_i‖ / ‖theta_i‖`` of layer group i (its gradient over its parameters), a mean over
    `batches` training batches, divided by the largest of all groups and the head: ``lr_i = w_i * lr``. A group whose
    parameters are all zero has ``w_i = 1``, and those that are not have 0 beside it: the limit of the ratio.

    The authors' code measures every tensor apart and leaves batch norms out; here a layer group is one step of depth,
    whole. Gradients are taken in evaluation mode, so that measuring changes no running statistics.
    """

    batches: int = Field(default=5, ge=1)

    def by_depth(self, groups: int) -> tuple[float, ...]:
        """All 1 until they are measured."""
        return (1.0,) * groups

    def weights(
        self, gradients: Iterable[Gradients], parameters: Mapping[str, Tensor], parts: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """See `MeasuredRates.weights`."""
        sizes = {part: _norm(parameters, names) for part, names in parts.items()}
        sums = dict.fromkeys(parts, 0.0)
        for gradient in gradients:
            for part, names in parts.items():
                sums[part] += _ratio(_norm(gradient, names), sizes[part])
        return _of_largest(sums)


@final
class AutoSNR(_WithHead):
    """Layer groups train whose gradients have signal (Lee et al. 2023, "Surgical Fine-Tuning", Auto-SNR).

    Definition and defaults are those of the authors' code. Before each epoch, ``s_i`` of layer group i is the mean of
    ``g² / (variance(g) + 1e-8)`` over its entries and over `batches` training batches, with the variance of each
    gradient g along its first dimension. Groups with ``s_i >= threshold`` train at ``lr``, the others are held (rate
    0); the threshold is held against ``s_i`` itself. Around 1 is what a gradient without a mean gives.

    The paper writes another ratio, squared mean over variance across examples, and divides it by the largest of all
    layers; the threshold 0.95 does not belong to that. The code measures every tensor apart; here a layer group is one
    step of depth, whole. A tensor with one row has no variance and does not count; a group of such tensors trains.
    Gradients are taken in evaluation mode, so that measuring changes no running statistics.
    """

    batches: int = Field(default=5, ge=1)
    threshold: float = Field(default=0.95, gt=0.0)

    def by_depth(self, groups: int) -> tuple[float, ...]:
        """All 1 until they are measured."""
        return (1.0,) * groups

    def weights(
        self, gradients: Iterable[Gradients], parameters: Mapping[str, Tensor], parts: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """See `MeasuredRates.weights`."""
        return {part: float(ratio >= self.threshold) for part, ratio in self.ratios(gradients, parts).items()}

    def ratios(self, gradients: Iterable[Gradients], parts: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """The ratio of each part, a mean over the batches; infinite where no tensor of it has a variance."""
        sums = dict.fromkeys(parts, 0.0)
        count = 0
        for gradient in gradients:
            count += 1
            for part, names in parts.items():
                sums[part] += _signal_to_noise([gradient[name] for name in names])
        return {part: total / count for part, total in sums.items()}


def _signal_to_noise(gradients: Sequence[Tensor]) -> float:
    total, entries = 0.0, 0
    for gradient in gradients:
        if gradient.dim() and len(gradient) > 1:
            g = gradient.double()
            total += float((g.square() / (g.var(dim=0, keepdim=True) + 1e-8)).sum())
            entries += g.numel()
    return total / entries if entries else math.inf


def _norm(tensors: Mapping[str, Tensor], names: Sequence[str]) -> float:
    """The Euclidean norm of these tensors as one vector."""
    return math.sqrt(sum(float(tensors[name].detach().double().square().sum()) for name in names))


def _ratio(upper: float, lower: float) -> float:
    """A quotient of two numbers that are not negative: infinite over 0, and 0 over 0 is 0."""
    if lower == 0.0:
        return math.inf if upper > 0.0 else 0.0
    return upper / lower


def _of_largest(values: Mapping[str, float]) -> dict[str, float]:
    """Each value divided by the largest; in the limit where that is infinite, and all 1 where it is 0."""
    largest = max(values.values())
    if math.isinf(largest):
        return {key: float(math.isinf(value)) for key, value in values.items()}
    return {key: value / largest if largest else 1.0 for key, value in values.items()}
