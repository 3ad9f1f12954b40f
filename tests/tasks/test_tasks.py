"""The seam of tasks: a task from outside thawline, one number for each image, through the public command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import TINY, records
from thawline.records import load_record
from thawline.tasks.classification import Classification
from thawline.tasks.multilabel import Multilabel
from thawline.tasks.regression import Regression

PARTS = '''
import hashlib
from typing import ClassVar, final

import numpy as np

from thawline.datasets import ArrayImages, Split, Splits
from thawline.records.metrics import MetricDefinition
from thawline.specs import Spec
from thawline.tasks import LossTerm, Task


@final
class Brightness(Spec):
    """Grey squares; the target is how bright they are, 0 to 1."""

    count: int = 60

    def check(self):
        pass

    def load(self, data_seed, cache_dir=None):
        levels = np.linspace(0, 255, self.count).round().astype(np.uint8)
        pixels = np.broadcast_to(levels[:, None, None, None], (self.count, 8, 8, 3)).copy()
        keys = [f"{index:03d}" for index in range(self.count)]
        images = ArrayImages(pixels, (levels[:, None] / 255).astype(np.float32), keys)
        part = np.arange(self.count) % 5
        return Splits(
            train=Split(images, np.flatnonzero(part < 3)),
            val=Split(images, np.flatnonzero(part == 3)),
            test=Split(images, np.flatnonzero(part == 4)),
            classes=(),
            fingerprint=hashlib.sha256(levels.tobytes()).hexdigest(),
            target="number",
        )


@final
class Number(Task):
    """One number for each image, by its squared error."""

    NAME: ClassVar[str] = "number"
    TARGET: ClassVar[str] = "number"
    HEADLINE: ClassVar[str] = "mae"
    MONITORS: ClassVar[tuple[str, ...]] = ("mae", "loss")

    def outputs(self, classes):
        return ("value",)

    def losses(self, outputs, targets):
        return {"loss": LossTerm(((outputs - targets) ** 2).mean(), len(targets))}

    def metrics(self, outputs):
        from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

        return MetricCollection({"loss": MeanSquaredError(), "mae": MeanAbsoluteError()})

    def definitions(self, names):
        known = {
            "loss": MetricDefinition(direction="min", label="squared error", lower=0.0),
            "mae": MetricDefinition(direction="min", label="mean absolute error", lower=0.0),
        }
        return {name: known[name] for name in sorted(names)}

    def predictions(self, outputs, targets):
        return {"target": targets, "output": outputs.float()}

    def recomputed(self, arrays, outputs):
        error = arrays["output"] - arrays["target"]
        values = {"loss": float((error**2).mean()), "mae": float(abs(error).mean())}
        return {name: (value, value) for name, value in values.items()}
'''
NUMBERS = (
    *(item for item in TINY if not item.startswith("dataset")),
    "--allow", "own", "--config-dir", "conf", "task=number", "dataset=brightness", "trainer.max_epochs=2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    files = {
        "own/__init__.py": "",
        "own/parts.py": PARTS,
        "conf/task/number.yaml": "_target_: own.parts.Number\n",
        "conf/dataset/brightness.yaml": "_target_: own.parts.Brightness\n",
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("own", "own.parts"):
        sys.modules.pop(name, None)


def test_a_task_from_outside_runs_a_sweep_to_its_report(thawline, monkeypatch):
    grid = ("freeze_policy.k=0,1", "seed=0,1", "sweep.name=numbers")
    result = thawline("train", "-m", *NUMBERS, *grid)
    assert result.status == 0, result.err
    found = [load_record(folder) for folder in records()]
    assert len(found) == 4
    for record in found:
        assert (record.task, record.headline, record.classes) == ("number", "mae", [])
        assert record.metric_definitions["mae"].direction == "min"
        assert (record.selection.monitor, record.selection.mode) == ("val/mae", "min")
        best = min(range(2), key=lambda epoch: record.history[epoch]["val/mae"])
        assert record.selection.epoch == best
        with np.load(Path("outputs/runs", record.identity, "predictions.npz")) as kept:
            error = np.abs(kept["output"].astype(np.float64) - kept["target"]).mean()
            assert kept["index"].tolist() == list(range(4, 60, 5))
        assert record.metrics["test"]["mae"] == pytest.approx(error, rel=1e-5)
        assert not record.confusion_matrix
        assert [split.per_class for split in record.splits.values()] == [[], [], []]
    report = Path("outputs/sweeps/numbers/report/report.md").read_text()
    assert "mean absolute error" in report
    assert "top1" not in report
    assert "accuracy" not in report
    table = Path("outputs/sweeps/numbers/report/table.md").read_text()
    means = {
        k: np.mean([r.metrics["val"]["mae"] for r in found if r.config["freeze_policy"]["k"] == k]) for k in (0, 1)
    }
    (starred,) = [line for line in table.splitlines() if "**★**" in line]
    assert f"**{min(means, key=means.get)}**" in starred
    # As in a process of its own: what an earlier command allowed does not count.
    monkeypatch.setattr("thawline.specs._extra_prefixes", [])
    assert thawline("verify", "numbers").status == 1  # own code is not run unless it is allowed
    assert thawline("verify", "--allow", "own", "numbers").status == 0
    assert "4 runs: 4 done" in thawline("status", "numbers").out


def test_what_speaks_of_classes_is_refused_by_name(thawline):
    result = thawline("train", *NUMBERS, "head=source_rows", "diagnostics.transferability=true")
    assert result.status == 2
    assert "head: SourceRows is no head for number; these are: linear, mlp" in result.err
    assert "diagnostics.transferability: its scores are of classes, and the task is number" in result.err
    result = thawline("train", *TINY, "--allow", "own", "--config-dir", "conf", "task=number")
    assert result.status == 2
    assert (
        "task: number needs a data set whose targets are of kind 'number'; those of this one are of kind 'class'"
        in (result.err)
    )
    assert not Path("outputs/runs").exists()


@pytest.mark.slow
def test_a_run_that_does_not_open_test_is_a_good_run(thawline):
    common = ("freeze_policy.k=0,1", "seed=0,1", "trainer.max_epochs=2")
    assert thawline("train", "-m", *TINY, *common, "open_test=false", "sweep.name=closed").status == 0
    closed = [load_record(folder) for folder in records()]
    for record in closed:
        assert set(record.splits) == {"train", "val"} == {*record.metrics, "train"}
        assert list(record.files) == ["best.safetensors"]
        assert "test" not in record.identity_parts["data"]["splits"]
    assert thawline("verify", "closed").status == 0
    assert thawline("status", "closed").status == 0
    report = Path("outputs/sweeps/closed/report/report.md").read_text()
    assert "The test split stayed closed in every run" in report.partition("## Results")[0]
    assert "says nothing about chance" not in report
    assert "test top1" not in report
    averaged = thawline("average", "closed", "--method", "uniform")
    assert averaged.status == 0, averaged.err
    assert "val top1" in averaged.out
    assert "test top1" not in averaged.out
    assert all("test" not in load_record(folder).metrics for folder in records())
    again = thawline("reproduce", closed[0].identity)
    assert again.status == 0, again.err
    ranked = thawline(
        "rank-sources", *(item for item in TINY if "backbone" not in item), "open_test=false", "backbones=[test_resnet]"
    )
    assert ranked.status == 0, ranked.err
    opened = thawline("train", *TINY, "freeze_policy.k=1", "seed=0", "trainer.max_epochs=2")
    assert opened.status == 0
    both = [record for record in map(load_record, records()) if record.config.get("average") is None]
    (new,) = [record for record in both if "test" in record.metrics]
    (same,) = [r for r in both if r is not new and (r.config["seed"], r.config["freeze_policy"]["k"]) == (0, 1)]
    assert new.identity != same.identity
    assert new.metrics["val"] == same.metrics["val"]
    assert json.loads(Path("outputs/runs", same.identity, "record.json").read_text())["metrics"].keys() == {"val"}


def test_the_nearest_mean_needs_no_training():
    features = {
        "train": torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]]),
        "val": torch.tensor([[1.0, 1.0], [9.0, 1.0], [4.0, 1.0], [6.0, 0.0]]),
    }
    targets = {"train": torch.tensor([0, 0, 1, 1]), "val": torch.tensor([0, 1, 1, 1])}
    assert Classification().without_training(features, targets, ("left", "right")) == {"nearest_mean_top1": 0.75}


def test_what_saying_the_same_of_every_image_scores_is_what_the_metrics_give_it():
    truth = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]])
    numbers = torch.tensor([[1.0], [2.0], [6.0], [7.0]])
    said = {
        Classification: (torch.tensor([0, 2, 0, 0]), torch.tensor([[2.0, 1.0, 0.0]]), [3, 0, 1], 2),
        Multilabel: (truth, torch.tensor([[1.0, 2.0, 3.0]]), [3, 2, 0], 1),
        Regression: (numbers, torch.tensor([[4.0]]), [], 1),
    }
    for task, (targets, output, per_output, known) in said.items():
        scores = task().constant_scores(per_output, 4)
        metrics = task().metrics(("ant", "bee", "cat"))
        metrics.update(output.expand(4, -1), targets)
        computed = metrics.compute()
        assert scores == pytest.approx({name: float(computed[name]) for name in scores}, abs=1e-6)
        assert len(scores) == known


def test_of_a_split_of_one_class_nothing_is_known_that_a_predictor_has_to_beat():
    assert [task().constant_scores([4, 0], 4) for task in (Classification, Multilabel)] == [{}, {}]
