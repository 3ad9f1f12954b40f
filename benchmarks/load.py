"""What a large sweep costs beside its training: ``python -m benchmarks.load [CELLS]`` prints the figures.

The command is the real one, with the real composing, planning, ledger and report; only the training of a cell is a
stub, which leaves a valid record at once.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

DEPTHS = 4
_SPLITS = ("train", "val", "test")


class Stub:
    """In the place of ``thawline.execution.run.execute``: leaves a record, and notes the memory at each cell."""

    def __init__(self) -> None:
        self.resident_bytes: list[int] = []

    def __call__(self, run: Any, *, group: str | None, on_epoch: Callable[..., None], packs: Any = None) -> Any:
        """The record of a run that has not been trained."""
        from thawline.records import write_record

        plan = run.plan
        record = trivial_record(plan)
        write_record(plan.folder, record)
        self.resident_bytes.append(psutil.Process().memory_info().rss)
        return record


def trivial_record(plan: Any) -> Any:
    """A valid record of `plan`, with numbers that depend on its depth and its seed."""
    from thawline.freeze_policies import LastK
    from thawline.records import Record

    policy, seed = plan.settings.freeze_policy, plan.settings.seed
    k = policy.k if isinstance(policy, LastK) and isinstance(policy.k, int) else 0
    top1 = 0.7 + 0.05 * math.sin(k) + 0.01 * math.sin(seed)
    values = {"loss": 1 - top1, "top1": top1, "top5": (1 + top1) / 2, "macro_accuracy": top1, "macro_f1": top1}
    groups = [
        {
            "index": index,
            "name": group.name,
            "parameters": 100,
            "trained": 100 * (index >= len(plan.network.groups) - k),
        }
        for index, group in enumerate(plan.network.groups)
    ]
    total, trainable = 100 * len(groups) + 10, 100 * k + 10
    split = {"samples": 10, "sha256": "0" * 64, "per_class": [1] * len(plan.splits.classes)}
    return Record.model_validate(
        {
            "identity": plan.identity,
            "config": dict(plan.config),
            "overrides": list(plan.overrides),
            "classes": list(plan.splits.classes),
            "provenance": {
                "python": "3.11.0",
                "packages": {},
                "hardware": {"platform": "none", "processor": "none", "cores": 1, "gpus": []},
                "data_fingerprint": "0" * 64,
                "weights": {"description": "random", "sha256": None},
            },
            "splits": dict.fromkeys(_SPLITS, split),
            "layer_groups": groups,
            "parameters": {"total": total, "trainable": trainable, "frozen": total - trainable, "head": 10},
            "phases": [
                {"name": "train", "epochs": 1, "trainable_parameters": trainable, "trainable_tensors": 2 + k}
                | {"optimizer_groups": [{"lr": 0.1, "parameters": trainable}]}
            ],
            "history": [{"epoch": 0, "train/loss": 1.0}],
            "selection": {"monitor": "val/top1", "mode": "max", "value": top1, "phase": 0, "epoch": 0},
            "metrics": {"val": values, "test": values},
            "freeze_contract": {"phases": []},
            "cost": {"total_seconds": 1.0, "train_seconds": 1.0, "evaluate_seconds": 0.0, "peak_memory_bytes": 2**20}
            | {"train_samples_per_second": 10.0},
        }
    )


def command(cells: int) -> list[str]:
    """The grid: so many cells, in `DEPTHS` depths."""
    return [
        "train", "-m", "backbone=test_resnet", "dataset=digits", "dataset.n_per_class=4", "transform.size=32",
        "transform.resize=squash", "trainer.accelerator=cpu", "trainer.progress=false", "logger=none", "data_seed=0",
        f"freeze_policy.k=range(1,{DEPTHS + 1})", f"seed=range(0,{cells // DEPTHS})", "sweep.name=load",
        "sweep.report=false",
    ]  # fmt: skip


def timed(arguments: list[str]) -> float:
    """The seconds of a command of thawline in this process."""
    from thawline.cli import main

    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    if status:
        raise RuntimeError(f"thawline {' '.join(arguments)} ended with status {status}")
    return time.perf_counter() - began


def main(cells: int) -> None:
    """Measure and print."""
    from thawline.execution import run as experiment

    stub = Stub()
    experiment.execute = stub
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        # Imports, and what the first cell alone has to find out.
        timed([*command(DEPTHS)[:-2], "sweep.name=warm", "sweep.report=false"])
        stub.resident_bytes.clear()
        ran = timed(command(cells))
        again = timed(command(cells))
        status = timed(["status", "load"])
        report = timed(["report", "load"])
        size = sum(path.stat().st_size for path in Path("outputs").rglob("*") if path.is_file())
        os.chdir("/")
    first, last = (sum(part) / len(part) / 2**20 for part in (stub.resident_bytes[:50], stub.resident_bytes[-50:]))
    print(f"{cells} cells, training left out")
    print(f"sweep                  {1000 * ran / cells:8.1f} ms a cell")
    print(f"the same command again {1000 * again / cells:8.1f} ms a cell")
    print(f"status                 {status:8.2f} s")
    print(f"report                 {report:8.2f} s")
    print(f"resident memory        {first:8.0f} MiB at the first cells, {last:.0f} MiB at the last")
    print(f"on disk                {size / 2**20:8.0f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
