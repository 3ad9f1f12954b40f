"""Regularizers: the invariant of each on tiny real models, alone and in a run; what is logged, refused, left behind."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from tests.conftest import TINY, records
from tests.test_train import folder_of, numbers
from thawline.backbones import TimmBackbone, TorchvisionBackbone
from thawline.errors import UsageError
from thawline.execution.decoding import decoded_images
from thawline.execution.weights import build_model
from thawline.network import SourceClassifier
from thawline.network.model import TransferModel, network_of
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.records import ThawLineRecord, load_record
from thawline.regularizers import (
    BSS,
    DELTA,
    L2,
    L2SP,
    Context,
    CoTuning,
    Distillation,
    FeatureMatching,
    Step,
    StochNorm,
)
from thawline.regularizers.bss import smallest_squares
from thawline.regularizers.co_tuning import calibrated_relation, direct_relation, soft_cross_entropy
from thawline.regularizers.delta import Judge, attention
from thawline.regularizers.distillation import divergence
from thawline.regularizers.observation import Observer, as_channels, as_map, chosen_layers, group_outputs, layout_of
from thawline.training.module import FitModule
from thawline.training.penalties import Penalties, Penalty, whole_batch

VIT = ("backbone=test_vit", "backbone.input_size=32")
VGG = "{_target_: thawline.backbones.TimmBackbone, name: vgg11}"
ONE_STEP = ("trainer.batch_size=64",)
"""40 training samples in one batch: the first epoch's numbers are those of the model as it starts."""

CLASSES, SOURCE_CLASSES = 3, 5


@dataclass(frozen=True)
class RandomSamples:
    """Random images with labels in turn."""

    pixels: torch.Tensor

    @property
    def labels(self):
        return np.arange(len(self.pixels)) % CLASSES

    def images(self, positions):
        return self.pixels[torch.as_tensor(np.asarray(positions))]


@dataclass(frozen=True)
class Bench:
    """A model, its source, and what a regularizer is attached to."""

    context: Context
    observers: list[Observer]

    @property
    def model(self):
        return self.context.model

    def step(self, images):
        return Step(images, torch.arange(len(images)) % CLASSES, len(images), whole_batch)

    def value(self, term, images):
        """The term after a forward pass of the model in its present mode."""
        with self.context.observer.watching():
            self.model(images)
        return term.value(self.step(images))


def bench(name="test_resnet", *, size=32, classifier=True, teacher=None, samples=12):
    spec = TimmBackbone(name=name, input_size=size if "vit" in name else None) if isinstance(name, str) else name
    backbone = spec.build(seed=0)
    torch.manual_seed(0)
    model = TransferModel(backbone.module, torch.nn.Linear(backbone.feature_dim, CLASSES), backbone.mean, backbone.std)
    network = network_of(model, backbone.groups)
    model.set_trainable(network.parameters)
    model.eval()
    observers = [Observer(model, backbone.groups), Observer(frozen(backbone), backbone.groups)]
    drawn = RandomSamples(torch.randint(0, 256, (samples, 3, size, size), dtype=torch.uint8))

    def build(spec):
        built = spec.build(seed=0)
        observers.append(Observer(frozen(built), built.groups))
        return observers[-1]

    row = SourceClassifier(torch.randn(SOURCE_CLASSES, backbone.feature_dim), torch.randn(SOURCE_CLASSES))
    context = Context(
        name="tested",
        model=model,
        network=network,
        classes=CLASSES,
        observer=observers[0],
        source=observers[1],
        source_classifier=row if classifier else None,
        samples=lambda split: drawn,
        build=build,
        remember=lambda key, make: make(),
        seed=0,
        data_seed=0,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return Bench(context, observers), drawn.pixels


def frozen(backbone):
    model = TransferModel(copy.deepcopy(backbone.module), torch.nn.Identity(), backbone.mean, backbone.std)
    model.set_trainable(())
    return model.eval()


def move(model, scale=0.1):
    """Tune the model: every parameter somewhere else."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn_like(parameter)


def first_row(record):
    return record.history[0]


# The parameters: L2, L2-SP -------------------------------------------------------------------------------------------


def test_l2_with_sgd_is_its_weight_decay(train):
    fixed = (*VIT, "freeze_policy=full", "optimizer.weight_decay_on_norm_and_bias=true")
    by_optimizer = train(*fixed, "optimizer.weight_decay=0.1")
    by_term = train(*fixed, "optimizer.weight_decay=0", "regularizer=l2", "regularizer.l2.weight=0.1")
    assert by_optimizer.history[1]["train/loss"] == pytest.approx(by_term.history[1]["train/loss"], rel=1e-4)
    ours, theirs = (load_file(folder_of(record) / "best.safetensors") for record in (by_term, by_optimizer))
    for name, tensor in ours.items():
        assert torch.allclose(tensor.float(), theirs[name].float(), atol=1e-5), name


def test_l2_counts_what_it_is_told_to():
    model, _ = bench()
    context, network = model.context, model.context.network
    parameters = dict(model.model.named_parameters())
    kinds = {
        ("all", True): network.parameters,
        ("head", True): network.head,
        ("backbone", True): network.backbone,
        ("all", False): [name for name in network.parameters if name not in network.norms | network.biases],
    }
    for (over, norms), names in kinds.items():
        term = L2(weight=1.0, over=over, norms_and_biases=norms).attach(context)
        expected = 0.5 * sum(parameters[name].detach().square().sum() for name in names)
        assert term.value(model.step(torch.zeros(1, 3, 32, 32))).item() == pytest.approx(expected.item(), rel=1e-5)
    model.model.set_trainable(network.head)
    assert L2(weight=1.0, over="backbone").attach(context).value(model.step(torch.zeros(1, 3, 32, 32))).item() == 0.0


def test_l2_sp_has_no_gradient_at_the_source_and_pulls_back_elsewhere():
    model, images = bench()
    term = L2SP(weight=0.1).attach(model.context)
    backbone = {name: p for name, p in model.model.named_parameters() if name.startswith("backbone.")}
    value = term.value(model.step(images))
    value.backward()
    assert value.item() == 0.0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in backbone.values())
    start = {name: p.detach().clone() for name, p in backbone.items()}
    move(model.model)
    model.model.zero_grad()
    value = term.value(model.step(images))
    value.backward()
    apart = {name: p.detach() - start[name] for name, p in backbone.items()}
    assert value.item() == pytest.approx(0.5 * sum(d.square().sum() for d in apart.values()).item(), rel=1e-5)
    assert all(torch.allclose(p.grad, apart[name], atol=1e-7) for name, p in backbone.items())
    assert all(p.grad is None for p in model.model.head.parameters())


def test_l2_sp_with_a_large_weight_tends_to_the_probe(train):
    """A step takes the gradient's part of lr, and alpha pulls all of it back where lr * alpha = 1."""
    fixed = (*VIT, *ONE_STEP, "optimizer.lr=0.0001", "learning_rates.head=50", "optimizer.momentum=0",
             "optimizer.nesterov=false", "optimizer.weight_decay=0", "trainer.max_epochs=20", "cache.mode=off",
             "scheduler=constant")  # fmt: skip
    probe = train(*fixed, "freeze_policy=linear_probe").history[-1]
    apart, from_probe = [], []
    for alpha in (0, 1000, 10000):
        tuned = train(*fixed, "freeze_policy=full", "regularizer=l2_sp", f"regularizer.l2_sp.weight={alpha}",
                      "regularizer.l2_head.weight=0")  # fmt: skip
        apart.append(tuned.history[-1]["train/l2_sp"])
        from_probe.append(abs(tuned.history[-1]["val/loss"] - probe["val/loss"]))
    assert apart[0] > 3 * apart[1] > 60 * apart[2] > 0.0
    assert from_probe[0] > 1.5 * from_probe[1] > 6 * from_probe[2]


def test_l2_sp_pulls_towards_the_source_in_every_phase(train):
    record = train("freeze_policy=gradual_unfreezing", "regularizer=l2_sp", "trainer.max_epochs=8", "optimizer.lr=0.1")
    assert len(record.phases) > 1
    firsts = [next(row for row in record.history if row["phase"] == phase.name) for phase in record.phases]
    # The first phase trains the head alone; what the second has moved is not forgotten by the third.
    assert firsts[0]["train/l2_sp"] == 0.0
    assert firsts[2]["train/l2_sp"] > firsts[1]["train/l2_sp"] > 0.0
    assert record.phases[0].regularizers.keys() == {"l2_sp", "l2_head"}


# The features: BSS ---------------------------------------------------------------------------------------------------


def test_bss_of_all_singular_values_is_the_squared_norm():
    features = torch.randn(6, 4, dtype=torch.float64)
    assert smallest_squares(features, "all").item() == pytest.approx(features.square().sum().item(), rel=1e-12)
    values = np.linalg.svd(features.numpy(), compute_uv=False)
    assert smallest_squares(features, 1).item() == pytest.approx(values[-1] ** 2, rel=1e-9)
    assert smallest_squares(features, 3).item() == pytest.approx((values[-3:] ** 2).sum(), rel=1e-9)
    assert smallest_squares(features, 9).item() == pytest.approx((values**2).sum(), rel=1e-9)


@pytest.mark.parametrize("features", [torch.eye(5, 8), torch.ones(4, 6), torch.zeros(3, 3), torch.ones(1, 4)])
def test_the_gradient_of_bss_is_finite_at_repeated_and_zero_singular_values(features):
    for k in (1, 2, "all"):
        leaf = features.clone().requires_grad_()
        smallest_squares(leaf, k).backward()
        assert torch.isfinite(leaf.grad).all()
    assert torch.allclose(leaf.grad, 2 * features, atol=1e-5)


def test_bss_reads_the_heads_input(train):
    fixed = ("freeze_policy=linear_probe", *ONE_STEP, "optimizer.weight_decay=0")
    record = train(*fixed, "regularizer=bss", "regularizer.bss.k=all")
    plan = plan_run(record.config, (), Session())
    run = RunContext(plan, Session())
    model = build_model(run).eval()
    images = decoded_images(run).read(plan.splits.train.indices)
    with torch.no_grad():
        features = model.backbone((images - model.pixel_mean) * model.pixel_scale)
    assert first_row(record)["train/bss"] == pytest.approx(features.square().sum().item(), rel=1e-4)
    # The backbone is frozen: the term is measured, and pulls at nothing.
    plain = train(*fixed)
    assert plain.metrics["test"]["loss"] == pytest.approx(record.metrics["test"]["loss"], rel=1e-5)


# The maps: DELTA -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("importance", ["ablation", "gradient", "uniform"])
def test_delta_is_zero_at_the_source_and_each_layers_weights_sum_to_one(importance):
    model, images = bench()
    made = {}

    def remember(key, make):
        made.update(make())
        return made

    context = copy.copy(model.context)
    object.__setattr__(context, "remember", remember)
    spec = DELTA(weight=0.01, importance=importance, importance_samples=6)
    term = spec.attach(context)
    assert list(made) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    for path, weights in made.items():
        assert weights.sum().item() == pytest.approx(1.0, abs=1e-6), path
        assert (weights > 0).all()
        assert (weights == weights[0]).all() == (importance == "uniform")
    assert model.value(term, images).item() == 0.0
    move(model.model, 0.01)
    assert model.value(term, images).item() > 0.0


def test_delta_is_the_weighted_distance_of_the_maps():
    model, images = bench()
    spec = DELTA(weight=0.01, layers=("layer2", "layer4"), importance="uniform")
    term = spec.attach(model.context)
    move(model.model, 0.02)
    value = model.value(term, images)
    expected = 0.0
    for path in ("layer2", "layer4"):
        ours, theirs = (observer.activations[path].detach() for observer in model.observers)
        _, c, h, w = ours.shape
        per_channel = (ours - theirs).square().sum(dim=(0, 2, 3)) / (h * w)
        expected += 0.5 * c * (per_channel / c).sum().item()
    assert value.item() == pytest.approx(expected, rel=1e-5)
    mean = DELTA(weight=0.01, layers=("layer2", "layer4"), importance="uniform", reduction="mean").attach(model.context)
    assert model.value(mean, images).item() == pytest.approx(expected / len(images), rel=1e-5)


@pytest.mark.parametrize(
    ("library", "path"),
    [
        (TimmBackbone(name="test_resnet"), "layer3.0.conv2"),
        # This one calls one activation several times in a block, before the filter and after it.
        (TorchvisionBackbone(name="resnet18"), "layer4.1.conv2"),
    ],
)
def test_a_filters_importance_is_the_rise_of_the_loss_without_it(library, path):
    model, images = bench(library)
    source, drawn = model.context.origin, model.context.samples("train")
    move(source.model, 0.02)  # a fresh residual branch ends in a norm that multiplies by 0
    rows = torch.randn(CLASSES, 96 if path == "layer3.0.conv2" else 512, dtype=torch.float64)
    # One that errs: where the loss is next to 0, so is every rise.

    def classifier(features):
        return features.double() @ rows.t()

    batches = [np.arange(0, 5), np.arange(5, 12)]
    judge = Judge(source, classifier, [images[batch] for batch in batches], drawn.labels, batches)
    weight = source.backbone.get_submodule(path).weight
    rise = judge.rise_by_ablation(path, 1, len(weight))
    assert rise.abs().max() > 1e-3

    def loss():
        with torch.no_grad(), source.watching():
            source.model(images)
            return F.cross_entropy(classifier(source.features), torch.from_numpy(drawn.labels)).item()

    whole = loss()
    for channel in (0, 7, len(weight) - 1):
        kept = weight[channel].clone()
        with torch.no_grad():
            weight[channel] = 0.0
            assert rise[channel].item() == pytest.approx(loss() - whole, abs=1e-6)
            weight[channel] = kept
    assert loss() == whole


def test_the_first_order_importance_is_the_slope_of_the_loss():
    model, images = bench()
    source, drawn = model.context.origin, model.context.samples("train")
    move(source.model, 0.02)
    rows = torch.randn(CLASSES, 96, dtype=torch.float64)

    def classifier(features):
        return features.double() @ rows.t()

    judge = Judge(source, classifier, [images], drawn.labels, [np.arange(12)])
    slope = judge.rise_by_gradient("layer3", 1, 192)
    assert slope.abs().max() > 1e-3
    module = source.backbone.get_submodule("layer3")
    for channel in (0, 100):
        losses = []
        for scale in (1e-2, -1e-2):
            factor = torch.ones(1, 192, 1, 1)
            factor[0, channel] = 1.0 - scale
            handle = module.register_forward_hook(lambda m, i, output, factor=factor: output * factor)
            with torch.no_grad(), source.watching():
                source.model(images)
                losses.append(F.cross_entropy(classifier(source.features), torch.from_numpy(drawn.labels)).item())
            handle.remove()
        assert slope[channel].item() == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=2e-4)


def test_attention_prefers_what_hurts_most_to_lose():
    rise = torch.tensor([0.0, 1.0, 3.0])
    weights = attention(rise)
    standardised = (rise - rise.mean()) / rise.std(correction=0)
    assert torch.allclose(weights, (standardised / 5).softmax(dim=0))
    assert torch.equal(attention(torch.full((4,), 0.3)), torch.full((4,), 0.25))


def test_delta_is_zero_at_the_start_of_a_run_with_frozen_statistics(train):
    record = train("freeze_policy=bias_only", *ONE_STEP, "regularizer=delta", "regularizer.delta.importance_samples=8",
                   "regularizer.l2_head.weight=0", "optimizer.lr=0.1")  # fmt: skip
    assert first_row(record)["train/delta"] == 0.0
    assert first_row(record)["train/objective"] == pytest.approx(first_row(record)["train/loss"], rel=1e-6)
    assert record.history[1]["train/delta"] > 0.0
    layers = record.phases[0].regularizers["delta"].layers
    assert {name: entry["module"] for name, entry in layers.items()} == {
        "stem": "act1", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4"
    }  # fmt: skip


# The source's answers: distillation, Co-Tuning -----------------------------------------------------------------------


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
    assert sorted(name for name, p in term.companions.named_parameters() if p.requires_grad) == ["bias", "weight"]
    move(model.model, 0.02)
    value = model.value(term, images)
    value.backward()
    assert value.item() > 0.0
    assert term.companions.weight.grad.abs().sum() > 0
    fixed = Distillation(weight=4.0, train_source_head=False).attach(model.context)
    assert not any(p.requires_grad for p in fixed.companions.parameters())


SOURCE = ("source=digits_low", "source.trainer.max_epochs=1", "source.dataset.n_per_class=8", "dataset=digits_high")


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


def test_what_a_regularizer_trains_itself_goes_on_in_the_next_phase(train):
    phases = "freeze_policy.phases=[{name: one, train: head, epochs: 3}, {name: two, train: head}]"
    record = train(*SOURCE, *ONE_STEP, "freeze_policy=phases", phases, "trainer.max_epochs=4", "optimizer.lr=0.02",
                   "metrics.monitor=loss", "regularizer=co_tuning", "trainer.checkpoint_seconds=0")  # fmt: skip
    values = [row["train/co_tuning"] for row in record.history]
    assert [row["phase"] for row in record.history] == ["one", "one", "one", "two"]
    # The backbone is frozen: each value is that of the kept head before the epoch's step.
    assert values[0] > values[1] > values[2] > values[3]
    assert record.phases[1].regularizers["co_tuning"].companion_parameters > 0


# StochNorm -----------------------------------------------------------------------------------------------------------


def test_stochnorm_with_p_1_is_batch_norm_bit_for_bit(train):
    fixed = ("freeze_policy=full", "cache.mode=off")
    plain = train(*fixed)
    stochastic = train(*fixed, "regularizer=stoch_norm", "regularizer.stoch_norm.p=1")
    assert stochastic.identity != plain.identity
    assert numbers(stochastic) == numbers(plain)
    half = train(*fixed, "regularizer=stoch_norm")
    assert half.history[0]["train/loss"] != plain.history[0]["train/loss"]
    assert half.phases[0].regularizers["stoch_norm"].batch_norms == 15
    assert "train/objective" not in half.history[0]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_each_channel_takes_one_of_the_two_branches(name):
    model, _ = bench(name)
    norms = [m for m in model.model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    norm = norms[0]
    with torch.no_grad():
        norm.running_mean.fill_(0.7)
    before, states = norm.running_mean.clone(), copy.deepcopy(norm.state_dict())
    x = torch.randn(8, norm.num_features, 4, 4)
    by_running, by_batch = copy.deepcopy(norm).eval()(x), copy.deepcopy(norm).train()(x)
    term = StochNorm(p=0.5).attach(model.context)
    assert list(norm.state_dict()) == list(states)
    norm.train()
    torch.manual_seed(0)
    output = norm(x)
    took_batch = [torch.equal(output[:, c], by_batch[:, c]) for c in range(norm.num_features)]
    took_running = [torch.equal(output[:, c], by_running[:, c]) for c in range(norm.num_features)]
    assert all(one != other for one, other in zip(took_batch, took_running, strict=True))
    assert 0 < sum(took_batch) < norm.num_features
    assert not torch.equal(norm.running_mean, before)
    updated = copy.deepcopy(norm)
    norm.load_state_dict(states)
    norm.eval()
    assert torch.equal(norm(x), by_running)
    assert torch.equal(norm.running_mean, before)
    term.remove()
    norm.train()
    assert torch.equal(norm(x), by_batch)
    assert torch.equal(norm.running_mean, updated.running_mean)
    assert term.value is None


def test_a_network_without_batch_norm_cannot_have_stochnorm(thawline):
    result = thawline("train", *TINY, *VIT, "regularizer=stoch_norm")
    assert result.status == 2
    assert "error: regularizer.stoch_norm: this backbone has no batch norm with running statistics\n" in result.err


# Feature matching ----------------------------------------------------------------------------------------------------


def test_feature_matching_is_zero_for_identical_nets(train):
    teacher = "+backbone@regularizer.feature_matching.teacher=test_resnet"
    fixed = ("freeze_policy=bias_only", *ONE_STEP, "regularizer=feature_matching", "optimizer.lr=0.1")
    for own in ((), (teacher,)):
        record = train(*fixed, *own)
        assert first_row(record)["train/feature_matching"] == 0.0
        assert record.history[1]["train/feature_matching"] > 0.0
        (phase,) = record.phases
        pairs = phase.regularizers["feature_matching"].pairs
        assert [pair["student"] for pair in pairs] == ["stem", "layer1", "layer2", "layer3", "layer4"]
        assert all(pair["student"] == pair["teacher"] and not pair["adapter"] for pair in pairs)
        assert phase.regularizers["feature_matching"].companion_parameters == 0


def test_a_resnet_follows_a_vgg(train):
    teacher = f"regularizer.feature_matching.teacher={VGG}"
    record = train("freeze_policy=full", "regularizer=feature_matching", teacher, "optimizer.weight_decay=0",
                   "regularizer.feature_matching.weight=0.1")  # fmt: skip
    (phase,) = record.phases
    matching = phase.regularizers["feature_matching"]
    assert [(pair["student"], pair["teacher"], pair["adapter"]) for pair in matching.pairs] == [
        ("stem", "features.3", True),
        ("layer1", "features.8", True),
        ("layer2", "features.13", True),
        ("layer3", "features.18", True),
        ("layer4", "pre_logits.fc2", True),
    ]
    students, teachers = (32, 32, 48, 192, 96), (128, 256, 512, 512, 4096)
    adapters = sum(s * t + 2 * t for s, t in zip(students, teachers, strict=True))
    assert matching.companion_parameters == adapters
    assert phase.optimizer_groups[-1].parameters == adapters
    assert phase.optimizer_groups[-1].lr == 0.01
    assert record.history[1]["train/feature_matching"] < record.history[0]["train/feature_matching"]
    assert record.parameters.total == record.parameters.trainable == phase.trainable_parameters
    state = load_file(folder_of(record) / "best.safetensors")
    assert set(state) == set(build_model(RunContext(plan_run(record.config, (), Session()), Session())).state_dict())


def test_layers_are_paired_by_name_and_weighted():
    model, images = bench()
    teacher = TimmBackbone(name="test_resnet")
    by_name = FeatureMatching(weight=1.0, teacher=teacher, layers="name", layer_weights={"layer2": 3.0})
    term = by_name.attach(model.context)
    names = ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert [(p["student"], p["weight"]) for p in term.report["pairs"]] == [
        (name, 3.0 if name == "layer2" else 1.0) for name in names
    ]
    assert model.value(term, images).item() == 0.0
    move(model.model, 0.02)
    total = model.value(term, images).item()
    ours, theirs = model.observers[0].activations, model.observers[2].activations
    parts = {
        path: 0.5 * (ours[path] - theirs[path]).square().sum(dim=1).mean().item()
        for path in ("act1", "layer1", "layer2", "layer3", "layer4")
    }
    assert total == pytest.approx(sum(parts.values()) + 2 * parts["layer2"], rel=1e-5)


def test_an_adapter_brings_any_map_to_the_teachers_shape():
    model, images = bench()
    pairs = {"layer2.0.conv1": "layer4", "layer4": "layer1", "stem": "layer2"}
    spec = FeatureMatching(weight=1.0, teacher=TimmBackbone(name="test_efficientnet"), layers="resolution")
    report = spec.attach(model.context).report["pairs"]
    assert all(pair["adapter"] for pair in report)
    spec = FeatureMatching(weight=1.0, layers=pairs, kernel_size=3, relu=False)
    term = spec.attach(model.context)
    assert [(p["student"], p["teacher"]) for p in term.report["pairs"]] == list(pairs.items())
    value = model.value(term, images)
    value.backward()
    assert value.item() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in term.companions.parameters())
    convolution, norm = term.companions[0]
    assert tuple(convolution.weight.shape) == (96, 48, 3, 3)
    assert convolution.bias is None
    assert norm.num_features == 96


def test_a_convolutional_student_follows_a_transformer():
    model, images = bench()
    teacher = TimmBackbone(name="test_vit", input_size=32)
    term = FeatureMatching(weight=1.0, teacher=teacher).attach(model.context)
    (pair,) = term.report["pairs"]
    assert (pair["student"], pair["adapter"]) == ("layer3", True)
    assert model.value(term, images).item() > 0.0


# Which layers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "groups", "stages"),
    [
        ("resnet18", 64, {"stem": "act1", "layer1.0": "layer1.0", "layer4.1": "layer4.1"},
         ["act1", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        ("mobilenetv2_035", 64, {"stem": "bn1", "blocks.1.0": "blocks.1.0"}, None),
        ("test_convnext", 64, {"stem": "stem"}, None),
        ("test_vit", 32, {"stem": "patch_embed", "blocks.5": "norm"}, ["blocks.0", "blocks.2", "blocks.4", "norm"]),
    ],
)  # fmt: skip
def test_the_value_that_leaves_a_group(name, size, groups, stages):
    model, images = bench(name, size=size, samples=2)
    found = group_outputs(model.observers[0], images)
    assert {group: found[group].path for group in groups} == groups
    if stages is not None:
        assert [layer.path for layer in chosen_layers(model.observers[0], "stages", images, "f")] == stages


def test_an_activation_belongs_to_its_convolution_and_a_pooling_does_not():
    model, images = bench("vgg11", size=32, samples=2)
    found = group_outputs(model.observers[0], images)
    assert [layer.path for layer in found.values()] == [
        "features.1", "features.4", "features.7", "features.9", "features.12", "features.14", "features.17",
        "features.19", "pre_logits.drop", "pre_logits.act2",
    ]  # fmt: skip
    layers = chosen_layers(model.observers[0], ("features.0", "features.3"), images, "f")
    assert [(layer.name, layer.path) for layer in layers] == [
        ("features.0", "features.0"),
        ("features.3", "features.4"),
    ]


def test_what_is_recorded_is_what_the_module_gave():
    """A residual sum or an activation in place comes after it."""
    model, images = bench()
    model.observers[0].watch("layer1.0.bn2")
    given = []
    module = model.model.get_submodule("backbone.layer1.0.bn2")
    module.register_forward_hook(lambda m, i, output: given.append(output.clone()))
    with torch.no_grad():
        plain = model.model(images)
        with model.observers[0].watching():
            watched = model.model(images)
    assert torch.equal(model.observers[0].activations["layer1.0.bn2"], given[-1])
    assert torch.equal(plain, watched)


@pytest.mark.parametrize(
    ("shape", "axis", "prefix", "size"),
    [
        ((64, 8, 8), 1, 0, (8, 8)),
        ((7, 7, 96), 3, 0, (7, 7)),
        ((8, 8, 8), 1, 0, (8, 8)),
        ((17, 64), 2, 1, (4, 4)),
        ((16, 64), 2, 0, (4, 4)),
        ((197, 192), 2, 1, (14, 14)),
        ((198, 192), 2, 2, (14, 14)),
    ],
)
def test_how_values_lie(shape, axis, prefix, size):
    layout = layout_of(shape, (32, 32))
    assert (layout.channel_axis, layout.prefix_tokens, layout.size) == (axis, prefix, size)
    values = torch.randn(2, *shape)
    channels = shape[axis - 1]
    assert as_channels(values, layout).shape == (2, channels, math.prod(shape) // channels)
    assert as_map(values, layout).shape == (2, channels, *size)
    if axis == 3:
        assert torch.equal(as_map(values, layout), values.permute(0, 3, 1, 2))
    if axis == 2:
        assert torch.equal(as_map(values, layout)[:, :, 0, 0], values[:, prefix])


def test_wide_pictures_have_wide_maps():
    assert layout_of((64, 4, 8), (32, 64)).size == (4, 8)
    assert layout_of((4, 8, 64), (32, 64)).channel_axis == 3
    assert layout_of((33, 64), (32, 64)) == layout_of((33, 64), (16, 32))
    assert layout_of((33, 64), (32, 64)).size == (4, 8)


# Weights, sums and logs ----------------------------------------------------------------------------------------------


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


# Beside the rest -----------------------------------------------------------------------------------------------------


def test_parameters_alone_leave_the_stored_values_usable(train):
    on = ("cache.mode=on", "freeze_policy.k=1")
    stored = train(*on, "regularizer=l2_sp")
    assert stored.phases[0].thaw_line.stored is True
    whole = train("cache.mode=off", "freeze_policy.k=1", "regularizer=l2_sp", "metrics.top_k=3")
    for one, other in zip(stored.history, whole.history, strict=True):
        assert one["train/l2_sp"] == pytest.approx(other["train/l2_sp"], rel=1e-4)
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)
    forward = train(*on, "regularizer=bss")
    assert forward.phases[0].thaw_line == ThawLineRecord(
        stored=False, reason="regularizers that need the whole model's forward pass: bss"
    )


def test_nothing_stays_on_the_model_for_the_next_run(train, thawline):
    """The runs of a process share one model where they start alike."""
    fixed = ("freeze_policy=full", "cache.mode=off")
    alone = train(*fixed)
    shutil.rmtree("outputs")
    many = "regularizer=[stoch_norm,bss,feature_matching,l2_sp],[]"
    assert thawline("train", "-m", *TINY, *fixed, many, "sweep.report=false").status == 0
    again = load_record(folder_of(alone))
    assert numbers(again) == numbers(alone)


def test_closing_takes_every_hook_off():
    model, _ = bench()
    specs = {"a": BSS(weight=1.0), "b": FeatureMatching(weight=1.0), "c": StochNorm(),
             "d": DELTA(weight=1.0, importance="uniform")}  # fmt: skip
    attached = {name: Penalty(spec.weight, spec.attach(model.context)) for name, spec in specs.items()}
    penalties = Penalties(attached, model.observers[0], model.observers[1:])
    hooked = [m for o in model.observers for m in o.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked
    penalties.close()
    left = [m for o in model.observers for m in o.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert left == []
    assert model.observers[0].activations == {}


def test_regularizers_go_with_adapters_and_measured_rates(train):
    record = train(*VIT, "adapter=bottleneck", "learning_rates=auto_rgn", "regularizer=[l2_sp,feature_matching,bss]",
                   "regularizer.feature_matching.layers={blocks.0: blocks.1.mlp.fc1}",
                   "regularizer.feature_matching.relu=false")  # fmt: skip
    assert record.history[-1]["train/objective"] > 0
    assert record.phases[0].regularizers["feature_matching"].companion_parameters > 0
    assert record.phases[0].optimizer_groups[-1].name == "regularizers"


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one(train):
    fixed = (*VIT, "freeze_policy=full", "regularizer=[bss,l2_sp,delta,feature_matching]", "regularizer.bss.k=2",
             "regularizer.bss.weight=0.01", "regularizer.delta.importance=uniform", "trainer.batch_size=15",
             "regularizer.l2_sp.weight={schedule: linear, start: 0, end: 1}",
             "regularizer.feature_matching.weight={ratio_to_loss: 0.1}",
             "regularizer.feature_matching.layers={blocks.0: blocks.1.mlp.fc1}",
             "regularizer.feature_matching.relu=false")  # fmt: skip
    one = train(*fixed)
    shutil.move("outputs", "one")
    two = train(*fixed, "trainer.devices=2", "trainer.strategy=ddp")
    for ours, theirs in zip(one.history, two.history, strict=True):
        for key in ours:
            if key.startswith(("train/", "val/")):
                assert ours[key] == pytest.approx(theirs[key], rel=2e-3, abs=1e-5), key


def test_a_run_that_dies_goes_on_with_what_its_regularizers_had_trained(train, thawline, monkeypatch):
    overrides = ("freeze_policy=lp_ft", "trainer.max_epochs=5", "trainer.checkpoint_seconds=0",
                 "regularizer=[feature_matching,l2_sp,stoch_norm]", "optimizer=adamw",
                 "regularizer.feature_matching.layers={layer1: layer2, layer4: layer4}")  # fmt: skip
    start = FitModule.on_train_epoch_start

    def dying(at):
        def on_train_epoch_start(self):
            if self._first_epoch + self.current_epoch == at:
                raise RuntimeError("the power is gone")
            start(self)

        return on_train_epoch_start

    for at in (1, 4):
        monkeypatch.setattr(FitModule, "on_train_epoch_start", dying(at))
        assert thawline("train", *TINY, *overrides).status == 1
    monkeypatch.setattr(FitModule, "on_train_epoch_start", start)
    broken = train(*overrides)
    Path("outputs").rename("broken")
    whole = train(*overrides)
    assert numbers(broken) == numbers(whole)
    assert [phase.regularizers for phase in broken.phases] == [phase.regularizers for phase in whole.phases]
