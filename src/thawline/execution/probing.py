"""Linear probes that need no gradient descent through Lightning. They are of classification alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from thawline.execution.arithmetic import mixed_precision
from thawline.execution.evaluate import metrics_of
from thawline.execution.fitting import Fit, OnEpoch
from thawline.execution.inputs import PhaseInputs
from thawline.network.model import TransferModel
from thawline.planning.plan import Plan
from thawline.planning.settings import RunSettings
from thawline.training.probes import regularisation_path

_BATCH = 512


def features(
    settings: RunSettings, inputs: PhaseInputs, model: TransferModel, part: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head reads for each sample of a part, (N, D) in the order of its rows, and the labels (N,)."""
    kept: list[torch.Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda module, values: kept.append(values[0].detach().cpu().float()))
    data, device = inputs.parts[part], model.pixel_mean.device
    model.eval()
    try:
        with torch.inference_mode(), mixed_precision(settings):
            for start in range(0, len(data.rows), _BATCH):
                values = data.inputs.read(0, data.rows[start : start + _BATCH])
                inputs.forwards.evaluate(*(value.to(device) for value in values))
    finally:
        handle.remove()
    return torch.cat(kept).clone(), torch.as_tensor(data.targets.read(0, data.rows))


def solve_path(plan: Plan, model: TransferModel, fit: Fit, on_epoch: OnEpoch) -> None:
    """Train the head along the path; the history has one row for each strength, and validation chooses among them."""
    spec = plan.settings.probe
    if spec is None or not isinstance(model.head, nn.Linear):
        raise TypeError("a path is solved for a linear head")
    fit.contract.remember()
    train, labels = features(plan.settings, fit.inputs, model, "train")
    val, val_labels = features(plan.settings, fit.inputs, model, "val")
    classes = len(plan.outputs)
    began = time.perf_counter()
    path = regularisation_path(
        train, labels, classes, spec.strengths, max_iterations=spec.max_iterations, tolerance=spec.tolerance
    )
    for index, solution in enumerate(path):
        weight, bias = torch.from_numpy(solution.weight).float(), torch.from_numpy(solution.bias).float()
        with torch.no_grad():
            model.head.weight.copy_(weight)
            model.head.bias.copy_(bias)
        row: dict[str, Any] = {
            "phase": fit.phase.name,
            "epoch": fit.first_epoch + index,
            "c": solution.c,
            "gradient": solution.gradient_norm,
            **_scores(train @ weight.t() + bias, labels),
            **_validated(plan, val @ weight.t() + bias, val_labels),
            "seconds": time.perf_counter() - began,
        }
        fit.module.history.append(row)
        fit.best.consider(row, index, fit.module.updated)
        on_epoch(row)
        began = time.perf_counter()
    fit.contract.check("at the end of the path")


def _scores(logits: torch.Tensor, labels: torch.Tensor) -> Mapping[str, float]:
    return {
        "train/loss": float(F.cross_entropy(logits, labels)),
        "train/top1": float((logits.argmax(dim=1) == labels).float().mean()),
    }


def _validated(plan: Plan, logits: torch.Tensor, labels: torch.Tensor) -> Mapping[str, float | None]:
    return {f"val/{name}": value for name, value in metrics_of(plan, logits, labels).items()}
