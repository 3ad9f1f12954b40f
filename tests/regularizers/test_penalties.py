"""The weights of regularizers, their sum in the objective, their logs and refusals."""

from __future__ import annotations

import json

import pytest

from tests.conftest import TINY, records
from tests.execution.test_train import folder_of
from tests.regularizers.bench import (
    ONE_STEP,
    SOURCE,
    VGG,
    bench,
)
from thawline.errors import UsageError
from thawline.regularizers import (
    FeatureMatching,
)


def test_the_objective_is_the_loss_and_every_weighted_term(train, capsys):
    record = train("freeze_policy=full", "regularizer=[l2,l2_sp,bss,feature_matching,stoch_norm]", "logger=csv")
    terms = ["l2", "l2_sp", "l2_head", "bss", "feature_matching"]
    for row in record.history:
        weighted = sum(row[f"train/{name}"] * row[f"train/{name}/weight"] for name in terms)
        assert row["train/objective"] == pytest.approx(row["train/loss"] + weighted, rel=1e-5)
        assert row["train/l2_sp/weight"] == 0.1
    curves = (folder_of(record) / "curves" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/objective", *(f"train/{name}" for name in terms)} <= set(curves)
    plain = train("freeze_policy=full")
    assert not [key for row in plain.history for key in row if "objective" in key or "l2" in key]
    assert plain.identity != record.identity


def test_a_term_with_weight_zero_changes_nothing(train):
    plain = train("freeze_policy=full", "cache.mode=off")
    zero = train("freeze_policy=full", "cache.mode=off", "regularizer=[bss,l2]", "regularizer.bss.weight=0",
                 "regularizer.l2.weight=0")  # fmt: skip
    for key in ("train/loss", "val/loss"):
        assert [row[key] for row in zero.history] == [row[key] for row in plain.history]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [0.0, 0.25, 0.5, 0.75, 1.0]), ("cosine", [0.0, 0.1464466, 0.5, 0.8535534, 1.0])],
)
def test_a_schedule_runs_over_the_phase(train, schedule, expected):
    weight = f"{{schedule: {schedule}, start: 0, end: 1}}"
    record = train(*ONE_STEP, "trainer.max_epochs=5", "regularizer=l2", f"regularizer.l2.weight={weight}")
    assert [row["train/l2/weight"] for row in record.history] == pytest.approx(expected, abs=1e-6)


def test_a_ratio_keeps_the_terms_share_of_the_loss(train):
    record = train("freeze_policy=full", "regularizer=l2", "regularizer.l2.weight={ratio_to_loss: 0.25}")
    for row in record.history:
        assert row["train/objective"] == pytest.approx(1.25 * row["train/loss"], rel=1e-6)


def test_a_ratio_to_a_term_of_zero_is_an_error(thawline):
    result = thawline("train", *TINY, "freeze_policy=full", "regularizer=l2_sp",
                      "regularizer.l2_sp.weight={ratio_to_loss: 0.1}")  # fmt: skip
    assert result.status != 0
    message = (
        "regularizer.l2_sp.weight: ratio_to_loss divides by the term, which is 0 at step 0; use a number or a schedule"
    )
    assert message in result.err + result.out
    assert not records()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["regularizer.l2.weight=-1"], "regularizer.l2.weight.value: Input should be greater than or equal to 0"),
        (["regularizer.l2.weight={schedule: linear, start: 0}"],
         "regularizer.l2.weight: schedule, start and end belong together"),
        (["regularizer.l2.weight={ratio_to_loss: 0.1, value: 2}"],
         "regularizer.l2.weight: give a number, or schedule with start and end, or ratio_to_loss"),
        (["regularizer.l2.weight={ratio_to_los: 0.1}"], "regularizer.l2.weight.ratio_to_los: unknown field"),
        (["regularizer=distillation"], "regularizer.distillation: these source weights have no linear classifier"),
        (["regularizer=co_tuning"], "regularizer.co_tuning: these source weights have no linear classifier"),
        (["regularizer=delta", "regularizer.delta.layers=[layer5]"],
         "regularizer.delta.layers: the backbone has no layer 'layer5'; nearest: layer4"),
        (["regularizer=delta", "regularizer.delta.layers=[]"],
         "regularizer.delta.layers: names at least one layer, and each once"),
        (["regularizer=bss", "regularizer.bss.k=0"], "regularizer.bss.k: must be 1 or more, or all"),
        (["regularizer=stoch_norm", "regularizer.stoch_norm.p=2"], "regularizer.stoch_norm.p: Input should be less"),
        (["regularizer=feature_matching",
          "regularizer.feature_matching.teacher={_target_: thawline.backbones.TimmBackbone, name: vgg77}"],
         "regularizer.feature_matching.teacher.name: timm has no model 'vgg77'; nearest: "),
        (["regularizer=feature_matching",
          f"regularizer.feature_matching.teacher={VGG[:-1]}, weights: source}}"],
         "regularizer.feature_matching.teacher.weights: there is no source run here"),
        (["regularizer=feature_matching", "regularizer.feature_matching.kernel_size=2"],
         "regularizer.feature_matching.kernel_size: must be odd"),
        (["+regularizer.loss={_target_: thawline.regularizers.L2, weight: 1}"],
         "regularizer: 'loss' cannot name a regularizer: its term is logged as train/loss"),
        (["regularizer=l2", "freeze_policy=linear_probe", "probe=lbfgs_path"],
         "regularizer: lbfgs_path takes no steps that could be pulled"),
        (["regularizer=l3"], "regularizer: there is no option 'l3'; nearest: l2"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_anything_runs(thawline, overrides, message):
    chosen = [] if any(item.startswith(("regularizer=", "+")) for item in overrides) else ["regularizer=l2"]
    result = thawline("train", *TINY, *chosen, *overrides)
    assert result.status == 2
    assert message in result.err
    assert not records()


def test_layers_in_no_pair_are_refused():
    with pytest.raises(ValueError, match="layer_weights names 'layer9', which is in no pair"):
        FeatureMatching(weight=1.0, layers={"layer1": "layer1"}, layer_weights={"layer9": 1.0})
    model, _ = bench()
    with pytest.raises(UsageError, match="'layer9' is not matched; matched: stem, layer1"):
        FeatureMatching(weight=1.0, layer_weights={"layer9": 1.0}).attach(model.context)


def test_the_source_run_has_no_regularizer_of_the_target(train):
    record = train(*SOURCE, "regularizer=[l2_sp,distillation]")
    (source,) = [folder for folder in records() if folder.name != record.identity]
    source_record = json.loads((source / "record.json").read_text())
    assert source_record["config"]["regularizer"] == {}
    assert source_record["phases"][0]["regularizers"] == {}
