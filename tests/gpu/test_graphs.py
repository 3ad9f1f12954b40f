"""Passes that are recorded as CUDA graphs give the bits of those that are not, and what cannot be recorded is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import records
from tests.gpu.device import HALF, HAS_GPU, MARK, SETTING
from tests.gpu.test_numbers import VIT, losses, weights
from thawline.records import load_record

pytestmark = MARK
RECORDED = {"training": "recorded", "evaluation": "recorded"} if HAS_GPU else {}
RESNET = ("backbone=test_resnet",)

DECIDING = '''
import torch
from torch import nn
from thawline.backbones import TimmBackbone


class Deciding(TimmBackbone):
    """A network that decides by a number that it has computed."""

    def build(self, *arguments, **options):
        backbone = super().build(*arguments, **options)
        kind = type(backbone.module)
        own = {"forward_features": lambda self, x: kind.forward_features(self, x if float(x.mean()) < 1e6 else -x)}
        backbone.module.__class__ = type("Deciding", (kind,), own)
        return backbone
'''


@pytest.mark.parametrize("k", ["1", "all"])
@pytest.mark.parametrize("precision", ["32-true", HALF, "bf16-mixed"])
@pytest.mark.parametrize("network", [RESNET, VIT], ids=["resnet", "vit"])
def test_recorded_passes_change_no_bit(run, whole_batches, network, precision, k):
    # Dropout: the random numbers of a step are those that it would have drawn.
    fixed = (*network, f"freeze_policy.k={k}", f"trainer.precision={precision}", "head.dropout=0.2")
    plain = run(*fixed, "trainer.cuda_graphs=false", "cache.mode=off", place="reference", setting=whole_batches)
    found = run(*fixed, "trainer.cuda_graphs=true", "cache.mode=on", setting=whole_batches)
    assert losses(found) == losses(plain)
    assert found.phases[0].cuda_graphs == RECORDED
    theirs = weights(plain, "reference")
    for name, tensor in weights(found, "outputs").items():
        assert torch.equal(tensor, theirs[name]), name
    assert found.metrics["test"] == plain.metrics["test"]


def test_few_steps_are_not_recorded(run):
    off = "not recorded: trainer.cuda_graphs=false"
    assert run("trainer.cuda_graphs=false").phases[0].cuda_graphs == (
        {"training": off, "evaluation": off} if HAS_GPU else {}
    )
    found = run("seed=1").phases[0].cuda_graphs
    assert all(said.startswith("not recorded: only ") for said in found.values())


@pytest.fixture
def deciding(own_class):
    option = Path(__file__).parents[2] / "conf" / "backbone" / "test_resnet.yaml"
    config = option.read_text().replace("thawline.backbones.TimmBackbone", "mine.deciding.Deciding")
    own_class("deciding", DECIDING, "backbone/deciding", config)
    return ("--allow", "mine", "--config-dir", "conf")


@pytest.mark.parametrize("wanted", ["auto", "true"])
def test_what_decides_by_a_number_is_not_recorded(thawline, deciding, device, wanted):
    done = thawline(
        "train", *deciding, *SETTING, "backbone=deciding", f"trainer.accelerator={device}", "head.dropout=0.2",
        "freeze_policy.k=all", f"trainer.cuda_graphs={wanted}",
    )  # fmt: skip
    assert done.status == 0, done.err
    (folder,) = records()
    said = load_record(folder).phases[0].cuda_graphs
    reason = "own code" if wanted == "auto" else "called a synchronizing CUDA operation"
    assert [reason in each for each in said.values()] == ([True, True] if HAS_GPU else [])
