"""Metrics of resampled images: an image that counts twice gives what two of it give."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch

from thawline.evaluation.images import image_values, image_weights
from thawline.tasks.detection.metrics import box_precision, summary
from thawline.tasks.instance_segmentation.masks import runs_of
from thawline.tasks.instance_segmentation.metrics import mask_precision
from thawline.tasks.semantic_segmentation.metrics import COUNTS, metrics_of

IMAGES, CLASSES, RESAMPLES = 14, 3, 6


@pytest.fixture(scope="module")
def draws():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def detections(draws):
    """Objects and crowds of three classes, most of them found, with ties between scores and boxes that are nothing."""
    parts = {name: [] for name in ("boxes", "scores", "labels", "true_boxes", "true_labels", "true_crowd")}
    for _ in range(IMAGES):
        objects = draws.integers(0, 9)
        corners = draws.uniform(0, 100, (objects, 2))
        boxes = np.concatenate([corners, corners + draws.uniform(10, 40, (objects, 2))], axis=1)
        labels, crowd = draws.integers(0, CLASSES, objects), draws.random(objects) < 0.15
        found = draws.random(objects) < 0.8
        others = draws.uniform(0, 100, (8, 2))
        shifted = boxes[found] + draws.normal(0, 2, (found.sum(), 4))
        parts["boxes"].append(np.concatenate([shifted, np.concatenate([others, others + 25], axis=1)]))
        parts["labels"].append(np.concatenate([labels[found], draws.integers(0, CLASSES, 8)]))
        # Two of one image never have the same score: those would stand in another order where the image counts twice.
        parts["scores"].append(draws.choice(np.arange(1, 40) / 40, int(found.sum()) + 8, replace=False))
        parts["true_boxes"].append(boxes)
        parts["true_labels"].append(labels)
        parts["true_crowd"].append(crowd)
    return parts


def _on_file(parts, images):
    """The arrays of a predictions file of some images, each as often as it is named."""
    arrays = {"index": np.arange(len(images))}
    for name, values in parts.items():
        arrays[name] = np.concatenate([values[image] for image in images])
        arrays[f"{name}_rows"] = np.array([len(values[image]) for image in images])
    return arrays


@pytest.mark.parametrize("metric", ["map", "map50", "map75"])
def test_average_precision_of_resampled_boxes_is_cocos(detections, metric):
    found = image_values(_on_file(detections, range(IMAGES)), metric, RESAMPLES)
    weights = image_weights(IMAGES, RESAMPLES)
    for value, counts in [(found.value, np.ones(IMAGES)), *zip(found.resampled, weights, strict=True)]:
        images = np.repeat(np.arange(IMAGES), counts.astype(int))
        expected = summary(box_precision(_on_file(detections, images), CLASSES))[metric]
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.fixture(scope="module")
def masks(draws):
    truth = draws.integers(0, 40, (IMAGES, CLASSES))
    truth[:, 2] = 0  # no image shows the last class
    intersection = (truth * draws.random((IMAGES, CLASSES))).astype(np.int64)
    predicted = intersection + draws.integers(0, 9, (IMAGES, CLASSES))
    loss = {"loss_sum": draws.random(IMAGES), "loss_count": truth.sum(axis=1)}
    return {"index": np.arange(IMAGES), "intersection": intersection, "predicted": predicted, "truth": truth, **loss}


@pytest.mark.parametrize("metric", ["mean_iou", "dice", "pixel_accuracy"])
def test_metrics_of_resampled_masks_are_those_of_the_task(masks, metric):
    found = image_values(masks, metric, RESAMPLES)
    for value, counts in [(found.value, np.ones(IMAGES)), *zip(found.resampled, image_weights(IMAGES, 6), strict=True)]:
        images = np.repeat(np.arange(IMAGES), counts.astype(int))
        summed = {name: torch.from_numpy(masks[name][images]).sum(dim=0) for name in COUNTS}
        assert value == pytest.approx(float(metrics_of(summed)[metric]))


def test_mean_average_precision_of_several_classes_is_scikit_learns(draws):
    logits, target = draws.normal(size=(40, 4)).round(1), draws.integers(0, 2, (40, 4))
    found = image_values({"index": np.arange(40), "logits": logits, "target": target}, "map", RESAMPLES)
    for value, counts in zip(found.resampled, image_weights(40, RESAMPLES), strict=True):
        expected = sklearn.metrics.average_precision_score(target, logits, average="macro", sample_weight=counts)
        assert value == pytest.approx(expected)


@pytest.mark.parametrize(("metric", "average"), [("macro_f1", "macro"), ("micro_f1", "micro")])
def test_f1_of_several_classes_is_scikit_learns(draws, metric, average):
    logits, target = draws.normal(size=(40, 4)), draws.integers(0, 2, (40, 4))
    found = image_values({"index": np.arange(40), "logits": logits, "target": target}, metric, RESAMPLES)
    for value, counts in zip(found.resampled, image_weights(40, RESAMPLES), strict=True):
        expected = sklearn.metrics.f1_score(target, logits > 0, average=average, sample_weight=counts)
        assert value == pytest.approx(expected)


def test_of_classes_accuracy_top_k_and_loss_are_means_and_macro_metrics_are_resampled(draws):
    probabilities = draws.dirichlet(np.ones(4), 50).astype(np.float32)
    label = draws.integers(0, 4, 50)
    arrays = {"index": np.arange(50)[::-1], "label": label, "probabilities": probabilities}
    top1 = image_values(arrays, "top1")
    assert top1.is_proportion
    assert top1.scores.tolist() == (probabilities.argmax(axis=1) == label)[::-1].tolist()  # in the order of the index
    assert image_values(arrays, "top3").value == sklearn.metrics.top_k_accuracy_score(label, probabilities, k=3)
    loss = image_values(arrays, "loss")
    assert not loss.is_proportion
    assert loss.value == pytest.approx(sklearn.metrics.log_loss(label, probabilities), rel=1e-5)
    # Resampled images are counted by their index, wherever they stand in the file.
    said, resampled = probabilities.argmax(axis=1), image_values(arrays, "macro_accuracy", 6).resampled
    for value, counts in zip(resampled, image_weights(50, 6), strict=True):
        expected = sklearn.metrics.balanced_accuracy_score(label, said, sample_weight=counts[::-1])
        assert value == pytest.approx(expected)
    assert image_values(arrays, "calibration_error") is None


def test_errors_of_numbers_are_a_mean_and_a_root_of_one(draws):
    error = draws.normal(size=30)
    arrays = {"index": np.arange(30), "image_score": -np.abs(error)}
    assert image_values(arrays, "mae").value == pytest.approx(np.abs(error).mean())
    rmse = image_values(arrays, "rmse", 6)
    assert rmse.value == pytest.approx(np.sqrt((error**2).mean()))
    counts = image_weights(30, 6)[2].astype(int)
    assert rmse.resampled[2] == pytest.approx(np.sqrt((np.repeat(error, counts) ** 2).mean()))


def test_every_resample_has_as_many_images_and_they_depend_on_their_number_alone():
    weights = image_weights(30, 50)
    assert weights.sum(axis=1).tolist() == [30] * 50
    image_weights.cache_clear()
    assert (image_weights(30, 50) == weights).all()
    assert np.var(weights) == pytest.approx(1 - 1 / 30, rel=0.05)  # of a multinomial count


@pytest.fixture(scope="module")
def instances(draws, detections):
    """The same objects with masks: what is found of each is most of it."""
    parts = {name: [] for name in ("masks", "mask_runs", "true_masks", "true_mask_runs", "size")}

    def drawn(boxes, share):
        height, width = 120, 140
        for box in boxes:
            mask = np.zeros((height, width), dtype=bool)
            left, top, right, bottom = box.clip(0, 120).astype(int)
            mask[top:bottom, left:right] = draws.random((max(bottom - top, 0), max(right - left, 0))) < share
            yield runs_of(mask)

    for image in range(IMAGES):
        for prefix, share in (("", 0.95), ("true_", 0.99)):
            runs = list(drawn(detections[f"{prefix}boxes"][image], share))
            parts[f"{prefix}masks"].append(np.concatenate(runs) if runs else np.zeros(0, np.int32))
            parts[f"{prefix}mask_runs"].append(np.array([len(one) for one in runs], dtype=np.int64))
        parts["size"].append(np.array([120, 140]))
    return {**detections, **parts}


def test_average_precision_of_resampled_masks_is_cocos(instances):
    def on_file(images):
        arrays = _on_file(instances, images)
        return arrays | {"size": arrays["size"].reshape(-1, 2)}

    found = image_values(on_file(range(IMAGES)), "mask_map", RESAMPLES)
    for value, counts in [(found.value, np.ones(IMAGES)), *zip(found.resampled, image_weights(IMAGES, 6), strict=True)]:
        images = np.repeat(np.arange(IMAGES), counts.astype(int))
        assert value == pytest.approx(summary(mask_precision(on_file(images), CLASSES))["map"], abs=1e-12)
