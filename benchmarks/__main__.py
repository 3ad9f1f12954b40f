"""``make bench``: thawline against the plain way, in one run; writes docs/performance.md.

Plain way: one process per job. Lightning, timm, DataLoader and torchmetrics, the frozen part with
``requires_grad=False`` and in eval mode (`plain_job`). What is compared is CPU seconds of whole processes; on a GPU,
wall seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.dense import DENSE_SETUPS, NOTE, dense_section
from benchmarks.images import REPOSITORY, photographs, small_images
from benchmarks.measure import Cost, copied_bytes_per_second, cost_of, matmul_flops_per_second
from benchmarks.page import Page

DEPTHS = ("0", "1", "2", "4", "all")
EPOCHS, BATCH = 5, 64
MANY = 30
_IMPORTS = "import pytorch_lightning, timm, torchmetrics"
_COLUMNS = (
    "k", "plain, {unit}", "own command, {unit}", "ratio", "in the sweep, {unit}", "ratio", "limit, {unit}",
    "training / bare loop (Lightning alone)", "peak memory, MB (plain / thawline)",
    "wall time, s (plain / thawline)",
)  # fmt: skip
_HEADER = """# Performance

`make bench` makes this page: thawline against the plain way of doing the same work, measured in one run; `--only`
measures some sections anew and keeps the others. The plain way is one process per job with Lightning, timm,
DataLoader and torchmetrics, the frozen part with `requires_grad=False` and in eval mode (`benchmarks/plain_job.py`).
One plain job is measured for each depth and counted once for each seed, since seeds cost the same; thawline's sweeps
are measured whole. *Own command*: each depth as a command of its own. *In the sweep*: the same depth's share of one
command that sweeps all depths and starts from nothing; its runs say what they cost, and what belongs to no depth
(imports, planning) is split evenly among the depths. The wall times are those of own commands, and of plain jobs one
after the other. {seconds} of whole processes, imports included: a process that imports torch, timm, Lightning and
torchmetrics and ends costs {imports:.1f} s on this machine, once a command here and once a job in the plain way.
*Limit*: what the FLOPs of the same work take at the rate of {products} (suffix forward and backward, validation, the
prefix once); a convolution that saves multiplications (Winograd) can be faster than that. *Training / bare loop*: CPU
seconds of a run's training part over those of the suffix loop written by hand in torch on the same stored tensors, on
as many threads (`benchmarks/suffix_loop.py`); in brackets the same for Lightning's loop with nothing else in it."""


@dataclass(frozen=True)
class Setup:
    """What is compared: a network on images of one size."""

    model: str
    backbone: str
    size: int
    photographs: bool = False
    accelerator: str = "cpu"
    precision: str = "32-true"
    workers: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes: then wall seconds are compared, and the GPU's memory."""
        return self.accelerator != "cpu"

    @property
    def title(self) -> str:
        """Network and size."""
        return f"{self.model} at {self.size} px" + (f", {self.precision}, channels last, GPU" if self.on_gpu else "")


SETUPS = (
    Setup("mobilenetv3_small_100", "mobilenetv3", 64),
    Setup("resnet18", "resnet18", 64),
    Setup("vit_tiny_patch16_224", "vit_tiny", 64),
    Setup("mobilenetv3_small_100", "mobilenetv3", 224, photographs=True),
)
GPU_SETUPS = tuple(
    Setup(model, "timm", 224, photographs=True, accelerator="gpu", precision="bf16-mixed", workers=8)
    for model in ("resnet50", "vit_base_patch16_224")
)


@dataclass
class Row:
    """One depth of one network."""

    k: str
    plain: Cost
    ours: Cost
    in_sweep: float = float("nan")
    limit_seconds: float = float("nan")
    over_bare: tuple[float, float] = (float("nan"), float("nan"))


@dataclass
class Table:
    """All that was measured of one network."""

    setup: Setup
    images: str = ""
    rows: list[Row] = field(default_factory=list)
    sweep: Cost | None = None
    again: Cost | None = None
    again_many: Cost | None = None
    packed: Cost | None = None
    store_bytes: int = 0
    difference: tuple[float, float] = (float("nan"), float("nan"))


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--only", nargs="*", default=None, help="only these networks of classification, or these tasks")
    parser.add_argument("--smoke", action="store_true", help="masks and boxes: a few images, one epoch")
    parser.add_argument("--gpu", action="store_true", help="ResNet-50 and ViT-B at 224 px in bf16 on one GPU")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dense-seeds", type=int, default=2, help="seeds of masks and boxes")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    name = "performance_gpu.md" if arguments.gpu else "performance.md"
    setups, dense = (GPU_SETUPS, ()) if arguments.gpu else (SETUPS, DENSE_SETUPS)
    page = Page(arguments.output or REPOSITORY / "docs" / name, [each.title for each in (*setups, *dense)])
    rate = matmul_flops_per_second("cuda" if arguments.gpu else "cpu")
    text = ""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        imports = min(cost_of(["-c", _IMPORTS], place).seconds for _ in range(3))
        head = [*_header(arguments.gpu, imports), ""]
        before = {dense[0].title: ["# Masks and boxes", "", *NOTE.splitlines(), ""]} if dense else {}
        for setup in setups:
            if _wanted(arguments.only, setup.model):
                page.put(setup.title, _section(_measure(setup, arguments.seeds, place, rate), arguments.seeds), rate)
                text = page.write(head, before)
        for each in dense:
            if _wanted(arguments.only, each.task):
                wanted = each.smaller() if arguments.smoke else each
                lines = dense_section(wanted, arguments.dense_seeds, place, (rate, copied_bytes_per_second()))
                page.put(each.title, lines, rate)
                text = page.write(head, before)
    print(text)


def _wanted(only: Sequence[str] | None, name: str) -> bool:
    return only is None or name in only


def _measure(setup: Setup, seeds: int, place: Path, rate: float) -> Table:
    table = Table(setup)
    folder = place / f"{setup.model}-{setup.size}"
    folder.mkdir()
    images = place / ("photographs" if setup.photographs else "small")
    table.images = (photographs if setup.photographs else small_images)(images)
    groups = _groups(setup)
    # The first process reads its files from the disk and compiles them.
    _plain(setup, groups, "0", images, folder)
    for k in DEPTHS:
        plain = _plain(setup, groups, k, images, folder)
        ours = _ours(setup, [f"freeze_policy.k={k}", _seeds(seeds)], images, folder)
        plain = Cost(plain.seconds * seeds, plain.wall_seconds * seeds, plain.peak_memory_bytes)
        run = _run_of(folder, k)
        limit, over_bare = seeds * _limit(run, seeds) / rate, _over_bare(setup, run, folder)
        table.rows.append(Row(k, plain, ours, limit_seconds=limit, over_bare=over_bare))
        print(f"{setup.title} k={k}: plain {plain.seconds:.1f} s, thawline {ours.seconds:.1f} s, "
              f"{over_bare[0]:.2f} of the bare loop", file=sys.stderr)  # fmt: skip
    sweep = [f"freeze_policy.k={','.join(DEPTHS)}", _seeds(seeds), "output_dir=sweep"]
    table.sweep = _ours(setup, sweep, images, folder)
    shares = _seconds_by_depth(setup, folder, "sweep")
    unshared = (table.sweep.seconds - sum(shares.values())) / len(shares)
    for row in table.rows:
        row.in_sweep = shares[row.k] + unshared
    table.again = _ours(setup, ["freeze_policy.k=0", f"seed=range(100,{100 + seeds})"], images, folder)
    table.again_many = _ours(setup, ["freeze_policy.k=0", f"seed=range(200,{200 + MANY})"], images, folder)
    rates = "optimizer.lr=0.001,0.003,0.01,0.03,0.1,0.3,1,3"
    decays = "optimizer.weight_decay=0,1e-6,1e-5,1e-4,1e-3,1e-2,1e-1,1"
    table.packed = _ours(setup, ["freeze_policy.k=0", rates, decays], images, folder)
    cache = folder / "outputs" / "cache"
    table.store_bytes = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    table.difference = _difference(setup, images, folder)
    return table


def _seeds(count: int) -> str:
    return f"seed=range(0,{count})"


def _groups(setup: Setup) -> list[list[str]]:
    """The parameter names of each layer group, as timm names them."""
    from thawline.backbones import TimmBackbone

    spec = TimmBackbone(name=setup.model, input_size=setup.size if setup.model.startswith("vit") else None)
    return [list(group.parameters) for group in spec.skeleton().groups]


def _plain(setup: Setup, groups: list[list[str]], k: str, images: Path, folder: Path) -> Cost:
    """One job of the plain way."""
    chosen = groups if k == "all" else groups[len(groups) - int(k) :]
    names = [name for group in chosen for name in group]
    options = ["--root", str(images), "--model", setup.model, "--size", str(setup.size), "--epochs", str(EPOCHS)]
    options += ["--batch-size", str(BATCH), "--seed", "0", "--accelerator", setup.accelerator]
    options += ["--precision", setup.precision, "--workers", str(setup.workers)]
    if k != "all":
        options += ["--trainable", json.dumps([*names, "-"])]
    if setup.on_gpu:
        options.append("--channels-last")
    cost = cost_of([str(REPOSITORY / "benchmarks" / "plain_job.py"), *options], folder)
    return _on_gpu(cost, json.loads(cost.output)["peak_memory_bytes"]) if setup.on_gpu else cost


def _on_gpu(cost: Cost, peak_memory_bytes: int) -> Cost:
    """What a process that computed on a GPU cost: its wall seconds, and the peak of the GPU's memory."""
    return Cost(cost.wall_seconds, cost.wall_seconds, peak_memory_bytes, cost.output)


def _ours(setup: Setup, grid: Sequence[str], images: Path, folder: Path) -> Cost:
    """A sweep by thawline, its start, planning and records included."""
    size = [f"backbone.input_size={setup.size}"] if setup.model.startswith("vit") else []
    fixed = [
        f"backbone={setup.backbone}", f"backbone.name={setup.model}", "backbone.weights=weights.safetensors", *size,
        "dataset=image_folder", f"dataset.root={images}", "transform=squash", f"transform.size={setup.size}",
        "optimizer=sgd", f"trainer.max_epochs={EPOCHS}", f"trainer.batch_size={BATCH}",
        f"trainer.accelerator={setup.accelerator}", f"trainer.precision={setup.precision}", "logger=none",
        "data_seed=0", "sweep.report=false",
        *(["trainer.channels_last=true"] if setup.on_gpu else []),
    ]  # fmt: skip
    if not (folder / "weights.safetensors").exists():
        _random_weights(setup, folder / "weights.safetensors")
    before = set(folder.glob("*/runs/*/record.json"))
    cost = cost_of(["-m", "thawline", "train", "-m", *fixed, *grid], folder)
    if not setup.on_gpu:
        return cost
    new = set(folder.glob("*/runs/*/record.json")) - before
    return _on_gpu(cost, max(json.loads(path.read_text())["cost"]["peak_memory_bytes"] for path in new))


def _difference(setup: Setup, images: Path, folder: Path) -> tuple[float, float]:
    """The largest difference of a loss and of a weight between the same run (k = 2) with and without the store."""
    import numpy as np
    from safetensors.numpy import load_file

    _ours(setup, ["freeze_policy.k=2", "seed=0", "cache.mode=off", "output_dir=computed"], images, folder)
    stored, computed = _run_of(folder, "2", seed=0), _run_of(folder, "2", seed=0, outputs="computed")
    histories = [json.loads((run / "record.json").read_text())["history"] for run in (stored, computed)]
    losses = max(
        abs(one[name] - other[name])
        for one, other in zip(*histories, strict=True)
        for name in ("train/loss", "val/loss")
    )
    tensors = [load_file(run / "best.safetensors") for run in (stored, computed)]
    weights = max(
        float(np.abs(tensors[0][name].astype(float) - tensors[1][name].astype(float)).max()) for name in tensors[0]
    )
    return losses, weights


def _random_weights(setup: Setup, path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    extra = {"img_size": setup.size} if setup.model.startswith("vit") else {}
    save_file({k: v.contiguous() for k, v in timm.create_model(setup.model, **extra).state_dict().items()}, path)


def _run_of(folder: Path, k: str, seed: int | None = None, outputs: str = "outputs") -> Path:
    """The folder of a run of this depth."""
    for path in sorted(folder.glob(f"{outputs}/runs/*/record.json")):
        config = json.loads(path.read_text())["config"]
        if str(config["freeze_policy"]["k"]) == k and seed in (None, config["seed"]):
            return path.parent
    raise RuntimeError(f"{folder} has no run of k={k}")


def _seconds_by_depth(setup: Setup, folder: Path, outputs: str) -> dict[str, float]:
    """The seconds that the runs of each depth say they cost."""
    name = "total_seconds" if setup.on_gpu else "cpu_seconds"
    seconds = dict.fromkeys(DEPTHS, 0.0)
    for path in folder.glob(f"{outputs}/runs/*/record.json"):
        record = json.loads(path.read_text())
        seconds[str(record["config"]["freeze_policy"]["k"])] += record["cost"][name]
    return seconds


def _limit(run: Path, seeds: int) -> float:
    """The FLOPs of one of `seeds` runs that nothing can save: suffix forward and backward, validation, prefix once."""
    record = json.loads((run / "record.json").read_text())
    line = record["phases"][0]["thaw_line"]
    suffix = line.get("suffix_flops_per_sample")
    if suffix is None:
        return float("nan")
    train, val = (record["splits"][part]["samples"] for part in ("train", "val"))
    return float(EPOCHS * (3 * train + val) * suffix + (train + val) * line["prefix_flops_per_sample"] / seeds)


def _over_bare(setup: Setup, run: Path, folder: Path) -> tuple[float, float]:
    """CPU seconds of the training part, and of Lightning alone, over the bare suffix loop's; for runs on stored values.

    Not for packed probes, which have no loop of their own.
    """
    record = json.loads((run / "record.json").read_text())
    line = record["phases"][0]["thaw_line"]
    if setup.on_gpu or line["packed"] > 1 or not line["stored"]:
        return float("nan"), float("nan")
    seconds = json.loads(cost_of([str(REPOSITORY / "benchmarks" / "suffix_loop.py"), str(run)], folder).output)
    return float(seconds["training"] / seconds["bare"]), float(seconds["lightning"] / seconds["bare"])


def _header(on_gpu: bool, imports: float) -> list[str]:
    seconds, products = "CPU seconds (user + system)", "large float32 products on one thread"
    if on_gpu:
        seconds, products = "Wall seconds and peaks of the GPU's memory", "large bfloat16 products"
    text = _HEADER.format(imports=imports, seconds=seconds, products=products)
    title, _, body = text.partition("\n\n")
    return [title, "", *textwrap.wrap(body, 120, break_on_hyphens=False)]


def _section(table: Table, seeds: int) -> list[str]:
    lines = [
        f"{table.images.capitalize()}, for training and validation. {EPOCHS} epochs, batch {BATCH}, {seeds} seeds.",
        "",
        f"| {' | '.join(_COLUMNS).format(unit='s' if table.setup.on_gpu else 'CPU s')} |",
        "|---|" + "---:|" * (len(_COLUMNS) - 1),
    ]
    for row in table.rows:
        lines.append(_line(row.k, row.plain, row.ours, row.in_sweep, row.limit_seconds, row.over_bare))
    plain = sum((row.plain for row in table.rows[1:]), table.rows[0].plain)
    if table.sweep is not None:
        lines.append(_line("all of these, the sweep", plain, table.sweep))
    first = table.rows[0].plain
    if table.again is not None:
        lines.append(_line(f"0, {seeds} new seeds on the same store", first, table.again))
    if table.again is not None and table.again_many is not None:
        lines.append(_line(f"0, {MANY} new seeds on the same store", _times(first, MANY / seeds), table.again_many))
        added = (table.again_many.seconds - table.again.seconds) / (MANY - seeds)
        lines.append(_line("0, each further job there", _times(first, 1 / seeds), Cost(added, added, 0)))
    if table.packed is not None:
        lines.append(_line("0, 64 rates and decays", _times(first, 64 / seeds), table.packed))
    losses, weights = table.difference
    lines += [
        "",
        f"The store holds {table.store_bytes / 1e6:.1f} MB after all of these. The largest difference between a run",
        f"with k = 2 from the store and the same run without it: {losses:.2g} in a loss, {weights:.2g} in a weight.",
    ]
    return lines


def _times(cost: Cost, factor: float) -> Cost:
    return Cost(cost.seconds * factor, cost.wall_seconds * factor, cost.peak_memory_bytes)


def _line(
    name: str,
    plain: Cost,
    ours: Cost,
    in_sweep: float = float("nan"),
    limit: float = float("nan"),
    over_bare: tuple[float, float] = (float("nan"), float("nan")),
) -> str:
    ratio = plain.seconds / ours.seconds
    peaks = [f"{cost.peak_memory_bytes / 1e6:.0f}" if cost.peak_memory_bytes else "-" for cost in (plain, ours)]
    walls = [f"{cost.wall_seconds:.1f}" if cost.peak_memory_bytes else "-" for cost in (plain, ours)]
    numbers = [
        f"{plain.seconds:.1f}",
        f"{ours.seconds:.2f}" if ours.seconds < 1 else f"{ours.seconds:.1f}",
    ]
    loops = "-" if over_bare[0] != over_bare[0] else f"{over_bare[0]:.2f} ({over_bare[1]:.2f})"
    shown = [_number(in_sweep, 1), _number(plain.seconds / in_sweep, 1), _number(limit, 1), loops]
    return f"| {name} | {' | '.join([*numbers, f'{ratio:.1f}', *shown, ' / '.join(peaks), ' / '.join(walls)])} |"


def _number(value: float, digits: int) -> str:
    return "-" if value != value else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
