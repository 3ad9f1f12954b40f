"""Masks and boxes against the plain way: the same heads on the same network, without the store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.images import REPOSITORY, SCENE_CLASSES, scenes
from benchmarks.measure import Cost, cost_of, seconds_by_depth

_COLUMNS = (
    "k", "plain, CPU s", "own command, CPU s", "ratio", "in the sweep, CPU s", "ratio", "limit, CPU s",
    "CPU s an epoch (plain / thawline)", "ratio", "read of the store, MB an epoch",
    "peak memory, MB (plain / thawline)", "wall time, s (plain / thawline)",
)  # fmt: skip
NOTE = """One plain job is measured for each depth and multiplied by the number of seeds: a torch loop with thawline's
head on the same network, and torchmetrics' metric after each epoch (`benchmarks/plain_dense_job.py`). thawline's
commands also run the test split. The seconds of an epoch cover training and validation: for the plain job those of
its loop, for thawline the cost of each further epoch once the store is filled. *Limit*: the FLOPs that cannot be
avoided, including the head's, at the speed of large matrix products, plus reading the store at the speed of a copy in
memory."""


@dataclass(frozen=True)
class DenseSetup:
    """A task with a head on a network, at one size of the input, on drawn images.

    Attributes:
        task: of thawline.
        head: its option, and its fields.
        size: (H, W) of the input.
        counts: the images of each part.
    """

    task: str
    model: str
    backbone: str
    head: str
    fields: Mapping[str, Any]
    size: tuple[int, int] = (144, 192)
    counts: Mapping[str, int] = field(default_factory=lambda: {"train": 120, "val": 60, "test": 8})
    epochs: int = 5
    batch: int = 4

    def smaller(self) -> DenseSetup:
        """The same on a few images for an epoch: whether it runs."""
        return replace(self, counts={"train": 12, "val": 8, "test": 2}, epochs=1)

    @property
    def boxes(self) -> bool:
        """Whether targets are boxes, not masks."""
        return self.task == "detection"

    @property
    def title(self) -> str:
        """Task, head, network and size."""
        task = self.task.replace("_", " ").capitalize()
        return f"{task}: {self.head} on {self.model} at {self.size[0]} x {self.size[1]} px"


_REGIONS = {
    "strides": [8, 16, 32], "width": 64, "extra_levels": 0, "anchor_sizes": [24, 40, 64],
    "proposals_before_nms": [500, 300], "proposals": [200, 150], "rpn_batch": 128, "roi_batch": 128, "box_width": 256,
}  # fmt: skip
DENSE_SETUPS = (
    DenseSetup("semantic_segmentation", "mobilenetv2_100", "mobilenetv2", "fpn", {"width": 64}),
    DenseSetup("detection", "mobilenetv2_100", "mobilenetv2", "faster_rcnn", _REGIONS),
)


@dataclass
class _Row:
    k: str
    plain: Cost
    ours: Cost
    epoch: tuple[float, float]
    limit: float
    read_bytes: float
    in_sweep: float = float("nan")


def dense_section(setup: DenseSetup, seeds: int, place: Path, rates: tuple[float, float]) -> list[str]:
    """Measure one setup; the lines of its table.

    Args:
        setup: what is compared.
        seeds: how many of each depth.
        place: an empty folder is made in it.
        rates: FLOPs of one thread in a second, and bytes that it copies.
    """
    folder = place / f"{setup.task}-{setup.model}"
    folder.mkdir()
    images = place / "scenes"
    said = scenes(images, setup.counts)
    depths = {"0": "0", "half": str(_groups(setup) // 2), "all": "all"}
    _plain(setup, "0", images, folder, "--epochs", "1")  # the first process reads its files from the disk
    rows = []
    for name, k in depths.items():
        plain = _plain(setup, name, images, folder)
        ours = _ours(setup, images, folder, f"freeze_policy.k={k}", f"seed=range(0,{seeds})")
        rows.append(_row(setup, k, plain, ours, seeds, _epoch(setup, k, images, folder), rates, folder, images))
    sweep = _ours(
        setup, images, folder, f"freeze_policy.k={','.join(depths.values())}", f"seed=range(0,{seeds})",
        "output_dir=sweep",
    )  # fmt: skip
    shares = seconds_by_depth(folder / "sweep" / "runs", depths.values())
    for row in rows:
        row.in_sweep = shares[row.k] + (sweep.seconds - sum(shares.values())) / len(rows)
    return _lines(setup, said, rows, sweep, seeds)


def _groups(setup: DenseSetup) -> int:
    """How many layer groups the network has whose maps the head reads."""
    from thawline.backbones import TimmBackbone
    from thawline.backbones.maps import as_maps

    strides = setup.fields.get("strides", (4, 8, 16, 32))
    return len(as_maps(TimmBackbone(name=setup.model).skeleton(), strides, "block").groups)


def _plain(setup: DenseSetup, k: str, images: Path, folder: Path, *more: str) -> Cost:
    """One job of the plain way."""
    options = ["--root", str(images), "--model", setup.model, "--head", json.dumps(setup.fields), "--k", k]
    options += ["--size", *map(str, setup.size), "--batch-size", str(setup.batch), "--epochs", str(setup.epochs)]
    options += ["--classes", *(SCENE_CLASSES[1:] if setup.boxes else SCENE_CLASSES)]
    options += ["--boxes"] if setup.boxes else []
    return cost_of([str(REPOSITORY / "benchmarks" / "plain_dense_job.py"), *options, *more], folder)


def _ours(setup: DenseSetup, images: Path, folder: Path, *overrides: str) -> Cost:
    """A command of thawline, its start, planning, test and records included."""
    classes = ",".join(SCENE_CLASSES)
    data = ["dataset=coco"] if setup.boxes else ["dataset=mask_folder", f"dataset.classes=[{classes}]"]
    fixed = [
        *data, f"dataset.root={images}", f"head={setup.head}",
        *(f"head.{name}={json.dumps(value).replace(' ', '')}" for name, value in setup.fields.items()),
        f"backbone={setup.backbone}", f"backbone.name={setup.model}", "backbone.weights=null",
        "transform=squash", f"transform.size=[{setup.size[0]},{setup.size[1]}]",
        "optimizer=adamw", "optimizer.lr=0.001", "scheduler=constant",
        f"trainer.max_epochs={setup.epochs}", f"trainer.batch_size={setup.batch}",
        "trainer.accelerator=cpu", "logger=none", "data_seed=0", "sweep.report=false",
    ]  # fmt: skip
    return cost_of(["-m", "thawline", "train", "-m", *fixed, *overrides], folder)


def _epoch(setup: DenseSetup, k: str, images: Path, folder: Path) -> float:
    """CPU seconds of thawline for an epoch more, on a store that is there."""
    one, two = (
        _ours(setup, images, folder, f"freeze_policy.k={k}", "seed=100", f"trainer.max_epochs={factor * setup.epochs}")
        for factor in (1, 2)
    )
    return (two.seconds - one.seconds) / setup.epochs


def _records(folder: Path, k: str, outputs: str = "outputs") -> list[dict[str, Any]]:
    """The records of the runs of this depth."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{outputs}/runs/*/record.json"))]
    return [record for record in found if str(record["config"]["freeze_policy"]["k"]) == k]


def _row(
    setup: DenseSetup,
    k: str,
    plain: Cost,
    ours: Cost,
    seeds: int,
    epoch: float,
    rates: tuple[float, float],
    folder: Path,
    images: Path,
) -> _Row:
    record = _records(folder, k)[0]
    line = record["phases"][0]["thaw_line"]
    name = k if k in ("0", "all") else "half"
    trained, evaluated = json.loads(_plain(setup, name, images, folder, "--head-flops").output)
    train, val, test = (record["splits"][part]["samples"] for part in ("train", "val", "test"))
    suffix, prefix = line["suffix_flops_per_sample"], line["prefix_flops_per_sample"]
    suffix, prefix = (float("nan") if flops is None else flops for flops in (suffix, prefix))
    steps = train * (3 * suffix + trained) + val * (suffix + evaluated)
    once = seeds * test * (suffix + evaluated) + (train + val + test) * prefix
    read = (train + val) * line["bytes_per_sample"] if line["stored"] else 0.0
    limit = (seeds * setup.epochs * steps + once) / rates[0] + seeds * setup.epochs * read / rates[1]
    per_epoch = json.loads(plain.output)["seconds_per_epoch"], epoch
    counted = Cost(plain.seconds * seeds, plain.wall_seconds * seeds, plain.peak_memory_bytes)
    return _Row(k, counted, ours, per_epoch, limit, read)


def _lines(setup: DenseSetup, images: str, rows: Sequence[_Row], sweep: Cost, seeds: int) -> list[str]:
    lines = [
        f"{images}. {setup.epochs} epochs, batch {setup.batch}, {seeds} seeds.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---|" + "---:|" * (len(_COLUMNS) - 1),
    ]
    for row in rows:
        plain, ours = row.epoch
        shown = [
            *_compared(row.plain, row.ours),
            f"{row.in_sweep:.1f}", f"{row.plain.seconds / row.in_sweep:.1f}", _or_dash(row.limit),
            f"{plain:.2f} / {ours:.2f}", f"{plain / ours:.1f}", f"{row.read_bytes / 1e6:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join([row.k, *shown, *_memory_and_wall(row.plain, row.ours)])} |")
    plain_sum = sum((row.plain for row in rows[1:]), rows[0].plain)
    shown = [*_compared(plain_sum, sweep), *["-"] * 6, *_memory_and_wall(plain_sum, sweep)]
    return [*lines, f"| {' | '.join(['all of these, the sweep', *shown])} |"]


def _or_dash(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _compared(plain: Cost, ours: Cost) -> list[str]:
    return [f"{plain.seconds:.1f}", f"{ours.seconds:.1f}", f"{plain.seconds / ours.seconds:.1f}"]


def _memory_and_wall(plain: Cost, ours: Cost) -> list[str]:
    return [
        " / ".join(f"{cost.peak_memory_bytes / 1e6:.0f}" for cost in (plain, ours)),
        " / ".join(f"{cost.wall_seconds:.1f}" for cost in (plain, ours)),
    ]
