"""What planning a folder of images costs: ``python benchmarks/plan_job.py ROOT CACHE`` prints it as JSON."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import sys
import time
from pathlib import Path

import psutil


def _peak_bytes() -> int:
    """The most resident memory so far; what getrusage says may be that of the process which started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _give_back_free_memory() -> None:
    """Give back what Python has freed and the C library keeps: otherwise it counts as held."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def main(root: Path, cache: Path) -> None:
    """List, hash, check and divide the images below `root`, with what is known of them in `cache`."""
    from thawline.datasets import Digits, ImageFolder

    Digits().load(0)  # what is imported at first use
    _give_back_free_memory()
    before, began, first = psutil.Process().memory_info().rss, time.process_time(), time.perf_counter()
    splits = ImageFolder(root=root).load(0, cache)
    digests = [split.sha256 for split in (splits.train, splits.val, splits.test) if split is not None]
    seconds, wall = time.process_time() - began, time.perf_counter() - first
    peak = _peak_bytes()
    _give_back_free_memory()
    kept = psutil.Process().memory_info().rss
    said = {
        "cpu_seconds": seconds, "wall_seconds": wall, "peak_bytes": peak - before, "kept_bytes": kept - before,
        "images": len(splits.images), "digests": [splits.fingerprint, *digests],
    }  # fmt: skip
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
