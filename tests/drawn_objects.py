"""A tiny data set of objects: discs and squares on a dark ground, as YOLO's text files and as instance files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("disc", "square")
SIZE = (48, 64)
_COUNTS = {"train": 8, "val": 3, "test": 4}


def draw_yolo(root: Path) -> Path:
    """``images/<part>``, ``labels/<part>``, ``data.yaml``; the first training image shows nothing."""
    for part, count in _COUNTS.items():
        for index in range(count):
            pixels, values, labels = scene(part, index)
            for folder in (root / "images" / part, root / "labels" / part):
                folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / "images" / part / f"{index}.png")
            lines = [f"{label} {_relative(box)}" for label, box in zip(labels, boxes(values), strict=True)]
            (root / "labels" / part / f"{index}.txt").write_text("\n".join(lines) + "\n" if lines else "")
    paths = "".join(f"{part}: images/{part}\n" for part in _COUNTS)
    (root / "data.yaml").write_text(f"{paths}names: [{', '.join(CLASSES)}]\n")
    return root


def _relative(box: tuple[int, int, int, int]) -> str:
    """Centre, width and height as shares of the image's sides."""
    (height, width), (left, top, right, bottom) = SIZE, box
    return (
        f"{(left + right) / 2 / width} {(top + bottom) / 2 / height} {(right - left) / width} {(bottom - top) / height}"
    )


def draw_instances(root: Path) -> Path:
    """``PNGImages`` and ``PedMasks``, undivided, of one class."""
    for folder in (root / "PNGImages", root / "PedMasks"):
        folder.mkdir(parents=True)
    for index in range(16):
        pixels, values, _ = scene("train", index + 1)
        Image.fromarray(pixels).save(root / "PNGImages" / f"{index}.png")
        Image.fromarray(values).save(root / "PedMasks" / f"{index}_mask.png")
    return root


def scene(part: str, index: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Pixels (48, 64, 3), the number of the object at each pixel (0: none), and the class of each object."""
    rng = np.random.default_rng([len(part), index])
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    values, labels = np.zeros(SIZE, np.uint8), []
    colours = [(30, 30, 30)]
    for left in (2, 34) if (part, index) != ("train", 0) else ():
        label, side = int(rng.integers(2)), int(rng.integers(16, 26))
        top, start = int(rng.integers(0, SIZE[0] - side)), left + int(rng.integers(0, 28 - side + 1))
        inside = (rows >= top) & (rows < top + side) & (columns >= start) & (columns < start + side)
        if label == 0:
            inside &= (rows - top - side / 2 + 0.5) ** 2 + (columns - start - side / 2 + 0.5) ** 2 <= side**2 / 4
        labels.append(label)
        values[inside] = len(labels)
        colours.append(((220, 80, 60), (60, 120, 220))[label])
    pixels = np.array(colours)[values] + rng.integers(-15, 15, (*SIZE, 3))
    return pixels.clip(0, 255).astype(np.uint8), values, labels


def boxes(values: np.ndarray) -> list[tuple[int, int, int, int]]:
    """xmin, ymin, xmax, ymax of each object; right and bottom are exclusive."""
    found = []
    for number in range(1, int(values.max()) + 1):
        rows, columns = np.nonzero(values == number)
        found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return found
