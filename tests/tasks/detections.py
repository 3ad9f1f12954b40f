"""Made-up detections and objects, and what pycocotools says of them: the reference for average precision."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from thawline.transforms import Placement

INPUT = (96, 128)
CLASSES = ("cat", "dog", "owl", "fox", "elk")
NAMES = ("map", "map50", "map75", "map_small", "map_medium", "map_large")


def image(found=(), truth=(), row=0, original=INPUT):
    """A head's output and an evaluation target.

    Args:
        found: (box in pixels of the input, score, label) of each detection.
        truth: (box in pixels of the image, label) or (box, label, crowd) of each object.
        row: the image's row.
        original: its size; it is squashed into `INPUT`.
    """
    objects = [(*item, False)[:3] for item in truth]
    output = {
        "boxes": torch.from_numpy(np.array([item[0] for item in found], dtype=np.float32).reshape(-1, 4)),
        "scores": torch.tensor([item[1] for item in found], dtype=torch.float32),
        "labels": torch.tensor([item[2] for item in found], dtype=torch.int64),
    }
    target = {
        "boxes": torch.from_numpy(np.array([item[0] for item in objects], dtype=np.float32).reshape(-1, 4)),
        "labels": torch.tensor([item[1] for item in objects], dtype=torch.int64),
        "crowd": torch.tensor([item[2] for item in objects], dtype=torch.bool),
        "placement": Placement(original, INPUT, 0, 0, *INPUT),
        "row": row,
    }
    return output, target


def many(seed, images=40):
    """Images of all sizes with objects of all sizes: crowds, images without objects, images without detections.

    Class 3 is only ever detected, class 4 is never detected.
    """
    random = np.random.default_rng(seed)
    made = []
    for row in range(images):
        original = (int(random.integers(100, 500)), int(random.integers(100, 500)))
        scale = np.array([INPUT[1] / original[1], INPUT[0] / original[0]] * 2)
        count = 0 if row % 7 == 3 else int(random.integers(1, 9))
        truth = [
            (_box(random, original), int(random.choice([0, 1, 2, 4])), bool(random.random() < 0.15))
            for _ in range(count)
        ]
        found = []
        for box, label, _ in truth:
            if label != 4 and row % 9 != 5:
                moved = np.clip(box + random.normal(scale=4.0, size=4), 0, [original[1], original[0]] * 2)
                found.append((moved * scale, float(random.choice([0.2, 0.5, 0.9, random.random()])), label))
        if row % 9 != 5:
            found += [
                (_box(random, original) * scale, float(random.random()), int(random.integers(4))) for _ in range(3)
            ]
        # A detector gives no box without an area.
        found = [item for item in found if (item[0][2:] > item[0][:2]).all()]
        made.append(image(found, truth, row, original))
    return made


def with_masks(made, seed):
    """The same images with an ellipse in the box of each object, and a mask of 28 x 28 for each detection."""
    random = np.random.default_rng(seed)
    for output, target in made:
        height, width = target["placement"].original
        rows, columns = np.mgrid[:height, :width] + 0.5
        masks = np.zeros((len(target["boxes"]), height, width), dtype=np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, target["boxes"].tolist(), strict=True):
            across, down = (columns - (left + right) / 2) / (right - left), (rows - (top + bottom) / 2) / (bottom - top)
            mask[across**2 + down**2 <= 0.25] = 1
        target["masks"] = torch.from_numpy(masks)
        side = (np.mgrid[:28, :28] + 0.5) / 28 - 0.5
        radii = random.uniform(0.35, 0.6, size=(len(output["boxes"]), 1, 1, 1))
        inside = 1 / (1 + np.exp(40 * (np.hypot(*side)[None, None] - radii)))
        output["masks"] = torch.from_numpy(inside.astype(np.float32))
    return made


def by_pycocotools(found, truth, kind, sizes):
    """Metrics, and per class map and map50 (None: no object), of COCO's annotations without their numbers."""
    reference, frame = COCO(), {"categories": [{"id": index} for index in range(len(CLASSES))]}
    frame["images"] = [{"id": row, "height": h, "width": w} for row, (h, w) in enumerate(sizes)]
    reference.dataset = {**frame, "annotations": [{"id": n, **item} for n, item in enumerate(truth, start=1)]}
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(list(found)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # (thresholds, recalls, classes, areas, limits)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    classes = [
        None if (precision[:, :, index] < 0).all() else (precision[:, :, index].mean(), precision[0, :, index].mean())
        for index in range(len(CLASSES))
    ]
    return dict(zip(NAMES, evaluation.stats[:6].tolist(), strict=True)), classes


def xywh(box):
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]


def _box(random, size):
    height, width = size
    w, h = random.uniform(8, width * 0.8), random.uniform(8, height * 0.8)
    if random.random() < 0.5:
        w, h = random.uniform(8, 40, size=2)
    left, top = random.uniform(0, width - w), random.uniform(0, height - h)
    return np.array([left, top, left + w, top + h])
