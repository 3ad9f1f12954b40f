"""The images of the benchmarks: real ones where they are, drawn ones of the same sizes elsewhere."""

from __future__ import annotations

import csv
import json
import os
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parent.parent
COUNTS = {"train": 100, "val": 50, "test": 50}
"""Images per class: 1,000 for training and 500 for validation over ten classes."""

SCENE_CLASSES = ("ground", "disc", "box")
"""What the drawn scenes show; the first is no object."""


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


def drawn_photographs(folder: Path, per_class: Mapping[str, int], size: tuple[int, int] = (375, 500)) -> str:
    """Draw images of the size (H, W) and grain of photographs into ``<part>/<class>/``; returns what they are.

    `per_class` has the images of each of ten classes in each part.
    """
    jobs = [
        (folder / part / f"class{label}" / f"{index}.jpg", (place, label, index))
        for place, (part, count) in enumerate(per_class.items())
        for label in range(10)
        for index in range(count)
    ]
    for path in {path.parent for path, _ in jobs}:
        path.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: _photograph(job[0], job[1], size), jobs))
    train, val = (10 * per_class[part] for part in ("train", "val"))
    return f"{train:,} and {val:,} drawn images, {size[0]} x {size[1]} JPEG, 10 classes"


def _photograph(path: Path, key: tuple[int, int, int], size: tuple[int, int]) -> None:
    """Coarse patches of the class's brightness, with fine grain: about 60 KB at 375 x 500, as photographs have."""
    noise, (height, width) = np.random.default_rng(key), size
    coarse = noise.integers(0, 160, (12, 16, 3)) + 9 * key[1]
    patches = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = noise.integers(-12, 12, (height, width, 1))
    Image.fromarray((np.asarray(patches) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def many_files(folder: Path, count: int) -> str:
    """Make ``CLASS/NUMBER.jpg`` with `count` small drawn images of 100 classes in `folder`; returns what they are."""
    for start in range(0, count, 1000):
        noise = np.random.default_rng([7, start]).integers(0, 256, (min(1000, count - start), 8, 8, 3), dtype=np.uint8)
        for index, pixels in enumerate(noise, start):
            path = folder / f"class{index % 100:02d}" / f"{index:07d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((32, 32)).save(path, quality=90)
    return f"{count:,} drawn images, 32 x 32 JPEG, 100 classes"


def scenes(folder: Path, counts: Mapping[str, int], size: tuple[int, int] = (144, 192)) -> str:
    """Draw discs and boxes with a mask and a json of COCO for each part in `folder`; returns what they are.

    ``<part>/``, ``<part>annot/`` and ``annotations/instances_<part>.json``. On one data set both tasks can be compared.
    """
    for place, (part, count) in enumerate(counts.items()):
        for name in (part, f"{part}annot", "annotations"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, object]] = []
        objects: list[dict[str, object]] = []
        for index in range(count):
            pixels, mask, boxes = _scene(np.random.default_rng([place, index]), size)
            Image.fromarray(pixels).save(folder / part / f"{index}.jpg", quality=90)
            Image.fromarray(mask).save(folder / f"{part}annot" / f"{index}.png")
            images.append({"id": index, "file_name": f"{index}.jpg", "height": size[0], "width": size[1]})
            for label, box in boxes:
                one = {"id": len(objects), "image_id": index, "category_id": label, "bbox": box}
                objects.append({**one, "area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": label, "name": name} for label, name in enumerate(SCENE_CLASSES) if label]
        content = {"images": images, "annotations": objects, "categories": categories}
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return f"{counts['train']} and {counts['val']} drawn images, {size[0]} x {size[1]} JPEG, discs and boxes on noise"


def _scene(
    noise: np.random.Generator, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[tuple[int, list[int]]]]:
    """Pixels, mask of classes, and (class, box as x, y, width, height) of each object."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask, boxes = np.zeros(size, np.uint8), []
    for label in noise.integers(1, 3, noise.integers(1, 4)).tolist():
        side = int(noise.integers(24, 56))
        top, left = (int(noise.integers(0, extent - side)) for extent in size)
        inside = (abs(rows - top - side / 2) < side / 2) & (abs(columns - left - side / 2) < side / 2)
        if label == 1:
            inside &= (rows - top - side / 2) ** 2 + (columns - left - side / 2) ** 2 < (side / 2) ** 2
        mask[inside] = label
        boxes.append((label, [left, top, side, side]))
    colours = np.array([[70, 80, 70], [190, 100, 80], [80, 110, 190]])
    pixels = (colours[mask] + noise.integers(-40, 40, (*size, 3))).clip(0, 255).astype(np.uint8)
    return pixels, mask, boxes
