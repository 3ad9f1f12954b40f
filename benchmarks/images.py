"""The images of the benchmarks: real ones where they are, drawn ones of the same sizes elsewhere."""

from __future__ import annotations

import csv
import os
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
COUNTS = {"train": 100, "val": 50, "test": 50}
"""Images per class: 1,000 for training and 500 for validation over ten classes."""


def shared_data() -> Path | None:
    """The folder of real images and weights, where it is there."""
    folder = Path(os.environ.get("THAWLINE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def small_images(folder: Path) -> str:
    """Make train/, val/ and test/ with ten classes of small JPEGs in `folder`; returns what they are."""
    shared = shared_data()
    if shared is None:
        _draw(folder)
        return "1,000 and 500 drawn images, 32 x 32 JPEG, 10 classes"
    source = _unpacked(shared / "cifar10_jpg_subset.tar", folder / "source")
    taken: dict[tuple[str, str], int] = {}
    with (source / "splits.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            part = row["split"]
            for target in ("train", "val") if part == "train" else ("test",):
                key = (target, row["label"])
                if taken.get(key, 0) < COUNTS[target]:
                    taken[key] = taken.get(key, 0) + 1
                    path = folder / target / row["label"] / Path(row["path"]).name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes((source / row["path"]).read_bytes())
                    break
    return "1,000 and 500 images of CIFAR-10 as 32 x 32 JPEG, 10 classes"


def photographs(folder: Path) -> str:
    """Make train/, val/ and test/ with the flower photographs in `folder`; returns what they are."""
    shared = shared_data()
    if shared is None:
        return small_images(folder)
    source = _unpacked(shared / "flowers5.tar", folder / "source")
    with (source / "splits.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            path = folder / row["split"] / row["label"] / Path(row["path"]).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((source / row["path"]).read_bytes())
    return "450 and 150 photographs of flowers, 5 classes"


def _unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.stem


def _draw(folder: Path) -> None:
    noise = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for label in range(10):
            for index in range(count):
                path = folder / part / f"class{label}" / f"{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = noise.integers(0, 255, (32, 32, 3)) * 0.5 + label * 12
                Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
