"""One small grid, run by any launcher, and what a sweep that was spread must have in common with a local one."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.conftest import TINY, records
from tests.stopping import STOPPING, numbers
from tests.zygote import Zygote

# 39 samples in batches of 16: three steps an epoch, six in each run.
GRID = (
    "-m", *TINY, *STOPPING, "dataset.classes=[1,4,7]", "dataset.n_per_class=13", "optimizer.lr=0.05",
    "trainer.checkpoint_seconds=0", "trainer.threads=1", "freeze_policy.k=1,2", "seed=0,1", "sweep.name=grid",
)  # fmt: skip
_VARYING = ("seconds", "memory", "command")


def table(place: Path, name: str = "table") -> list[dict[str, str]]:
    """The rows of a table of the sweep's report, without what the runs cost."""
    with (place / "outputs" / "sweeps" / "grid" / "report" / f"{name}.csv").open(newline="") as stream:
        return [
            {key: value for key, value in row.items() if not any(word in key for word in _VARYING)}
            for row in csv.DictReader(stream)
        ]


def local_sweep(zygote: Zygote, place: Path) -> Path:
    """The grid run in one process, in the folder `place`."""
    done = zygote.run("train", *GRID, folder=place)
    assert done.wait() == 0, done.err
    return place


def assert_same_sweep(place: Path, local: Path) -> None:
    """Both have the same runs with the same bits, and the same table."""
    assert [folder.name for folder in records(str(place / "outputs"))] == [
        folder.name for folder in records(str(local / "outputs"))
    ]
    for folder in records(str(local / "outputs")):
        assert numbers(place / "outputs" / "runs" / folder.name) == numbers(folder)
    for name in ("table", "runs"):
        assert table(place, name) == table(local, name)
