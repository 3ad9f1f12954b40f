"""VTAB-1k's protocol: tuned on part of a few images, trained on all of them without validation, tested once."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
import torch
from tests.conftest import TINY
from torch import nn

from thawline.datasets import Digits
from thawline.network.model import TransferModel
from thawline.training.best_epoch import BestEpoch

ALL = (*TINY, "dataset.n_per_class=null")
COMMAND = (
    "train", *ALL, "protocol=vtab", "strategy=linear_probe,full", "protocol.n_train_val=50", "protocol.trials=2",
    "protocol.seeds=2", "protocol.data_seed=7", "sweep.name=v",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(zygote, tmp_path_factory):
    """The folder in which the protocol was run."""
    folder = tmp_path_factory.mktemp("vtab")
    done = zygote.run(*COMMAND, folder=folder)
    assert done.wait() == 0, done.err
    return folder


def on_file(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture
def stages(place):
    """The records of each stage, with their points."""
    protocol = on_file(place / "outputs/sweeps/v/protocol.json")
    return {
        stage["name"]: [
            (point, on_file(place / "outputs/runs" / point["identity"] / "record.json")) for point in stage["points"]
        ]
        for stage in protocol["stages"]
    }


def sha256_of(keys) -> str:
    return hashlib.sha256("".join(f"{json.dumps(key)}\n" for key in sorted(keys)).encode()).hexdigest()


def test_it_tunes_on_forty_and_ten_images_and_trains_on_the_same_fifty_again(stages):
    assert {name: len(points) for name, points in stages.items()} == {"tune": 4, "test": 4}
    splits = Digits(n_train_val=50).load(7)
    train, val = set(splits.train.keys), set(splits.val.keys)
    assert (len(train), len(val), len(train | val)) == (40, 10, 50)
    for _, made in stages["tune"]:
        assert {name: one["samples"] for name, one in made["splits"].items()} == {"train": 40, "val": 10}
        assert [made["splits"][name]["sha256"] for name in ("train", "val")] == [sha256_of(train), sha256_of(val)]
        assert set(made["metrics"]) == {"val"}
        assert "predictions.npz" not in made["files"]
    for _, made in stages["test"]:
        # Of the 1797 digits 539 are for test, whatever is trained on.
        assert {name: one["samples"] for name, one in made["splits"].items()} == {"train": 50, "test": 539}
        assert made["splits"]["train"]["sha256"] == sha256_of(train | val)
        assert made["splits"]["test"]["sha256"] == splits.test.sha256
        assert set(made["metrics"]) == {"test"}
        assert "the 40 images of train and the 10 of val are trained on together" in made["notes"]


def test_what_is_tested_is_the_best_trial_on_fresh_seeds_and_keeps_its_last_epoch(stages):
    for index in (0, 1):
        tried = {
            point["trial"]: (-made["metrics"]["val"]["top1"], made["metrics"]["val"]["loss"], point["trial"])
            for point, made in stages["tune"]
            if point["candidate"] == index
        }
        tested = [(point, made) for point, made in stages["test"] if point["candidate"] == index]
        assert {point["trial"] for point, _ in tested} == {min(tried, key=tried.get)}
        assert [point["seed"] for point, _ in tested] == [1, 2]
    assert {point["seed"] for point, _ in stages["tune"]} == {0}
    for _, made in stages["test"]:
        assert made["config"]["data_seed"] == 7
        assert made["selection"] == {
            "monitor": "top1", "mode": "max", "tie_break": None, "value": None, "phase": 0, "epoch": 1, "kept": "last",
        }  # fmt: skip
        assert not any(name.startswith("val/") for row in made["history"] for name in row)
        assert [row["epoch"] for row in made["history"]] == [0, 1]


def test_the_report_chooses_and_compares_nothing_by_validation(place):
    report = place / "outputs/sweeps/v/report"
    (table,) = [list(csv.DictReader(stream)) for stream in [(report / "table.csv").open()]]
    assert not any(name.startswith("val_") for name in table[0])
    assert [row["chosen"] for row in table] == ["false", "false"]
    text = (report / "report.md").read_text()
    assert "Nothing is chosen among them: that would take images which they have not seen." in text
    assert "No row is chosen: no run has validation images." in text
    assert "Test top-1 accuracy is 0." in text
    for absent in ("chosen on validation", "★", "regret", "| val top1"):
        assert absent not in text
    # What the trials reached on validation is another stage's, and is shown.
    assert "Would another tuning budget change the order?" in text


def test_its_runs_are_valid_and_the_best_of_them_is_not_known(place, stages, thawline, monkeypatch):
    monkeypatch.chdir(place)
    assert thawline("verify", "v").status == 0
    result = thawline("export", "v", "--format", "safetensors")
    assert result.status == 2
    assert "its runs trained on their validation images, so none of them is the best by validation" in " ".join(
        result.err.split()
    )
    for target, method in ((f"outputs/runs/{stages['test'][0][1]['identity']}", "wise_ft"), ("v", "uniform")):
        result = thawline("average", target, "--method", method)
        assert result.status == 2
        assert "trained on its validation images, which would choose the average" in " ".join(result.err.split())


def test_a_run_of_the_test_stage_is_the_run_that_one_makes_by_hand(place, stages, thawline, monkeypatch):
    monkeypatch.chdir(place)
    made = stages["test"][0][1]
    by_hand = [line for line in made["overrides"] if not line.startswith("sweep.")]
    result = thawline("train", *by_hand)
    assert result.status == 0, result.err
    assert f"record: outputs/runs/{made['identity']}/record.json" in result.out.replace("\n", "")
    assert "epoch 1 kept as the last one" in result.out


RETRAINED = (*TINY, "train_on=train_val")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["open_test=false"], "open_test: a run that keeps the test split closed is evaluated on validation images"),
        (["probe=lbfgs_path", "freeze_policy=linear_probe"], "probe: lbfgs_path chooses its strength on validation"),
        (["trainer.early_stopping=3"], "trainer.early_stopping: when to stop is seen on validation images"),
        (["strategy=lp_ft", "freeze_policy.probe.patience=2"], "freeze_policy: phase 'probe' ends by its patience"),
        (["strategy=co_tuning"], "regularizer.co_tuning: CoTuning is calibrated on validation images"),
        (["diagnostics.cka=true"], "diagnostics.cka: it is measured on validation images, and train_on=train_val"),
    ],
)
def test_what_needs_validation_images_is_refused_before_any_training(thawline, arguments, said):
    result = thawline("train", *RETRAINED, "trainer.max_epochs=4", *arguments)
    assert (result.status, list(Path().glob("outputs/runs/*"))) == (2, []), result.err
    assert said in " ".join(result.err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trainer.early_stopping=3"], "trainer.early_stopping: when to stop is seen on validation images"),
        (["dataset.n_train_val=20"], "dataset.n_train_val: protocol.n_train_val gives it to all runs"),
        (["data_seed=3"], "data_seed: protocol.data_seed gives it to all runs"),
        (["train_on=train_val"], "train_on: a protocol says what the runs of its stages train on"),
        (["dataset.n_per_class=3"], "n_per_class and n_train_val both choose a subset: give one of them"),
        (["protocol.n_train_val=9"], "dataset: there are too few different images for a val part"),
    ],
)
def test_what_cannot_be_retrained_is_said_before_anything_is_tuned(thawline, arguments, said):
    result = thawline("train", *ALL, "protocol=vtab", "strategy=linear_probe", *arguments)
    assert (result.status, list(Path().glob("outputs/runs/*"))) == (2, []), result.err
    assert said in " ".join(result.err.split())


def test_phases_end_with_their_last_epochs_and_packed_probes_are_trained_one_by_one(train, thawline):
    made = train("train_on=train_val", "strategy=lp_ft", "trainer.max_epochs=3")
    assert (made.selection.kept, made.selection.epoch, made.selection.phase) == ("last", 2, 1)
    several = ("train", "-m", *RETRAINED, "freeze_policy=linear_probe", "optimizer.lr=0.1,0.2", "sweep.report=false")
    assert thawline(*several).status == 0
    probes = [on_file(path) for path in Path().glob("outputs/runs/*/record.json")]
    packed = [one["phases"][0]["thaw_line"]["packed"] for one in probes if len(one["phases"]) == 1]
    assert packed == [1, 1]


def test_without_a_rule_the_last_epoch_is_kept():
    model = TransferModel(nn.Identity(), nn.Linear(2, 2), (0.5,), (0.5,))
    kept = BestEpoch(model, None)
    for epoch in range(3):
        with torch.no_grad():
            model.head.bias.fill_(float(epoch))
        assert kept.consider({"train/loss": 0.5}, epoch, {"head.bias"})
    with torch.no_grad():
        model.head.bias.fill_(9.0)
    kept.restore()
    assert (kept.epoch, model.head.bias.tolist()) == (2, [2.0, 2.0])
