"""CPU seconds and wall seconds of whole processes, their children included."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a process cost: CPU seconds (user and system), wall seconds, peak resident bytes, and its output."""

    cpu_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    output: str = ""

    def __add__(self, other: Cost) -> Cost:
        peak = max(self.peak_memory_bytes, other.peak_memory_bytes)
        return Cost(self.cpu_seconds + other.cpu_seconds, self.wall_seconds + other.wall_seconds, peak)


def cost_of(arguments: Sequence[str], folder: Path) -> Cost:
    """Run ``python ARGUMENTS`` in `folder` and measure the whole process.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    errors = folder / "stderr.txt"
    began = time.perf_counter()
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=stream, env=dict(os.environ)
        )
        assert process.stdout is not None
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status != 0:
        raise RuntimeError(f"{' '.join(arguments)}\n{output[-2000:]}\n{errors.read_text()[-4000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024, output)


def matmul_flops_per_second(seconds: float = 1.0) -> float:
    """The machine's measured float32 matmul rate with torch's default threads: FLOPs per second."""
    import torch

    n = 1536
    a, b = torch.randn(n, n), torch.randn(n, n)
    a @ b
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        a @ b
        count += 1
    return 2.0 * n**3 * count / (time.perf_counter() - began)


def children_cpu_seconds() -> float:
    """CPU seconds of all finished children of this process."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
