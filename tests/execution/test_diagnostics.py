"""Drift, CKA, feature distance and transferability in the record, each against a computation of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from tests.conftest import TINY, records
from tests.execution.test_train import numbers
from thawline.datasets import Digits
from thawline.evaluation.similarity import linear_cka
from thawline.execution import diagnostics
from thawline.execution.activations import activations
from thawline.execution.weights import build_model, restore
from thawline.layer_groups import LayerGroup, group_table, layer_groups
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.randomness import permutation
from thawline.records import load_record
from thawline.store.decoded_images import decoded
from thawline.transforms import Transform

FAST = ("optimizer=adamw", "optimizer.lr=0.003")


def before_and_after(record) -> tuple:
    """The plan of a finished run, its model as it started and as it was chosen."""
    session = Session()
    plan = plan_run(record.config, (), session)
    run = RunContext(plan, session)
    start, end = build_model(run), build_model(run)
    restore(end, Path("outputs/runs") / record.identity / "best.safetensors")
    return plan, start.eval(), end.eval()


def way(start: TransferModel, end: TransferModel, names) -> tuple[float, float]:
    """``‖w - w0‖`` and ``‖w0‖`` of some parameters, as one vector."""
    first, last = dict(start.named_parameters()), dict(end.named_parameters())
    one = torch.cat([first[name].detach().double().flatten() for name in names])
    other = torch.cat([last[name].detach().double().flatten() for name in names])
    return float((other - one).norm()), float(one.norm())


def validation_images(plan, rows) -> torch.Tensor:
    images = plan.splits.val.images
    return torch.stack([plan.transform.decode(images.read(int(row))) for row in rows])


# Drift ----------


@pytest.mark.parametrize("policy", ["freeze_policy.k=2", "freeze_policy=first_k", "freeze_policy=lp_ft"])
def test_drift_is_zero_for_frozen_groups_and_exact_for_trained_ones(train, policy):
    record = train(policy, *FAST)
    plan, start, end = before_and_after(record)
    groups = record.diagnostics["drift"]["groups"]
    assert [(group["index"], group["name"]) for group in groups] == [(g.index, g.name) for g in record.layer_groups]
    for found, group, written in zip(groups, plan.network.groups, record.layer_groups, strict=True):
        if written.trained == 0:
            assert (found["distance"], found["relative"]) == (0.0, 0.0)
        else:
            distance, size = way(start, end, group.parameters)
            assert found["distance"] == pytest.approx(distance, rel=1e-9)
            assert found["relative"] == pytest.approx(distance / size, rel=1e-9)
            assert found["distance"] > 0
    for part, names in (("head", plan.network.head), ("backbone", plan.network.backbone)):
        assert record.diagnostics["drift"][part]["distance"] == pytest.approx(way(start, end, names)[0], rel=1e-9)


def test_a_linear_probe_moves_its_head_alone(train):
    drift = train("freeze_policy=linear_probe").diagnostics["drift"]
    assert {group["distance"] for group in drift["groups"]} == {0.0}
    assert drift["backbone"] == {"distance": 0.0, "relative": 0.0}
    assert drift["head"]["distance"] > 0


def test_drift_counts_from_each_runs_own_start_in_a_sweep(thawline):
    grid = ("freeze_policy=linear_probe", "data_seed=0", "optimizer.lr=0.01,0.1", "seed=0,1", "sweep.report=false")
    assert thawline("train", "-m", *TINY, *grid).status == 0
    found = [load_record(folder) for folder in records()]
    assert len(found) == 4
    for record in found:
        plan, start, end = before_and_after(record)
        distance = record.diagnostics["drift"]["head"]["distance"]
        assert distance == pytest.approx(way(start, end, plan.network.head)[0], rel=1e-6)


def test_diagnostics_change_no_number_of_the_run(train):
    wanted = ("diagnostics.cka=true", "diagnostics.feature_distance=true", "diagnostics.transferability=true")
    plain, diagnosed = train("freeze_policy.k=1"), train("freeze_policy.k=1", *wanted)
    assert numbers(plain) == numbers(diagnosed)
    assert set(plain.diagnostics) == {"drift"}
    assert set(diagnosed.diagnostics) == {"drift", "cka", "feature_distance", "transferability"}
    # A finished run would hide what it does not have.
    assert plain.identity != diagnosed.identity


def test_drift_can_be_left_out(train):
    assert train("diagnostics.drift=false").diagnostics == {}


# CKA and feature distance ----------


def test_cka_is_one_below_the_thaw_line_and_known_above_it(train):
    record = train("freeze_policy.k=2", "diagnostics.cka=true", *FAST, "trainer.max_epochs=4")
    cka = record.diagnostics["cka"]
    assert (cka["split"], cka["samples"]) == ("val", record.splits["val"].samples)
    values = [group["cka"] for group in cka["groups"]]
    trained = [group.trained > 0 for group in record.layer_groups]
    assert all(value == pytest.approx(1.0, abs=1e-9) for value, moved in zip(values, trained, strict=True) if not moved)
    assert all(0.0 < value < 0.9999 for value, moved in zip(values, trained, strict=True) if moved)
    plan, start, end = before_and_after(record)
    images = validation_images(plan, plan.splits.val.indices)
    with torch.inference_mode():
        seen = [((images - m.pixel_mean) * m.pixel_scale) for m in (start, end)]
        last = [m.backbone.forward_features(x).mean(dim=(2, 3)) for m, x in zip((start, end), seen, strict=True)]
    # The last group ends with the last stage.
    assert values[-1] == pytest.approx(linear_cka(*last), rel=1e-4)


def test_feature_distance_is_zero_where_the_backbone_is_frozen_and_known_where_not(train):
    wanted = ("diagnostics.feature_distance=true",)
    probe = train("freeze_policy=linear_probe", *wanted).diagnostics["feature_distance"]
    assert (probe["total"], probe["relative"], probe["mean"], probe["max"]) == (0.0, 0.0, 0.0, 0.0)
    record = train("freeze_policy=full", *wanted, *FAST, "diagnostics.samples=50")
    found = record.diagnostics["feature_distance"]
    assert found["samples"] == 50
    plan, start, end = before_and_after(record)
    rows = np.sort(plan.splits.val.indices)
    with torch.inference_mode():
        everything = validation_images(plan, rows)
        one, other = (m.backbone((everything - m.pixel_mean) * m.pixel_scale).double() for m in (start, end))
    # The 50 rows are a function of the data seed; all of them lie in the validation split.
    chosen = permutation(len(rows), "diagnostics", 0)[:50]
    distance = (other[chosen] - one[chosen]).square().mean(dim=0).sqrt()
    assert found["channels"] == len(distance)
    assert found["max"] == pytest.approx(float(distance.max()), rel=1e-4)
    assert found["mean"] == pytest.approx(float(distance.mean()), rel=1e-4)
    assert found["total"] == pytest.approx(float(distance.norm()), rel=1e-4)
    size = one[chosen].square().mean(dim=0).sum().sqrt()
    assert found["relative"] == pytest.approx(float(distance.norm() / size), rel=1e-4)
    assert [item["channel"] for item in found["top"]] == distance.argsort(descending=True)[:10].tolist()


def test_the_test_split_is_no_part_of_the_diagnostics(train, monkeypatch):
    seen: list[int] = []
    original = diagnostics.activations

    def watched(model, groups, images, rows, *rest):
        seen.extend(rows.tolist())
        return original(model, groups, images, rows, *rest)

    monkeypatch.setattr(diagnostics, "activations", watched)
    record = train("diagnostics.cka=true", "diagnostics.feature_distance=true")
    splits = before_and_after(record)[0].splits
    assert set(seen) == set(splits.val.indices.tolist())
    assert not set(seen) & set(splits.test.indices.tolist())


# What a layer group's output is ----------


def digit_images(size: int):
    transform = Transform(size=size, resize="squash", interpolation="bilinear")
    splits = Digits().load(0)
    rows = splits.val.indices[:6]
    images = decoded(
        None, splits.images, {}, transform.decode, (size, size), fingerprint=splits.fingerprint, indices=rows
    )
    return images, rows


def model_of(backbone: torch.nn.Module) -> TransferModel:
    return TransferModel(backbone, torch.nn.Identity(), (0.5,) * 3, (0.5,) * 3)


def groups_of(model: TransferModel, size: int) -> list[LayerGroup]:
    found = layer_groups(model.backbone, "block", (size, size))
    return [LayerGroup(g.index, g.name, tuple(f"backbone.{name}" for name in g.parameters)) for g in found]


SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "arguments", "channel_axis"),
    [
        ("test_resnet", {}, 0),
        ("test_efficientnet", {}, 0),
        ("test_convnext", {}, 0),
        ("mobilenetv2_035", {}, 0),
        ("test_vit", {"img_size": 64}, -1),
        ("swin_tiny_patch4_window7_224", SWIN, -1),
    ],
)
def test_every_group_of_every_kind_of_network_is_pooled_over_its_positions(name, arguments, channel_axis):
    model = model_of(timm.create_model(name, pretrained=False, num_classes=0, **arguments))
    images, rows = digit_images(64)
    groups = groups_of(model, 64)
    found = activations(model, groups, images, rows, 4, torch.device("cpu"))
    table = group_table(model.backbone, layer_groups(model.backbone, "block", (64, 64)), (64, 64))
    # The table's stem may end in a rearrangement, its last group behind the network's own pooling.
    for values, row in zip(found.groups[1:-1], table[1:-1], strict=True):
        assert values.shape == (6, row.output_shape[channel_axis]), row.name
    assert found.groups[0].shape[1] in {table[0].output_shape[0], table[0].output_shape[-1]}
    assert found.groups[-1].shape[0] == found.features.shape[0] == 6
    assert not model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_blocks_output_is_what_the_next_block_gets():
    model = model_of(timm.create_model("test_resnet", pretrained=False, num_classes=0)).eval()
    images, rows = digit_images(64)
    found = activations(model, groups_of(model, 64), images, rows, 6, torch.device("cpu"))
    inputs = (images.read(rows) - model.pixel_mean) * model.pixel_scale
    with torch.inference_mode():
        net = model.backbone
        stage = net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(inputs)))))
        features = model.backbone(inputs)
    assert torch.allclose(found.groups[1], stage.mean(dim=(2, 3)), atol=1e-6)
    assert torch.allclose(found.features, features, atol=1e-6)


# Transferability ----------


@pytest.mark.slow
def test_transferability_in_the_record_is_the_sources_and_the_same_for_every_strategy(train):
    source = (
        "source=digits_low",
        "source.trainer.max_epochs=2",
        "source.dataset.n_per_class=20",
        "dataset=digits_high",
    )
    wanted = (*source, "diagnostics.transferability=true")
    first, second = train(*wanted, "freeze_policy.k=0"), train(*wanted, "freeze_policy=full")
    found = first.diagnostics["transferability"]
    assert found == second.diagnostics["transferability"]
    assert (found["split"], found["samples"]) == ("train", 20)
    assert found["leep"] < 0
    assert found["nce"] <= 0
    assert found["h_score"] is None
    assert (
        found["logme"]
        > train("dataset=digits_high", "diagnostics.transferability=true", "freeze_policy.k=0").diagnostics[
            "transferability"
        ]["logme"]
    )


@pytest.mark.slow
def test_two_devices_write_the_diagnostics_and_the_further_tests_of_one(train):
    wanted = ("shift=corruptions", "shift.corruptions.names=[contrast]", "shift.corruptions.strengths=[2]")
    wanted += ("diagnostics.cka=true", "dataset.n_per_class=8", "freeze_policy=linear_probe")
    one = train(*wanted)
    shutil.rmtree("outputs")
    two = train(*wanted, "trainer.devices=2", "trainer.strategy=ddp")
    assert two.identity == one.identity
    assert set(two.diagnostics) == set(one.diagnostics)
    for name, values in one.metrics.items():
        assert two.metrics[name] == pytest.approx(values, rel=1e-3)
