"""Regression: metrics by NumPy and scikit-learn, in the targets' units whatever the outputs' are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from thawline.errors import UsageError
from thawline.specs import validate
from thawline.tasks.regression import Regression


def batch(images=11):
    random = np.random.default_rng(0)
    years = torch.from_numpy(2000 + 10 * random.normal(size=(images, 1))).float()
    return years, torch.from_numpy(random.normal(size=(images, 1))).float()


def computed(task, batches):
    metrics = task.metrics(("value",))
    for outputs, targets in batches:
        metrics.update(outputs, targets)
    return {name: float(value) for name, value in metrics.compute().items()}


def huber(error, delta):
    error = np.abs(error)
    return np.where(error <= delta, error**2 / 2, delta * (error - delta / 2))


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_metrics_are_of_the_targets_units_and_the_loss_of_the_outputs(loss):
    targets, outputs = batch()
    task = Regression(loss=loss, huber_delta=0.5, center=2000.0, scale=10.0)
    values, true = 2000 + 10 * outputs.double().numpy(), targets.double().numpy()
    error = outputs.double().numpy() - (true - 2000) / 10
    of_images = {"mse": error**2, "l1": np.abs(error), "huber": huber(error, 0.5)}[loss]
    expected = {
        "loss": of_images.mean(),
        "mae": mean_absolute_error(true, values),
        "rmse": mean_squared_error(true, values) ** 0.5,
        "r2": r2_score(true, values),
    }
    assert computed(task, [(outputs, targets)]) == pytest.approx(expected, rel=1e-4)
    uneven = [(outputs[:1], targets[:1]), (outputs[1:8], targets[1:8]), (outputs[8:], targets[8:])]
    assert computed(task, uneven) == pytest.approx(computed(task, [(outputs, targets)]), rel=1e-6)
    (term,) = task.losses(outputs, targets).values()
    assert (float(term.mean), term.count) == (pytest.approx(expected["loss"], rel=1e-4), 11)
    assert task.values(outputs).numpy() == pytest.approx(values, rel=1e-6)
    assert task.definitions(["loss"])["loss"].label.endswith(" of the scaled numbers")


def test_by_default_an_output_is_the_number_itself():
    targets, outputs = batch()
    assert torch.equal(Regression().values(outputs), outputs)
    assert Regression().definitions(["loss"])["loss"].label == "mean squared error"
    (term,) = Regression().losses(outputs, targets).values()
    assert float(term.mean) == pytest.approx(mean_squared_error(targets, outputs), rel=1e-5)


def test_there_is_no_r2_where_the_targets_do_not_vary():
    found = computed(Regression(), [(torch.tensor([[0.5], [0.2]]), torch.full((2, 1), 0.1))] * 3)
    assert math.isnan(found["r2"])
    assert found["mae"] == pytest.approx(0.25)
    arrays = {"output": np.float32([[0.5], [0.2]]), "target": np.float32([[0.1], [0.1]])}
    assert set(Regression().recomputed(arrays, ("value",))) == {"loss", "mae", "rmse"}


def test_the_metrics_follow_from_what_is_kept_of_each_image():
    targets, outputs = batch()
    task = Regression(center=2000.0)
    arrays = {name: value.numpy() for name, value in task.predictions(outputs, targets).items()}
    found = computed(task, [(outputs, targets)])
    assert task.recomputed(arrays, ("value",)) == {name: (value, value) for name, value in found.items()}
    assert task.definitions(found)["r2"].direction == "max"
    assert set(task.definitions(found)) == set(found)


def test_a_scale_of_0_is_refused():
    with pytest.raises(UsageError, match=r"task\.scale"):
        validate(Regression, {"scale": 0.0}, "task")
