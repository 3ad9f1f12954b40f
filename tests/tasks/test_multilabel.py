"""Multi-label classification: its metrics are scikit-learn's, and a class that nothing can be said of has none."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, log_loss

from thawline.tasks.multilabel import Multilabel

CLASSES = ("cat", "dog", "owl")


def batch(images=40, seed=0):
    random = np.random.default_rng(seed)
    # Rounded, so that many scores are equal.
    logits = torch.from_numpy((random.normal(size=(images, 3)) * 2).round(0).astype(np.float32))
    truth = torch.from_numpy(random.random((images, 3)) < (0.2, 0.5, 0.7))
    return logits, truth


def computed(task, batches):
    metrics = task.metrics(CLASSES)
    for logits, truth in batches:
        metrics.update(logits, truth)
    return {name: float(value) for name, value in metrics.compute().items()}


def by_scikit_learn(logits, truth):
    logits, truth = logits.double().numpy(), truth.numpy()
    probabilities = 1 / (1 + np.exp(-logits))
    return {
        "map": average_precision_score(truth, logits, average="macro"),
        "macro_f1": f1_score(truth, logits > 0, average="macro"),
        "micro_f1": f1_score(truth, logits > 0, average="micro"),
        "loss": np.mean([log_loss(truth[:, c], probabilities[:, c]) for c in range(3)]),
    }


def test_the_metrics_are_those_of_scikit_learn_in_any_batches():
    logits, truth = batch()
    expected = pytest.approx(by_scikit_learn(logits, truth), abs=1e-9)
    assert computed(Multilabel(), [(logits, truth)]) == expected
    assert computed(Multilabel(), [(logits[:1], truth[:1]), (logits[1:], truth[1:])]) == expected


def test_very_large_logits_keep_their_order():
    logits = torch.tensor([[40.0], [50.0], [60.0], [-40.0]])
    truth = torch.tensor([[0], [1], [1], [1]])
    metrics = Multilabel().metrics(("cat",))
    metrics.update(logits, truth)
    # The third of three right ones comes fourth.
    assert float(metrics.compute()["map"]) == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_a_class_without_a_positive_image_is_left_out():
    logits, truth = batch()
    truth[:, 1] = False  # dog is predicted, and never true
    truth[:, 2], logits[:, 2] = False, -1.0  # owl is neither
    task = Multilabel()
    found = computed(task, [(logits, truth)])
    cat = average_precision_score(truth[:, 0], logits[:, 0])
    f1 = f1_score(truth[:, 0], logits[:, 0] > 0)
    assert found["map"] == pytest.approx(cat)
    assert found["macro_f1"] == pytest.approx((f1 + 0.0) / 2)
    arrays = {name: value.numpy() for name, value in task.predictions(logits, truth).items()}
    assert task.record_fields(arrays, CLASSES)["per_class"] == {
        "cat": {"average_precision": pytest.approx(cat), "f1": pytest.approx(f1)},
        "dog": {"average_precision": None, "f1": 0.0},
        "owl": {"average_precision": None, "f1": None},
    }
    assert task.per_output(truth.numpy(), CLASSES) == [int(truth[:, 0].sum()), 0, 0]


def test_without_any_positive_there_is_no_precision():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = computed(Multilabel(), [(torch.full((4, 3), -1.0), torch.zeros(4, 3))])
    assert [name for name, value in found.items() if math.isnan(value)] == ["map", "macro_f1", "micro_f1"]


def test_the_metrics_follow_from_what_is_kept_of_each_image():
    logits, truth = batch(seed=1)
    task = Multilabel()
    arrays = {name: value.numpy() for name, value in task.predictions(logits, truth).items()}
    found = computed(task, [(logits, truth)])
    assert task.recomputed(arrays, CLASSES) == {name: (value, value) for name, value in found.items()}
    assert set(task.definitions(found)) == set(found)


def test_the_losses_of_uneven_batches_add_up():
    logits, truth = batch()
    task = Multilabel()
    (whole,) = task.losses(logits, truth.to(torch.uint8)).values()
    parts = [*task.losses(logits[:7], truth[:7]).values(), *task.losses(logits[7:], truth[7:]).values()]
    total = sum(float(part.mean) * part.count for part in parts) / sum(part.count for part in parts)
    assert total == pytest.approx(float(whole.mean), rel=1e-6)
    assert float(whole.mean) == pytest.approx(by_scikit_learn(logits, truth)["loss"], rel=1e-6)
    (constant,) = task.losses(torch.zeros_like(logits), truth).values()
    assert task.constant_loss(CLASSES) == pytest.approx(float(constant.mean), rel=1e-6)
