"""Linear probes on stored features: many at once as one batched problem, and the regularisation path by L-BFGS.

The backbone is frozen, so a probe is a small convex problem on features (N, D). Probes that differ in learning rate,
weight decay or seed but see the same batches share every matrix product: weights (P, C, D) of P probes are one matrix
(P * C, D). Each probe's numbers are those of training it alone, up to the rounding of differently shaped products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F


@dataclass(frozen=True)
class ProbeRates:
    """How one probe is trained: ``sgd`` (momentum, Nesterov) or ``adamw`` (betas, eps), as torch.optim defines them."""

    kind: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    bias_decay: float
    label_smoothing: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


class _Update(Protocol):
    def __call__(
        self, parameter: torch.Tensor, gradient: torch.Tensor, lr: torch.Tensor, decay: torch.Tensor
    ) -> None: ...


class ManyProbes:
    """P linear probes with weights (P, C, D) and biases (P, C), stepped together.

    Args:
        weight: initial weights (P, C, D).
        bias: initial biases (P, C).
        rates: one for each probe; all of one kind.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, rates: Sequence[ProbeRates]) -> None:
        self.weight, self.bias = weight.clone(), bias.clone()
        self._rates = list(rates)
        column = torch.tensor([r.lr for r in rates], dtype=weight.dtype)
        self._lr = column
        self._weight_decay = torch.tensor([r.weight_decay for r in rates], dtype=weight.dtype)
        self._bias_decay = torch.tensor([r.bias_decay for r in rates], dtype=weight.dtype)
        self._smoothing = torch.tensor([r.label_smoothing for r in rates], dtype=weight.dtype)
        make = _Sgd if rates[0].kind == "sgd" else _AdamW
        self._updates: tuple[_Update, _Update] = (make(self.weight, rates), make(self.bias, rates))

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (P, B, C) of features (B, D): one matrix product."""
        probes, classes, width = self.weight.shape
        flat = F.linear(features, self.weight.view(probes * classes, width), self.bias.view(-1))
        return flat.view(len(features), probes, classes).transpose(0, 1)

    def step(
        self, features: torch.Tensor, labels: torch.Tensor, factors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of every probe on a batch; `factors` (P,) are those of the schedules.

        Returns:
            The mean cross-entropy (P,) and the number of correct predictions (P,) before the step.
        """
        logits = self.logits(features)
        log_p = logits.log_softmax(dim=2)
        picked = log_p.gather(2, labels.view(1, -1, 1).expand(len(logits), -1, 1)).squeeze(2)
        smoothing = self._smoothing.view(-1, 1)
        losses = (-(1.0 - smoothing) * picked - smoothing * log_p.mean(dim=2)).mean(dim=1)
        correct = (logits.argmax(dim=2) == labels).sum(dim=1)
        error = log_p.exp()
        target = F.one_hot(labels, logits.shape[2]).to(error.dtype)
        error = error - ((1.0 - smoothing.unsqueeze(2)) * target + smoothing.unsqueeze(2) / logits.shape[2])
        error = error / len(labels)
        probes, classes, width = self.weight.shape
        flat = error.transpose(0, 1).reshape(len(labels), probes * classes)
        gradient = (flat.t() @ features).view(probes, classes, width)
        lr = self._lr * factors
        self._updates[0](self.weight, gradient, lr.view(-1, 1, 1), self._weight_decay.view(-1, 1, 1))
        self._updates[1](self.bias, error.sum(dim=1), lr.view(-1, 1), self._bias_decay.view(-1, 1))
        return losses, correct


class _Sgd:
    """torch.optim.SGD's update for tensors whose first dimension counts the probes."""

    def __init__(self, parameter: torch.Tensor, rates: Sequence[ProbeRates]) -> None:
        shape = (-1, *([1] * (parameter.dim() - 1)))
        self._momentum = torch.tensor([r.momentum for r in rates], dtype=parameter.dtype).view(shape)
        self._dampening = torch.tensor([r.dampening for r in rates], dtype=parameter.dtype).view(shape)
        self._nesterov = torch.tensor([r.nesterov for r in rates]).view(shape)
        self._buffer: torch.Tensor | None = None

    def __call__(self, parameter: torch.Tensor, gradient: torch.Tensor, lr: torch.Tensor, decay: torch.Tensor) -> None:
        gradient = gradient + decay * parameter
        if self._buffer is None:
            self._buffer = gradient.clone()
        else:
            self._buffer = self._momentum * self._buffer + (1.0 - self._dampening) * gradient
        ahead = gradient + self._momentum * self._buffer
        step = torch.where(self._nesterov, ahead, torch.where(self._momentum > 0, self._buffer, gradient))
        parameter -= lr * step


class _AdamW:
    """torch.optim.AdamW's update for tensors whose first dimension counts the probes."""

    def __init__(self, parameter: torch.Tensor, rates: Sequence[ProbeRates]) -> None:
        shape = (-1, *([1] * (parameter.dim() - 1)))
        self._beta1, self._beta2 = (
            torch.tensor([r.betas[index] for r in rates], dtype=parameter.dtype).view(shape) for index in (0, 1)
        )
        self._eps = torch.tensor([r.eps for r in rates], dtype=parameter.dtype).view(shape)
        self._mean, self._square = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._steps = 0

    def __call__(self, parameter: torch.Tensor, gradient: torch.Tensor, lr: torch.Tensor, decay: torch.Tensor) -> None:
        self._steps += 1
        parameter *= 1.0 - lr * decay
        self._mean = self._beta1 * self._mean + (1.0 - self._beta1) * gradient
        self._square = self._beta2 * self._square + (1.0 - self._beta2) * gradient * gradient
        corrected = self._square.sqrt() / (1.0 - self._beta2**self._steps).sqrt() + self._eps
        parameter -= lr / (1.0 - self._beta1**self._steps) * self._mean / corrected


@dataclass(frozen=True)
class Solution:
    """The optimum for one strength of regularisation.

    Attributes:
        c: inverse strength; weight: (C, D); bias: (C,), both float64.
        objective: sum of cross-entropies + the penalty.
        gradient_norm: largest absolute entry of the objective's gradient, divided by the number of samples.
    """

    c: float
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    objective: float
    gradient_norm: float


def regularisation_path(
    features: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    cs: Sequence[float],
    *,
    max_iterations: int,
    tolerance: float,
) -> Iterator[Solution]:
    """Minimise sum CE + ‖W‖²/(2c) for each c by L-BFGS, from strong to weak, each from the one before.

    The bias is not regularised, as in scikit-learn's LogisticRegression, whose solutions these are. For two classes
    scikit-learn has one weight vector w, the difference of the two rows; half of ‖w‖² is ‖W‖², so there the penalty is
    ‖W‖²/c.

    Args:
        features: (N, D).
        labels: (N,) int64.
        classes: C.
        cs: increasing inverse strengths.
        max_iterations: of L-BFGS, for each c.
        tolerance: on the largest entry of the gradient divided by N.
    """
    from scipy.optimize import minimize

    x, n = features.double(), len(features)
    start = np.zeros(classes * (x.shape[1] + 1))
    for c in cs:
        objective = _objective(x, labels, classes, c / 2.0 if classes == 2 else c)
        limits = {"maxiter": max_iterations, "maxfun": 4 * max_iterations, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=limits)
        start = found.x
        table = start.reshape(classes, -1)
        yield Solution(
            c, table[:, :-1].copy(), table[:, -1].copy(), float(found.fun) * n, float(np.abs(found.jac).max())
        )


def _objective(
    x: torch.Tensor, labels: torch.Tensor, classes: int, c: float
) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
    """The objective divided by N and its gradient, as a function of the flat (C, D + 1) table of weights and biases."""
    n = len(x)
    target = F.one_hot(labels, classes).double()

    def value_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        table = torch.from_numpy(flat).view(classes, -1)
        weight, bias = table[:, :-1], table[:, -1]
        log_p = (x @ weight.t() + bias).log_softmax(dim=1)
        value = -(log_p * target).sum() / n + weight.square().sum() / (2.0 * c * n)
        error = (log_p.exp() - target) / n
        gradient = torch.cat([error.t() @ x + weight / (c * n), error.sum(dim=0).unsqueeze(1)], dim=1)
        return float(value), gradient.reshape(-1).numpy()

    return value_and_gradient
