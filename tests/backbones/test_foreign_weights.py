"""Weights as other programs save them: in containers, under prefixes, with what else they trained."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from thawline.backbones import TimmBackbone, TorchvisionBackbone
from thawline.errors import UsageError


def state_of(name="test_resnet", classes=7, **arguments):
    torch.manual_seed(3)
    return timm.create_model(name, num_classes=classes, **arguments).state_dict()


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


STATE = state_of()
BODY = {name: tensor for name, tensor in STATE.items() if not name.startswith("fc.")}
OTHER = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in BODY.items()}
METRICS = {"train_acc.tp": torch.zeros(7), "criterion.weight": torch.ones(7)}
PROJECTION = {"fc.0.weight": torch.zeros(9, 9), "fc.0.bias": torch.zeros(9), "fc.2.weight": torch.zeros(5, 9)}
FORMATS = {
    "torchvision's model_ema": (
        {"model": under("", OTHER), "model_ema": {"n_averaged": torch.tensor(4), **under("module.", STATE)}},
        "model_ema", "module.", {"n_averaged": 1}),
    "AveragedModel": ({"n_averaged": torch.tensor(4), **under("module.", STATE)}, "", "module.", {"n_averaged": 1}),
    "Lightning's net.": ({"state_dict": {**under("net.", STATE), **METRICS}, "epoch": 3},
                         "state_dict", "net.", {"train_acc": 1, "criterion": 1}),
    "Lightning's model.": ({"state_dict": {**under("model.", STATE), **METRICS}},
                           "state_dict", "model.", {"train_acc": 1, "criterion": 1}),
    "model_state_dict": (
        {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}}, "model_state_dict", "", None),
    "net": ({"net": under("module.", STATE), "acc": 93.1, "epoch": 199}, "net", "module.", None),
    "DDP compiled": (under("module._orig_mod.", STATE), "", "module._orig_mod.", None),
    "DINO": (
        {"student": under("module.backbone.", OTHER),
         "teacher": {**under("backbone.", BODY), **under("head.mlp.0.", nn.Linear(3, 3).state_dict())}},
        "teacher", "backbone.", None),
    "DINOv2": (
        {"teacher": {**under("backbone.", BODY), "dino_head.w": torch.zeros(3), "ibot_head.b": torch.zeros(3)}},
        "teacher", "backbone.", {"dino_head": 1, "ibot_head": 1}),
    "MoCo": (
        {"arch": "resnet", "state_dict": {
            **under("module.encoder_k.", {**OTHER, **PROJECTION}), **under("module.encoder_q.", {**BODY, **PROJECTION}),
            "module.queue": torch.zeros(5, 8), "module.queue_ptr": torch.zeros(1)}},
        "state_dict", "module.encoder_q.", {"module": len(OTHER) + 3 + 2}),
    "MoCo v3": ({"state_dict": {**under("module.momentum_encoder.", OTHER), **under("module.base_encoder.", BODY)}},
                "state_dict", "module.base_encoder.", {"module": len(OTHER)}),
    "BYOL": ({"state_dict": {**under("target_network.encoder.", OTHER), **under("online_network.encoder.", BODY)}},
             "state_dict", "online_network.encoder.", {"target_network": len(OTHER)}),
    "MAE": ({"model": {**BODY, "mask_token": torch.zeros(1, 1, 4), "decoder_embed.weight": torch.zeros(4, 4)}},
            "model", "", {"mask_token": 1, "decoder_embed": 1}),
    "transformers' TimmWrapper": (under("timm_model.", STATE), "", "timm_model.", None),
    "thop": ({**STATE, "total_ops": torch.zeros(1), "total_params": torch.zeros(1)}, "", "",
             {"total_ops": 1, "total_params": 1}),
    "before counters": ({name: tensor for name, tensor in STATE.items() if "num_batches" not in name}, "", "", None),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_of_another_program(tmp_path, form):
    content, container, prefix, left_out = FORMATS[form]
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    for spec in (TimmBackbone(name="test_resnet", weights=str(path)),):
        backbone = spec.build(seed=0)
        own = backbone.module.state_dict()
        assert own.keys() == BODY.keys()
        assert all(torch.equal(own[name], BODY[name]) for name in BODY)
        origin = backbone.weights
        assert (origin.container, origin.prefix) == (container, prefix)
        if left_out is not None:
            assert origin.left_out == left_out
        spec.skeleton()


def test_a_prefix_that_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"mine": {"tower": BODY, "other": OTHER}, "step": 3}, path)
    backbone = TimmBackbone(name="test_resnet", weights=str(path), prefix="mine.tower").build(seed=0)
    assert torch.equal(backbone.module.state_dict()["conv1.0.weight"], BODY["conv1.0.weight"])
    assert backbone.weights.prefix == "mine.tower."
    with pytest.raises(UsageError, match=r"no tensor's name begins with 'mine\.towr\.'; there are mine"):
        TimmBackbone(name="test_resnet", weights=str(path), prefix="mine.towr").build(seed=0)
    with pytest.raises(
        UsageError, match=r"none of its .* tensors is called as in this network; .*backbone\.prefix=PART"
    ):
        TimmBackbone(name="test_resnet", weights=str(path)).build(seed=0)


@pytest.mark.parametrize("kind", ["numpy", "module"])
def test_a_refusal_says_how_to_save_the_tensors_alone(tmp_path, kind):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": STATE, "best": np.float64(0.5)} if kind == "numpy" else nn.Linear(2, 2), path)
    with pytest.raises(UsageError, match=r"weights\.pth: refused") as caught:
        TimmBackbone(name="test_resnet", weights=str(path)).build(seed=0)
    said = str(caught.value)
    command = said[said.index('python -c "') + len('python -c "') : -1]
    if kind == "numpy":
        import os

        os.chdir(tmp_path)
        exec(command, {})  # noqa: S102  # the printed command is what is tested
        again = TimmBackbone(name="test_resnet", weights="weights_tensors.pth").build(seed=0)
        assert torch.equal(again.module.state_dict()["conv1.0.weight"], BODY["conv1.0.weight"])


def transformers_resnet(state):
    """A ResNet's tensors by the names of transformers."""
    kinds = {"conv": "convolution", "bn": "normalization"}
    found = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part in ("conv1", "bn1"):
            found[f"resnet.embedder.embedder.{kinds[part[:-1]]}.{rest}"] = tensor
        elif part == "fc":
            found[f"classifier.1.{rest}"] = tensor
        else:
            block, kind, leaf = rest.split(".", 2)
            here = f"resnet.encoder.stages.{int(part[-1]) - 1}.layers.{block}"
            if kind == "downsample":
                number, leaf = leaf.split(".", 1)
                found[f"{here}.shortcut.{('convolution', 'normalization')[int(number)]}.{leaf}"] = tensor
            else:
                found[f"{here}.layer.{int(kind[-1]) - 1}.{kinds[kind[:-1]]}.{leaf}"] = tensor
    return found


def transformers_vit(state):
    """A ViT's tensors by the names of transformers."""
    renamed = {
        "cls_token": "vit.embeddings.cls_token", "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj.": "vit.embeddings.patch_embeddings.projection.", "norm.": "vit.layernorm.",
        "head.": "classifier.",
        "attn.proj.": "attention.output.dense.", "mlp.fc1.": "intermediate.dense.", "mlp.fc2.": "output.dense.",
        "norm1.": "layernorm_before.", "norm2.": "layernorm_after.",
    }  # fmt: skip
    found = {"vit.pooler.dense.weight": torch.zeros(2, 2)}
    for name, tensor in state.items():
        parts = name.split(".")
        here = f"vit.encoder.layer.{parts[1]}." if parts[0] == "blocks" else ""
        rest = ".".join(parts[2:]) if here else name
        if rest.startswith("attn.qkv."):
            for kind, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"{here}attention.attention.{kind}.{parts[-1]}"] = part
            continue
        old = next(old for old in renamed if rest.startswith(old))
        found[here + renamed[old] + rest.removeprefix(old)] = tensor
    return found


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_names_of_transformers(tmp_path, name):
    state = state_of(name)
    path = tmp_path / "pytorch_model.bin"
    torch.save({"resnet18": transformers_resnet, "vit_tiny_patch16_224": transformers_vit}[name](state), path)
    backbone = TimmBackbone(name=name, weights=str(path)).build(seed=0)
    own = backbone.module.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    assert torch.equal(backbone.source_classifier.weight, state["fc.weight" if name == "resnet18" else "head.weight"])


def test_timm_and_torchvision_read_each_other_s_resnet(tmp_path):
    state = state_of("resnet18", classes=5)
    path = tmp_path / "weights.safetensors"
    for prefix in ("", "backbone."):
        old = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
        if prefix:
            old = {**under(prefix, {n: t for n, t in old.items() if not n.startswith("fc.")}),
                   "head.weight": state["fc.weight"], "head.bias": state["fc.bias"]}  # fmt: skip
        save_file(old, path)
        for spec in (
            TimmBackbone(name="resnet18", weights=str(path)),
            TorchvisionBackbone(name="resnet18", weights=str(path)),
        ):
            backbone = spec.build(seed=0)
            assert all(torch.equal(value, state[key]) for key, value in backbone.module.state_dict().items()
                       if "num_batches" not in key)  # fmt: skip
            assert torch.equal(backbone.source_classifier.weight, state["fc.weight"])


def test_position_embeddings_of_a_run_s_own_file_are_resized(tmp_path):
    state = state_of("test_vit", classes=0)
    path = tmp_path / "model.safetensors"
    save_file({**under("backbone.", state), "head.weight": torch.ones(3, 64), "head.bias": torch.zeros(3)}, path)
    plain = tmp_path / "plain.pth"
    torch.save(state, plain)
    ours = TimmBackbone(name="test_vit", weights=str(path), input_size=96).build(seed=0)
    theirs = timm.create_model("test_vit", num_classes=0, img_size=96)
    timm.models.load_checkpoint(theirs, str(plain), filter_fn=timm.models.vision_transformer.checkpoint_filter_fn)
    assert ours.module.pos_embed.shape != state["pos_embed"].shape
    assert torch.equal(ours.module.pos_embed, theirs.pos_embed)
    assert torch.equal(ours.source_classifier.weight, torch.ones(3, 64))
