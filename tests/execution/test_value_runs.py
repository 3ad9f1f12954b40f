"""Runs of several classes and of a number for each image, through the public command, on tables that the test draws."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import thawline as api
from tests.conftest import TINY, records
from thawline.evaluation.images import image_values
from thawline.records import Record, load_record

COLOURS = ("red", "green", "blue")
PARTS = {"train": 16, "val": 8, "test": 9}
COMMON = (
    *(item for item in TINY if not item.startswith("dataset")),
    "dataset.root=drawn",
    "optimizer.lr=0.05",
    "trainer.batch_size=8",
)
TASKS = {
    "multilabel": (*COMMON, "dataset=multi_hot_csv", f"dataset.classes=[{','.join(COLOURS)}]"),
    "regression": (*COMMON, "dataset=number_csv", "dataset.column=level", "task.center=100", "task.scale=40"),
}


@pytest.fixture(autouse=True)
def drawn(tmp_path: Path) -> Path:
    """Noise whose channels are bright or dark, each for itself; ``level`` is the images' mean value."""
    root = tmp_path / "drawn"
    root.mkdir()
    rows = []
    for part, count in PARTS.items():
        for index in range(count):
            rng = np.random.default_rng([len(part), index])
            bright = rng.integers(0, 2, 3)
            pixels = (60 + 110 * bright + rng.integers(-40, 40, (24, 20, 3))).astype(np.uint8)
            name = f"{part}-{index}.png"
            Image.fromarray(pixels).save(root / name)
            rows.append([name, *bright, float(pixels.mean()), part])
    with (root / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", *COLOURS, "level", "split"], *rows])
    return root


@pytest.fixture
def fit(thawline):
    """Train one configuration of a task and return its record."""

    def run(task: str, *overrides: str, place: str = "outputs") -> Record:
        before = set(records(place))
        result = thawline("train", *TASKS[task], f"output_dir={place}", *overrides)
        assert result.status == 0, result.err
        (new,) = set(records(place)) - before
        return load_record(new)

    return run


def table(part: str) -> list[dict[str, str]]:
    with Path("drawn/labels.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["split"] == part]


def predictions(record: Record) -> dict[str, np.ndarray]:
    with np.load(Path("outputs/runs") / record.identity / "predictions.npz") as kept:
        return {name: kept[name] for name in kept.files}


def losses(record: Record) -> list[float]:
    return [row[name] for row in record.history for name in ("train/loss", "val/loss")]


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean, over the positive images, of the precision among all that score at least as high."""
    at_least = scores[None, :] >= scores[truth][:, None]
    return float(((at_least & truth).sum(1) / at_least.sum(1)).mean())


def assert_again(record: Record, expected: dict[str, float]) -> None:
    """The folder, read as any other that has the truth, gives the same metrics on its test images."""
    found = api.load_run(record.identity).evaluate("drawn")
    assert found["images"].to_dict() == PARTS
    assert found.loc["test", list(expected)].to_dict() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_metrics_of_several_classes_are_those_of_what_was_kept(fit, thawline):
    record = fit("multilabel", "freeze_policy.k=1")
    assert (record.headline, record.selection.monitor, record.selection.mode) == ("map", "val/map", "max")
    kept = predictions(record)
    truth = np.array([[int(row[name]) for name in COLOURS] for row in table("test")])
    assert kept["target"].tolist() == truth.tolist()
    truth, logits = truth.astype(bool), kept["logits"].astype(np.float64)
    precisions = [average_precision(logits[:, column], truth[:, column]) for column in range(3)]
    hits, sizes = ((logits > 0) & truth).sum(0), (logits > 0).sum(0) + truth.sum(0)
    entropy = np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * truth
    expected = {
        "map": np.mean(precisions),
        "macro_f1": (2 * hits / sizes).mean(),
        "micro_f1": 2 * hits.sum() / sizes.sum(),
        "loss": entropy.mean(),
    }
    assert record.metrics["test"] == pytest.approx(expected, abs=1e-6)
    for metric in ("map", "macro_f1", "micro_f1"):
        assert image_values(kept, metric).value == pytest.approx(expected[metric])
    assert [record.per_class[name]["average_precision"] for name in COLOURS] == pytest.approx(precisions, abs=1e-6)
    assert record.splits["test"].per_class == truth.sum(0).tolist()
    assert record.splits["test"].constant_scores == {"map": pytest.approx(truth.mean(0).mean())}
    assert_again(record, expected)
    assert thawline("verify", f"outputs/runs/{record.identity}").status == 0


def test_metrics_of_a_number_are_those_of_what_was_kept_in_its_own_units(fit, thawline):
    record = fit("regression", "freeze_policy.k=1")
    assert (record.headline, record.selection.monitor, record.selection.mode) == ("mae", "val/mae", "min")
    kept = predictions(record)
    truth = np.array([[float(row["level"])] for row in table("test")])
    assert kept["target"] == pytest.approx(truth, rel=1e-6)
    error = 100 + 40 * kept["output"].astype(np.float64) - truth
    expected = {
        "mae": np.abs(error).mean(),
        "rmse": np.sqrt((error**2).mean()),
        "r2": 1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum(),
        "loss": ((error / 40) ** 2).mean(),
    }
    assert record.metrics["test"] == pytest.approx(expected, rel=1e-5)
    assert [image_values(kept, metric).value for metric in ("mae", "rmse")] == pytest.approx(
        [expected["mae"], expected["rmse"]], rel=1e-5
    )
    assert not record.splits["test"].per_class
    assert record.splits["test"].constant_scores == {"r2": 0.0}
    assert_again(record, expected)
    assert thawline("verify", f"outputs/runs/{record.identity}").status == 0


def test_numbers_far_from_where_outputs_start_are_remarked_with_what_fits_them(fit):
    levels = np.array([float(row["level"]) for row in table("train")])
    mean, spread = f"{levels.mean():.3g}", f"{levels.std():.3g}"
    record = fit("regression", "freeze_policy.k=0", "task.center=0", "task.scale=1")
    found = f"the training targets have a mean of {mean} and a standard deviation of {spread}"
    start = "an output of 0 stands for 0 and one of 1 for 1"
    fits = f"task.center={mean}, task.scale={spread}"
    assert record.warnings == [f"{found}, but {start}: training goes faster with {fits}"]
    assert fit("regression", "freeze_policy.k=0").warnings == []


@pytest.mark.parametrize("task", TASKS)
def test_the_store_changes_no_number(fit, task):
    stored = fit(task, "freeze_policy.k=1", "cache.mode=on")
    plain = fit(task, "freeze_policy.k=1", "cache.mode=off", place="plain")
    assert [stored.phases[0].thaw_line.stored, plain.phases[0].thaw_line.stored] == [True, False]
    assert plain.identity == stored.identity
    assert losses(plain) == pytest.approx(losses(stored), rel=1e-6, abs=1e-6)
    assert plain.metrics["test"] == pytest.approx(stored.metrics["test"], rel=1e-5)


@pytest.mark.parametrize(
    ("task", "metric", "direction"),
    [
        pytest.param("multilabel", "mean average precision", "higher", marks=pytest.mark.slow),
        ("regression", "mean absolute error", "lower"),
    ],
)
def test_a_sweep_ends_with_a_report_in_the_tasks_own_metric_and_direction(thawline, task, metric, direction):
    result = thawline("train", "-m", *TASKS[task], "freeze_policy.k=0,1", "seed=0,1", "sweep.name=depths")
    assert result.status == 0, result.err
    report = Path("outputs/sweeps/depths/report/report.md").read_text()
    found = [load_record(folder) for folder in records()]
    name = found[0].headline
    values = [[r.metrics["val"][name] for r in found if r.config["freeze_policy"]["k"] == k] for k in (0, 1)]
    first, second = np.mean(values, axis=1)
    deeper = second < first if direction == "lower" else second > first
    assert ("Unfreezing k = 1 of" in report) == deeper
    assert f"chosen on validation; test {metric} " in report
    assert ("lower is better" in report.lower()) == (direction == "lower")
    assert "accuracy" not in report and "top1" not in report
    assert f"test {name} " in result.out


@pytest.mark.parametrize("task", TASKS)
def test_a_run_stops_early_by_the_tasks_own_metric_in_its_direction(fit, task):
    # Far from the numbers at the start, so that the error falls before it rises again.
    far = ["task.center=60", "optimizer.lr=0.005"] if task == "regression" else []
    stopping = ("trainer.early_stopping=2", "trainer.max_epochs=12", "scheduler=constant")
    record = fit(task, "freeze_policy.k=0", *stopping, *far)
    sign = -1 if record.selection.mode == "min" else 1
    gains = [sign * row[record.selection.monitor] for row in record.history]
    assert len(gains) == epochs_until_stopped(gains) < 12
    assert epochs_until_stopped([-gain for gain in gains]) < len(gains)


def epochs_until_stopped(gains: list[float], patience: int = 2) -> int:
    """How many epochs there are until `patience` of them have brought no more than the best before."""
    best, waited = -np.inf, 0
    for epoch, gain in enumerate(gains, 1):
        best, waited = (gain, 0) if gain > best else (best, waited + 1)
        if waited == patience:
            return epoch
    return len(gains)
