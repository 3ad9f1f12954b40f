"""A tiny data set of masks: a disc and a square on a dark ground, some pixels not labelled, in images of two sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ground", "disc", "square")
SIZES = ((40, 48), (33, 47))
UNLABELLED = 255


def draw_masks(root: Path, parts: dict[str, int] | None = None) -> Path:
    """Images and masks in ``root/<part>`` and ``root/<part>annot``."""
    for part, count in (parts or {"train": 9, "val": 4, "test": 5}).items():
        for folder in (root / part, root / f"{part}annot"):
            folder.mkdir(parents=True)
        for index in range(count):
            pixels, mask = _scene(np.random.default_rng([len(part), index]), SIZES[index % 2])
            Image.fromarray(pixels).save(root / part / f"{index}.png")
            Image.fromarray(mask).save(root / f"{part}annot" / f"{index}.png")
    return root


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros(size, np.uint8)
    radius = rng.integers(6, 10)
    y, x = rng.integers(10, height - 10), rng.integers(10, width - 10)
    mask[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
    top, left = rng.integers(0, height - 14), rng.integers(0, width - 14)
    mask[top : top + 12, left : left + 12] = 2
    colours = np.array([[30, 30, 30], [220, 80, 60], [60, 120, 220]])
    pixels = (colours[mask] + rng.integers(-20, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
    mask[:2] = UNLABELLED
    return pixels, mask
