"""What is refused before anything runs: one line, exit status 2, nothing written."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from tests.training.test_freeze_contract import ALLOW


def refused(result, message):
    lines = result.err.splitlines()
    assert (result.status, len(lines)) == (2, 1), result.err
    assert message in lines[0]
    assert not Path("outputs/runs").exists()


FEATURES, MATCHING = "regularizer=feature_matching", "regularizer.feature_matching"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+backbone.arguments.num_classes=3"], "backbone.arguments: 'num_classes' is decided by thawline"),
        (["+backbone.arguments.widht=3"], "backbone.arguments: timm cannot make test_resnet: "),
        (
            ["backbone=torchvision", "backbone.name=resnet18", "+backbone.arguments.num_classes=3"],
            "backbone.arguments: 'num_classes' is decided by thawline",
        ),
        (
            ["backbone=torchvision", "backbone.name=resnet18", "+backbone.arguments.widht=3"],
            "backbone.arguments: torchvision cannot make resnet18: ",
        ),
        (["backbone.weights=a.pth", "source=digits_low"], "backbone.weights and source are both given"),
        (["dataset.classes=[1.5,2]"], "a class is given by its name or by its index"),
        (
            ["freeze_policy.k=1", "freeze_policy.depth=0.5"],
            "freeze_policy: give k (a count or a group's name) or depth (a fraction), not both",
        ),
        (
            ["source=digits_low", "dataset=digits_high", "dataset.classes=[5,6,7]", "head=source_rows"],
            "head.rows: no target class has the name of a source class; map them by head.rows",
        ),
        (
            ["probe=lbfgs_path", "freeze_policy=linear_probe", "probe.c_min=10", "probe.c_max=1"],
            "probe: c_max must not be below c_min",
        ),
        (
            ["scheduler=step", "scheduler.milestones=[0.8,0.6]"],
            "scheduler: milestones are increasing fractions of the phase, between 0 and 1",
        ),
        ([FEATURES, f"{MATCHING}.kernel_size=2"], "kernel_size: must be odd, so that the map keeps"),
        ([FEATURES, f"{MATCHING}.layers={{}}"], "regularizer.feature_matching: layers names no pair"),
        (
            ["backbone=test_vit", "transform.size=50"],
            "transform.size: test_vit does not take images of 50 x 50 pixels: Input height (50) should be divisible by",
        ),
        (
            ["backbone=vit_tiny", "backbone.weights=null", "transform.size=64"],
            "does not take images of 64 x 64 pixels (backbone.input_size=64 builds it for them): Input height (64)",
        ),
        (
            ["backbone=vit_tiny", "backbone.weights=null", "backbone.input_size=60"],
            "backbone.input_size: 60 x 60 pixels are no whole number of vit_tiny_patch16_224's patches of 16 x 16",
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_field_is_refused_before_training(thawline, overrides, message):
    refused(thawline("train", *TINY, *overrides), message)


def test_a_layer_without_a_map_cannot_be_matched(thawline):
    result = thawline("train", *TINY, FEATURES, f"{MATCHING}.layers={{global_pool:global_pool}}")
    assert result.status == 1
    message = "regularizer.feature_matching.layers: 'global_pool' gives no map (B, C, H, W) and no tokens (B, N, D)"
    assert message in " ".join(result.err.split())
    assert not list(Path("outputs/runs").glob("*/record.json"))


@pytest.mark.parametrize(
    ("module", "overrides", "message"),
    [
        ("peft", ["adapter=lora"], "adapter: LoRA needs the library peft: pip install 'thawline[lora]'"),
        ("ray", ["hydra/launcher=ray", "-m"], "hydra/launcher: ray is not installed; pip install 'thawline[ray]'"),
        (
            "submitit",
            ["hydra/launcher=slurm", "-m"],
            "hydra/launcher: slurm needs submitit: pip install 'thawline[slurm]'",
        ),
        (
            "tensorboard",
            ["logger=tensorboard"],
            "logger: tensorboard is not installed; pip install 'thawline[tensorboard]'",
        ),
    ],
)
def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(
    thawline, monkeypatch, module, overrides, message
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    monkeypatch.setitem(sys.modules, module, None)
    refused(thawline("train", *TINY, *overrides), message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.accelerator=gpu", "trainer.devices=3"], "trainer.devices: 3: this machine has 2 GPUs"),
        (["trainer.accelerator=mps", "trainer.devices=2"], "trainer.devices: 2: an Apple machine has one GPU"),
    ],
)
def test_more_devices_than_there_are(thawline, monkeypatch, overrides, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    refused(thawline("train", *TINY, *overrides), message)


def folder_of_images(images, splits="train"):
    Path("photos").mkdir()
    lines = ["path,label,split"]
    for number, image in enumerate(images):
        image.save(f"photos/{number}.tiff")
        lines.append(f"{number}.tiff,{number % 2},{splits}")
    Path("photos/splits.csv").write_text("\n".join(lines))
    return ("dataset=image_folder", "dataset.root=photos", "dataset.n_per_class=null")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((4, 4), np.float32), "images of floating-point numbers have no agreed range"),
        (np.full((4, 4), 70_000, np.int32), "more than 16 bits per pixel"),
    ],
)
def test_values_that_no_eight_bits_stand_for(thawline, values, message):
    plain = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in range(9)]
    result = thawline("train", *TINY, *folder_of_images([*plain, Image.fromarray(values)]))
    why, remedy = result.err.splitlines()
    assert (result.status, why) == (2, f"error: dataset: unreadable image photos/9.tiff: {message}")
    assert "on_unreadable" in remedy


def test_a_table_without_training_images(thawline):
    images = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in range(4)]
    result = thawline("train", *TINY, *folder_of_images(images, splits="test"))
    refused(result, "dataset: there are no training images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers", "test_resnet", "granularity"], "'granularity' is not FIELD=VALUE"),
        (["layers", "torchvision"], "backbone.name: must be given, e.g. name=resnet34"),
        (["rank-sources"], "name the sources: backbones=[mobilenetv2,resnet18] or --source"),
        (
            ["rank-sources", "--source", "resnet18 resnet34"],
            "'resnet18 resnet34' names 2 backbones; OVERRIDES are FIELD=VALUE",
        ),
        (["report", "there"], "sweep: 'there' holds neither sweep.json nor a folder with record.json"),
    ],
)
def test_other_verbs(thawline, arguments, message):
    Path("there").mkdir()
    refused(thawline(*arguments), message)


def test_an_export_replaces_nothing_and_a_run_is_named_without_doubt(train, thawline):
    identity = train("trainer.max_epochs=1", "freeze_policy.k=0").identity
    Path("model.safetensors").write_text("mine")
    result = thawline("export", identity, "--output", "model.safetensors")
    assert result.status == 2
    assert result.err == "error: --output: model.safetensors exists; --force replaces it\n"
    assert Path("model.safetensors").read_text() == "mine"
    twin = Path("outputs/runs") / (identity[:8] + "0" * 12)
    twin.mkdir()
    (twin / "record.json").write_text("{}")
    result = thawline("export", identity[:8], "--output", "other.safetensors")
    assert result.err == f"error: run: '{identity[:8]}' is the beginning of 2 runs; give more of it\n"
    assert not Path("other.safetensors").exists()
    said = f"'{identity[:8]}' is the beginning of 2 runs; give more of it\n"
    assert thawline("verify", identity[:8]).err == f"error: run: {said}"
    weights = f"backbone.weights=run:{identity[:8]}"
    assert thawline("train", *TINY, weights).err == f"error: backbone.weights: {said}"


REGULARIZER = '''
from typing import final
from thawline.regularizers import Term, Weight
from thawline.specs import Spec


@final
class Lies(Spec):
    """A regularizer that reads what it does not ask for."""

    weight: Weight
    reads: str

    @property
    def needs(self):
        return frozenset()

    def check(self, field, backbone, network, *, source_classifier):
        pass

    def attach(self, context):
        if self.reads == "source":
            context.origin
        return Term(lambda step: step.seen.float().mean())
'''


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ("source", "regularizer lies reads the source without saying that it needs it"),
        ("images", "this phase runs on stored values, not on images"),
    ],
)
def test_a_regularizer_that_reads_what_it_does_not_ask_for(own_class, thawline, reads, message):
    config = f"# @package regularizer\nlies:\n  _target_: mine.regularizers.Lies\n  weight: 1.0\n  reads: {reads}\n"
    own_class("regularizers", REGULARIZER, "regularizer/lies", config)
    result = thawline("train", *TINY, *ALLOW[:-1], "cache.mode=on", "freeze_policy.k=1", "regularizer=lies")
    assert result.status == 1
    assert message in " ".join(result.err.split())
    assert not list(Path("outputs/runs").glob("*/record.json"))
