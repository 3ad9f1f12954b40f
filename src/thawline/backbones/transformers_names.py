"""Names of Hugging Face's transformers for networks that timm and torchvision have too: ResNets and ViTs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_BLOCK = r"^(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\."
_VIT = r"^(?:vit\.|deit\.)?"
_LAYER = _VIT + r"encoder\.layer\.(\d+)\."
_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # ResNet -> timm and torchvision; <n> is counted from 1 there, from 0 here
        (r"^(?:resnet\.)?embedder\.embedder\.convolution\.", r"conv1."),
        (r"^(?:resnet\.)?embedder\.embedder\.normalization\.", r"bn1."),
        (_BLOCK + r"layer\.(\d+)\.convolution\.", r"layer<\1>.\2.conv<\3>."),
        (_BLOCK + r"layer\.(\d+)\.normalization\.", r"layer<\1>.\2.bn<\3>."),
        (_BLOCK + r"shortcut\.convolution\.", r"layer<\1>.\2.downsample.0."),
        (_BLOCK + r"shortcut\.normalization\.", r"layer<\1>.\2.downsample.1."),
        (r"^classifier\.1\.", r"fc."),
        # ViT and DeiT -> timm
        (_VIT + r"embeddings\.cls_token$", r"cls_token"),
        (_VIT + r"embeddings\.position_embeddings$", r"pos_embed"),
        (_VIT + r"embeddings\.patch_embeddings\.projection\.", r"patch_embed.proj."),
        (_LAYER + r"attention\.output\.dense\.", r"blocks.\1.attn.proj."),
        (_LAYER + r"attention\.attention\.", r"blocks.\1.attn."),
        (_LAYER + r"intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
        (_LAYER + r"output\.dense\.", r"blocks.\1.mlp.fc2."),
        (_LAYER + r"layernorm_before\.", r"blocks.\1.norm1."),
        (_LAYER + r"layernorm_after\.", r"blocks.\1.norm2."),
        (_VIT + r"layernorm\.", r"norm."),
        (r"^classifier\.", r"head."),
    )
)
_MARKS = ("embedder.embedder.convolution.weight", "embeddings.patch_embeddings.projection.weight")
_QKV = re.compile(r"^(.*\.attn)\.(query|key|value)\.(weight|bias)$")


def from_transformers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors by timm's names, where they have those of transformers; others as they are.

    Queries, keys and values are one matrix in timm. The pooler, which no classifier uses, is left out.
    """
    import torch

    if not any(name.endswith(_MARKS) for name in tensors):
        return dict(tensors)
    renamed = {_renamed(name): tensor for name, tensor in tensors.items() if ".pooler." not in f".{name}"}
    whole = {name: tensor for name, tensor in renamed.items() if not _QKV.match(name)}
    for name in renamed:
        found = _QKV.match(name)
        if found and found[2] == "query":
            parts = [renamed[f"{found[1]}.{part}.{found[3]}"] for part in ("query", "key", "value")]
            whole[f"{found[1]}.qkv.{found[3]}"] = torch.cat(parts)
    return whole


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        changed, count = pattern.subn(replacement, name)
        if count:
            return re.sub(r"<(\d+)>", lambda found: str(int(found[1]) + 1), changed)
    return name
