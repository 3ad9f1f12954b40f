"""CPU seconds and wall seconds of whole processes, their children included."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.images import REPOSITORY

_POLL_SECONDS = 0.02


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
    return watched(arguments, folder)


def watched(
    arguments: Sequence[str],
    folder: Path,
    seconds: float = math.inf,
    on_output: Callable[[str], None] | None = None,
) -> Cost:
    """The same for at most so many wall seconds; `on_output` is called each second with what was printed so far.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
        TimeoutError: it has been stopped with all its children; `on_output` has had what it printed.
    """
    output, errors = folder / "stdout.txt", folder / "stderr.txt"
    command = [sys.executable, *arguments]
    began = told = time.perf_counter()
    with output.open("wb") as printed, errors.open("wb") as said:
        process = subprocess.Popen(
            command, cwd=folder, stdout=printed, stderr=said, env=_environment(), start_new_session=True
        )
    try:
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            now = time.perf_counter()
            if now - began > seconds:
                raise TimeoutError(f"stopped after {seconds:.0f} s")
            if on_output is not None and now - told > 1.0:
                told = now
                on_output(output.read_text())
            time.sleep(_POLL_SECONDS)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(ended[1])
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if on_output is not None:
            on_output(output.read_text())
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}\n{output.read_text()[-2000:]}\n{errors.read_text()[-4000:]}")
    usage = ended[2]
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024, output.read_text())


def _environment() -> dict[str, str]:
    """This process's, for one in another folder: it finds this checkout too, installed or not."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = [str(REPOSITORY), str(REPOSITORY / "src")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*own, *(str(Path(path).resolve()) for path in paths if path)])}


def matmul_flops_per_second(device: str = "cpu", kind: str = "float32", seconds: float = 1.0) -> float:
    """The measured matmul rate: FLOPs per CPU second of one thread, or per second of a GPU.

    One thread's, since CPU seconds are what is compared: a second thread on the same core costs more than it does.

    Args:
        device: cpu or cuda.
        kind: of the numbers: bfloat16, float32, or tf32: float32 that a GPU may round to TF32 before it multiplies.
        seconds: to measure for.
    """
    import torch

    n = 1536 if device == "cpu" else 8192
    clock = time.process_time if device == "cpu" else time.perf_counter
    a, b = (torch.randn(n, n, device=device).to(torch.bfloat16 if kind == "bfloat16" else torch.float32) for _ in "ab")

    def settle() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    # A GPU that was idle takes some tenths of a second to reach its clock.
    began = clock()
    while True:
        a @ b
        settle()
        if device == "cpu" or clock() - began > seconds / 2:
            break
    began, count = clock(), 0
    while clock() - began < seconds:
        a @ b
        settle()
        count += 1
    rate = 2.0 * n**3 * count / (clock() - began)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
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


def seconds_by_depth(runs: Path, depths: Iterable[str]) -> dict[str, float]:
    """The CPU seconds of the runs of each depth in a folder, with their shares of passes that several need."""
    from thawline.reports.loading import load_sweep, override_values

    seconds = dict.fromkeys(depths, 0.0)
    for run in load_sweep(runs).runs:
        seconds[override_values(run.overrides)["freeze_policy.k"]] += run.cpu_seconds or 0.0
    return seconds
