"""How many threads of the CPU a run takes: as many as its operations keep busy, on cores that others leave free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from thawline.layer_groups import group_table
from thawline.planning.context import RunContext
from thawline.planning.session import Session

FLOPS_PER_THREAD = 16_000_000
"""Of one operation on one batch. With less, a thread waits for the others about as long as it computes: a MobileNetV3
at 64 pixels (13 million in all) is no faster on two threads than on one and burns 40 % more CPU seconds, while a
ResNet-18 at 32 pixels in batches of ten (37 million) takes two thirds of the time."""

BESIDE_A_DEVICE = 4
"""Where another device computes, the CPU's small copies and sums are left. More threads would spin after each of them,
on the cores of the one that hands the device its operations."""


@contextmanager
def on_threads(run: RunContext) -> Iterator[None]:
    """Within the block torch computes with the run's number of threads.

    They decide how sums are split and so their last bits; they follow from the network, the size of its input, the
    batch, and the cores that were free when the command began, so that a command's runs, with and without the store,
    all have the same. The record says how many they were, and `reproduce` takes as many.
    """
    before = torch.get_num_threads()
    given = run.settings.trainer.threads
    limits = (before, _free(run.session) if given is None else given, _worthwhile(run))
    torch.set_num_threads(min(limit for limit in limits if limit is not None))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _free(session: Session) -> int | None:
    """The cores that other processes leave free; None where the user has said how many threads there are to be.

    Threads that share their cores with those of others wait for each other at every operation: on a busy machine a run
    is faster on fewer.
    """
    if any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        return None
    return session.once("free cores", "", session.core_use.free_cores)


def _worthwhile(run: RunContext) -> int | None:
    """How many threads the mean operation of the network has work for; None where that is not known."""
    settings = run.settings
    if run.device.type != "cpu":
        return BESIDE_A_DEVICE
    size = run.plan.transform.output_size
    operation = run.session.once("operation", f"{settings.backbone!r} {size}", lambda: _mean_flops(run))
    if operation is None:
        return None
    batch = max(1, settings.trainer.batch_size // settings.trainer.devices)
    return max(1, int(operation * batch / FLOPS_PER_THREAD))


def _mean_flops(run: RunContext) -> float | None:
    """FLOPs of the network's forward pass for one image over the number of its weight matrices and kernels."""
    backbone, size = run.session.networks.skeleton(run.settings), run.plan.transform.output_size
    counts = [row.multiply_adds for row in group_table(backbone.module, backbone.groups, size)]
    weights = sum(parameter.dim() > 1 for parameter in backbone.module.parameters())
    if weights == 0 or any(count is None for count in counts):
        return None
    return 2.0 * sum(count for count in counts if count is not None) / weights
