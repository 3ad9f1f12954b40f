"""``make bench``: thawline against the plain way, in one run; writes docs/performance.md.

Plain way: one process per job. Lightning, timm, DataLoader and torchmetrics, the frozen part with
``requires_grad=False`` and in eval mode (`plain_job`). What is compared is CPU seconds of whole processes. On a
GPU: ``python -m benchmarks.gpu``.
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
from benchmarks.files import FILES, MOST_FILES, files_section
from benchmarks.half import TITLES as HALF
from benchmarks.half import half_section
from benchmarks.images import REPOSITORY, photographs, small_images
from benchmarks.jobs import DEPTHS, Setup, command, depth_of, least_flops, plain_job, records
from benchmarks.measure import Cost, copied_bytes_per_second, cost_of, matmul_flops_per_second, seconds_by_depth
from benchmarks.page import Page
from benchmarks.peers import TITLE as PEERS
from benchmarks.peers import peers_section
from benchmarks.start import TITLE as START
from benchmarks.start import start_section
from benchmarks.tried import TRIED

MANY = 30
_IMPORTS = "import pytorch_lightning, timm, torchmetrics"
_COLUMNS = (
    "k", "plain, CPU s", "own command, CPU s", "ratio", "in the sweep, CPU s", "ratio", "limit, CPU s",
    "training / bare loop (Lightning alone)", "peak memory, MB (plain / thawline)",
    "wall time, s (plain / thawline)",
)  # fmt: skip
_HEADER = """# Performance

How many seconds and how much memory thawline takes, compared with the plain way of doing the same work. `make bench`
measures everything on this page in one run; `--only` measures some sections again and keeps the others.

The *plain* way is one process per job with Lightning, timm, DataLoader and torchmetrics, the frozen part with
`requires_grad=False` and in eval mode (`benchmarks/plain_job.py`). One plain job is measured for each depth and
multiplied by the number of seeds, since all seeds cost the same; thawline's sweeps are measured completely. CPU seconds
are user + system time of whole processes, imports included. Importing torch, timm, Lightning and torchmetrics alone
costs {imports:.1f} s on this machine: once per command here, once per job in the plain way.

*Own command*: each depth is a command of its own. *In the sweep*: the cost of the same depth within one command that
sweeps all depths, starting without any stored values. Costs that belong to no depth (imports, planning) are divided
evenly among the depths. Wall times are those of own commands, and of plain jobs run one after the other.

*Limit*: the time for the FLOPs of the same work (suffix forward and backward, validation, the prefix once) at the speed
of large float32 matrix products on one thread. Convolutions that save multiplications (Winograd) can be faster.
*Training / bare loop*: CPU seconds of a run's training, divided by those of a minimal torch loop over the same stored
tensors with the same number of threads (`benchmarks/suffix_loop.py`); in brackets the same for Lightning's loop
alone."""


SETUPS = (
    Setup("mobilenetv3_small_100", "mobilenetv3", 64),
    Setup("resnet18", "resnet18", 64),
    Setup("vit_tiny_patch16_224", "vit_tiny", 64),
    Setup("mobilenetv3_small_100", "mobilenetv3", 224, photographs=True),
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
    parser.add_argument(
        "--only", nargs="*", default=None, help="only these networks, these tasks, peers, half, start, or files"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="masks, boxes, peers and half: few images, epochs or steps"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dense-seeds", type=int, default=2, help="seeds of masks and boxes")
    parser.add_argument("--most-files", type=int, default=MOST_FILES, help="files of the largest folder")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "performance.md")
    arguments = parser.parse_args()
    page = Page(arguments.output, [each.title for each in (*SETUPS, *DENSE_SETUPS)] + [*HALF, PEERS, START, FILES])
    rate = matmul_flops_per_second()
    text = ""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        imports = min(cost_of(["-c", _IMPORTS], place).seconds for _ in range(3))
        head = [*_header(imports), ""]
        before = {DENSE_SETUPS[0].title: ["# Masks and boxes", "", *NOTE.splitlines(), ""], PEERS: ["# Peers", ""]}
        before |= {title: ["# Precision", ""] for title in HALF}
        before |= {START: ["# Start", ""], FILES: ["# Files", ""]}
        for setup in SETUPS:
            if _wanted(arguments.only, setup.model):
                page.put(setup.title, _section(_measure(setup, arguments.seeds, place, rate), arguments.seeds), rate)
                text = page.write(head, before, TRIED.splitlines())
        for each in DENSE_SETUPS:
            if _wanted(arguments.only, each.task):
                wanted = each.smaller() if arguments.smoke else each
                lines = dense_section(wanted, arguments.dense_seeds, place, (rate, copied_bytes_per_second()))
                page.put(each.title, lines, rate)
                text = page.write(head, before, TRIED.splitlines())
        if _wanted(arguments.only, "half"):
            title, lines = half_section(place, smoke=arguments.smoke)
            page.put(title, lines, rate)
            text = page.write(head, before, TRIED.splitlines())
        if _wanted(arguments.only, "peers"):
            page.put(PEERS, peers_section(place, smoke=arguments.smoke), rate)
            text = page.write(head, before, TRIED.splitlines())
        if _wanted(arguments.only, "start"):
            page.put(START, start_section(place, smoke=arguments.smoke), rate)
            text = page.write(head, before, TRIED.splitlines())
        if _wanted(arguments.only, "files"):
            page.put(FILES, files_section(place, arguments.most_files), rate)
            text = page.write(head, before, TRIED.splitlines())
    print(text)


def _wanted(only: Sequence[str] | None, name: str) -> bool:
    return only is None or name in only


def _measure(setup: Setup, seeds: int, place: Path, rate: float) -> Table:
    table = Table(setup)
    folder = place / f"{setup.model}-{setup.size}"
    folder.mkdir()
    images = place / ("photographs" if setup.photographs else "small")
    table.images = (photographs if setup.photographs else small_images)(images)
    # The first process reads its files from the disk and compiles them.
    _plain(setup, "0", images, folder)
    for k in DEPTHS:
        plain = _plain(setup, k, images, folder)
        ours = _ours(setup, [f"freeze_policy.k={k}", _seeds(seeds)], images, folder)
        plain = Cost(plain.seconds * seeds, plain.wall_seconds * seeds, plain.peak_memory_bytes)
        run = _run_of(folder, k)
        record = json.loads((run / "record.json").read_text())
        limit, over_bare = seeds * least_flops(setup, record, seeds) / rate, _over_bare(run, folder)
        table.rows.append(Row(k, plain, ours, limit_seconds=limit, over_bare=over_bare))
        print(f"{setup.title} k={k}: plain {plain.seconds:.1f} s, thawline {ours.seconds:.1f} s, "
              f"{over_bare[0]:.2f} of the bare loop", file=sys.stderr)  # fmt: skip
    sweep = [f"freeze_policy.k={','.join(DEPTHS)}", _seeds(seeds), "output_dir=sweep"]
    table.sweep = _ours(setup, sweep, images, folder)
    shares = seconds_by_depth(folder / "sweep" / "runs", DEPTHS)
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


def _plain(setup: Setup, k: str, images: Path, folder: Path) -> Cost:
    """One job of the plain way."""
    return cost_of(plain_job(setup, images, [k]), folder)


def _ours(setup: Setup, grid: Sequence[str], images: Path, folder: Path) -> Cost:
    """A sweep by thawline, its start, planning and records included."""
    return cost_of(command(setup, images, folder, *grid), folder)


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


def _run_of(folder: Path, k: str, seed: int | None = None, outputs: str = "outputs") -> Path:
    """The folder of a run of this depth."""
    for run, record in records(folder, outputs).items():
        if depth_of(record) == k and seed in (None, record["config"]["seed"]):
            return run
    raise RuntimeError(f"{folder} has no run of k={k}")


def _over_bare(run: Path, folder: Path) -> tuple[float, float]:
    """CPU seconds of the training part, and of Lightning alone, over the bare suffix loop's.

    Not for packed probes, which have no loop of their own. Where no layer is frozen, the images are stored.
    """
    line = json.loads((run / "record.json").read_text())["phases"][0]["thaw_line"]
    if line["packed"] > 1:
        return float("nan"), float("nan")
    seconds = json.loads(cost_of([str(REPOSITORY / "benchmarks" / "suffix_loop.py"), str(run)], folder).output)
    return float(seconds["training"] / seconds["bare"]), float(seconds["lightning"] / seconds["bare"])


def _header(imports: float) -> list[str]:
    paragraphs = _HEADER.format(imports=imports).split("\n\n")
    return ["\n\n".join(textwrap.fill(each, 120, break_on_hyphens=False) for each in paragraphs)]


def _section(table: Table, seeds: int) -> list[str]:
    work = f"{table.setup.epochs} epochs, batch {table.setup.batch}, {seeds} seeds"
    lines = [
        f"{table.images.capitalize()}, for training and validation. {work}.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
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
