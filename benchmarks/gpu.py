"""thawline on a GPU against the plain way: ``python -m benchmarks.gpu`` writes docs/performance_gpu.md.

It makes its own images, asks for no network, and keeps to `--minutes`: what tells most is measured first, and the page
is written as results come, so that one that was cut is a page. `--tiny` is the same on a CPU, on tiny networks, in
about a minute: whether everything runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_figures import Figures, way_lines
from benchmarks.images import REPOSITORY, drawn_photographs
from benchmarks.jobs import DEPTHS, Setup, command, depth_of, plain_job, records
from benchmarks.measure import matmul_flops_per_second, watched
from benchmarks.page import Page
from benchmarks.tried import TRIED_ON_A_GPU

_HEADER = """# Performance on a GPU

Whole sweeps of thawline on an NVIDIA GPU, starting without any stored values, compared with the plain way of doing
the same work, in wall seconds. `python -m benchmarks.gpu` measures this page in at most eight minutes.

The plain way is one process per job with Lightning, timm, and a DataLoader ({workers} workers, pinned memory): once
with images decoded from their files in every epoch, and once with images that the job decodes first and keeps in
memory, so that the ratio does not only measure JPEG decoding. One job is measured for each depth and multiplied by
the number of seeds. To save time, the jobs of all depths run in one process; its start-up time ({imports}) and the
decoding are added to each job.

*In the sweep*: the seconds of the depth's runs in one command that sweeps all depths and seeds, with its share of the
pass over the images and an equal part of the costs that belong to no run (imports, planning). *Limit*: the time for
the FLOPs of that work at the measured speed of large matrix products. *Images/s*: images of training and validation
per second of an epoch, without the first epoch. *Share of the rate*: the FLOPs that an epoch really computes per
second, relative to that speed. *Feature pass*: the depth's share of the pass over the images that stores what its
runs read. *Peak memory*: the peak of the GPU's allocations. In 32-true {tf32}, in both ways. {told}"""
_WAYS = "Other ways to take a suffix's steps"
_WAYS_NOTE = """A training step on stored values that lie on the device already, as a run takes it, and in other ways:
what gives 1.5 times or more is worth building. `Five seeds` are five networks at once, and their limit that of five.
Below, a batch of values on its way from the store to the device, and gathered from values that are kept there."""
_LEAST_SECONDS = 15.0
"""With less left no further measurement is begun."""

_WAYS_SECONDS = 60.0
"""Of one network: compiling may take minutes."""

GPU = tuple(
    Setup(
        model, "timm", 224, accelerator="gpu", precision=precision, workers=8,
        channels_last=True if model == "resnet50" else None,
    )
    for precision in ("bf16-mixed", "32-true")
    for model in ("resnet50", "vit_base_patch16_224")
)  # fmt: skip
TINY = (
    Setup("test_vit", "test_vit", 32, precision="bf16-mixed", epochs=2, batch=16, workers=1),
    Setup("test_resnet", "test_resnet", 32, channels_last=True, epochs=2, batch=16),
)
_IMAGES = {"train": 128, "val": 32, "test": 4}
_FEW_IMAGES = {"train": 4, "val": 2, "test": 1}


@dataclass
class Check:
    """The measurements, and the page that shows what there is of them.

    Attributes:
        page: where it is written.
        place: a folder for images and runs.
        ends: when the time is up, by the clock of `time.perf_counter`.
        images: the folder of the images, and what they are.
        figures: what is measured, by network and precision.
    """

    page: Page
    place: Path
    ends: float
    images: tuple[Path, str]
    figures: Sequence[Figures]

    def __post_init__(self) -> None:
        self._left_out: list[str] = []
        self._ways: list[dict[str, Any]] = []
        for each in self.figures:
            each.images = self.images[1]
            self._folder(each).mkdir()

    def steps(self) -> list[tuple[str, Callable[[Figures], None], Figures]]:
        """What is measured, in order: half precision, packed probes, other ways, single precision, what is beside."""
        half = [each for each in self.figures if each.setup.precision != "32-true"]
        single = [each for each in self.figures if each.setup.precision == "32-true"]
        both = [("the sweep", self.sweep), ("the plain way", self.plain)]
        found = [(name, step, each) for each in half for name, step in both]
        # In mixed precision no probes are packed.
        found += [(name, step, single[0]) for name, step in (both[0], ("packed probes", self.packed), both[1])]
        found += [("other ways", self.ways, each) for each in half]
        ahead = [("reading ahead", self.ahead, half[0])]
        return [*found, *ahead, *((name, step, each) for each in single[1:] for name, step in both)]

    def run(self) -> str:
        """Measure until the time is up; the text of the page."""
        for name, step, each in self.steps():
            if self._left() < _LEAST_SECONDS:
                self._left_out.append(f"{name} of {each.title}")
                continue
            print(f"{name}: {each.title}", file=sys.stderr)
            try:
                step(each)
            except TimeoutError as error:
                self._left_out.append(f"the rest of {name} of {each.title} ({error})")
            except Exception as error:  # noqa: BLE001 - what fails must not cost the measurements that follow
                said = str(error).strip().splitlines() or [type(error).__name__]
                each.failed.append(f"Failed: {name}: {said[-1]}")
                traceback.print_exception(error)
            self.write(each)
        return self.page.write(self._header(), {}, TRIED_ON_A_GPU.splitlines())

    def sweep(self, each: Figures) -> None:
        """All depths and seeds in one command."""

        def so_far(_: str) -> None:
            each.records = list(records(self._folder(each)).values())
            self.write(each)

        grid = (f"freeze_policy.k={','.join(DEPTHS)}", f"seed=range(0,{each.seeds})")
        each.sweep_seconds = self._watched(each, command(*self._work(each), *grid), so_far)

    def plain(self, each: Figures) -> None:
        """A job for each depth and each way of reading."""

        def so_far(printed: str) -> None:
            each.plain = [json.loads(line) for line in printed.splitlines(keepends=True) if line.endswith("\n")]
            self.write(each)

        self._watched(each, plain_job(each.setup, self.images[0], DEPTHS, "--read", "memory", "files"), so_far)

    def packed(self, each: Figures) -> None:
        """64 probes on the store."""
        rates = "optimizer.lr=0.001,0.003,0.01,0.03,0.1,0.3,1,3"
        decays = "optimizer.weight_decay=0,1e-6,1e-5,1e-4,1e-3,1e-2,1e-1,1"
        grid = ("freeze_policy.k=0", "seed=100", rates, decays, "output_dir=packed", "cache.dir=outputs/cache")
        each.packed_seconds = self._watched(each, command(*self._work(each), *grid))

    def ahead(self, each: Figures) -> None:
        """Full fine-tuning with images that processes augment ahead."""
        workers = f"trainer.workers={each.setup.workers}"
        flipped = "transform.augmentation=[{_target_: torchvision.transforms.v2.RandomHorizontalFlip}]"
        grid = ("freeze_policy.k=all", "seed=0", workers, flipped, "output_dir=ahead", "cache.dir=outputs/cache")
        self._watched(each, command(*self._work(each), *grid))
        each.ahead = list(records(self._folder(each), "ahead").values())

    def ways(self, each: Figures) -> None:
        """Other ways to take a suffix's steps, at two depths."""
        runs = {depth_of(record): folder for folder, record in records(self._folder(each)).items()}
        folders = [runs[k] for k in ("1", "2") if k in runs]
        about = {str(runs[k]): (each.setup.title, k, each.rate) for k in ("1", "2") if k in runs}
        before = list(self._ways)

        def so_far(printed: str) -> None:
            found = [json.loads(line) for line in printed.splitlines(keepends=True) if line.endswith("\n")]
            self._ways = [*before, *({**way, "about": about[way["run"]]} for way in found)]
            self.write(each)

        self._watched(each, ["-m", "benchmarks.suffix_ways", *map(str, folders)], so_far, _WAYS_SECONDS)

    def write(self, each: Figures) -> str:
        """Write the page with what there is; its text."""
        if each.plain or each.records or each.failed:
            self.page.put(each.title, each.lines(), each.rate, each.as_json())
        if self._ways:
            runs = {way["run"]: way["about"] for way in self._ways}
            lines = [*textwrap.wrap(_WAYS_NOTE.replace("\n", " "), 120), "", *way_lines(self._ways, runs)]
            self.page.put(_WAYS, lines, each.rate, {"ways": self._ways})
        return self.page.write(self._header(), {}, TRIED_ON_A_GPU.splitlines())

    def _header(self) -> list[str]:
        plain = next((each.plain[0] for each in self.figures if each.plain), None)
        imports = "not measured yet" if plain is None else f"{plain['start_seconds']:.1f} s"
        left_out = f"Not measured, since time was up: {'; '.join(self._left_out)}." if self._left_out else ""
        workers = max(each.setup.workers for each in self.figures)
        text = _HEADER.format(workers=workers, imports=imports, tf32=_tf32(), told=left_out)
        wrapped = (textwrap.fill(each, 120, break_on_hyphens=False) for each in text.split("\n\n"))
        return ["\n\n".join(wrapped), ""]

    def _work(self, each: Figures) -> tuple[Setup, Path, Path]:
        return each.setup, self.images[0], self._folder(each)

    def _folder(self, each: Figures) -> Path:
        return self.place / f"{each.setup.model}-{each.setup.precision}"

    def _left(self) -> float:
        return self.ends - time.perf_counter()

    def _watched(
        self,
        each: Figures,
        arguments: Sequence[str],
        so_far: Callable[[str], None] | None = None,
        most_seconds: float = float("inf"),
    ) -> float:
        """Wall seconds of a process, which is stopped when the time is up."""
        return watched(arguments, self._folder(each), min(self._left(), most_seconds), so_far).wall_seconds


def _tf32() -> str:
    """How torch multiplies float32 numbers on a GPU, as it is set here."""
    import torch

    convolutions = "round to TF32" if torch.backends.cudnn.allow_tf32 else "do not round to TF32"
    products = "do too" if torch.get_float32_matmul_precision() != "highest" else "do not"
    return f"convolutions {convolutions} (torch's own setting) and matrix products {products}"


def _rates(device: str) -> dict[str, float]:
    kinds = ("bfloat16", "tf32", "float32") if device == "cuda" else ("bfloat16", "float32")
    return {kind: matmul_flops_per_second(device, kind, seconds=0.5) for kind in kinds}


def _figures(setup: Setup, seeds: int, rates: dict[str, float]) -> Figures:
    """Convolutions in single precision multiply in TF32, where there is a GPU."""
    kind = "bfloat16" if setup.precision != "32-true" else "tf32" if setup.channels_last else "float32"
    kind = kind if kind in rates else "float32"
    return Figures(setup, seeds, kind, rates[kind])


def main() -> None:
    """Measure and write the page."""
    import torch

    parser = argparse.ArgumentParser(prog="benchmarks.gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="all that it may take")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny networks on the CPU: whether everything runs")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    ends = time.perf_counter() + 60.0 * arguments.minutes
    tiny = arguments.tiny or not torch.cuda.is_available()
    output = arguments.output
    if output is None and tiny:
        parser.error(
            "without a GPU, and with --tiny, say where to write: --output PATH; the page keeps a GPU's figures"
        )
    output = output or REPOSITORY / "docs" / "performance_gpu.md"
    setups, counts, size = (TINY, _FEW_IMAGES, (48, 64)) if tiny else (GPU, _IMAGES, (375, 500))
    rates = _rates("cpu" if tiny else "cuda")
    figures = [_figures(setup, arguments.seeds, rates) for setup in setups]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        images = drawn_photographs(place / "images", counts, size)
        page = Page(output, [*(each.title for each in figures), _WAYS])
        print(Check(page, place, ends, (place / "images", images), figures).run())


if __name__ == "__main__":
    main()
