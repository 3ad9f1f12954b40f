"""A run has the numbers that it has alone, whatever other runs of its command, or before it, have left for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.conftest import TINY, records
from thawline.records import load_record

ALLOWED = ("--allow", "mine", "--config-dir", "conf")
COMMAND = ("train", *ALLOWED, *TINY, "trainer.max_epochs=1", "freeze_policy.k=0", "cache.mode=on", "sweep.report=false")
OPTION = "_target_: mine.{}.Mine\n"
FIELDS = "n_per_class: null\ninverted: false\n"
HEAD = """
from torch import nn

from thawline.randomness import seeded
from thawline.specs import Spec


class Times(nn.Linear):
    def forward(self, features):
        return super().forward({factor} * features)


class Mine(Spec):
    def build(self, features, classes, source, seed):
        with seeded("head", seed):
            return Times(features.width, len(classes))
"""
PROJECTED = """
import torch
from torch import nn

from thawline.randomness import seeded
from thawline.specs import Spec


class Projection(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.register_buffer("matrix", torch.randn(width, 4))

    def forward(self, features):
        return features @ self.matrix


class Mine(Spec):
    def build(self, features, classes, source, seed):
        with seeded("head", seed):
            return nn.Sequential(Projection(features.width), nn.Linear(4, len(classes)))
"""
IMAGES = """
from dataclasses import replace

from PIL import ImageOps

from thawline.datasets import Digits


class Changed:
    def __init__(self, images, inverted):
        self.images, self.inverted = images, inverted
        self.targets, self.key, self.locate, self.inspect = images.targets, images.key, images.locate, images.inspect

    def __len__(self):
        return len(self.images)

    def read(self, index):
        image = self.images.read(index)
        return ImageOps.invert(image) if self.inverted else image


class Mine(Digits):
    inverted: bool = False

    def collect(self):
        found = super().collect()
        return replace(found, images=Changed(found.images, self.inverted))
"""
VIEWS = """
from torchvision.transforms import v2


class Mine(v2.{base}):
    pass
"""
TRACKER = """
from safetensors.torch import load_file, save_file

from thawline.specs import Spec


class Mirror:
    def epoch(self, row):
        pass

    def close(self, record):
        save_file({name: 0 * tensor for name, tensor in load_file("b.safetensors").items()}, "b.safetensors")


class Mine(Spec):
    def open(self, run):
        return Mirror()
"""


@pytest.fixture
def runs(thawline):
    """Run a command; the records that it adds to a folder, by a field of their configurations."""
    Path("conf").mkdir(exist_ok=True)

    def run(*command, by, output_dir="outputs"):
        before = set(records(output_dir))
        result = thawline(*COMMAND, *command, f"output_dir={output_dir}")
        assert result.status == 0, result.err
        added = [load_record(folder) for folder in records(output_dir) if folder not in before]
        return {_at(record.config, by): record for record in added}

    return run


def _at(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def _weights(network, file="start.safetensors", seed=0):
    torch.manual_seed(seed)
    save_file(timm.create_model(network).state_dict(), file)
    return file


def test_own_classes_of_one_name(own_class, runs):
    for module, factor in (("one", 1), ("two", 100)):
        own_class(module, HEAD.format(factor=factor), f"head/{module}", OPTION.format(module))
    command, by = ("freeze_policy.k=1",), "head._target_"
    together = runs("-m", "head=one,two", *command, by=by)
    (alone,) = runs("head=two", *command, by=by, output_dir="other").values()
    assert together["mine.two.Mine"].metrics == alone.metrics != together["mine.one.Mine"].metrics


def test_an_own_head_that_is_a_linear_layer_and_more(own_class, runs, thawline):
    """Linear probes of several rates are trained as one problem; such heads are none."""
    own_class("heads", HEAD.format(factor=100), "head/mine", OPTION.format("heads"))
    together = runs("-m", "head=mine", "optimizer.lr=0.01,0.02", by="optimizer.lr")
    (alone,) = runs("head=mine", "optimizer.lr=0.02", by="optimizer.lr", output_dir="other").values()
    assert together[0.02].metrics == alone.metrics
    result = thawline(*COMMAND, "head=mine", "probe=lbfgs_path")
    assert (result.status, result.err) == (
        2, "error: probe: lbfgs_path solves one linear layer: it needs head=linear without dropout\n",
    )  # fmt: skip


@pytest.mark.slow
def test_what_a_seed_draws_before_the_thaw_line(own_class, runs):
    own_class("heads", PROJECTED, "head/mine", OPTION.format("heads"))
    command = ("head=mine", "data_seed=0", f"backbone.weights={_weights('test_resnet')}")
    together = runs("-m", *command, "seed=0,1", by="seed")
    (alone,) = runs(*command, "seed=1", by="seed", output_dir="other").values()
    assert together[1].metrics == alone.metrics


@pytest.mark.slow
def test_fields_and_edits_of_own_images(own_class, runs):
    own_class("sets", IMAGES, "dataset/mine", OPTION.format("sets") + FIELDS)
    command, by = ("dataset=mine", "dataset.n_per_class=4"), "dataset.inverted"
    together = runs("-m", *command, "dataset.inverted=false,true", by=by)
    (alone,) = runs(*command, "dataset.inverted=true", by=by, output_dir="other").values()
    assert together[True].metrics == alone.metrics != together[False].metrics
    edited = IMAGES.replace("if self.inverted", "if not self.inverted")
    own_class("sets", edited, "dataset/mine", OPTION.format("sets") + FIELDS)
    (after,) = runs(*command, by=by).values()
    assert after.metrics == alone.metrics


@pytest.mark.slow
def test_edits_of_own_views_that_are_stored(own_class, runs):
    command = ("transform.augmentation=[{_target_: mine.views.Mine}]", "cache.views=2")
    own_class("views", VIEWS.format(base="RandomHorizontalFlip"), "head/unused", "")
    runs(*command, by="seed")
    own_class("views", VIEWS.format(base="RandomInvert"), "head/unused", "")
    (after,) = runs(*command, by="seed").values()
    (alone,) = runs(*command, by="seed", output_dir="other").values()
    assert after.metrics == alone.metrics


@pytest.mark.slow
def test_the_network_before_tuning_with_prompts(runs):
    """Prompts change it from the start, by the seed."""
    start = ("backbone=test_vit", f"backbone.weights={_weights('test_vit')}")
    command = (*start, "adapter=visual_prompt_shallow", "diagnostics.cka=true", "data_seed=0")
    together = runs("-m", *command, "seed=0,1", by="seed")
    (alone,) = runs(*command, "seed=1", by="seed", output_dir="other").values()
    assert together[1].diagnostics == alone.diagnostics != together[0].diagnostics


@pytest.mark.slow
def test_the_source_before_tuning_on_images_of_another_transform(runs):
    command = (
        "source=digits_low", "dataset=digits_high", "source.trainer.max_epochs=1",
        "+source.transform.interpolation=bilinear",
    )  # fmt: skip
    by = "transform.interpolation"
    together = runs("-m", *command, "transform.interpolation=bilinear,nearest", by=by)
    alone = runs(*command, "transform.interpolation=nearest", by=by, output_dir="other")
    assert together["nearest"].metrics["before/target"] == alone["nearest"].metrics["before/target"]


def test_weights_that_have_changed_since_the_run_was_planned(own_class, thawline):
    own_class("tracker", TRACKER, "logger/mine", OPTION.format("tracker"))
    for seed, name in enumerate("ab"):
        _weights("test_resnet", f"{name}.safetensors", seed)
    result = thawline(*COMMAND, "-m", "logger=mine", "backbone.weights=a.safetensors,b.safetensors")
    assert result.status == 1
    assert "b.safetensors: the file has changed since the run was planned" in result.out + result.err
    assert len(records()) == 1
