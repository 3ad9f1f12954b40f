"""A run has the numbers that it has alone, whatever other runs of its command, or before it, have left for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.conftest import TINY, records
from tests.datasets.image_folders import class_folders
from tests.execution.test_segmentation_runs import FLIP, SEGMENT
from tests.masked_squares import draw_masks
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
PAINTER = """
from PIL import Image

from thawline.specs import Spec


class Mirror:
    def epoch(self, row):
        pass

    def close(self, record):
        pass


class Mine(Spec):
    file: str

    def open(self, run):
        Image.new("RGB", (4, 4), "white").save(self.file)
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


def test_an_image_that_has_changed_since_the_run_was_planned(own_class, thawline):
    """The tracker is opened when the run begins, before an image is decoded."""
    class_folders(Path("images"))
    own_class("tracker", PAINTER, "logger/mine", OPTION.format("tracker") + "file: images/cat/3.png\n")
    images = ("dataset=image_folder", "dataset.root=images", "dataset.n_per_class=null")
    result = thawline(*COMMAND, *images, "logger=mine")
    assert result.status != 0
    said = "images/cat/3.png: the image has changed since the data set was checked; run the command again"
    assert result.err.count(said) == 1
    assert records() == []
    # It is the same image now, in a file that is written again.
    assert thawline(*COMMAND, *images, "logger=mine").status == 0


@pytest.mark.slow
def test_a_mask_that_has_changed_is_named_by_a_loader_process_too(own_class, thawline):
    draw_masks(Path("squares"))
    own_class("tracker", PAINTER, "logger/mine", OPTION.format("tracker") + "file: squares/trainannot/3.png\n")
    result = thawline(
        "train",
        *ALLOWED,
        *SEGMENT,
        "trainer.max_epochs=1",
        "trainer.workers=1",
        f"transform.augmentation=[{FLIP}]",
        "logger=mine",
    )
    assert result.status != 0
    (folder,) = Path("outputs/runs").iterdir()
    error = json.loads((folder / "state.json").read_bytes())["error"]
    said = "squares/trainannot/3.png: not a usable mask: it holds colours and no class values"
    assert error.startswith(f"UsageError: dataset: {said}")


def test_a_source_whose_head_is_a_linear_layer_and_more(own_class, thawline):
    """Its tensors alone do not say what it answers."""
    own_class("heads", HEAD.format(factor=100), "head/mine", OPTION.format("heads"))
    source = ("source=digits_low", "head@source.head=mine", "source.trainer.max_epochs=1", "dataset=digits_high")
    result = thawline(*COMMAND, *source, "regularizer=distillation")
    assert result.status == 2
    assert result.err.startswith("error: regularizer.distillation: these source weights have no linear classifier")
    assert records() == []
    assert thawline(*COMMAND, *source, "diagnostics.transferability=true").status == 0
    (first, second) = records()
    made, tuned = (first, second) if load_record(first).provenance.source_run is None else (second, first)
    scores = load_record(tuned).diagnostics["transferability"]
    assert (scores["leep"], scores["nce"]) == (None, None)
    assert scores["logme"] is not None
    weights = f"backbone.weights={made}/model.safetensors"
    result = thawline(*COMMAND, weights, "dataset=digits_high", "head=source_rows")
    assert (result.status, result.err) == (
        2, "error: head: these source weights have no linear classifier whose rows could be kept\n",
    )  # fmt: skip


@pytest.mark.slow
def test_a_source_whose_head_is_a_linear_layer_in_evaluation(own_class, thawline):
    own_class("heads", HEAD.replace("return Times", "return nn.Linear"), "head/mine", OPTION.format("heads"))
    source = ("source=digits_low", "source.trainer.max_epochs=1", "dataset=digits_high", "head=source_rows")
    for head in ("source.head.dropout=0.5", "head@source.head=mine"):
        result = thawline(*COMMAND, *source, head)
        assert result.status == 0, result.err


def test_values_of_a_cpu_of_other_instructions(train, monkeypatch):
    """Its sums are in another order."""
    command = ("freeze_policy.k=0", "trainer.max_epochs=1", "cache.mode=on")
    train(*command)
    (first,) = stored_on()
    assert f"CPU capability usage: {first.split()[1].rstrip(',')}" in torch.__config__.show()
    train(*command, "optimizer.lr=0.02")
    assert stored_on() == [first]
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "OTHER")
    train(*command, "optimizer.lr=0.03")
    assert sorted(stored_on()) == sorted([first, f"cpu OTHER,{first.partition(',')[2]}"])


def stored_on():
    """The devices of the values that are in the store."""
    keys = [json.loads(file.read_bytes())["key"] for file in Path("outputs/cache").glob("*/entry.json")]
    return [key["device"] for key in keys if key["kind"] == "thaw line"]
