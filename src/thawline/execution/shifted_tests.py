"""The metrics of the chosen model on its further test sets: judged once, and nothing is chosen on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from thawline.execution import distributed
from thawline.execution.predicting import logits_of
from thawline.network.model import TransferModel
from thawline.planning.plan import Plan
from thawline.planning.session import Workbench
from thawline.planning.shift import ShiftedSet
from thawline.records import SplitRecord
from thawline.store.decoded_images import decoded
from thawline.tasks.classification.metrics import classification_metrics

Metrics = dict[str, float | None]


def shifted_metrics(plan: Plan, model: TransferModel, bench: Workbench) -> dict[str, Metrics]:
    """The metrics of every further test set, ``test/<name>``, and of every mean over several.

    Each set is read in shares by the run's devices; all of them return the metrics of the whole.
    """
    found: dict[str, dict[str, float]] = {}
    for item in plan.shifted:
        logits, labels = _judged(plan, model, item, bench)
        metrics = classification_metrics(len(item.classes), plan.settings.metrics.top_k)
        metrics.update(logits[:, item.classes], labels)
        found[f"test/{item.name}"] = {name: float(value) for name, value in metrics.compute().items()}
    found |= _means(plan.shifted, found)
    return {name: dict(values) for name, values in found.items()}


def shifted_splits(plan: Plan) -> dict[str, SplitRecord]:
    """Which pictures the further test sets of other data sets hold; corrupted ones are those of the test split."""
    return {
        f"test/{item.name}": SplitRecord(
            samples=len(item.split),
            sha256=item.split.sha256,
            per_class=np.bincount(item.labels[item.split.indices], minlength=len(item.classes)).tolist(),
        )
        for item in plan.shifted
        if item.fingerprint != plan.splits.fingerprint
    }


def _judged(plan: Plan, model: TransferModel, item: ShiftedSet, bench: Workbench) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, C) and labels (N,) of all samples of a set, on the CPU."""
    images = decoded(
        bench.store(plan.settings.cache),
        item.split.images,
        dict(item.pixels),
        item.decode,
        plan.transform.output_size,
        fingerprint=item.fingerprint,
        indices=item.split.indices,
    )
    logits, rows = logits_of(plan, model, bench, images, item.split.indices, distributed.shard())
    images.close()
    shares = distributed.gathered((logits, torch.from_numpy(item.labels[rows])))
    return torch.cat([share[0] for share in shares]), torch.cat([share[1] for share in shares])


def _means(sets: Sequence[ShiftedSet], found: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The mean of each metric over the sets that count in a mean, every set alike."""
    means = {}
    for name in dict.fromkeys(item.mean for item in sets if item.mean):
        members = [found[f"test/{item.name}"] for item in sets if item.mean == name]
        means[f"test/{name}"] = {
            metric: sum(values[metric] for values in members) / len(members) for metric in members[0]
        }
    return means
