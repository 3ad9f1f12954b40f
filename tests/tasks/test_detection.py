"""Detection: average precision by hand and against pycocotools, the evidence it comes from, and its targets."""

from __future__ import annotations

import math
import multiprocessing

import numpy as np
import pytest
import torch

from tests.tasks.detections import CLASSES, INPUT, NAMES, by_pycocotools, image, many, xywh
from thawline.datasets.targets import Objects, as_objects
from thawline.evaluation.images.matching import box_overlaps
from thawline.preprocessing import Preprocessing
from thawline.specs import resolve
from thawline.tasks import Views
from thawline.tasks.detection import Detection
from thawline.tasks.detection.metrics import image_counts
from thawline.training.evaluation import Predictions

TASK = Detection()


def computed(batches, task=TASK, classes=CLASSES):
    metrics = task.metrics(classes)
    for batch in batches:
        outputs, targets = zip(*batch, strict=True)
        metrics.update(list(outputs), list(targets))
    return {name: float(value) for name, value in metrics.compute().items()}


def on_file(batches, task=TASK):
    """What a run's file holds of these batches, in the order of the rows."""
    parts = []
    for batch in batches:
        outputs, targets = zip(*batch, strict=True)
        rows = torch.tensor([target["row"] for target in targets])
        parts.append(Predictions.of(task, list(outputs), list(targets), rows))
    return Predictions.joined(parts).arrays()


BOX, BESIDE = (10, 10, 50, 50), (60, 10, 100, 50)


# ------------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        # Found exactly.
        ([(BOX, 0.9, 0)], [(BOX, 0)], {"map": 1.0, "map50": 1.0, "map75": 1.0}),
        # 32 of 48 columns are shared: IoU 2/3, right at 0.5, 0.55, 0.6 and 0.65.
        ([((18, 10, 58, 50), 0.9, 0)], [(BOX, 0)], {"map": 0.4, "map50": 1.0, "map75": 0.0}),
        # The wrong class.
        ([(BOX, 0.9, 1)], [(BOX, 0)], {"map": 0.0, "map50": 0.0, "map75": 0.0}),
        # One of two is found: precision 1 at the recalls 0, 0.01 ... 0.5, which are 51 of 101.
        ([(BOX, 0.9, 0)], [(BOX, 0), (BESIDE, 0)], {"map50": 51 / 101}),
        # A wrong one comes first: precision 1/2 at every recall.
        ([(BESIDE, 0.9, 0), (BOX, 0.8, 0)], [(BOX, 0)], {"map50": 0.5}),
        # Found twice: the second is wrong, and comes after all that is to be found.
        ([(BOX, 0.9, 0), ((11, 10, 51, 50), 0.8, 0)], [(BOX, 0)], {"map50": 1.0}),
        # 1 for the one class and 0 for the other: the mean over classes that have an object.
        ([(BOX, 0.9, 0), (BESIDE, 0.9, 2)], [(BOX, 0), (BESIDE, 1)], {"map50": 0.5}),
        # What lies in a crowd is not wrong, and the crowd is not missed.
        ([((0, 0, 20, 20), 0.9, 0), (BESIDE, 0.8, 0)], [((0, 0, 50, 90), 0, True), (BESIDE, 0)], {"map50": 1.0}),
        # Nothing is found.
        ([], [(BOX, 0)], {"map": 0.0, "map50": 0.0}),
    ],
)
def test_average_precision_by_hand(found, truth, expected):
    metrics = computed([[image(found, truth)]])
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_a_metric_without_an_object_does_not_exist():
    metrics = computed([[image([(BOX, 0.9, 0)], [(BOX, 0)])]])
    assert metrics["map_medium"] == 1.0
    assert math.isnan(metrics["map_small"])
    assert math.isnan(metrics["map_large"])
    assert all(math.isnan(value) for value in computed([[image([(BOX, 0.9, 0)], [])]]).values())


def test_boxes_are_compared_in_the_pixels_of_the_image():
    """The image is twice as high and four times as wide as the input; 40 x 40 of the input is 80 x 160 of the image."""
    original = (2 * INPUT[0], 4 * INPUT[1])
    metrics = computed([[image([(BOX, 0.9, 0)], [((40, 20, 200, 100), 0)], original=original)]])
    assert metrics["map"] == metrics["map_large"] == 1.0
    assert math.isnan(metrics["map_medium"])


def test_a_detection_in_the_padding_of_the_input_is_none():
    output, target = image([((0, 0, 128, 20), 0.9, 0), ((20, 40, 60, 80), 0.8, 0)], [((0, 0, 20, 20), 0)])
    target["placement"] = type(target["placement"])((20, 40), INPUT, 40, 20, 40, 80)
    assert computed([[(output, target)]])["map"] == 1.0
    kept = TASK.predictions([output], [target])
    assert kept["boxes"][0].tolist() == [[0.0, 0.0, 20.0, 20.0]]
    assert kept["scores"][0].tolist() == [pytest.approx(0.8)]


# --------------------------------------------------------------------------------------------------------- pycocotools


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_pycocotools(seed):
    made = many(seed)
    found, truth, sizes = [], [], []
    for output, target in made:
        original, row = target["placement"].original, target["row"]
        sizes.append(original)
        back = np.array([original[1] / INPUT[1], original[0] / INPUT[0]] * 2)
        for box, score, label in zip(*(output[name].numpy() for name in ("boxes", "scores", "labels")), strict=True):
            shape = {"bbox": xywh(box * back), "score": float(score)}
            found.append({"image_id": row, "category_id": int(label), **shape})
        for box, label, crowd in zip(*(target[name].numpy() for name in ("boxes", "labels", "crowd")), strict=True):
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            shape = {"bbox": xywh(box), "area": area, "iscrowd": int(crowd)}
            truth.append({"image_id": row, "category_id": int(label), **shape})
    expected, of_classes = by_pycocotools(found, truth, "bbox", sizes)
    assert len({value for value in expected.values() if 0.0 < value < 1.0}) == 6
    assert computed([made]) == pytest.approx(expected, abs=1e-9)
    per_class = TASK.record_fields(on_file([made]), CLASSES)["per_class"]
    assert list(per_class) == list(CLASSES)
    for values, reference in zip(per_class.values(), of_classes, strict=True):
        assert list(values.values()) == ([None, None] if reference is None else pytest.approx(reference, abs=1e-9))
    assert [values["map"] for values in per_class.values()][3:] == [None, 0.0]


# ------------------------------------------------------------------------------------------- batches, devices, evidence


def test_neither_batches_nor_their_order_change_anything():
    """Detections of equal scores are many here: their order is that of the images, however they come."""
    made = many(5)
    for output, _ in made:
        output["scores"] = (output["scores"] * 4).round() / 4
    shuffled = [made[index] for index in np.random.default_rng(0).permutation(len(made))]
    together = computed([made])
    assert computed([[each] for each in shuffled]) == computed([shuffled[:7], shuffled[7:]]) == together


def test_the_metrics_come_again_from_the_evidence_on_file():
    made = many(6)
    metrics = computed([made])
    arrays = on_file([made[25:], made[:25]])
    assert TASK.recomputed(arrays, CLASSES) == {name: (value, value) for name, value in metrics.items()}
    assert metrics.keys() == TASK.definitions([*NAMES, "loss"]).keys() == set(NAMES)
    assert {*TASK.MONITORS, TASK.HEADLINE} <= metrics.keys()


def test_the_evidence_is_what_was_given_image_by_image():
    made = many(7, images=12)
    arrays = on_file([made[8:], made[:8]])
    assert arrays["index"].tolist() == list(range(12))
    for name, source, key in (
        ("scores", 0, "scores"),
        ("labels", 0, "labels"),
        ("true_boxes", 1, "boxes"),
        ("true_labels", 1, "labels"),
        ("true_crowd", 1, "crowd"),
    ):
        rows = np.split(arrays[name], np.cumsum(arrays[f"{name}_rows"])[:-1])
        assert [row.tolist() for row in rows] == [pair[source][key].tolist() for pair in made]
    assert arrays["boxes"].dtype == arrays["scores"].dtype == np.float32


def _share(rank, file, images, queue):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    made = many(8)[:images]
    # The second device has one image, or none.
    share = made[4:] if rank else made[:4]
    queue.put(computed([share] if share else []))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("images", [5, 1])
def test_devices_with_unequal_shares_say_what_one_says(tmp_path, images):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    devices = [context.Process(target=_share, args=(rank, tmp_path / "group", images, queue)) for rank in range(2)]
    for device in devices:
        device.start()
    said = [queue.get(timeout=120) for _ in devices]
    for device in devices:
        device.join()
    alone = computed([many(8)[:images]])
    for metrics in said:
        assert metrics == pytest.approx(alone, nan_ok=True, abs=0.0)


# ------------------------------------------------------------------------------------------------ the score of an image


def test_what_was_right_in_each_image():
    images = [
        # Right, a second one on the same object, one of a low score, one missed.
        image([(BOX, 0.9, 0), (BOX, 0.8, 0), (BESIDE, 0.4, 0)], [(BOX, 0), (BESIDE, 0)], 0),
        # Nothing to find, nothing found.
        image([], [], 1),
        # Nothing to find.
        image([(BOX, 0.9, 0)], [], 2),
        # Another class.
        image([(BOX, 0.9, 1)], [(BOX, 0)], 3),
        # In a crowd, and beside it.
        image([((0, 0, 20, 20), 0.9, 0), (BESIDE, 0.8, 0)], [((0, 0, 50, 90), 0, True)], 4),
        # The better of two takes the object that it lies on best, and leaves the other to the next.
        image([((12, 10, 52, 50), 0.7, 0), ((10, 10, 50, 50), 0.9, 0)], [(BOX, 0), ((14, 10, 54, 50), 0)], 5),
    ]
    counts = image_counts(on_file([images]))
    assert counts["tp"].tolist() == [1, 0, 0, 0, 0, 2]
    assert counts["fp"].tolist() == [1, 0, 1, 1, 1, 0]
    assert counts["fn"].tolist() == [1, 0, 0, 1, 0, 0]
    assert counts["f1"].tolist() == [0.5, 1.0, 0.0, 0.0, 0.0, 1.0]


def test_overlaps_by_hand():
    found = np.array([[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 8.0, 9.0]])
    truth = np.array([[2.0, 0.0, 6.0, 4.0], [0.0, 0.0, 2.0, 40.0]])
    overlaps = box_overlaps(found, truth, np.array([False, True]))
    assert overlaps.tolist() == [[8 / 24, 8 / 16], [0.0, 0.0]]


# -------------------------------------------------------------------------------------------------------------- targets

OBJECTS = as_objects(
    [
        Objects(
            np.array([[20, 10, 60, 90], [0, 0, 200, 100], [100, 50, 180, 75]], dtype=np.float32),
            np.array([1, 0, 2]),
            np.array([False, True, False]),
            (100, 200),
        ),
        Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_), (50, 40)),
    ]
)


def transform(*steps):
    own = Preprocessing(size=(50, 50), interpolation="bilinear", crop_pct=1.0)
    return resolve({"_target_": "thawline.transforms.Transform", "augmentation": list(steps)}).fitted(own, whole=True)


def test_training_targets_lie_in_the_input_and_hold_no_crowds():
    targets = TASK.training_targets(OBJECTS, Views(transform(), 0))
    first, second = targets.read(0, np.array([0, 1]))
    assert first["boxes"].tolist() == [[5.0, 5.0, 15.0, 45.0], [25.0, 25.0, 45.0, 37.5]]
    assert first["labels"].tolist() == [1, 2]
    assert second["boxes"].shape == (0, 4)
    assert second["labels"].shape == (0,)


def test_training_targets_move_with_the_view():
    flip = {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 1.0}
    targets = TASK.training_targets(OBJECTS, Views(transform(flip), 0))
    first, second = targets.read(3, np.array([0, 1]))
    assert first["boxes"].tolist() == [[35.0, 5.0, 45.0, 45.0], [5.0, 25.0, 25.0, 37.5]]
    assert first["labels"].tolist() == [1, 2]
    assert len(second["boxes"]) == 0


def test_evaluation_targets_lie_in_the_image():
    second, first = TASK.evaluation_targets(OBJECTS, transform()).read(0, np.array([1, 0]))
    assert first["boxes"].tolist() == OBJECTS[0].boxes.tolist()
    assert first["labels"].tolist() == [1, 0, 2]
    assert first["crowd"].tolist() == [False, True, False]
    assert (first["row"], second["row"]) == (0, 1)
    assert (first["placement"].original, second["placement"].original) == ((100, 200), (50, 40))


def test_how_many_images_show_a_class_by_the_data_set_and_by_the_file():
    target = {name: getattr(OBJECTS[0], name) for name in ("boxes", "labels", "crowd")}
    items = [(box, label, crowd) for box, label, crowd in zip(*target.values(), strict=True)]
    made = [image([], items, 0), image([], [], 1), image([], [(BOX, 1), (BESIDE, 1)], 2)]
    objects = as_objects(
        [*OBJECTS, Objects(np.array([BOX, BESIDE], np.float32), np.array([1, 1]), np.zeros(2, np.bool_), (96, 128))]
    )
    assert TASK.per_output(objects, CLASSES) == [0, 2, 1, 0, 0]
    assert TASK.per_output_on_file(on_file([made]), CLASSES) == [0, 2, 1, 0, 0]


def test_losses_are_the_head_s_counted_by_images():
    losses = TASK.losses({"loss_classifier": torch.tensor(0.5), "loss_box_reg": torch.tensor(0.25)}, [{}, {}, {}])
    assert {name: (float(term.mean), term.count) for name, term in losses.items()} == {
        "loss_classifier": (0.5, 3),
        "loss_box_reg": (0.25, 3),
    }
