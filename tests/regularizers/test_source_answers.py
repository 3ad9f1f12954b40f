"""Distillation and Co-Tuning: the answers of the source's head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from tests.execution.test_train import folder_of
from tests.regularizers.bench import (
    CLASSES,
    ONE_STEP,
    SOURCE,
    VIT,
    bench,
    first_row,
    move,
)
from thawline.execution.weights import build_model
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.regularizers import (
    CoTuning,
    Distillation,
)
from thawline.regularizers.co_tuning import calibrated_relation, direct_relation, soft_cross_entropy
from thawline.regularizers.distillation import divergence


def test_distillation_is_zero_for_equal_logits_and_the_divergence_elsewhere():
    target, logits = torch.randn(4, 6), torch.randn(4, 6)
    assert divergence(target, target.clone(), 3.0).item() == 0.0
    p, q = (target / 3).softmax(dim=1), (logits / 3).softmax(dim=1)
    # The Transfer Learning Library's loss: no factor T².
    expected = (p * (p / q).log()).sum(dim=1).mean()
    assert divergence(target, logits, 3.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_distillation_starts_at_zero_with_the_sources_head_kept_and_trained_along():
    model, images = bench()
    term = Distillation(weight=4.0).attach(model.context)
    assert model.value(term, images).item() == 0.0
    assert sorted(name for name, p in term.auxiliary.named_parameters() if p.requires_grad) == ["bias", "weight"]
    move(model.model, 0.02)
    value = model.value(term, images)
    value.backward()
    assert value.item() > 0.0
    assert term.auxiliary.weight.grad.abs().sum() > 0
    fixed = Distillation(weight=4.0, train_source_head=False).attach(model.context)
    assert not any(p.requires_grad for p in fixed.auxiliary.parameters())


def test_distillation_in_a_run_starts_at_zero(train):
    record = train(*VIT, *SOURCE, "freeze_policy=full", *ONE_STEP, "regularizer=distillation", "optimizer.lr=0.1")
    assert first_row(record)["train/distillation"] == 0.0
    assert record.history[1]["train/distillation"] > 0.0
    assert first_row(record)["train/distillation/weight"] == 4.0
    (phase,) = record.phases
    width = build_model(RunContext(plan_run(record.config, (), Session()), Session())).head.in_features
    assert phase.regularizers.keys() == {"distillation"}
    assert phase.regularizers["distillation"].companion_parameters == 5 * (width + 1)
    assert phase.optimizer_groups[-1].name == "regularizers"
    assert phase.optimizer_groups[-1].parameters == 5 * (width + 1)
    assert record.freeze_contract.phases[0].companion_parameters == 5 * (width + 1)
    assert record.parameters.trainable == phase.trainable_parameters == record.parameters.total
    kept = load_file(folder_of(record) / "best.safetensors")
    assert {name.split(".")[0] for name in kept} == {"backbone", "head"}


@pytest.mark.parametrize("classes", [2, 3])
def test_the_rows_of_co_tunings_relation_sum_to_one(classes):
    generator = np.random.default_rng(0)
    labels = np.arange(60) % classes
    logits = generator.normal(size=(60, 7))
    logits[np.arange(60), labels] += 4.0
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    direct = direct_relation(probabilities, labels, classes)
    calibrated = calibrated_relation(probabilities[:40], labels[:40], probabilities[40:], labels[40:], classes)
    for relation in (direct, calibrated):
        assert relation.shape == (classes, 7)
        assert np.abs(relation.sum(axis=1) - 1.0).max() < 1e-12
        assert relation.min() >= 0.0
        # Source class s speaks of target class s here.
        assert list(relation[:, :classes].argmax(axis=1)) == list(range(classes))
    assert np.array_equal(direct[0], probabilities[labels == 0].mean(axis=0))


def test_the_calibrated_relation_is_bayes_rule_on_the_authors_regression():
    from scipy.optimize import minimize_scalar
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(4), size=90)
    labels = np.array([generator.choice(3, p=row[:3] / row[:3].sum()) for row in probabilities])
    train, val = (probabilities[:60], labels[:60]), (probabilities[60:], labels[60:])
    strengths = [1e4, 3e3, 1e3, 3e2, 1e2, 3e1, 1e1, 3.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4]
    fitted = [LogisticRegression(C=c, fit_intercept=False, max_iter=1000).fit(*train) for c in strengths]
    best = fitted[int(np.argmax([regression.score(*val) for regression in fitted]))]
    logits = val[0] @ best.coef_.T

    def loss(scale):
        log_p = torch.from_numpy(logits * scale).log_softmax(dim=1).numpy()
        return -log_p[np.arange(30), val[1]].mean()

    scale = minimize_scalar(loss, bounds=(0, 100), method="bounded", options={"xatol": 1e-9}).x
    target_given_source = torch.from_numpy(best.coef_.T * scale).softmax(dim=1).numpy()
    joint = (target_given_source * probabilities.mean(axis=0)[:, None]).T
    expected = joint / joint.sum(axis=1, keepdims=True)
    assert np.allclose(calibrated_relation(*train, *val, 3), expected, atol=1e-4)


def test_a_class_that_no_source_class_points_to_keeps_a_relation():
    probabilities = np.eye(3)[np.arange(30) % 3]
    labels = np.arange(30) % 3
    relation = calibrated_relation(probabilities, labels, probabilities, labels, 4)
    assert np.isfinite(relation).all()
    assert np.allclose(relation.sum(axis=1), 1.0)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_co_tuning_is_the_cross_entropy_with_the_relation(scale):
    model, images = bench()
    term = CoTuning(weight=2.3, relation="direct", logit_scale=scale).attach(model.context)
    with torch.no_grad():
        features = model.context.source.model(images)
        row = model.context.source_classifier
        logits = F.linear(features, row.weight, row.bias)
        log_p = logits.log_softmax(dim=1)
    labels = model.context.samples("train").labels
    doubled = np.concatenate([(scale * logits).softmax(dim=1).numpy()] * 2), np.concatenate([labels] * 2)
    relation = direct_relation(*doubled, CLASSES)
    expected = -(relation[np.arange(12) % CLASSES] * log_p.numpy()).sum(axis=1).mean()
    assert model.value(term, images).item() == pytest.approx(expected, rel=1e-4)
    one_hot = torch.eye(4)[[0, 2]]
    logits = torch.randn(2, 4)
    assert soft_cross_entropy(one_hot, logits).item() == pytest.approx(
        F.cross_entropy(logits, torch.tensor([0, 2])).item(), rel=1e-6
    )


@pytest.mark.slow
def test_what_a_regularizer_trains_itself_goes_on_in_the_next_phase(train):
    phases = "freeze_policy.phases=[{name: one, train: head, epochs: 3}, {name: two, train: head}]"
    record = train(*SOURCE, *ONE_STEP, "freeze_policy=phases", phases, "trainer.max_epochs=4", "optimizer.lr=0.02",
                   "metrics.monitor=loss", "regularizer=co_tuning", "trainer.checkpoint_seconds=0")  # fmt: skip
    values = [row["train/co_tuning"] for row in record.history]
    assert [row["phase"] for row in record.history] == ["one", "one", "one", "two"]
    # The backbone is frozen: each value is that of the kept head before the epoch's step.
    assert values[0] > values[1] > values[2] > values[3]
    assert record.phases[1].regularizers["co_tuning"].companion_parameters > 0
