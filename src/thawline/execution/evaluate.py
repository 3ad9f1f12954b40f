"""What a model says of images outside of a fit, and the metrics of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from thawline.execution import distributed
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.devices import device_of
from thawline.planning.plan import Plan
from thawline.planning.shift import ShiftedSet
from thawline.records import SplitRecord
from thawline.store.decoded_images import DecodedImages, decoded
from thawline.training.batches import OrderedBatches, Rows, Shard

Metrics = dict[str, float | None]
_MIXED = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def outputs_of(
    plan: Plan, model: TransferModel, images: DecodedImages, rows: Rows, shard: Shard | None = None
) -> tuple[torch.Tensor, Rows]:
    """The outputs (N, ...) for this process's share of the images `rows`, on the CPU, and the share's rows (N,).

    Args:
        plan: the run; its batch size, precision and device are taken.
        model: moved to the device, and left in eval mode.
        images: the images.
        rows: which of them.
        shard: this process among those that share the work; None: it does all.
    """
    shard = shard or Shard()
    settings, device = plan.settings, device_of(plan.settings)
    mixed = _MIXED.get(settings.trainer.precision)
    model.to(device).eval()
    outputs = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=mixed, enabled=mixed is not None):
        for _, batch, _ in OrderedBatches(rows, settings.trainer.eval_batch_size, shard):
            outputs.append(model(images.read(batch).to(device)).float().cpu())
    return torch.cat(outputs).clone(), rows[shard.rank :: shard.world_size]


def metrics_of(plan: Plan, outputs: torch.Tensor, targets: torch.Tensor, among: Rows | None = None) -> Metrics:
    """The task's metrics of outputs (N, ...) and targets (N, ...); `among`: of these outputs alone."""
    names = plan.outputs
    if among is not None:
        outputs, names = outputs[:, among], tuple(names[index] for index in among)
    metrics = plan.settings.task.metrics(names)
    metrics.update(outputs, targets)
    return {name: float(value) for name, value in metrics.compute().items()}


def shifted_metrics(run: RunContext, model: TransferModel) -> dict[str, Metrics]:
    """The metrics of every further test set, ``test/<name>``, and of every mean over several.

    Each set is read in shares by the run's devices; all of them return the metrics of the whole.
    """
    plan, found = run.plan, dict[str, Metrics]()
    for item in plan.shifted:
        outputs, targets = _of_shifted(run, model, item)
        found[f"test/{item.name}"] = metrics_of(plan, outputs, targets, item.outputs)
    return found | _means(plan.shifted, found)


def shifted_splits(plan: Plan) -> dict[str, SplitRecord]:
    """Which images the further test sets of other data sets hold; corrupted ones are those of the test split."""
    task = plan.settings.task
    return {
        f"test/{item.name}": SplitRecord(
            samples=len(item.split),
            sha256=item.split.sha256,
            per_class=task.per_output(
                item.targets[item.split.indices],
                plan.outputs if item.outputs is None else [plan.outputs[index] for index in item.outputs],
            ),
        )
        for item in plan.shifted
        if item.fingerprint != plan.splits.fingerprint
    }


def _of_shifted(run: RunContext, model: TransferModel, item: ShiftedSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (N, ...) and targets (N, ...) of all samples of a set, on the CPU."""
    images = decoded(
        run.session.data.store(run.settings.cache),
        item.split.images,
        dict(item.pixels),
        item.decode,
        run.plan.transform.output_size,
        fingerprint=item.fingerprint,
        indices=item.split.indices,
    )
    outputs, rows = outputs_of(run.plan, model, images, item.split.indices, distributed.shard())
    images.close()
    shares = distributed.gathered((outputs, torch.from_numpy(item.targets[rows])))
    return torch.cat([share[0] for share in shares]), torch.cat([share[1] for share in shares])


def _means(sets: Sequence[ShiftedSet], found: Mapping[str, Metrics]) -> dict[str, Metrics]:
    """The mean of each metric over the sets that count in a mean, every set alike."""
    means: dict[str, Metrics] = {}
    for name in dict.fromkeys(item.mean for item in sets if item.mean):
        members = [found[f"test/{item.name}"] for item in sets if item.mean == name]
        means[f"test/{name}"] = {metric: _mean([values[metric] for values in members]) for metric in members[0]}
    return means


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if len(there) == len(values) else None
