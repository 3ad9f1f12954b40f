"""What the transferred copy is worth before any tuning: on the target and on the source."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import nn

from thawline.datasets import Split
from thawline.execution.decoding import decoded_images
from thawline.network.model import TransferModel
from thawline.planning.plan import Plan
from thawline.planning.session import Workbench
from thawline.records import Record
from thawline.tasks.classification.metrics import classification_metrics

if TYPE_CHECKING:
    from thawline.backbones import Backbone


def before_tuning(
    plan: Plan, model: TransferModel, backbone: Backbone, bench: Workbench, source_record: Record
) -> dict[str, dict[str, float | None]]:
    """The metrics of the copy before tuning, on validation splits: the test splits stay closed.

    ``before/target``: with the new head as it is initialised, and ``nearest_mean_top1``, the accuracy of the class
    whose mean training feature is nearest (no training at all: what the source features know of the target).
    ``before/source``: with the source run's own head, on the source's validation split; it must be what the source
    run recorded, up to rounding.
    """
    source = plan.source
    if source is None or backbone.source_classifier is None:
        return {}
    splits = plan.splits
    if plan.settings.adapter is not None:  # it may change the network from the start, as visual prompts do
        device = model.pixel_mean.device
        model = TransferModel(backbone.module, model.head, backbone.mean, backbone.std).to(device)
    key = f"{source.identity} {splits.fingerprint}"
    features = {
        name: bench.once("features", f"{key} {split.sha256}", functools.partial(_features, plan, model, bench, split))
        for name, split in (("train", splits.train), ("val", splits.val))
    }
    labels = {"train": _labels(splits.train), "val": _labels(splits.val)}
    target = _metrics(model.head, features["val"], labels["val"], plan)
    target["nearest_mean_top1"] = _nearest_mean(features, labels, len(splits.classes))
    classifier = backbone.source_classifier
    head = nn.Linear(classifier.weight.shape[1], classifier.weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(classifier.weight)
        head.bias.copy_(torch.zeros(len(classifier.weight)) if classifier.bias is None else classifier.bias)
    source_val = source.splits.val
    source_features = bench.once(
        "features", f"{source.identity} val", lambda: _features(source, model, bench, source_val)
    )
    return {"before/target": target, "before/source": _metrics(head, source_features, _labels(source_val), source)}


def _features(plan: Plan, model: TransferModel, bench: Workbench, split: Split) -> torch.Tensor:
    """The backbone's features (N, feature_dim) of a split."""
    decoded = decoded_images(plan, bench)
    body = TransferModel(model.backbone, nn.Identity(), (0.0,), (1.0,))
    body.pixel_mean, body.pixel_scale = model.pixel_mean, model.pixel_scale
    body.eval()
    device = model.pixel_mean.device
    size = plan.settings.trainer.eval_batch_size
    starts = range(0, len(split.indices), size)
    with torch.inference_mode():
        features = torch.cat(
            [body(decoded.read(split.indices[start : start + size]).to(device)).cpu() for start in starts]
        )
    return features.clone()


def _labels(split: Split) -> torch.Tensor:
    return torch.from_numpy(split.images.labels[split.indices])


def _metrics(head: nn.Module, features: torch.Tensor, labels: torch.Tensor, plan: Plan) -> dict[str, float | None]:
    metrics = classification_metrics(len(plan.splits.classes), plan.settings.metrics.top_k)
    head.eval()
    with torch.inference_mode():
        metrics.update(head(features), labels)
    return {name: float(value) for name, value in metrics.compute().items()}


def _nearest_mean(features: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], classes: int) -> float:
    """Accuracy of the nearest class mean, by Euclidean distance."""
    means = torch.stack([features["train"][labels["train"] == label].mean(dim=0) for label in range(classes)])
    nearest = torch.cdist(features["val"], means).argmin(dim=1)
    return float((nearest == labels["val"]).float().mean())
