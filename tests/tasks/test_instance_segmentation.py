"""Instance segmentation: masks in the pixels of their images, their average precision, evidence and targets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from scipy.ndimage import map_coordinates

from tests.tasks.detections import CLASSES, INPUT, NAMES, by_pycocotools, image, many, with_masks
from tests.tasks.test_detection import computed, on_file, transform
from thawline.datasets.targets import Objects, as_objects
from thawline.tasks import Views
from thawline.tasks.detection import Detection
from thawline.tasks.instance_segmentation import InstanceSegmentation
from thawline.tasks.instance_segmentation.masks import area_of, mask_of, pasted, runs_of
from thawline.tasks.instance_segmentation.metrics import mask_image_counts
from thawline.transforms import Placement

TASK = InstanceSegmentation()


# --------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("mask", "runs"),
    [
        ([[0, 1], [0, 1]], [2, 2]),
        ([[1, 0], [1, 0]], [0, 2, 2]),
        ([[0, 1, 0], [1, 1, 0]], [1, 3, 2]),
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
    ],
)
def test_runs_by_hand(mask, runs):
    assert runs_of(np.array(mask)).tolist() == runs
    assert mask_of(np.array(runs), (2, len(mask[0]))).astype(int).tolist() == mask
    assert area_of(np.array(runs)) == np.sum(mask)


def test_runs_are_those_of_coco():
    random = np.random.default_rng(0)
    for _ in range(20):
        mask = random.random((int(random.integers(1, 20)), int(random.integers(1, 20)))) < random.random()
        runs = runs_of(mask)
        coco = coco_masks.frPyObjects({"counts": runs.tolist(), "size": list(mask.shape)}, *mask.shape)
        assert coco == coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert np.array_equal(mask_of(runs, mask.shape), mask)


@pytest.mark.parametrize("box", [(-4.0, 10.0, 60.0, 70.0), (3.3, 5.2, 12.9, 90.7), (100.0, 80.0, 140.5, 120.0)])
def test_a_mask_is_bilinear_between_the_centres_of_its_cells(box):
    """Against SciPy, and of an image with padding around it the part that shows the image."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(28, 28, generator=generator)
    sides = [(box[2] - box[0]) / 28, (box[3] - box[1]) / 28]
    rows = (np.arange(INPUT[0]) + 0.5 - box[1]) / sides[1] - 0.5
    columns = (np.arange(INPUT[1]) + 0.5 - box[0]) / sides[0] - 0.5
    places = np.meshgrid(rows, columns, indexing="ij")
    expected = map_coordinates(probabilities.numpy(), places, order=1, mode="nearest")
    inside = np.outer(np.abs(rows - 13.5) < 14, np.abs(columns - 13.5) < 14)
    expected = np.where(inside, expected, 0.0)
    mask = pasted(probabilities, torch.tensor(box), Placement(INPUT, INPUT, 0, 0, *INPUT))
    clear = np.abs(expected - 0.5) > 1e-4
    assert clear.mean() > 0.99
    assert np.array_equal(mask[clear], expected[clear] > 0.5)
    padded = pasted(probabilities, torch.tensor(box), Placement((40, 80), INPUT, 20, 30, 40, 80))
    assert np.array_equal(padded[clear[20:60, 30:110]], mask[20:60, 30:110][clear[20:60, 30:110]])


def test_a_mask_is_pasted_at_the_size_of_the_image():
    """Twice as high, four times as wide: the left half of the box is the left half of the object."""
    halves = torch.zeros(28, 28)
    halves[:, :14] = 1.0
    placement = Placement((2 * INPUT[0], 4 * INPUT[1]), INPUT, 0, 0, *INPUT)
    mask = pasted(halves, torch.tensor([10.0, 20.0, 50.0, 60.0]), placement)
    assert mask.shape == (192, 512)
    expected = np.zeros((192, 512), dtype=bool)
    expected[40:120, 40:120] = True
    assert np.array_equal(mask, expected)


# --------------------------------------------------------------------------------------------------------- pycocotools


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_of_masks_is_that_of_pycocotools(seed):
    made = with_masks(many(seed), seed)
    found, truth, sizes = [], [], []
    kept = TASK.predictions(*zip(*made, strict=True))
    for (output, target), runs, lengths in zip(made, kept["masks"], kept["mask_runs"], strict=True):
        size, row = list(target["placement"].original), target["row"]
        sizes.append(size)
        for one, score, label in zip(runs.split(lengths.tolist()), output["scores"], output["labels"], strict=True):
            shape = {"segmentation": coco_masks.frPyObjects({"counts": one.tolist(), "size": size}, *size)}
            found.append({"image_id": row, "category_id": int(label), "score": float(score), **shape})
        for mask, label, crowd in zip(target["masks"].numpy(), target["labels"], target["crowd"], strict=True):
            shape = {"segmentation": coco_masks.encode(np.asfortranarray(mask)), "area": int(mask.sum())}
            truth.append({"image_id": row, "category_id": int(label), "iscrowd": int(crowd), **shape})
    expected, of_classes = by_pycocotools(found, truth, "segm", sizes)
    metrics = computed([made], TASK)
    assert len({value for value in expected.values() if 0.0 < value < 1.0}) == 6
    assert {name: metrics[f"mask_{name}"] for name in NAMES} == pytest.approx(expected, abs=1e-9)
    assert {name: metrics[name] for name in NAMES} == computed([made], Detection())
    arrays = on_file([made[11:], made[:11]], TASK)
    assert TASK.recomputed(arrays, CLASSES) == {name: (value, value) for name, value in metrics.items()}
    per_class = TASK.record_fields(arrays, CLASSES)["per_class"]
    boxes = Detection().record_fields(arrays, CLASSES)["per_class"]
    for name, reference in zip(CLASSES, of_classes, strict=True):
        masks = dict(zip(("mask_map", "mask_map50"), reference or (None, None), strict=True))
        assert per_class[name] == pytest.approx({**boxes[name], **masks}, abs=1e-9)


def test_the_metrics_and_their_definitions():
    names = {*NAMES, *(f"mask_{name}" for name in NAMES)}
    assert computed([with_masks(many(0, images=3), 0)], TASK).keys() == names
    definitions = TASK.definitions([*names, "loss"])
    assert definitions.keys() == names
    assert {(each.direction, each.lower, each.upper) for each in definitions.values()} == {("max", 0.0, 1.0)}
    assert (definitions["map"].label, definitions["mask_map50"].label) == ("box mAP", "mask mAP at IoU 0.5")
    assert {*TASK.MONITORS, TASK.HEADLINE} <= names


def test_neither_batches_nor_their_order_change_anything():
    made = with_masks(many(1, images=12), 1)
    assert computed([[each] for each in made[::-1]], TASK) == computed([made], TASK)


def test_images_without_objects_and_without_detections():
    nothing = with_masks([image([], [], 0), image([], [], 1)], 0)
    assert all(math.isnan(value) for value in computed([nothing], TASK).values())
    missed = with_masks([image([], [((10, 10, 50, 50), 0)], 0), image([], [], 1)], 0)
    assert computed([missed], TASK)["mask_map"] == 0.0
    assert mask_image_counts(on_file([missed], TASK))["fn"].tolist() == [1, 0]


def test_the_masks_on_file_are_those_of_the_objects():
    made = with_masks(many(2, images=8), 2)
    arrays = on_file([made[5:], made[:5]], TASK)
    runs = np.split(arrays["true_masks"], np.cumsum(arrays["true_mask_runs"])[:-1])
    masks = [mask for _, target in made for mask in target["masks"].numpy()]
    sizes = np.repeat(arrays["size"], arrays["true_mask_runs_rows"], axis=0)
    assert len(runs) == len(masks) == len(sizes) > 8
    for one, mask, size in zip(runs, masks, sizes, strict=True):
        assert np.array_equal(mask_of(one, size), mask)


def test_what_was_right_in_each_image_by_its_pixels():
    """A mask that fills its box on an object that fills half of the same box: IoU 1 of boxes, 1/2 of masks at most."""
    box = (20, 20, 80, 80)
    output, target = image([(box, 0.9, 0)], [(box, 0)])
    target["masks"] = torch.zeros((1, *INPUT), dtype=torch.uint8)
    target["masks"][0, 20:80, 20:80] = torch.tril(torch.ones(60, 60, dtype=torch.uint8))
    output["masks"] = torch.ones(1, 1, 28, 28)
    arrays = on_file([[(output, target)]], TASK)
    assert {name: values.tolist() for name, values in mask_image_counts(arrays, iou=0.6).items()} == {
        "tp": [0], "fp": [1], "fn": [1], "f1": [0.0],
    }  # fmt: skip
    assert mask_image_counts(arrays, iou=0.45)["f1"].tolist() == [1.0]
    crowd = {**arrays, "true_crowd": np.array([True])}
    # The half of the detection that lies in the crowd.
    assert mask_image_counts(crowd, iou=0.45)["fp"].tolist() == [0]
    assert mask_image_counts(crowd, iou=0.6)["fp"].tolist() == [1]


# -------------------------------------------------------------------------------------------------------------- targets


class Pixels:
    """Two objects in an image of 100 x 200: a block, and one that is a crowd."""

    sha256 = "0"

    def read(self, size):
        masks = np.zeros((2, *size), dtype=np.uint8)
        masks[0, 10:90, 20:60] = 1
        masks[1] = 1
        return masks


OBJECTS = as_objects(
    [
        Objects(
            np.array([[20, 10, 60, 90], [0, 0, 200, 100]], dtype=np.float32),
            np.array([1, 0]),
            np.array([False, True]),
            (100, 200),
            Pixels(),
        )
    ]
)


def test_training_targets_have_the_masks_of_their_boxes():
    flip = {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 1.0}
    for steps, columns in (((), slice(5, 15)), ((flip,), slice(35, 45))):
        (target,) = TASK.training_targets(OBJECTS, Views(transform(*steps), 0)).read(0, np.array([0]))
        expected = torch.zeros((1, 50, 50), dtype=torch.uint8)
        expected[0, 5:45, columns] = 1
        assert torch.equal(target["masks"], expected)
        assert target["boxes"].tolist() == [[columns.start, 5.0, columns.stop, 45.0]]
        assert target["labels"].tolist() == [1]


def test_evaluation_targets_have_the_masks_of_all_objects():
    (target,) = TASK.evaluation_targets(OBJECTS, transform()).read(0, np.array([0]))
    assert np.array_equal(target["masks"].numpy(), Pixels().read((100, 200)))
    assert target["crowd"].tolist() == [False, True]
