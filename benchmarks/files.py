"""Many files, and a store that is smaller than the data: what planning and reading cost."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.images import REPOSITORY, drawn_photographs, many_files
from benchmarks.measure import Cost, cost_of

FILES = "Many files"
MOST_FILES = 100_000
"""A million takes 4 GB of disk and some minutes: ``--most-files 1000000``."""
_MOST_TRAINED = 100_000
_SIZE = 224
_PHOTOGRAPHS = {"train": 36, "val": 12, "test": 1}
_PIXEL_BYTES = 3 * _SIZE * _SIZE
_PLANNED = (
    "files", "first, CPU s", "again, CPU s", "again / first", "again, us a file", "peak above the imports, MB",
    "kept after planning, bytes a file", "command of one epoch, CPU s", "the same, another seed, CPU s",
)  # fmt: skip
_READ = ("k", "epochs", "no store", "store of a quarter", "store of all", "a quarter / no store")
_NOTE = """The cost of planning a run on folders of small files in 100 classes: they are listed, hashed, decoded once as
a check, and divided into splits (`benchmarks/plan_job.py`). *Again* reuses the stored results of the first time. CPU
seconds are those of planning alone. *Kept after planning* is the memory in use afterwards.
*Command of one epoch* trains a linear probe of a tiny network at 32 px, with imports, planning, decoding, features,
test and records."""
_PHOTOGRAPHS_NOTE = """Files of 1 kB are the hardest case, because there is little decoding to save. Planning {images}
costs {first:.2f} CPU s the first time and {again:.3f} again: {ratio:.3f} of it."""
_READ_NOTE = """{images} at {size} px, decoded {decoded:.0f} MB; mobilenetv3_small_100 with random weights. Images
trained on or evaluated per CPU second of a run, including the pass that fills the store: without a store
(`cache.mode=off`), with a budget of a quarter of the decoded images (`cache.max_bytes={budget}`), and with a store that
holds everything. A quarter is enough for the features of k = 0. For k = all it holds nothing, and images are decoded
while the device computes the previous step."""


def files_section(place: Path, most: int = MOST_FILES) -> list[str]:
    """Measure; the lines of both tables.

    Args:
        place: an empty folder is made in it.
        most: files of the largest folder.
    """
    folder = place / "files"
    folder.mkdir()
    lines = [*_wrapped(_NOTE), "", _row(_PLANNED), "|" + "---:|" * len(_PLANNED)]
    for count in _counts(most):
        images = folder / str(count)
        many_files(images, count)
        first, again = (_planned(images, folder / f"looks-{count}", folder) for _ in range(2))
        if first["digests"] != again["digests"]:
            raise RuntimeError(f"{count} files: the second plan is another one")
        epochs = ["-", "-"]
        if count <= _MOST_TRAINED:
            epochs = [f"{_epoch(images, folder, seed).seconds:.1f}" for seed in (0, 1)]
        seconds, later = first["cpu_seconds"], again["cpu_seconds"]
        lines.append(
            _row([
                f"{count:,}", f"{seconds:.2f}", f"{later:.2f}", f"{later / seconds:.2f}", f"{1e6 * later / count:.0f}",
                f"{max(first['peak_bytes'], again['peak_bytes']) / 1e6:.0f}",
                f"{again['kept_bytes'] / count:.0f}" if count >= 10_000 else "-", *epochs,
            ])
        )  # fmt: skip
    said = drawn_photographs(folder / "photographs", _PHOTOGRAPHS)
    return [*lines, "", *_photographs_lines(folder, said), "", *_budget_lines(folder, said)]


def _counts(most: int) -> Iterator[int]:
    count = 1000
    while count <= most:
        yield count
        count *= 10


def _planned(images: Path, looks: Path, folder: Path) -> dict[str, Any]:
    output = cost_of([str(REPOSITORY / "benchmarks" / "plan_job.py"), str(images), str(looks)], folder).output
    said: dict[str, Any] = json.loads(output)
    return said


def _epoch(images: Path, folder: Path, seed: int) -> Cost:
    """A command that trains a linear probe for one epoch."""
    return _train(
        folder, "backbone=test_resnet", "dataset=image_folder", f"dataset.root={images}", "transform=squash",
        "transform.size=32", "freeze_policy=linear_probe", "trainer.max_epochs=1", "trainer.batch_size=256",
        f"seed={seed}", f"output_dir=epoch-{images.name}",
    )  # fmt: skip


def _train(folder: Path, *overrides: str) -> Cost:
    fixed = ["optimizer=sgd", "trainer.accelerator=cpu", "trainer.progress=false", "logger=none", "data_seed=0"]
    return cost_of(["-m", "thawline", "train", *fixed, *overrides], folder)


def _photographs_lines(folder: Path, said: str) -> list[str]:
    """What planning costs where the files are photographs."""
    first, again = (
        _planned(folder / "photographs", folder / "looks-photographs", folder)["cpu_seconds"] for _ in range(2)
    )
    return _wrapped(_PHOTOGRAPHS_NOTE.format(images=said, first=first, again=again, ratio=again / first))


def _budget_lines(folder: Path, said: str) -> list[str]:
    """The table of a data set that is four times the store's budget."""
    decoded = _PIXEL_BYTES * 10 * sum(_PHOTOGRAPHS.values())
    budget = decoded // 4
    lines = _wrapped(_READ_NOTE.format(images=said.capitalize(), size=_SIZE, decoded=decoded / 1e6, budget=budget))
    lines += ["", _row(_READ), "|" + "---:|" * len(_READ)]
    stores = ("cache.mode=off", f"cache.max_bytes={budget}", "cache.max_bytes=10000000000")
    for k, epochs in (("0", 5), ("all", 2)):
        rates = [_images_per_second(folder, k, epochs, number, store) for number, store in enumerate(stores)]
        lines.append(_row([k, str(epochs), *(f"{rate:.1f}" for rate in rates), f"{rates[1] / rates[0]:.2f}"]))
    return lines


def _images_per_second(folder: Path, k: str, epochs: int, number: int, store: str) -> float:
    """Images of a run's epochs in a CPU second of it."""
    outputs = f"budget-{k}-{number}"
    _train(
        folder, "backbone=mobilenetv3", "backbone.weights=null", "dataset=image_folder",
        f"dataset.root={folder / 'photographs'}", "transform=squash", f"transform.size={_SIZE}", f"freeze_policy.k={k}",
        f"trainer.max_epochs={epochs}", "trainer.batch_size=32", store, f"output_dir={outputs}",
        f"cache.dir={outputs}/cache",
    )  # fmt: skip
    (path,) = (folder / outputs).glob("runs/*/record.json")
    record = json.loads(path.read_text())
    images = epochs * sum(record["splits"][part]["samples"] for part in ("train", "val"))
    return float(images / record["cost"]["cpu_seconds"])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_on_hyphens=False)


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
