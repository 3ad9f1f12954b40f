"""Whether storing the values at the thaw line pays: what it costs to compute them at each pass, or once and to read.

The decision never changes a number of a run, only its time, so the rates need to be no better than a factor of two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeVar

from thawline.errors import counted
from thawline.store.store import readable_bytes

if TYPE_CHECKING:
    import torch

Key = TypeVar("Key", bound=Hashable)

# Whole networks run at 0.6 (ResNet-18, ViT-tiny) down to 0.15 (MobileNetV3) of a machine's rate in large products.
_SHARE_OF_MATMUL_RATE = 0.5
# Gathering and comparing 50 KB rows from the page cache was measured at 3 GB/s and more on one core, 2 KB rows at 1.
_MEMORY_BYTES_PER_SECOND = 2e9
# What a shared file system or a SATA disk keeps up. Measuring it would cost more than the answer is worth.
_DISK_BYTES_PER_SECOND = 200e6
# Below this gain the files are not worth their room.
_LEAST_GAIN = 0.1


@dataclass(frozen=True)
class MachineRates:
    """What this machine does in a second, and how many bytes of files its memory can be expected to hold."""

    flops_per_second: float
    read_bytes_per_second: float = _MEMORY_BYTES_PER_SECOND
    disk_bytes_per_second: float = _DISK_BYTES_PER_SECOND
    page_cache_bytes: float = math.inf


@dataclass(frozen=True)
class Decision:
    """Whether to store, why in plain words, and the estimated seconds both ways over all epochs and runs."""

    store: bool
    reason: str
    seconds_compute: float
    seconds_store: float


def decide(
    mode: Literal["auto", "on", "off"],
    *,
    prefix_flops_per_sample: float,
    bytes_per_sample: int,
    input_bytes_per_sample: int,
    samples: int,
    epochs: int,
    runs_sharing: int,
    already_stored: bool,
    on_the_way: bool = False,
    budget_bytes: float,
    free_bytes: float,
    rates: MachineRates,
) -> Decision:
    """Decide between storing the values at the thaw line and computing them on the fly.

    Args:
        mode: ``off`` never stores, ``on`` stores wherever it can, ``auto`` where it is estimated to pay.
        prefix_flops_per_sample: Floating-point operations of the frozen side.
        bytes_per_sample: Bytes of the values at the thaw line, as stored.
        input_bytes_per_sample: Bytes of the image that is read instead.
        samples: Training and validation samples together; each is passed once per epoch.
        epochs: Epochs of one run.
        runs_sharing: Runs that will use the same values, this one included.
        already_stored: The values are in the store.
        on_the_way: The values are computed anyway, on the way to those of another line: only writing is to be paid.
        budget_bytes: The store's budget.
        free_bytes: Free bytes of its disk.
        rates: What the machine does in a second.
    """
    total_bytes = samples * bytes_per_sample
    passes = epochs * runs_sharing
    read_rate = rates.read_bytes_per_second if total_bytes <= rates.page_cache_bytes else rates.disk_bytes_per_second
    one_pass = samples * (
        prefix_flops_per_sample / rates.flops_per_second + input_bytes_per_sample / rates.read_bytes_per_second
    )
    writing = total_bytes / rates.disk_bytes_per_second
    build = 0.0 if already_stored else writing if on_the_way else one_pass + writing
    compute, store = passes * one_pass, build + passes * total_bytes / read_rate

    what = f"{readable_bytes(total_bytes)} for {samples:,} samples"
    over = f"over {counted(epochs, 'epoch')} x {counted(runs_sharing, 'run')}"
    refusal = _refusal(mode, prefix_flops_per_sample, already_stored, what, total_bytes, budget_bytes, free_bytes)
    if refusal:
        return Decision(False, f"not stored: {refusal}", compute, store)
    kind = "stored already" if already_stored else "stored"
    if store <= (1 - _LEAST_GAIN) * compute:
        saved = f"saves about {readable_seconds(compute - store)} of {readable_seconds(compute)}"
        return Decision(True, f"{kind}: {what}; {saved} {over}", compute, store)
    both = f"about {readable_seconds(store)} stored, {readable_seconds(compute)} computed on the fly, {over}"
    if mode == "on":
        return Decision(True, f"{kind} (cache=on): {what}; {both}", compute, store)
    return Decision(False, f"not stored: {what} would not pay: {both}", compute, store)


def worth_most(lines: Mapping[Key, tuple[float, int]], room: float) -> set[Key]:
    """Which lines to store where there is not room for all: the next is the one that saves the most a byte, if it fits.

    Args:
        lines: of each line the seconds that its values save, and their bytes.
        room: bytes that there are for all.
    """
    chosen: set[Key] = set()
    for key in sorted(lines, key=lambda key: -lines[key][0] / max(1, lines[key][1])):
        if lines[key][1] <= room:
            chosen.add(key)
            room -= lines[key][1]
    return chosen


def shares(passed: Sequence[tuple[float, int]], input_bytes_per_sample: int, rates: MachineRates) -> list[float]:
    """How the cost of one pass is shared by the lines whose values it stores; the shares add up to 1.

    The way to a line is paid in equal parts by all lines that it leads to, and its writing by itself alone. Such shares
    are the Shapley value of the pass (Littlechild and Owen 1973, on the runways of an airport).

    Args:
        passed: of each line, in the order of the pass, the floating-point operations from the line before it (from
            where the pass began), and the bytes of its values, both per sample.
        input_bytes_per_sample: what the pass reads.
        rates: what the machine does in a second.
    """
    paid = [count / rates.disk_bytes_per_second for _, count in passed]
    reading = input_bytes_per_sample / rates.read_bytes_per_second
    for place, (flops, _) in enumerate(passed):
        way = flops / rates.flops_per_second + (reading if place == 0 else 0.0)
        for beyond in range(place, len(passed)):
            paid[beyond] += way / (len(passed) - place)
    return [each / sum(paid) for each in paid]


@lru_cache
def machine_rates(device: str, dtype: torch.dtype) -> MachineRates:
    """The rates of this machine in products of such a type, measured once per process in some hundredths of a second.

    The rate of arithmetic is rounded to a power of two, so that the same machine decides the same way again.
    """
    import psutil
    import torch

    size = 512 if torch.device(device).type == "cpu" else 4096
    a = torch.ones(size, size, device=device, dtype=dtype)
    seconds = math.inf
    for _ in range(4):
        start = time.perf_counter()
        # Fetching a number makes the host wait for the product, whatever the device.
        float((a @ a)[0].sum())
        seconds = min(seconds, time.perf_counter() - start)
    rate = _SHARE_OF_MATMUL_RATE * 2 * size**3 / seconds
    page_cache_bytes = psutil.virtual_memory().total / 2
    return MachineRates(flops_per_second=2.0 ** round(math.log2(rate)), page_cache_bytes=page_cache_bytes)


def readable_seconds(seconds: float) -> str:
    """A duration in words, such as ``0.3 s``, ``13 s``, ``12 min`` or ``3.2 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    if seconds < 119.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _refusal(
    mode: str,
    prefix_flops_per_sample: float,
    already_stored: bool,
    what: str,
    total_bytes: float,
    budget_bytes: float,
    free_bytes: float,
) -> str:
    """Why the values cannot or must not be stored, whatever it would save."""
    if mode == "off":
        return "cache=off"
    if prefix_flops_per_sample <= 0:
        return "nothing is computed before the thaw line"
    if already_stored:
        return ""
    if total_bytes > budget_bytes:
        return f"{what} do not fit the budget of {readable_bytes(budget_bytes)} (cache.max_bytes)"
    if total_bytes > free_bytes:
        return f"{what} do not fit the disk, which has {readable_bytes(free_bytes)} free"
    return ""
