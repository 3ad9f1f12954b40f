"""Every metric of a record, again from the run's predictions with plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.execution.test_train import folder_of
from thawline.tasks.classification.metrics import classification_metrics


def by_hand(probabilities, label, k):
    """The metrics of docs/training.md for probabilities (N, C) and labels (N,)."""
    n = len(label)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    of_label = probabilities[np.arange(n), label].astype(np.float64)
    occurs = sorted({*label, *predicted})
    hits = np.array([np.sum((label == c) & (predicted == c)) for c in occurs])
    labelled = np.array([np.sum(label == c) for c in occurs])
    taken = np.array([np.sum(predicted == c) for c in occurs])
    error = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & ((confidence < (b + 1) / 15) | (b == 14))
        if inside.any():
            error += inside.mean() * abs((predicted == label)[inside].mean() - confidence[inside].mean())
    return {
        "loss": -np.log(of_label.clip(1e-300)).mean(),
        "top1": (predicted == label).mean(),
        f"top{k}": ((probabilities > of_label[:, None]).sum(1) < k).mean(),
        "macro_accuracy": np.mean([h / m if m else 0.0 for h, m in zip(hits, labelled, strict=True)]),
        "macro_f1": np.mean(2 * hits / (labelled + taken)),
        "calibration_error": error,
    }


def confusion_by_hand(stored, classes):
    matrix = np.zeros((classes, classes), int)
    for true, predicted in zip(stored["label"], stored["probabilities"].argmax(1), strict=True):
        matrix[true, predicted] += 1
    return matrix.tolist()


def test_the_metrics_of_a_run_are_those_of_its_predictions(train):
    record = train("metrics.top_k=3", "freeze_policy=full", "optimizer.lr=0.05", "dataset.n_per_class=10")
    stored = np.load(folder_of(record) / "predictions.npz")
    expected = by_hand(stored["probabilities"], stored["label"], 3)
    assert record.metrics["test"].keys() == expected.keys()
    assert record.metrics["test"] == pytest.approx(expected, abs=2e-6)
    matrix = confusion_by_hand(stored, 10)
    assert record.confusion_matrix == matrix != np.transpose(matrix).tolist()


def test_certain_predictions_and_classes_that_do_not_occur():
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.normal(size=(60, 8)).astype(np.float32)) * 12
    logits[:, 6:] = -1000.0  # never predicted: 6 is a label sometimes, 7 never
    logits[:, 5] += 20.0
    label = random.integers(5, size=60)
    label[:3] = 6
    probabilities = logits.softmax(1).numpy()
    confidence = probabilities.max(1)
    nearly = (confidence > 14 / 15) & (confidence < 1.0)
    label[nearly] = probabilities.argmax(1)[nearly]
    assert (confidence == 1.0).any() and nearly.any()
    metrics = classification_metrics(8, 5)
    for rows in (slice(0, 7), slice(7, 60)):
        metrics.update(logits[rows], torch.from_numpy(label[rows]))
    found = {name: float(value) for name, value in metrics.compute().items()}
    expected = by_hand(probabilities, label, 5)
    del found["loss"], expected["loss"]  # the probability of some labels rounds to 0
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_confidence_on_the_edge_of_a_bin_belongs_to_the_upper_one():
    # Of three equal logits the confidence is 1/3, the edge between the fifth and the sixth of 15 bins.
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    other = float(logits[1].softmax(0)[0])
    assert 1 / 3 < other < 6 / 15
    metrics = classification_metrics(3, 1)
    metrics.update(logits, torch.tensor([int(logits[0].argmax()), 2]))
    assert float(metrics.compute()["calibration_error"]) == pytest.approx(abs(1 - (1 / 3 + other)) / 2, rel=1e-5)
