"""What the transferred copy is worth before any tuning: on the target and on the source."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from thawline.datasets import Split
from thawline.errors import usage_error
from thawline.execution.decoding import decoded_images
from thawline.execution.evaluate import metrics_of
from thawline.execution.source_scores import source_key
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan
from thawline.records import Record

if TYPE_CHECKING:
    from thawline.backbones import Backbone


def before_tuning(
    run: RunContext, model: TransferModel, backbone: Backbone, source_record: Record
) -> dict[str, dict[str, float | None]]:
    """The metrics of the copy before tuning, on validation splits: the test splits stay closed.

    ``before/target``: with the new head as it is initialised, and what the task measures of the source's features
    without any training; not where the run trains on its validation split.
    ``before/source``: with the source run's own head, on the source's validation split.

    Raises:
        UsageError: ``before/source`` is not what the source run recorded, up to rounding: these are other weights.
    """
    plan, session, source = run.plan, run.session, run.plan.source
    if source is None or backbone.source_classifier is None:
        return {}
    splits = plan.splits
    if plan.settings.adapter is not None:  # it may change the network from the start, as visual prompts do
        device = model.pixel_mean.device
        model = TransferModel(backbone.module, model.head, backbone.mean, backbone.std).to(device)
    found = {}
    if splits.val is not None:
        read = {"train": splits.train, "val": splits.val}
        features = {
            name: session.once(
                "features",
                (source_key(plan), split.sha256),
                functools.partial(_features, run, model, split),
            )
            for name, split in read.items()
        }
        targets = {name: _targets(split) for name, split in read.items()}
        found["before/target"] = _metrics(model.head, features["val"], targets["val"], plan)
        found["before/target"] |= plan.settings.task.without_training(features, targets, plan.outputs)
    source_val = source.splits.val
    if source_val is None:
        return found
    classifier = backbone.source_classifier
    head = nn.Linear(classifier.weight.shape[1], classifier.weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(classifier.weight)
        head.bias.copy_(torch.zeros(len(classifier.weight)) if classifier.bias is None else classifier.bias)
    source_features = session.once(
        "features", f"{source.identity} val", lambda: _features(run.with_plan(source), model, source_val)
    )
    again = _metrics(head, source_features, _targets(source_val), source)
    _require_recorded(source, again, source_record, len(source_val))
    return {**found, "before/source": again}


def _require_recorded(source: Plan, again: dict[str, float | None], source_record: Record, samples: int) -> None:
    """Compare headline metric and loss with those of the source run, which may have computed less precisely."""
    exact = source.settings.trainer.precision == "32-true"
    for name in dict.fromkeys((source_record.headline, "loss")):
        definition = source_record.metric_definitions.get(name)
        ours, theirs = again.get(name), source_record.metrics["val"].get(name)
        if ours is None or theirs is None or not (math.isfinite(ours) and math.isfinite(theirs)):
            continue
        if definition is not None and definition.lower is not None and definition.upper is not None:
            # A mean over the images: rounding may turn the answer for some of them.
            allowed = (definition.upper - definition.lower) * (2.5 / samples if exact else 0.05)
        else:
            allowed = max(abs(theirs), 1.0) * (0.02 if exact else 0.2)
        if abs(ours - theirs) > allowed:
            raise usage_error(
                "source",
                f"the copy of run {source.identity} has a validation {name} of {ours:.4g}, and the run recorded "
                f"{theirs:.4g}: its weights, its data or the software are not what they were",
            )


def _features(run: RunContext, model: TransferModel, split: Split) -> torch.Tensor:
    """The backbone's features (N, feature_dim) of a split."""
    decoded = decoded_images(run)
    body = TransferModel(model.backbone, nn.Identity(), (0.0,), (1.0,))
    body.pixel_mean, body.pixel_scale = model.pixel_mean, model.pixel_scale
    body.eval()
    device = model.pixel_mean.device
    size = run.settings.trainer.eval_batch_size
    starts = range(0, len(split.indices), size)
    with torch.inference_mode():
        features = torch.cat(
            [body(decoded.read(split.indices[start : start + size]).to(device)).cpu() for start in starts]
        )
    return features.clone()


def _targets(split: Split) -> torch.Tensor:
    return torch.from_numpy(split.images.targets[split.indices])


def _metrics(head: nn.Module, features: torch.Tensor, targets: torch.Tensor, plan: Plan) -> dict[str, float | None]:
    head.eval()
    device = next((parameter.device for parameter in head.parameters()), features.device)
    with torch.inference_mode():
        return metrics_of(plan, head(features.to(device)).cpu(), targets)
