"""How many threads of the CPU a run takes: as many as its network's operations can keep busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from thawline.layer_groups import group_table
from thawline.runs.plan import Plan
from thawline.runs.workbench import Workbench

FLOPS_PER_THREAD = 16_000_000
"""Of one operation on one batch. With less, a thread waits for the others about as long as it computes: a MobileNetV3
at 64 pixels (13 million in all) is no faster on two threads than on one and burns 40 % more CPU seconds, while a
ResNet-18 at 32 pixels in batches of ten (37 million) takes two thirds of the time."""


@contextmanager
def on_threads(plan: Plan, bench: Workbench) -> Iterator[None]:
    """Within the block torch computes with the run's number of threads.

    They decide how sums are split and so their last bits; they follow from the network, the size of its input and the
    batch alone, so that the runs of a sweep, with and without the store, all have the same.
    """
    before = torch.get_num_threads()
    limits = (before, plan.settings.trainer.threads, _worthwhile(plan, bench))
    torch.set_num_threads(min(limit for limit in limits if limit is not None))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _worthwhile(plan: Plan, bench: Workbench) -> int | None:
    """How many threads the mean operation of the network has work for; None where that is not known, or not the CPU."""
    settings = plan.settings
    if bench.device(settings).type != "cpu":
        return None
    size = plan.transform.output_size
    operation = bench.once("operation", f"{settings.backbone!r} {size}", lambda: _mean_flops(plan, bench))
    if operation is None:
        return None
    batch = max(1, settings.trainer.batch_size // settings.trainer.devices)
    return max(1, int(operation * batch / FLOPS_PER_THREAD))


def _mean_flops(plan: Plan, bench: Workbench) -> float | None:
    """FLOPs of the network's forward pass for one image over the number of its weight matrices and kernels."""
    backbone = bench.skeleton(plan.settings)
    counts = [row.multiply_adds for row in group_table(backbone.module, backbone.groups, plan.transform.output_size)]
    weights = sum(parameter.dim() > 1 for parameter in backbone.module.parameters())
    if weights == 0 or any(count is None for count in counts):
        return None
    return 2.0 * sum(count for count in counts if count is not None) / weights
