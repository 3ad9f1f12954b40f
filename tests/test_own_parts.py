"""Every part of CONTRIBUTING.md's table from outside thawline: a small class and a yaml of each, in one run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.conftest import REPOSITORY, TINY, records
from thawline import specs
from thawline.records import load_record

PARTS = '''
import json
from typing import final

import torch
from torch import nn

from thawline.backbones import Backbone
from thawline.records import WeightsRecord
from thawline.freeze_policies import Phase
from thawline.layer_groups import layer_groups
from thawline.planning.shift import ShiftedSet
from thawline.preprocessing import Preprocessing
from thawline.randomness import seeded
from thawline.regularizers import Term, Weight
from thawline.specs import Spec

SIZE = (16, 16)


@final
class TwoConvolutions(Spec):
    """A backbone: two convolutions with random weights."""

    weights: str | None = None
    width: int = 6

    def check(self):
        pass

    def local_weights(self):
        return None

    def skeleton(self, known=Preprocessing()):
        with torch.device("meta"):
            return self._described()

    def build(self, *, seed, weights_file=None, known=Preprocessing()):
        with seeded("backbone", seed):
            return self._described()

    def _described(self):
        module = nn.Sequential(
            nn.Conv2d(3, self.width, 3, 2), nn.ReLU(), nn.Conv2d(self.width, self.width, 3, 2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
        images = Preprocessing(
            mean=(0.5,) * 3, std=(0.25,) * 3, network_size=SIZE, size=SIZE, resize="squash", crop_pct=1.0,
            interpolation="bilinear", fill=(0, 0, 0),
        )
        groups = layer_groups(module, "block", SIZE)
        origin = WeightsRecord(description="random", sha256=None)
        return Backbone(module, "two", self.width, SIZE, images, groups, None, origin)


@final
class Ends(Spec):
    """A freeze policy: the outermost layer groups, the adapter and the head train."""

    def phases(self, network):
        outer = (*network.groups[0].parameters, *network.groups[-1].parameters)
        return (Phase("ends", frozenset((*outer, *network.adapter, *network.head))),)


@final
class NoBias(Spec):
    """A head: one linear layer without bias."""

    def build(self, features, classes, source, seed):
        with seeded("head", seed):
            return nn.Linear(features.width, len(classes), bias=False)


class Added(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, features):
        return features * self.gain


@final
class Gain(Spec):
    """An adapter: the features times one number."""

    def insert(self, module, groups, input_size):
        module.append(Added())

    def merge(self, module):
        return False


@final
class Mean(Spec):
    """A regularizer: the square of the head's mean weight."""

    weight: Weight

    @property
    def needs(self):
        return frozenset()

    def check(self, field, backbone, network, *, source_classifier):
        pass

    def attach(self, context):
        return Term(lambda step: context.model.head.weight.mean().square())


class HalfSGD(torch.optim.SGD):
    """An optimizer."""


@final
class Halving(Spec):
    """A scheduler."""

    def factor(self, step, steps):
        return 0.5**step


@final
class Mirrored(Spec):
    """A shift: the test images under another name."""

    def sets(self, splits, transform, load):
        def decode(image):
            return transform.decode(image).flip(-1)

        test = splits.test
        return [
            ShiftedSet(
                "mirrored", test, test.images.targets, None, decode, {**transform.fixed, "flip": True},
                splits.fingerprint,
            )
        ]


class Lines:
    def __init__(self, file):
        self.file = file

    def epoch(self, row):
        with self.file.open("a") as lines:
            lines.write(json.dumps(row["val/top1"]) + "\\n")

    def close(self, record):
        with self.file.open("a") as lines:
            lines.write(json.dumps(record is None) + "\\n")


@final
class Tracker(Spec):
    """A tracker: one line an epoch."""

    def open(self, run):
        return Lines(run.folder / "lines.txt")
'''
OPTIONS = {
    "backbone/two": "_target_: own.parts.TwoConvolutions\nweights: null\nwidth: 6\n",
    "freeze_policy/ends": "_target_: own.parts.Ends\n",
    "head/no_bias": "_target_: own.parts.NoBias\n",
    "adapter/gain": "_target_: own.parts.Gain\n",
    "regularizer/mean": "# @package regularizer\nmean:\n  _target_: own.parts.Mean\n  weight: 0.5\n",
    "optimizer/half_sgd": "_target_: own.parts.HalfSGD\nlr: 0.05\nmomentum: 0.9\n",
    "scheduler/halving": "_target_: own.parts.Halving\n",
    "shift/mirrored": "mirrored:\n  _target_: own.parts.Mirrored\n",
    "logger/lines": "_target_: own.parts.Tracker\n",
}


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("")
    (tmp_path / "own" / "parts.py").write_text(PARTS)
    for name, text in OPTIONS.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(specs, "_extra_prefixes", [])
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own", "mine")]:
        sys.modules.pop(name)


def test_one_run_of_own_parts_alone(thawline):
    chosen = [f"{group}={option}" for group, option in (name.split("/") for name in OPTIONS)]
    shared = [item for item in TINY if item.partition("=")[0] not in ("backbone", "logger")]
    result = thawline("train", "--allow", "own", "--config-dir", "conf", *shared, *chosen)
    assert result.status == 0, result.err
    (folder,) = records()
    record = load_record(folder)
    (phase,) = record.phases
    # Two convolutions of 6 channels, one gain, and 10 classes without a bias.
    assert phase.trainable_parameters == (6 * 3 * 9 + 6) + (6 * 6 * 9 + 6) + 1 + 10 * 6 == record.parameters.total
    assert (phase.name, list(phase.regularizers)) == ("ends", ["mean"])
    assert record.provenance.weights.description == "random"
    assert record.config["optimizer"]["_target_"] == "own.parts.HalfSGD"
    assert {"test", "test/mirrored"} <= record.metrics.keys()
    assert record.metrics["test"]["loss"] != record.metrics["test/mirrored"]["loss"]
    lines = [json.loads(line) for line in (Path(folder) / "lines.txt").read_text().splitlines()]
    assert lines == [*(row["val/top1"] for row in record.history), False]
    # 40 training images are 3 steps an epoch; a row has the rate that comes after its last step.
    rates = [row["lr"] for row in record.history]
    assert rates == pytest.approx([0.05 * 0.5**3, 0.05 * 0.5**6])


def test_the_parts_of_the_page_make_a_run_and_a_run_from_its_weights(thawline):
    page = (REPOSITORY / "docs" / "own_parts.md").read_text()
    for place, text in re.findall(r"```(?:yaml|python)\n# (\S+)\n(.*?)```", page, re.DOTALL):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text(text)
    random = np.random.default_rng(0)
    np.savez("plates.npz", images=random.integers(0, 256, (60, 9, 12, 3), np.uint8), labels=np.arange(60) % 3)
    trained, layers = (line.split()[1:] for line in re.findall("^thawline.*", page, re.MULTILINE))
    few = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.progress=false", "logger=none")
    result = thawline(*trained, *few, "freeze_policy=full")
    assert result.status == 0, result.err
    (folder,) = records()
    first = load_record(folder)
    assert first.classes == ["class 0", "class 1", "class 2"]
    assert first.parameters.head == 3 * 64
    assert thawline(*layers).out.startswith("small: 3 layer groups")
    told = thawline("explain", "--allow", "mine", "--config-dir", "conf", "head=cosine")
    assert "head.scale: a number; default 16" in told.out.splitlines()
    result = thawline(*[word for word in trained if not word.startswith("dataset.file")], *few)
    assert result.err == "error: dataset.file: must be given\n"
    result = thawline(*trained, *few, "freeze_policy=linear_probe", f"backbone.weights=run:{first.identity[:8]}")
    assert result.status == 0, result.err
    made = load_file(folder / "model.safetensors")
    tuned = load_file(folder / "best.safetensors")
    assert {name: made[name].tolist() for name in tuned} == {name: tensor.tolist() for name, tensor in tuned.items()}
    (second,) = [load_record(other) for other in records() if other != folder]
    assert second.provenance.weights.sha256 is not None
    assert second.parameters.trainable == 3 * 64


def test_a_class_that_lacks_a_method_is_told_which(thawline):
    file = Path("own", "parts.py")
    file.write_text(file.read_text().replace("def build(self, features", "def builds(self, features"))
    result = thawline("train", "--allow", "own", "--config-dir", "conf", *TINY, "head=no_bias")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert result.err == "error: head: Input should be an instance of Head (got own.parts.NoBias()); it lacks build\n"
