"""Weights of the libraries without a network: in the cache, or named before anything is run."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from tests.backbones.library_states import assert_holds, library_state, refusal
from tests.conftest import TINY
from thawline.backbones import TimmBackbone, TorchvisionBackbone, fetching
from thawline.backbones.weights import state_hash


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    "spec",
    [
        TimmBackbone(name="resnet18", weights="pretrained"),
        TimmBackbone(name="resnet18", weights="a1_in1k"),
        TorchvisionBackbone(name="googlenet", weights="pretrained"),
    ],
    ids=["hub", "tag", "torchvision"],
)
def test_without_a_network_it_says_so_and_what_to_do(spec, no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(fetching, "hub_file", lambda *_: None)
    monkeypatch.setattr("thawline.backbones.timm_backbone.hub_file", lambda *_: None)
    began, limit = time.monotonic(), socket.getdefaulttimeout()
    field, message = refusal(lambda: spec.build(seed=0))
    assert field == "backbone.weights"
    assert "cannot be fetched (" in message
    assert "give a local file (.safetensors or .pth), or null for random weights" in message
    assert time.monotonic() - began < 60
    assert socket.getdefaulttimeout() == limit


@pytest.mark.parametrize("grid", [(), ("-m", "freeze_policy.k=0,1")], ids=["run", "grid"])
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_weights_out_of_reach_are_named_before_anything_is_run(
    thawline, no_network, tmp_path, monkeypatch, library, grid
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("thawline.backbones.timm_backbone.hub_file", lambda *_: None)
    network = (f"backbone={library}", "backbone.name=resnet18", "backbone.weights=pretrained")
    result = thawline("train", *TINY[1:], *network, *grid)
    assert (result.status, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("error: backbone.weights: the weights of resnet18.")
    assert "cannot be fetched (" in line and "no route to host" in line
    assert not Path("outputs/runs").exists() and not Path("outputs/sweeps").exists()


def test_weights_of_a_teacher_out_of_reach_are_named_before_anything_is_run(
    thawline, no_network, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("thawline.backbones.timm_backbone.hub_file", lambda *_: None)
    teacher = "{_target_: thawline.backbones.TimmBackbone, name: resnet18, weights: pretrained}"
    teaching = ("regularizer=feature_matching", f"regularizer.feature_matching.teacher={teacher}")
    result = thawline("train", *TINY, *teaching)
    assert (result.status, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("error: regularizer.feature_matching.teacher.weights: the weights of resnet18.")
    assert "cannot be fetched (" in line
    assert not Path("outputs/runs").exists()


def test_a_file_in_the_cache_needs_no_network(no_network, tmp_path, monkeypatch):
    state = library_state("test_resnet", classes=1000)
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    asked = []
    monkeypatch.setattr(
        "thawline.backbones.timm_backbone.hub_file", lambda repository, files: asked.append((repository, files)) or path
    )
    backbone = TimmBackbone(name="test_resnet", weights="pretrained").build(seed=0)
    assert asked == [("timm/test_resnet.r160_in1k", ("model.safetensors", "pytorch_model.bin"))]
    assert_holds(backbone.module, state)
    assert backbone.weights.description == "timm test_resnet.r160_in1k"
    assert backbone.weights.sha256 == state_hash(backbone.module)
    assert torch.equal(backbone.source_classifier.weight, state["fc.weight"])
    assert backbone.source_classifier.classes[281] == "tabby"


def test_torchvision_weights_in_the_cache_need_no_network(no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    state = models.shufflenet_v2_x0_5(weights=None).state_dict()
    entry = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / entry.url.rpartition("/")[2])
    backbone = TorchvisionBackbone(name="shufflenet_v2_x0_5", weights="IMAGENET1K_V1").build(seed=0)
    assert_holds(backbone.module, state)
    assert torch.equal(backbone.source_classifier.weight, state["fc.weight"])
    assert backbone.source_classifier.classes[0] == "tench"
