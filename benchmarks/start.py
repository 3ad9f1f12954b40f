"""What a command costs before it has done anything: CPU seconds of whole commands, and when the first line is there."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TITLE = "Start of a command"
_GRID = (
    "train", "-m", "backbone=test_resnet", "dataset=digits", "dataset.n_per_class=4", "transform=squash",
    "transform.size=32", "optimizer=sgd", "trainer.max_epochs=2", "trainer.batch_size=16", "trainer.accelerator=cpu",
    "logger=none", "freeze_policy.k=0,1,2", "seed=0,1,2", "sweep.name=small",
)  # fmt: skip
_LIGHT = "import hydra, omegaconf, pydantic, rich.progress, numpy, PIL.Image, psutil"
_RECORDS = f"{_LIGHT}, scipy.special"
_DRAWING = f"{_RECORDS}, matplotlib.figure, matplotlib.backends.backend_pdf, jinja2, vl_convert"
_TRAINING = f"{_RECORDS}, pytorch_lightning, timm, torchmetrics"
_ROUNDS = 3


@dataclass(frozen=True)
class _Started:
    """A command in a terminal: its CPU seconds, its wall seconds, and those until its first sign."""

    seconds: float
    wall_seconds: float
    first_line_seconds: float


def start_section(place: Path, *, smoke: bool = False) -> list[str]:
    """Measure each command several times in turn; the lines of the table.

    Args:
        place: a folder to work in.
        smoke: each once: whether it runs.
    """
    folder = place / "start"
    folder.mkdir()
    _started(["-m", "thawline", *_GRID], folder)
    commands: dict[str, tuple[Sequence[str], str, Callable[[], None]]] = {
        "`thawline --help`": (["--help"], "pass", _nothing),
        "`thawline status`": (["status"], "import pydantic, rich.table, psutil", _nothing),
        "`thawline list`": (["list"], "import pydantic, rich.table", _nothing),
        "`thawline runs`": (["runs"], "import pydantic, rich.table, psutil", _nothing),
        "`thawline train --help`": (["train", "--help"], _LIGHT, _nothing),
        "`thawline train` on a finished sweep": (_GRID, _RECORDS, _nothing),
        "the same without its report": (_GRID, _DRAWING, lambda: _remove_report(folder)),
        "`thawline report`": (["report", "small"], _DRAWING, _nothing),
        "`thawline train`, one run more": ([*_GRID[:-2], "seed=0,1,2,3", "sweep.name=more"], _TRAINING, _nothing),
    }
    found: dict[str, list[_Started]] = {name: [] for name in commands}
    limits: dict[str, list[float]] = {code: [] for _, code, _ in commands.values()}
    for number in range(1 if smoke else _ROUNDS):
        for code, seconds in limits.items():
            seconds.append(_started(["-c", code], folder).seconds)
        for name, (arguments, _, before) in commands.items():
            before()
            # What is planned anew in each round is a sweep of its own.
            grid = [argument.replace("seed=0,1,2,3", f"seed=0,1,2,{3 + number}") for argument in arguments]
            found[name].append(_started(["-m", "thawline", *grid], folder))
    lines = [
        "What each command costs on a finished sweep of nine runs of a tiny network. CPU seconds of whole commands,",
        f"medians of {len(limits[_LIGHT])} with their range. *Limit*: a process that only imports the libraries",
        "the command needs. *First line*: the time until something is on the terminal.",
        "",
        "| command | CPU s | range | limit, CPU s | wall time, s | first line, s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, (_, code, _) in commands.items():
        seconds = [each.seconds for each in found[name]]
        lines.append(
            f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} | "
            f"{statistics.median(limits[code]):.2f} | {_median(found[name], 'wall_seconds')} | "
            f"{_median(found[name], 'first_line_seconds')} |"
        )
    return lines


def _median(found: Sequence[_Started], field: str) -> str:
    return f"{statistics.median(getattr(each, field) for each in found):.2f}"


def _nothing() -> None:
    """There is nothing to prepare."""


def _remove_report(folder: Path) -> None:
    for file in (folder / "outputs" / "sweeps" / "small" / "report").iterdir():
        file.unlink()


def _started(arguments: Sequence[str], folder: Path) -> _Started:
    """Run ``python ARGUMENTS`` in `folder` on a terminal of its own.

    Raises:
        RuntimeError: it failed; with the end of what it showed.
    """
    ours, theirs = os.openpty()
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, first = b"", float("nan")
    while chunk := _read(ours):
        first = time.perf_counter() - began if not shown else first
        shown += chunk
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    os.close(ours)
    if status != 0:
        raise RuntimeError(f"{' '.join(arguments)}\n{shown.decode(errors='replace')[-4000:]}")
    return _Started(usage.ru_utime + usage.ru_stime, wall, first)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # so ends a terminal on Linux
        return b""
