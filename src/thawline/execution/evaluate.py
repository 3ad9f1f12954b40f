"""What a model says of images outside of a fit, and the metrics of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from thawline.datasets import Split
from thawline.execution import distributed
from thawline.execution.arithmetic import mixed_precision
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.devices import device_of
from thawline.planning.plan import Plan
from thawline.planning.shift import ShiftedSet
from thawline.records import SplitRecord
from thawline.store.decoded_images import DecodedImages, decoded
from thawline.tasks import SpatialTask, Targets, Task
from thawline.training.batches import OrderedBatches, Rows, Shard
from thawline.training.evaluation import MetricBatches, Predictions

Metrics = dict[str, float | None]


def outputs_in_batches(
    plan: Plan, model: TransferModel, images: DecodedImages, rows: Rows, shard: Shard | None = None
) -> Iterator[tuple[Any, Rows]]:
    """The outputs for this process's share of the images `rows`, on the CPU, and the images' rows, batch by batch.

    Args:
        plan: the run; its batch size, precision and device are taken.
        model: moved to the device, and left in eval mode.
        images: the images.
        rows: which of them.
        shard: this process among those that share the work; None: it does all.
    """
    for _, batch, _ in OrderedBatches(rows, plan.settings.trainer.eval_batch_size, shard or Shard()):
        yield outputs_for(plan, model, images.read(batch)), batch


def outputs_for(plan: Plan, model: TransferModel, pixels: torch.Tensor) -> Any:
    """The outputs for a batch of decoded images, uint8 (B, 3, H, W), on the CPU.

    The model is moved to the run's device, and left in eval mode.
    """
    device = device_of(plan.settings)
    model.to(device).eval()
    with torch.inference_mode(), mixed_precision(plan.settings):
        return _on_cpu(model(pixels.to(device)))


def outputs_of(plan: Plan, model: TransferModel, images: DecodedImages, rows: Rows) -> torch.Tensor:
    """The outputs (N, ...) for the images `rows`, on the CPU, of a task whose outputs are one tensor."""
    return torch.cat([outputs for outputs, _ in outputs_in_batches(plan, model, images, rows)]).clone()


def evaluated(
    plan: Plan, model: TransferModel, images: DecodedImages, targets: Targets, rows: Rows
) -> tuple[Metrics, Predictions]:
    """The metrics of a model on the images `rows`, and what the task keeps of each; all of it in this process.

    `targets` are those of evaluation, addressed as the images are.
    """
    task, kept = plan.settings.task, []
    batches = MetricBatches(task.metrics(plan.outputs))
    for outputs, batch in outputs_in_batches(plan, model, images, rows):
        wanted = targets.read(0, batch)
        batches.add(outputs, wanted)
        kept.append(Predictions.of(task, outputs, wanted, torch.from_numpy(batch)))
    return dict(batches.compute()), Predictions.joined(kept)


def metrics_of(plan: Plan, outputs: torch.Tensor, targets: torch.Tensor, among: Rows | None = None) -> Metrics:
    """The task's metrics of outputs (N, ...) and targets (N, ...); `among`: of these outputs alone."""
    names = plan.outputs
    if among is not None:
        outputs, names = outputs[:, among], tuple(names[index] for index in among)
    metrics = plan.settings.task.metrics(names)
    metrics.update(outputs, targets)
    return {name: float(value) for name, value in metrics.compute().items()}


def _on_cpu(outputs: Any) -> Any:
    """Tensors, in whatever a head gives, in single precision where they are floating."""
    if isinstance(outputs, torch.Tensor):
        return (outputs.float() if outputs.is_floating_point() else outputs).cpu()
    if isinstance(outputs, Mapping):
        return {name: _on_cpu(value) for name, value in outputs.items()}
    return [_on_cpu(value) for value in outputs]


def shifted_metrics(run: RunContext, model: TransferModel) -> dict[str, Metrics]:
    """The metrics of every further test set, ``test/<name>``, and of every mean over several.

    Each set is read in shares by the run's devices; all of them return the metrics of the whole.
    """
    plan, found = run.plan, dict[str, Metrics]()
    for item in plan.shifted:
        found[f"test/{item.name}"] = _of_shifted(run, model, item)
    return found | _means(plan.shifted, found)


def shifted_splits(plan: Plan) -> dict[str, SplitRecord]:
    """Which images the further test sets of other data sets hold; corrupted ones are those of the test split."""
    return {
        f"test/{item.name}": split_record(
            plan.settings.task,
            item.split,
            item.targets[item.split.indices],
            plan.outputs if item.outputs is None else [plan.outputs[index] for index in item.outputs],
        )
        for item in plan.shifted
        if item.fingerprint != plan.splits.fingerprint
    }


def split_record(task: Task, split: Split, targets: NDArray[Any], outputs: Sequence[str]) -> SplitRecord:
    """What the record says of a split with these targets (N, ...), of which the task has these outputs."""
    counts = task.per_output(targets, outputs)
    constant = task.constant_scores(counts, len(split))
    return SplitRecord(samples=len(split), sha256=split.sha256, per_class=counts, constant_scores=constant)


def _of_shifted(run: RunContext, model: TransferModel, item: ShiftedSet) -> Metrics:
    """The metrics of all samples of a set, by all devices together."""
    plan, task = run.plan, run.settings.task
    images = decoded(
        run.session.data.store(run.settings.cache),
        item.split.images,
        {**item.pixels, **plan.reading_shifted},
        item.decode,
        run.plan.transform.output_size,
        fingerprint=item.fingerprint,
        indices=item.split.indices,
    )
    targets = task.evaluation_targets(item.targets, plan.transform)
    shares = outputs_in_batches(plan, model, images, item.split.indices, distributed.shard())
    pairs = ((outputs, targets.read(0, rows)) for outputs, rows in shares)
    try:
        return _batch_by_batch(plan, pairs) if isinstance(task, SpatialTask) else _as_one(plan, pairs, item.outputs)
    finally:
        images.close()


def _as_one(plan: Plan, pairs: Iterator[tuple[Any, Any]], among: Rows | None) -> Metrics:
    """The metrics of outputs and targets that are small tensors: every device computes those of all."""
    outputs, targets = zip(*pairs, strict=True)
    shares = distributed.gathered((torch.cat(outputs).clone(), torch.cat(targets)))
    return metrics_of(plan, torch.cat([one for one, _ in shares]), torch.cat([two for _, two in shares]), among)


def _batch_by_batch(plan: Plan, pairs: Iterator[tuple[Any, Any]]) -> Metrics:
    """The metrics of outputs too large to be kept; the metrics add up the devices' shares themselves."""
    batches = MetricBatches(plan.settings.task.metrics(plan.outputs))
    for outputs, targets in pairs:
        batches.add(outputs, targets)
    return dict(batches.compute())


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
