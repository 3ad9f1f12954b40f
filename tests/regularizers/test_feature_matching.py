"""Feature matching: layers paired by name, and adapters between their shapes."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from tests.execution.test_train import folder_of
from tests.regularizers.bench import (
    ONE_STEP,
    VGG,
    bench,
    first_row,
    move,
)
from thawline.backbones import TimmBackbone
from thawline.execution.weights import build_model
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.regularizers import (
    FeatureMatching,
)


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


@pytest.mark.slow
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
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in term.auxiliary.parameters())
    convolution, norm = term.auxiliary[0]
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
