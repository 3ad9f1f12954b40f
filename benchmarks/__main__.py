"""``make bench``: thawline against the plain way, in one run; writes docs/performance.md.

Plain way: one process per job. Lightning, timm, DataLoader and torchmetrics, the frozen part with
``requires_grad=False`` and in eval mode (`plain_job`). Everything is CPU seconds of whole processes.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.images import REPOSITORY, small_images
from benchmarks.measure import Cost, cost_of, matmul_flops_per_second

MODELS = {
    "mobilenetv3_small_100": "mobilenetv3",
    "resnet18": "resnet18",
    "vit_tiny_patch16_224": "vit_tiny",
}
DEPTHS = ("0", "1", "2", "4", "all")
EPOCHS, BATCH, SIZE = 5, 64, 64
TRAIN, VAL = 1000, 500
_COLUMNS = ("k", "plain, CPU s", "thawline, CPU s", "ratio", "limit, s", "peak memory, MB (plain / thawline)")
_HEADER = """# Performance

`make bench` makes this page: thawline against the plain way of doing the same work, measured in one run. The plain way
is one process per job with Lightning, timm, DataLoader and torchmetrics, the frozen part with `requires_grad=False` and
in eval mode (`benchmarks/plain_job.py`). One plain job is measured for each depth and counted {seeds} times, since
seeds cost the same; thawline's sweeps are measured whole. CPU seconds (user + system) of whole processes, imports
included. *Limit*: the time that the FLOPs of the same work take at the matmul rate (suffix forward and backward,
validation, the prefix once)."""


@dataclass
class Row:
    """One depth of one model."""

    k: str
    plain: Cost
    ours: Cost
    limit_seconds: float = float("nan")


@dataclass
class Table:
    """All that was measured of one model."""

    model: str
    rows: list[Row] = field(default_factory=list)
    again: Cost | None = None
    packed: Cost | None = None
    store_bytes: int = 0


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "performance.md")
    arguments = parser.parse_args()
    rate = matmul_flops_per_second()
    with tempfile.TemporaryDirectory() as temporary:
        images = Path(temporary) / "images"
        kind = small_images(images)
        tables = [_measure(model, arguments.seeds, images, Path(temporary), rate) for model in arguments.models]
    text = _document(tables, kind, rate, arguments.seeds)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text)
    print(text)


def _measure(model: str, seeds: int, images: Path, place: Path, rate: float) -> Table:
    table = Table(model)
    groups = _groups(model)
    folder = place / model
    folder.mkdir()
    for k in DEPTHS:
        plain = _plain(model, groups, k, images, folder)
        ours = _ours(model, [f"freeze_policy.k={k}", _seeds(seeds)], images, folder)
        plain = Cost(plain.cpu_seconds * seeds, plain.wall_seconds * seeds, plain.peak_memory_bytes)
        table.rows.append(Row(k, plain, ours, seeds * _limit(folder, k) / rate))
        print(f"{model} k={k}: plain {plain.cpu_seconds:.1f} s, thawline {ours.cpu_seconds:.1f} s", file=sys.stderr)
    table.again = _ours(model, ["freeze_policy.k=0", f"seed=range(100,{100 + seeds})"], images, folder)
    rates = "optimizer.lr=0.001,0.003,0.01,0.03,0.1,0.3,1,3"
    decays = "optimizer.weight_decay=0,1e-6,1e-5,1e-4,1e-3,1e-2,1e-1,1"
    table.packed = _ours(model, ["freeze_policy.k=0", rates, decays], images, folder)
    cache = folder / "outputs" / "cache"
    table.store_bytes = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return table


def _seeds(count: int) -> str:
    return f"seed=range(0,{count})"


def _groups(model: str) -> list[list[str]]:
    """The parameter names of each layer group, as timm names them."""
    from thawline.backbones import TimmBackbone

    spec = TimmBackbone(name=model, input_size=SIZE if model.startswith("vit") else None)
    return [list(group.parameters) for group in spec.skeleton().groups]


def _plain(model: str, groups: list[list[str]], k: str, images: Path, folder: Path) -> Cost:
    """One job of the plain way."""
    chosen = groups if k == "all" else groups[len(groups) - int(k) :]
    names = [name for group in chosen for name in group]
    options = ["--root", str(images), "--model", model, "--size", str(SIZE), "--epochs", str(EPOCHS)]
    options += ["--batch-size", str(BATCH), "--seed", "0"]
    if k != "all":
        options += ["--trainable", json.dumps([*names, "-"])]
    return cost_of([str(REPOSITORY / "benchmarks" / "plain_job.py"), *options], folder)


def _ours(model: str, grid: Sequence[str], images: Path, folder: Path) -> Cost:
    """A sweep by thawline, its start, planning and records included."""
    size = ["backbone.input_size=64"] if model.startswith("vit") else []
    fixed = [
        f"backbone={MODELS[model]}", "backbone.weights=weights.safetensors", *size, "dataset=image_folder",
        f"dataset.root={images}", "transform=squash", f"transform.size={SIZE}", f"trainer.max_epochs={EPOCHS}",
        f"trainer.batch_size={BATCH}", "trainer.accelerator=cpu", "logger=none", "data_seed=0", "sweep.report=false",
    ]  # fmt: skip
    if not (folder / "weights.safetensors").exists():
        _random_weights(model, folder / "weights.safetensors")
    return cost_of(["-m", "thawline", "train", "-m", *fixed, *grid], folder)


def _random_weights(model: str, path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    extra = {"img_size": SIZE} if model.startswith("vit") else {}
    save_file({k: v.contiguous() for k, v in timm.create_model(model, **extra).state_dict().items()}, path)


def _limit(folder: Path, k: str) -> float:
    """The FLOPs of one job that nothing can save: suffix forward and backward, and validation; the prefix once."""
    for path in folder.glob("outputs/runs/*/record.json"):
        record = json.loads(path.read_text())
        if str(record["config"]["freeze_policy"]["k"]) == k:
            line = record["phases"][0]["thaw_line"]
            suffix = line.get("suffix_flops_per_sample")
            if suffix is None:
                return float("nan")
            return float(EPOCHS * (3 * TRAIN + VAL) * suffix + (TRAIN + VAL) * line["prefix_flops_per_sample"] / 3)
    return float("nan")


def _document(tables: Sequence[Table], kind: str, rate: float, seeds: int) -> str:
    from thawline.runs.provenance import hardware

    machine = hardware()
    lines = [
        *_HEADER.format(seeds=seeds).splitlines(),
        "",
        f"{machine['processor']}, {machine['cores']} cores, Python {platform.python_version()}; measured float32",
        f"matmul rate {rate / 1e9:.0f} GFLOP/s. {TRAIN:,} training and {VAL} validation images ({kind}) at {SIZE} px,",
        f"{EPOCHS} epochs, batch {BATCH}, {seeds} seeds.",
        "",
    ]
    for table in tables:
        lines += [f"## {table.model}", "", f"| {' | '.join(_COLUMNS)} |"]
        lines.append("|---|---:|---:|---:|---:|---:|")
        for row in table.rows:
            lines.append(_line(row.k, row.plain, row.ours, row.limit_seconds))
        plain = sum((row.plain for row in table.rows[1:]), table.rows[0].plain)
        ours = sum((row.ours for row in table.rows[1:]), table.rows[0].ours)
        lines.append(_line("all of these", plain, ours, sum(row.limit_seconds for row in table.rows)))
        first = table.rows[0].plain
        if table.again is not None:
            lines.append(_line("0 again, new seeds, same store", first, table.again, float("nan")))
        if table.packed is not None:
            many = Cost(first.cpu_seconds / seeds * 64, first.wall_seconds / seeds * 64, first.peak_memory_bytes)
            lines.append(_line("0, 64 rates and decays, packed", many, table.packed, float("nan")))
        lines += ["", f"The store holds {table.store_bytes / 1e6:.1f} MB after all of these.", ""]
    return "\n".join(lines)


def _line(name: str, plain: Cost, ours: Cost, limit: float) -> str:
    ratio = plain.cpu_seconds / ours.cpu_seconds
    shown = "-" if limit != limit else f"{limit:.1f}"
    memory = f"{plain.peak_memory_bytes / 1e6:.0f} / {ours.peak_memory_bytes / 1e6:.0f}"
    return f"| {name} | {plain.cpu_seconds:.1f} | {ours.cpu_seconds:.1f} | {ratio:.1f} | {shown} | {memory} |"


if __name__ == "__main__":
    main()
