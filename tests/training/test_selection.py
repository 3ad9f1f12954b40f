"""What is chosen on validation: the metric decides, the validation loss decides between equals, then the first."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.conftest import TINY, records
from tests.make_records import record, scores, sweep
from thawline.network.model import TransferModel
from thawline.records import load_record
from thawline.records.metrics import NEVER, MetricDefinition, SelectionRule, selection_rule
from thawline.reports.loading import load_sweep
from thawline.reports.study import make_study
from thawline.training.best_epoch import BestEpoch

# Fifty validation images of two digits: the accuracy stays where it is for epochs while the loss falls.
TWO = ("dataset.classes=[0,6]", "freeze_policy=linear_probe", "trainer.max_epochs=4", "optimizer.lr=0.003")
PATH = ("probe=lbfgs_path", "probe.c_min=1e-4", "probe.c_max=0.25", "probe.steps=3")


def best_by_hand(run) -> int:
    """The epoch with the best accuracy, then the smallest loss, then the first; there must be a tie to decide."""
    top = max(row["val/top1"] for row in run.history)
    tied = [row for row in run.history if row["val/top1"] == top]
    assert len(tied) > 1
    best = min(tied, key=lambda row: row["val/loss"])
    assert best is not tied[0]
    return best["epoch"]


@pytest.mark.parametrize("settings", [(), PATH, ("freeze_policy=last_k", "freeze_policy.k=1", "optimizer.lr=3e-4")])
def test_epochs_and_strengths_that_tie_in_accuracy_are_told_apart_by_the_loss(train, settings):
    run = train(*TWO, *settings)
    assert run.selection.epoch == best_by_hand(run)
    assert run.selection.tie_break == "val/loss"
    chosen = run.history[run.selection.epoch]
    assert run.metrics["val"] == {key[4:]: value for key, value in chosen.items() if key.startswith("val/")}


def test_packed_probes_choose_as_each_alone(thawline):
    assert thawline("train", "-m", *TINY, *TWO, "optimizer.lr=0.003,0.001", "sweep.report=false").status == 0
    found = [load_record(folder) for folder in records()]
    assert [run.phases[0].thaw_line.packed for run in found] == [2, 2]
    assert [run.selection.epoch for run in found] == [best_by_hand(run) for run in found]


def test_a_rule_ranks_by_the_metric_then_by_the_tie_break():
    rule = SelectionRule("top1", "max", "loss")
    assert rule.rank({"top1": 0.9, "loss": 0.5}) > rule.rank({"top1": 0.8, "loss": 0.1})
    assert rule.rank({"top1": 0.9, "loss": 0.4}) > rule.rank({"top1": 0.9, "loss": 0.5})
    assert rule.rank({"top1": 0.9, "loss": math.nan}) == NEVER
    assert rule.rank({"top1": None, "loss": 0.1}) == NEVER
    assert rule.rank({"val/top1": 0.5}, "val/") == (0.5, 0.0)


def test_of_epochs_that_are_equal_in_everything_the_first_is_kept():
    model = TransferModel(nn.Identity(), nn.Linear(2, 2), (0.5,), (0.5,))
    best = BestEpoch(model, SelectionRule("top1", "max", "loss"))
    row = {"val/top1": 0.75, "val/loss": 0.5}
    kept = model.head.bias.detach().clone()
    assert best.consider(row, 0, {"head.bias"})
    with torch.no_grad():
        model.head.bias += 1.0
    assert not best.consider(dict(row), 1, {"head.bias"})
    assert not best.consider({**row, "val/loss": math.nan}, 2, {"head.bias"})
    assert (best.epoch, best.value) == (0, 0.75)
    best.restore()
    assert torch.equal(model.head.bias, kept)


def test_a_metric_does_not_break_its_own_ties():
    definitions = {"loss": MetricDefinition(direction="min", label="loss")}
    assert selection_rule("loss", definitions, "loss") == SelectionRule("loss", "min")


def test_the_report_tells_equal_settings_apart_by_the_loss_and_says_so(tmp_path):
    """Depths 0 and 2 tie in accuracy, in other seeds each; depth 2 has the smaller loss, depth 1 the worse accuracy."""
    accuracies = {"0": (0.7, 0.8, 0.9), "1": (0.7, 0.8, 0.8), "2": (0.9, 0.7, 0.8)}
    losses = {"0": 0.6, "1": 0.1, "2": 0.5}

    def make(overrides, place):
        k = place["freeze_policy.k"]
        validation = {**scores(accuracies[k][int(place["seed"])]), "loss": losses[k]}
        return record(overrides, k=int(k), metrics={"val": validation, "test": scores(0.5)})

    folder = sweep(tmp_path, {"freeze_policy.k": ["0", "1", "2"], "seed": ["0", "1", "2"]}, make)
    study = make_study(load_sweep(folder))
    assert study.conditions[0].chosen.depth == 2
    # Seed 1 has depths 0 and 1 tied at 0.8, and depth 1 has the smaller loss.
    labels = [row.depth for row in study.conditions[0].candidates]
    assert [labels[index] for index in study.conditions[0].per_replicate.chosen] == [2, 1, 0]
