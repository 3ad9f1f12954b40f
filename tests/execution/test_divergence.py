"""A run that diverged is named everywhere, and enters no mean."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TINY, records
from tests.make_records import record, scores, sweep
from thawline.execution.divergence import divergence
from thawline.records import load_record
from thawline.reports import make_report
from thawline.reports.loading import load_sweep
from thawline.reports.study import make_study

SGD = ("optimizer=sgd", "optimizer.weight_decay=0", "scheduler=constant", "freeze_policy=full")


@pytest.mark.parametrize(
    ("overrides", "diverged"),
    [
        (("optimizer.lr=1e9", "trainer.max_epochs=1"), True),  # a validation loss that is no number
        (("optimizer.lr=1e9", "trainer.max_epochs=1", "freeze_policy=linear_probe"), True),
        (("optimizer.lr=1e6", "freeze_policy=linear_probe"), True),  # finite losses, but huge
        (("optimizer.lr=1e-7", "trainer.max_epochs=1"), False),  # has not learned yet
        (("optimizer.lr=0.01",), False),
    ],
)
def test_a_run_diverges_by_its_losses(thawline, overrides, diverged):
    result = thawline("train", *TINY, *SGD, *overrides)
    assert result.status == 0
    (folder,) = records()
    found = load_record(folder)
    assert (found.diverged, bool(found.divergence)) == (diverged, diverged)
    assert ("diverged: " in result.err) == diverged
    assert (found.divergence in result.err.replace("\n", " ")) or not diverged


def test_what_diverged_is_by_loss_and_by_weights():
    fine = {"head.weight": torch.ones(2)}
    epochs = [{"epoch": 0, "train/loss": 9.0, "val/loss": 5.0}, {"epoch": 1, "train/loss": 0.1, "val/loss": 30.0}]
    assert divergence(epochs, math.log(10), fine) == ""
    assert "the training loss of epoch 0 is not finite" in divergence([{"epoch": 0, "train/loss": math.nan}], 1.0, fine)
    assert "the validation loss of epoch 0" in divergence([{"epoch": 0, "val/loss": None}], 1.0, fine)
    assert "more than 2 times" in divergence([{"epoch": 0, "train/loss": 2.1, "val/loss": 0.1}], 1.0, fine)
    assert "more than 100 times" in divergence([{"epoch": 0, "train/loss": 0.5, "val/loss": 101.0}], 1.0, fine)
    assert divergence([{"epoch": 0, "train/loss": 1.9, "val/loss": 99.0}], 1.0, fine) == ""
    broken = {**fine, "head.bias": torch.tensor([0.0, math.inf])}
    assert divergence([{"epoch": 0, "val/loss": 0.5}], 1.0, broken) == "weights are not finite: head.bias"


def test_a_packed_probe_diverges_alone_and_status_says_so(thawline):
    grid = ("freeze_policy=linear_probe", "optimizer=sgd", "optimizer.lr=0.01,1e8", "sweep.name=rates")
    result = thawline("train", "-m", *TINY, *grid)
    assert result.status == 0
    found = {load_record(folder).config["optimizer"]["lr"]: load_record(folder) for folder in records()}
    assert [run.phases[0].thaw_line.packed for run in found.values()] == [2, 2]
    assert (found[0.01].diverged, found[1e8].diverged) == (False, True)
    told = thawline("status", "rates").out
    assert "1 of those done diverged" in told
    assert "done, diverged" in told
    cells = json.loads(thawline("status", "rates", "--json").out)["cells"]
    assert sorted(cell["diverged"] for cell in cells) == [False, True]
    page = (Path("outputs/sweeps/rates/report/report.md")).read_text()
    assert "1 diverged" in page


def test_a_diverged_run_with_finite_numbers_enters_no_mean_and_is_no_candidate(tmp_path):
    """Its accuracy would be the best of all."""

    def make(overrides, place):
        lost = place == {"freeze_policy.k": "1", "seed": "0"}
        why = {"diverged": True, "divergence": "the training loss of epoch 1 is 2e+08"} if lost else {}
        level = 0.99 if lost else 0.6 if place["freeze_policy.k"] == "1" else 0.5
        return record(
            overrides, k=int(place["freeze_policy.k"]), metrics=dict.fromkeys(("val", "test"), scores(level)), **why
        )

    folder = sweep(tmp_path, {"freeze_policy.k": ["0", "1"], "seed": ["0", "1", "2"]}, make)
    study = make_study(load_sweep(folder))
    assert study.conditions[0].chosen.depth == 0
    assert study.rows[1].summary("test", "top1").mean == pytest.approx(0.6)
    page = make_report(folder).markdown.read_text()
    assert "0.600 ± 0.000 (1 of 3 diverged)" in page
    assert "Why: the training loss of epoch 1 is 2e+08 (1 x)" in page


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weights_file_with_values_that_are_not_numbers_is_named_before_training(thawline, train, value):
    run = train("freeze_policy=linear_probe", "trainer.max_epochs=1")
    assert thawline("export", run.identity, "--output", "exported.safetensors").status == 0
    tensors = load_file("exported.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = value
    save_file(tensors, "broken.safetensors")
    result = thawline("train", *TINY, "backbone.weights=broken.safetensors")
    assert result.status != 0
    assert "broken.safetensors: holds values that are not finite" in result.err
    assert name.removeprefix("backbone.") in result.err
