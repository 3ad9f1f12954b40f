"""CPU seconds and wall seconds of whole processes, their children included."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a process cost: CPU seconds (on a GPU wall seconds), wall seconds, peak bytes, and what it printed."""

    seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    output: str = ""

    def __add__(self, other: Cost) -> Cost:
        peak = max(self.peak_memory_bytes, other.peak_memory_bytes)
        return Cost(self.seconds + other.seconds, self.wall_seconds + other.wall_seconds, peak)


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


def matmul_flops_per_second(device: str = "cpu", seconds: float = 1.0) -> float:
    """The measured matmul rate: float32 FLOPs per CPU second of one thread, or bfloat16 FLOPs per second of a GPU.

    One thread's, since CPU seconds are what is compared: a second thread on the same core costs more than it does.
    """
    import torch

    n, kind = (1536, torch.float32) if device == "cpu" else (8192, torch.bfloat16)
    clock = time.process_time if device == "cpu" else time.perf_counter
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))

    def settle() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a @ b
    settle()
    began, count = clock(), 0
    while clock() - began < seconds:
        a @ b
        settle()
        count += 1
    rate = 2.0 * n**3 * count / (clock() - began)
    torch.set_num_threads(threads)
    return rate


def copied_bytes_per_second(seconds: float = 0.5) -> float:
    """The measured rate at which one thread copies memory, in bytes per CPU second."""
    import numpy as np

    source = np.ones(2**24, np.float32)
    target = np.empty_like(source)
    began, count = time.process_time(), 0
    while time.process_time() - began < seconds:
        np.copyto(target, source)
        count += 1
    return source.nbytes * count / (time.process_time() - began)
